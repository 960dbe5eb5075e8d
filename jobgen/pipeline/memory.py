"""How much memory of a GPU a stage needs: arithmetic on shapes, no torch.

What is held is that of DeepSpeed 0.19's two engines, and of transformers' layers with fused attention; every byte was counted
by running minima's own steps on fake tensors (docs/plan.md says how near this comes).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from minima.models.shape import Shape
from minima.options import Finetune, Prune, Training

OPTIMIZER_BYTES = 12
"""fp32 master weight and AdamW's two moments, per trained parameter."""
ACCUMULATED_BYTES = 4
"""The fp32 sum of a trained parameter's gradients."""
BUCKET = 500_000_000
"""DeepSpeed's reduce_bucket_size, in elements, where its file says nothing else."""
USABLE = 0.9
"""Share of a GPU's memory; the rest is CUDA's, NCCL's, and lost between blocks."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU at the moment when it holds the most.

    Attributes:
        weights: of the trained model, adapters included.
        gradients: of trained parameters, and their sums.
        optimizer: this process's share of master weights and moments.
        teacher: weights of a frozen model.
        activations: what the backward pass needs, and what one layer of it makes.
        logits: of both models in the chunked loss, and the output layer's gradient made there.
        buckets: into which DeepSpeed gathers gradients before it sends them.
    """

    weights: float
    gradients: float = 0
    optimizer: float = 0
    teacher: float = 0
    activations: float = 0
    logits: float = 0
    buckets: float = 0

    @property
    def parts(self) -> dict[str, float]:
        """By name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def rounded(self) -> dict[str, int]:
        """Whole bytes by part, and `total`."""
        return {name: round(size) for name, size in (self.parts | {"total": self.total}).items()}

    def __str__(self) -> str:
        told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in self.parts.items() if size)
        return f"{self.total / 1e9:.1f} GB ({told})"


def pruning(options: Prune, model: Shape) -> Memory:
    """What the one GPU of `prune` needs: gradients of masks only, but every activation on the way to them is kept."""
    width = _width(options.use_bf16)
    tokens = options.per_device_eval_batch_size * options.max_seq_length
    return Memory(
        weights=width * model.parameters,
        activations=tokens * model.layer * _layer(model, width),
        logits=tokens * model.vocab_size * (10 + width),  # All at once here: in fp32, their softmax, its gradient, as computed.
    )


def training(options: Training, model: Shape, teacher: Shape | None, *, processes: int, zero_stage: int) -> Memory:
    """What each GPU of a training stage needs.

    Args:
        options: the stage's options; a DeepSpeed file that they name counts if it can be read here.
        model: the trained model.
        teacher: a frozen model beside it.
        processes: of the whole group.
        zero_stage: DeepSpeed's: 1 shards the optimizer, 2 also the gradients.
    """
    width = _width(options.use_bf16)
    rank = options.lora_r if isinstance(options, Finetune) else 0
    trained = model.lora_parameters(rank) if rank else model.parameters
    held = Memory(
        weights=width * (model.parameters + (trained if rank else 0)),  # The frozen output layer stays beside the trained one.
        optimizer=OPTIMIZER_BYTES * trained / processes,
        teacher=width * teacher.parameters if teacher else 0,
    )
    tokens = options.per_device_train_batch_size * options.max_seq_length
    one = _layer(model, width) + (
        _adapters(model, width, options.lora_dropout) if isinstance(options, Finetune) and rank else 0
    )
    kept = tokens * model.layer * (width * model.hidden if options.use_act_ckpt else one)
    inside = tokens * (width * (3 * model.intermediate + model.hidden) + (one if options.use_act_ckpt else 0))
    # At the end of the forward pass: the last norm in fp32 and as computed, its gradient, and the teacher's last states.
    ends = tokens * (model.hidden * (4 + 3 * width) + (width * teacher.hidden if teacher else 0))
    chunk = min(options.loss_chunk_size, tokens) * model.vocab_size * (24 if teacher else 16 if options.use_bf16 else 12)
    head = model.vocab_size * model.hidden
    logits = max(chunk + (4 + width) * head, (8 + width) * head)
    file = _deepspeed(options)
    sums = _gradients(trained, processes, zero_stage, width, file)
    again = options.global_batch_size > options.per_device_train_batch_size * processes
    if _offloads(file):
        held = replace(held, optimizer=0)
    moments = [
        replace(held, gradients=sums.backward, activations=kept + inside, buckets=sums.bucket),
        replace(held, gradients=sums.backward, activations=kept, buckets=sums.sent),
        replace(held, gradients=sums.step),
        replace(held, gradients=sums.loss, activations=kept + ends, logits=logits),
    ]
    if again:
        moments.append(replace(moments[-1], gradients=sums.kept, buckets=sums.stays))
    if options.dev_record_path_or_regex:
        tokens = options.per_device_eval_batch_size * options.max_seq_length
        block = tokens * (width * (3 * model.hidden + 3 * model.intermediate))
        moments.append(replace(held, activations=max(block, tokens * 3 * width * model.hidden + chunk), gradients=sums.loss))
    return max(moments, key=lambda moment: moment.total)


@dataclass(frozen=True, kw_only=True)
class _Gradients:
    """What DeepSpeed holds of gradients when the loss is made, in the backward pass and in the optimizer's step.

    With bf16 and ZeRO 1 it is BF16_Optimizer: fp32 sums of all gradients, and those of a micro-batch until the step. Else it is
    DeepSpeedZeroOptimizer, which gathers them in buckets, into a shard under ZeRO 2, and into the host's memory if offloaded.

    Attributes:
        loss: while the loss is made.
        kept: the same after another micro-batch.
        backward: at its end.
        step: in the optimizer, copies included.
        bucket: in the backward pass, with a copy of it as it is cut up.
        sent: the same when it is sent, between two layers.
        stays: of it when the loss of another micro-batch is made.
    """

    loss: float
    kept: float
    backward: float
    step: float
    bucket: float = 0
    sent: float = 0
    stays: float = 0


def _gradients(trained: int, processes: int, zero_stage: int, width: int, file: Mapping[str, Any]) -> _Gradients:
    sums, share = ACCUMULATED_BYTES * trained, ACCUMULATED_BYTES * trained / processes
    if width == 2 and zero_stage == 1 and not _offloads(file):
        both = sums + width * trained
        return _Gradients(loss=sums, kept=both, backward=both, step=both + share)
    size = float(file.get("reduce_bucket_size", BUCKET))
    bucket = width * size * (2 if file.get("overlap_comm") else 1) if file.get("contiguous_gradients", True) else 0.0
    if zero_stage == 1:
        plain = float(width * trained)
        last = plain if _offloads(file) else plain + share
        return _Gradients(loss=0, kept=plain, backward=plain, step=last, bucket=bucket, stays=bucket)
    bucket += width * min(size, trained)
    sent = bucket + (
        ACCUMULATED_BYTES * min(size, trained) if width == 2 else 0
    )  # Gradients are summed over processes in fp32.
    if _offloads(file):
        return _Gradients(loss=0, kept=0, backward=0, step=0, bucket=bucket, sent=sent)
    return _Gradients(loss=0, kept=share, backward=2 * share, step=2 * share, bucket=bucket, sent=sent)


def unread(options: Training) -> bool:
    """Whether the stage has a DeepSpeed file that cannot be read here, as one that only pods see."""
    return bool(options.deepspeed) and _file(options) is None


def _deepspeed(options: Training) -> Mapping[str, Any]:
    """What the DeepSpeed file of a stage says of ZeRO, as far as it can be read here; minima checks it."""
    zero = (_file(options) or {}).get("zero_optimization")
    return zero if isinstance(zero, dict) else {}


def _file(options: Training) -> dict[str, Any] | None:
    try:
        found = json.loads(Path(options.deepspeed).read_text(encoding="utf-8")) if options.deepspeed else {}
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _offloads(file: Mapping[str, Any]) -> bool:
    place = file.get("offload_optimizer")
    return isinstance(place, dict) and place.get("device") == "cpu"


def _width(use_bf16: bool) -> int:
    return 2 if use_bf16 else 4


def _layer(shape: Shape, width: int) -> int:
    """Bytes per token that autograd keeps of a layer whose activations are not computed again.

    Of each norm its input in fp32, the normalized and the result; queries, keys, values and what attention makes of them, with
    a logarithm for each head; of the feed-forward layer both inputs of its product, one of them twice, and the product.
    """
    heads = 2 * (shape.head + shape.kv_head) * shape.head_dim
    return 2 * shape.hidden * (4 + 2 * width) + width * heads + 4 * shape.head + width * 4 * shape.intermediate


def _adapters(shape: Shape, width: int, dropout: float) -> int:
    """What LoRA adds to that: each adapter's own input after dropout, and its mask, in place of the frozen matrix's input."""
    if not dropout:
        return 0
    q, inputs = shape.head * shape.head_dim, 2 * shape.hidden + shape.intermediate
    return (5 * shape.hidden + q + shape.intermediate) * (width + 1) - width * inputs
