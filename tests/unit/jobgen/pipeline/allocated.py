"""Bytes that minima's steps hold at once, of models of any size: counted on fake tensors, which have shapes and no content.

A program (`python -m tests.unit.jobgen.pipeline.allocated NAME…`), since it bends what others share: it prints a line of JSON
for each case. DeepSpeed's engine, transformers' layers, peft's adapters and the losses are the real ones; the other processes
of a group are fake too, and receive nothing.
"""

import gc
import json
import logging
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from jobgen.pipeline import memory
from minima.models import importance
from minima.models.shape import Shape
from minima.options import Adapt, Distill, Finetune, Prune, Training

TEACHER = Shape(layer=32, hidden=4096, head=32, kv_head=32, head_dim=128, intermediate=11008, vocab_size=49216)
STUDENT = Shape(layer=24, hidden=3072, head=24, kv_head=24, head_dim=128, intermediate=8192, vocab_size=49216)
SMALL = Shape(layer=12, hidden=768, head=12, kv_head=12, head_dim=64, intermediate=2048, vocab_size=32000)
"""134 million parameters."""
GROUPED = Shape(layer=22, hidden=2048, head=32, kv_head=4, head_dim=64, intermediate=5632, vocab_size=32000)
"""TinyLlama's 1.1 billion."""
BASE: dict[str, Any] = {"output_dir": "/o", "use_bf16": True, "max_seq_length": 4096}
ADAPT = Adapt(model_name_or_path="/m", record_path_or_regex=("/r",), **BASE)
DISTILL = Distill(teacher_model_name_or_path="/t", student_model_name_or_path="/s", record_path_or_regex=("/r",), **BASE)
FINETUNE = Finetune(model_name_or_path="/m", train_record_path_or_regex=("/r",), **BASE)


def case(made: Training, model: Shape, micro: int, processes: int = 1, **changes: Any) -> tuple[Training, Shape, int]:
    """Options with two micro-batches a step, the model and the processes."""
    batch: dict[str, Any] = {"per_device_train_batch_size": micro, "global_batch_size": 2 * micro * processes}
    return replace(made, **batch, **changes), model, processes


CASES = {
    "134M": case(ADAPT, SMALL, 2, max_seq_length=1024),
    "134M, recomputed": case(ADAPT, SMALL, 8, max_seq_length=1024, use_act_ckpt=True),
    "134M, fp32": case(ADAPT, SMALL, 4, max_seq_length=1024, use_bf16=False),
    "134M, ZeRO 2": case(ADAPT, SMALL, 1, 8, max_seq_length=256, zero_stage=2),
    "1.1B with grouped queries": case(ADAPT, GROUPED, 2, 8, max_seq_length=2048),
    "7B": case(ADAPT, TEACHER, 1, 32),
    "7B, recomputed": case(ADAPT, TEACHER, 4, 32, use_act_ckpt=True),
    "7B, recomputed, ZeRO 2": case(ADAPT, TEACHER, 4, 32, use_act_ckpt=True, zero_stage=2),
    "7B to 3B": case(DISTILL, STUDENT, 1, 16),
    "7B to 3B, recomputed": case(DISTILL, STUDENT, 8, 16, use_act_ckpt=True),
    "3B with LoRA": case(FINETUNE, STUDENT, 2, 8, lora_r=8),
    "3B with LoRA, recomputed": case(FINETUNE, STUDENT, 16, 8, lora_r=8, use_act_ckpt=True),
}
"""Attention is fused everywhere; 16-bit weights where nothing else is said."""
PRUNED = Prune(output_dir="/o", teacher_model_name_or_path="/t", record_path_or_regex="/r", use_bf16=True)


class Allocated(TorchDispatchMode):
    """Adds up the storages of all tensors that are made, and takes off those that die."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return False if args[0].dtype == torch.bool else 0  # Nothing overflows.
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._known:
            self._known[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self.now -= self._known.pop(place)


class Alone:
    """Stands for minima's group: what the others would say is not asked."""

    rank = 0

    def __init__(self, world: int) -> None:
        self.world = world

    def sum_or_stop(self, *values: float) -> list[float]:
        return list(values)


@contextmanager
def group(processes: int) -> Iterator[Alone]:
    """A process group whose other members are fake."""
    import deepspeed
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    comm.cdb = groups._WORLD_GROUP = None
    try:
        yield Alone(processes)
    finally:
        dist.destroy_process_group()


def llama(shape: Shape, *, bf16: bool) -> Any:
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layer,
        num_attention_heads=shape.head,
        num_key_value_heads=shape.kv_head,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
    )
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if bf16 else torch.float32)
    try:
        return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def trained(made: Training, model: Shape, processes: int) -> int:
    """The most bytes of the second optimizer step, when all states are there."""
    from minima.stages import distill, finetune
    from minima.training import loss
    from minima.training.steps import Steps

    with group(processes) as alone, FakeTensorMode(allow_non_fake_inputs=True), Allocated() as allocated:
        student = llama(model, bf16=made.use_bf16)
        batch_loss = loss.cross_entropy(made.loss_chunk_size)
        if isinstance(made, Distill):
            batch_loss = distill.batch_loss(llama(TEACHER, bf16=made.use_bf16).requires_grad_(False), made)
        if isinstance(made, Finetune) and made.lora_r:
            student = finetune.with_adapters(student, made)
        if made.use_act_ckpt:
            student.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        ids = np.random.default_rng(0).integers(3, model.vocab_size, made.max_seq_length)
        steps = Steps(student, batch_loss, [{"indices": ids}] * (2 * made.global_batch_size), made, alone)  # type: ignore[arg-type]
        steps.make(0, 1e-4)
        allocated.peak = allocated.now
        steps.make(1, 1e-4)
    gc.collect()
    return allocated.peak


def scored() -> int:
    """The most bytes of scoring the 7B teacher's parts."""
    from minima.data.batch import Batch

    with FakeTensorMode(allow_non_fake_inputs=True), Allocated() as allocated:
        ids = torch.ones(PRUNED.per_device_eval_batch_size, PRUNED.max_seq_length, dtype=torch.long)
        batch = Batch(input_ids=ids, labels=ids, trained=ids.numel(), tokens=ids.numel())
        importance.score(llama(TEACHER, bf16=True).eval(), [batch])
    return allocated.peak


def main(names: list[str]) -> None:
    # Fake tensors cannot be moved, and are all on the CPU; for them transformers makes a mask that fused attention needs not.
    torch.nn.Module.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    modeling_llama.create_causal_mask = lambda *args, **kwargs: None
    for name in names:
        if name == "prune":
            found, planned = scored(), memory.pruning(PRUNED, TEACHER)
        else:
            made, model, processes = CASES[name]
            found = trained(made, model, processes)
            teacher = TEACHER if isinstance(made, Distill) else None
            planned = memory.training(made, model, teacher, processes=processes, zero_stage=made.zero_stage)
        print(
            json.dumps({"case": name, "allocated": found, "planned": round(planned.total), "parts": str(planned)}), flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:] or [*CASES, "prune"])
