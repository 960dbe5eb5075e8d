"""What each step of a plan will take: tokens, time, GPU-hours, and room on the workspace's disk. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobgen.pipeline import speed
from jobgen.pipeline.plan import Step
from minima.options import (
    BuildData,
    Convert,
    Distill,
    ExpandVocab,
    Fetch,
    Finetune,
    InitModel,
    Prune,
    Training,
    option_of,
    reads,
    split_digest,
)
from minima.workspace.marker import MARKER, read_marker

BILLION = 10**9
MASTER_BYTES = 12
"""Of a trained parameter in a checkpoint: fp32 weight and AdamW's two moments."""
ID_BYTES = 3
"""Of a token in TFRecords at most: a varint has 7 bits a byte, and every vocabulary below 2,097,152 fits three."""
RECORDS = ("record_path_or_regex", "train_record_path_or_regex")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one step.

    Attributes:
        parameters: of the model that it makes, trains or scores, where the pipeline says its shape.
        trained: of them, or of the adapters beside them.
        teacher: parameters of a frozen model beside it.
        flops: floating-point operations of a token; a multiplication and its addition are two, half of attention's square
            counts, look-ups and what is computed again do not.
        tokens: that it reads in all epochs; None where nothing says how many.
        rate: tokens per second of all GPUs; None where the kind of GPU is not known.
        error: of `rate`, the mean of what was tested.
        artifact: bytes of the model, the records or the content that it leaves; None where it depends on what is not known.
        checkpoint: bytes of one checkpoint, 0 where it writes none.
        checkpoints: how many lie there at once at most, the one that is being written included; none is left at the end.
    """

    step: Step
    parameters: int | None
    trained: int | None
    teacher: int | None
    flops: float | None
    tokens: float | None
    rate: float | None
    error: float | None
    artifact: float | None
    checkpoint: int
    checkpoints: int

    @property
    def gpus(self) -> int:
        return self.step.pods * self.step.pool.gpus

    @property
    def computes(self) -> bool:
        """Whether its time is that of its tokens."""
        return isinstance(self.step.options, Training | Prune)

    @property
    def assumed(self) -> int | None:
        """Of how many tokens `hours` are, where nothing says how many it reads."""
        return BILLION if self.rate and not self.tokens else None

    @property
    def hours(self) -> float | None:
        """For `tokens`, or for as many as are assumed."""
        return (self.tokens or BILLION) / self.rate / 3600 if self.rate else None

    @property
    def gpu_hours(self) -> float | None:
        return None if self.hours is None else self.hours * self.gpus


@dataclass(frozen=True, kw_only=True)
class Total:
    """Of a whole pipeline.

    Attributes:
        hours: None where those of a stage that trains or prunes on GPUs are not known: they are most of all.
        gpu_hours: likewise.
        missing: the stages that leave it so.
        without: all stages on GPUs whose hours are not in it: those, and others such as `evaluate`.
        artifacts: bytes that stay.
        checkpoints: bytes of checkpoints at the fullest.
    """

    hours: float | None
    gpu_hours: float | None
    missing: tuple[str, ...]
    without: tuple[str, ...]
    artifacts: float
    checkpoints: int

    @classmethod
    def of(cls, found: Sequence[Estimate]) -> "Total":
        timed = [one for one in found if one.hours is not None and not one.assumed]
        out = [one for one in found if one.gpus and one not in timed]
        missing = tuple(one.step.name for one in out if one.computes)
        known = bool(timed) and not missing
        return cls(
            hours=sum(one.hours or 0 for one in timed) if known else None,
            gpu_hours=sum(one.gpu_hours or 0 for one in timed) if known else None,
            missing=missing,
            without=tuple(one.step.name for one in out),
            artifacts=sum(one.artifact or 0 for one in found),
            checkpoints=max((one.checkpoints * one.checkpoint for one in found), default=0),
        )


def estimates(steps: Sequence[Step], tokens: Mapping[str, float]) -> list[Estimate]:
    """Of each step, in their order.

    Args:
        steps: of a plan.
        tokens: how many a stage's artifact, or a folder outside, holds for training, by stage or by path; what is missing is
            read from the stage's marker if it can be seen from here.
    """
    sizes = {step.name: _tokens(step) for step in steps} | dict(tokens)
    widths: dict[str, int] = {}
    for step in steps:
        widths[step.name] = _width(step, widths)
    return [_estimate(step, _read(step, steps, sizes), sizes[step.name], widths[step.name]) for step in steps]


def expected(step: Step, metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Tokens per second and bytes of one GPU that were planned for a stage, given what it measured.

    None of it where the stage ran on other devices than its pool has, as on this machine.
    """
    kind, device = step.pool.gpu, str(metrics.get("device", ""))
    if not kind or kind not in device or metrics.get("processes", 1) != step.pods * step.processes:
        return None, None
    estimate = _estimate(step, None, None, 2)
    return estimate.rate if "tokens_per_second" in metrics else None, step.memory.total if step.memory else None


def records_of(step: Step) -> list[str]:
    """The paths of the records that a step reads for training, or scores on."""
    return [split_digest(path)[0] for name, path in reads(step.options).items() if option_of(name) in RECORDS]


def _tokens(step: Step) -> float | None:
    """What a finished artifact holds for training, as its marker says."""
    metrics = _metrics(step)
    if isinstance(step.options, BuildData) and (examples := metrics.get("train_examples")):
        return float(examples) * step.options.max_seq_length
    found = metrics.get("tokens")
    return float(found) if found else None


def _metrics(step: Step) -> Mapping[str, Any]:
    """What a finished stage measured; nothing of one that is not finished, or cannot be seen from here."""
    folder = Path(step.output_dir)
    return read_marker(folder)["metrics"] if (folder / MARKER).is_file() else {}


def _read(step: Step, steps: Sequence[Step], sizes: Mapping[str, float | None]) -> float | None:
    """Tokens of the records that a step reads."""
    places = records_of(step)
    sources = {next((one.name for one in steps if f"{p}/".startswith(f"{one.output_dir}/")), p) for p in places}
    found = [sizes.get(source) for source in sources]
    return sum(size for size in found if size) if found and all(found) else None


def _width(step: Step, widths: Mapping[str, int]) -> int:
    """Bytes of a weight of the model that a step makes: as computed with, or as in the folder it reads; bf16 from outside."""
    match step.options:
        case Training() as made:
            return 2 if made.use_bf16 else 4
        case InitModel():
            return 4
    return next((widths[name] for name in reversed(step.needs)), 2)


def _estimate(step: Step, available: float | None, own: float | None, width: int) -> Estimate:
    made, model, kind = step.options, step.model, speed.KINDS.get(step.pool.gpu)
    flops = rate = tokens = trained = None
    if isinstance(made, Training | Prune) and model and (step.teacher or not isinstance(made, Distill)):
        tokens = _planned(made, available)
        flops = speed.work(made, model, step.teacher, recomputed=False).flops
        if kind and step.pool.gpus:
            gpus = step.pods * step.pool.gpus
            rate = gpus / kind.seconds(speed.work(made, model, step.teacher), gpus)
    if isinstance(made, Training) and model:
        trained = model.lora_parameters(made.lora_r) if isinstance(made, Finetune) and made.lora_r else model.parameters
    patient = isinstance(made, Finetune) and made.num_patience_epochs > 0
    return Estimate(
        step=step,
        parameters=model.parameters if model else None,
        trained=trained,
        teacher=step.teacher.parameters if step.teacher else None,
        flops=flops,
        tokens=tokens,
        rate=rate,
        error=kind.error if rate and kind else None,
        artifact=_artifact(step, own, width),
        checkpoint=MASTER_BYTES * trained if trained else 0,
        checkpoints=2 + made.keep_checkpoints + patient if trained and isinstance(made, Training) else 0,
    )


def _planned(made: Training | Prune, available: float | None) -> float | None:
    """Tokens that a stage computes with, of so many in its records."""
    if isinstance(made, Prune):
        return float(made.num_examples * made.max_seq_length)
    most = float(made.max_steps * made.global_batch_size * made.max_seq_length) or None
    if available is None:
        return most
    whole = available * made.num_train_epochs
    return min(whole, most) if most else whole


def _artifact(step: Step, tokens: float | None, width: int) -> float | None:
    """Bytes that a stage leaves, of whose own records, content or model so much is known."""
    made, model = step.options, step.model
    match made:
        case Fetch() if known := _metrics(step).get("bytes") or made.gigabytes * 1e9:
            return float(known)
        case BuildData():
            return tokens and ID_BYTES * tokens
        case InitModel() | Fetch() | ExpandVocab() | Prune() | Convert() | Training() if model:
            adapters = model.lora_parameters(made.lora_r) if isinstance(made, Finetune) and made.lora_r else 0
            return float(width * (model.parameters + adapters))
    return None
