"""The DeepSpeed engine and the process group under the training loop."""

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any, ClassVar

import torch
import torch.distributed as dist

# Else DeepSpeed, on looking whether an optimizer is Muon, loads the compiler; nothing here is compiled.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
import deepspeed
from deepspeed.constants import default_pg_timeout

from minima.options import Training
from minima.training.configuration import configuration

BETAS = (0.9, 0.95)
EPSILON = 1e-8


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
