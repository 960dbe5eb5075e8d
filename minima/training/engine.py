"""The DeepSpeed engine and the process group under the training loop."""

import contextlib
import json
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
import torch.distributed as dist

# Else DeepSpeed, on looking whether an optimizer is Muon, loads the compiler; nothing here is compiled.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
import deepspeed
from deepspeed.constants import default_pg_timeout

from minima.errors import UsageError
from minima.options import Training

BETAS = (0.9, 0.95)
EPSILON = 1e-8
_OURS = {
    "train_batch_size": "--global_batch_size",
    "train_micro_batch_size_per_gpu": "--per_device_train_batch_size",
    "gradient_accumulation_steps": "--global_batch_size and --per_device_train_batch_size",
    "gradient_clipping": "--max_grad_norm",
    "optimizer": "--learning_rate and --weight_decay",
    "scheduler": "--lr_scheduler_type and --warmup_proportion",
    "bf16": "--use_bf16",
    "bfloat16": "--use_bf16",
    "fp16": "--use_bf16",
    "amp": "--use_bf16",
    "torch_autocast": "--use_bf16",
    "data_types": "--use_bf16",
    "prescale_gradients": "the loop",
    "gradient_predivide_factor": "the loop",
}
"""Keys of a DeepSpeed configuration that would change what the result means, and what says them instead."""


class Group:
    """The processes of this run, and a channel between their CPUs that never waits for a device.

    Attributes:
        rank: of this process.
        world: number of processes.
        control: gloo group for counts, flags and verdicts; a peer that hangs is lost after DeepSpeed's time (10 minutes,
            or DEEPSPEED_TIMEOUT), as in the collectives of the device.
        end: gloo group in which the others wait while rank 0 writes and hashes what the group made.
        last: the group that was made last in this process.
    """

    last: ClassVar["Group | None"] = None

    def __init__(self, device: torch.device) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # DeepSpeed's calls to torch, on which nobody who trains can act.
        warnings.filterwarnings("ignore", r".*_into_tensor` is deprecated", FutureWarning)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        else:
            # It would compile for 40 s, for machines with several CPU sockets.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend = "nccl" if device.type == "cuda" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        self.control = dist.new_group(backend="gloo", timeout=default_pg_timeout)
        self.end = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
        Group.last = self
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in fp64."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values


def farewell() -> None:
    """Return when every process of the group is here, and leave it."""
    if Group.last is not None:
        dist.barrier(group=Group.last.end)
        dist.destroy_process_group()


def configuration(options: Training, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration, `options.deepspeed` laid over what follows from the other options.

    Raises:
        UsageError: that file is not a JSON object, or holds keys that would change what the result means.
    """
    config: dict[str, Any] = {
        "train_batch_size": options.global_batch_size,
        "train_micro_batch_size_per_gpu": options.per_device_train_batch_size,
        "gradient_accumulation_steps": options.accumulation_steps(world),
        "gradient_clipping": options.max_grad_norm,
        "bf16": {"enabled": options.use_bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": options.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 60,
    }
    if not options.deepspeed:
        return config
    try:
        laid_over = json.loads(Path(options.deepspeed).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--deepspeed: {options.deepspeed}: {error}; name a DeepSpeed configuration in JSON") from None
    if not isinstance(laid_over, dict):
        raise UsageError(f"--deepspeed: {options.deepspeed}: a {type(laid_over).__name__}; valid: a JSON object")
    for key in laid_over:
        if key in _OURS:
            raise UsageError(f"--deepspeed: {options.deepspeed}: {key!r} would change the result; {_OURS[key]} says it")
    if "stage" in (laid_over.get("zero_optimization") or {}):
        raise UsageError(f"--deepspeed: {options.deepspeed}: 'zero_optimization.stage'; --zero_stage says it")
    return _overlay(config, laid_over)


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def start(module: torch.nn.Module, options: Training, group: Group) -> Any:
    """The engine that trains the parameters of `module` that require gradients; no decay on vectors (norms, biases)."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    # Not fused, the step on a GPU needs three more copies of the master weights.
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], options.learning_rate, BETAS, EPSILON, fused=True)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=configuration(options, group.world))[0]
    # DeepSpeed gives its own time to the first group alone, and reduces gradients in another.
    dist.distributed_c10d._set_pg_timeout(default_pg_timeout, engine.data_parallel_group)
    return engine


@contextlib.contextmanager
def catch_sigterm() -> Iterator[list[int]]:
    """Within it SIGTERM only fills the list, for the loop to see at its next step."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGTERM, before)
