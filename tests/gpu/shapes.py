"""A training stage at true widths, by its own code and the one training loop, with random weights and records.

As many layers as the memory plan of `jobgen validate` allows; the plan is then compared with what was used.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import LlamaConfig, LlamaForCausalLM

from jobgen.pipeline import speed
from jobgen.pipeline.memory import ACCUMULATED_BYTES, USABLE, Memory, training
from minima.models import placement
from minima.models.shape import Shape, training_flops
from minima.options import Adapt, Distill, Training
from tests.gpu import clock, families
from tests.gpu.part import Place, Row

TEACHER = Shape(layer=32, hidden=4096, head=32, kv_head=32, head_dim=128, intermediate=11008, vocab_size=49216)
STUDENT = Shape(layer=24, hidden=3072, head=24, kv_head=24, head_dim=128, intermediate=8192, vocab_size=49216)
TOY = Shape(layer=2, hidden=64, head=2, kv_head=2, head_dim=32, intermediate=128, vocab_size=512)
LENGTH = 4096
WARM, MEASURED = 2, 3
"""Optimizer steps that are not timed, and that are; one more is profiled."""
STEPS = WARM + MEASURED + 2
ACCUMULATION = 2


def measure(verb: str, place: Place, *, attention: str = "sdpa", most_layers: int = 99) -> Iterator[Row]:
    """Rows of `adapt` of the 7B teacher, or of `distill` to the 3B student."""
    options, trained, teacher = choose(verb, place, attention, most_layers)
    what = f"{trained.layer} layers" + (f" of 3B, {teacher.layer} of 7B" if teacher else " of 7B") if place.gpu else "toy"
    yield Row("shape", what, f"{options.per_device_train_batch_size} × {options.max_seq_length} tokens, {attention}")
    predicted = training(options, trained, teacher, processes=1, zero_stage=1)
    watch = Watch(place, options)
    began = time.monotonic()
    metrics = train(options, trained, teacher, watch)
    print(metrics)
    yield Row("until the first step", watch.first - began, "s")
    tokens = options.global_batch_size * options.max_seq_length
    rate = tokens / statistics.median(watch.seconds)
    yield Row("speed", rate, "tokens/s")
    yield Row("loop says", metrics["tokens_per_second"], "tokens/s, warming up included")
    flops = training_flops(trained, options.max_seq_length, teacher=teacher)
    yield Row("cost", flops / 1e9, "GFLOP/token: backward = 2 × forward, half of attention's square, nothing recomputed")
    if (known := clock.peak()) is not None:
        if kind := speed.KINDS.get(known[0]):
            planned = 1 / kind.seconds(speed.work(options, trained, teacher), 1)
            yield Row("speed, planned", planned, "tokens/s, as `jobgen plan` has it from others' trainings")
        yield Row("MFU", 100 * rate * flops / known[1], f"% of the {known[0]}'s {known[1] / 1e12:.0f} TFLOP/s")
    yield from memory(watch, predicted, trained)
    total = sum(watch.families.values())
    for family, seconds in sorted(watch.families.items(), key=lambda item: -item[1]):
        yield Row(f"time: {family}", 100 * seconds / total, f"%, {seconds:.3f} s of a step")


def memory(watch: "Watch", predicted: Memory, trained: Shape) -> Iterator[Row]:
    """What a GPU held beside what the plan says; a plan that is too low is a mistake."""
    frozen = predicted.weights + predicted.teacher
    kept = frozen + predicted.optimizer + ACCUMULATED_BYTES * trained.parameters
    for what, used, planned in (
        ("weights", watch.loaded, frozen),
        ("between steps", watch.between, kept),
        ("peak", watch.peak, predicted.total),
    ):
        if used:
            yield Row(f"memory: {what}", used / 1e9, f"GB, planned {planned / 1e9:.1f}", used * USABLE <= planned)
    yield Row("memory: plan", str(predicted))


def choose(verb: str, place: Place, attention: str, most_layers: int) -> tuple[Training, Shape, Shape | None]:
    """Options, trained shape and teacher: all layers at the pipeline's micro-batch, or as many as fit at half of it."""
    whole, teacher, most = (STUDENT, TEACHER, 8) if verb == "distill" else (TEACHER, None, 4)
    if not place.gpu:
        whole, teacher = TOY, TOY if teacher else None
    room = torch.cuda.get_device_properties(0).total_memory * USABLE * place.scale if place.gpu else 4e9 * place.scale
    layers = min(whole.layer, most_layers)
    for micro, layer in [(most, layers), *((most // 2, n) for n in range(layers, 0, -1))]:
        chosen: dict[str, Any] = {
            "output_dir": str(place.work / f"{verb}-{attention}"),
            "record_path_or_regex": "random",
            "max_seq_length": LENGTH if place.gpu else 64,
            "global_batch_size": micro * ACCUMULATION,
            "per_device_train_batch_size": micro,
            "max_steps": STEPS,
            "log_interval": STEPS,
            "use_act_ckpt": True,
            "use_bf16": True,
            "attn_implementation": attention,
            "warmup_proportion": 0.5,
        }
        options: Training = (
            Distill(teacher_model_name_or_path="teacher", student_model_name_or_path="student", **chosen)
            if verb == "distill"
            else Adapt(model_name_or_path="model", **chosen)
        )
        trained = dataclasses.replace(whole, layer=layer)
        if training(options, trained, teacher, processes=1, zero_stage=1).total <= room:
            return options, trained, teacher
    raise MemoryError(f"not one layer fits {room / 1e9:.1f} GB")


def random_model(shape: Shape, device: str, attention: str) -> Any:
    """A LLaMA of this shape in bf16, its weights drawn on the device."""
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layer,
        num_attention_heads=shape.head,
        num_key_value_heads=shape.kv_head,
        head_dim=shape.head_dim,
        max_position_embeddings=LENGTH,
        bos_token_id=1,
        eos_token_id=2,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config).eval()
            model.set_attn_implementation(attention)
            return model
    finally:
        torch.set_default_dtype(before)


def train(options: Training, trained: Shape, teacher: Shape | None, watch: "Watch") -> dict[str, Any]:
    """Run the training loop as the stage does, with models and records from here instead of folders; returns its metrics."""
    from minima.stages import distill
    from minima.training import loop, loss
    from minima.training.group import Group
    from minima.workspace.artifact import Output
    from minima.workspace.lease import Lease

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(29500 + os.getpid() % 500)
    group = Group(placement.device())
    batch_loss = loss.cross_entropy(options.loss_chunk_size)
    if isinstance(options, Distill) and teacher:
        frozen = random_model(teacher, watch.place.device, options.attn_implementation).requires_grad_(False)
        batch_loss = distill.batch_loss(frozen, options)
    model = watch.follow(random_model(trained, watch.place.device, options.attn_implementation))
    rng = np.random.default_rng(0)
    count = options.global_batch_size * STEPS
    records = [{"indices": rng.integers(3, trained.vocab_size, options.max_seq_length)} for _ in range(count)]
    with Lease(Path(options.output_dir)) as lease:
        return loop.train(
            model,
            batch_loss=batch_loss,
            train_records=records,
            dev_records=None,
            options=options,
            output=Output(lease.making, options, {}, lease),
            group=group,
        )


class Watch:
    """Sees each micro-batch of a run begin, and so measures whole optimizer steps and what is allocated between them."""

    def __init__(self, place: Place, options: Training) -> None:
        self.place, self.calls = place, 0
        self.first = 0.0
        self.seconds: list[float] = []
        self.loaded = self.between = self.peak = 0
        self.families: dict[str, float] = {}
        self._began = 0.0
        self._profiler: Any = None
        self._trace = place.work / f"{options.verb}-trace.json"

    def follow(self, model: Any) -> Any:
        """Have the model tell when it is called."""
        from minima.training import loss

        if self.place.gpu:
            self.loaded = torch.cuda.memory_allocated()
        model.model.register_forward_pre_hook(lambda *_: self._micro_batch())
        plain = loss.chunked

        def marked(*args: Any, **kwargs: Any) -> Any:
            with record_function("loss"):
                return plain(*args, **kwargs)

        loss.chunked = marked
        return model

    def _micro_batch(self) -> None:
        step, rest = divmod(self.calls, ACCUMULATION)
        self.calls += 1
        if rest:
            return
        clock.synchronize(self.place.device)
        now = time.monotonic()
        gpu = self.place.gpu
        if step == 0:
            self.first = now
            _mark_optimizer()
        if step == 1 and gpu:
            self.between = torch.cuda.memory_allocated()
        if step == WARM and gpu:
            torch.cuda.reset_peak_memory_stats()
        if WARM < step <= WARM + MEASURED:
            self.seconds.append(now - self._began)
        self._began = now
        if step == WARM + MEASURED:
            self.peak = torch.cuda.max_memory_allocated() if gpu else 0
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
            self._profiler = profile(activities=kinds)
            self._profiler.start()
        if step == WARM + MEASURED + 1:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._trace))
            self.families = families.seconds(self._trace, gpu=gpu)


def _mark_optimizer() -> None:
    import deepspeed

    plain = deepspeed.DeepSpeedEngine.step

    def marked(self: Any, *args: Any, **kwargs: Any) -> Any:
        with record_function("optimizer"):
            return plain(self, *args, **kwargs)

    deepspeed.DeepSpeedEngine.step = marked
