"""The link between the processes of a group: how fast they sum a message, and what carries it.

Bandwidth is that of NVIDIA's nccl-tests ("bus bandwidth"): each byte of an all-reduce among n processes crosses the slowest
link 2 (n - 1) / n times, so the number does not depend on n and compares with the data sheet of the network.
"""

import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from minima.errors import StageError
from minima.training.group import Group

MEGABYTE = 10**6
DEVICES = Path("/dev/infiniband")
STATUS = Path("/proc/self/status")
IPC_LOCK = 14
"""Bit of the capability that lifts the limit of locked memory (linux/capability.h)."""
SECONDS = 1.0
"""How long each size of message is measured, about."""
CARRIER = re.compile(r"\bvia NET/(?P<name>[^/\n]+)(?P<rest>(?:/[^/\s]+)*)")
CHOSEN = re.compile(r"\bNCCL INFO Using network (?P<name>.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one size of message took.

    Attributes:
        megabytes: of the message, in each process.
        seconds: of one all-reduce, the mean.
        gigabytes_per_second: bus bandwidth.
    """

    megabytes: int
    seconds: float
    gigabytes_per_second: float


def unlockable() -> str:
    """Why this process cannot lock the memory that InfiniBand and RoCE want; empty if it can, or has none of their devices.

    Kubernetes gives the capabilities of a `pod` to root alone (github.com/kubernetes/kubernetes/issues/56374): for any other
    user the limit counts that the container has from its runtime's daemon.
    """
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or not any(DEVICES.glob("uverbs*")):
        return ""
    status = STATUS.read_text(encoding="utf-8")
    if int(status.partition("CapEff:")[2].split()[0], 16) >> IPC_LOCK & 1:
        return ""
    return (
        f"this process may lock {limit >> 10} KiB of memory, and NCCL takes TCP where that is too little; pods that are not "
        "root, IPC_LOCK or not, need `LimitMEMLOCK=infinity` of containerd or CRI-O on the node (docs/images.md)"
    )


@contextmanager
def nccl_log() -> Iterator[Path]:
    """The folder into which NCCL of this process writes what it chooses; enter before the group is made."""
    with tempfile.TemporaryDirectory(prefix="minima-nccl-") as folder:
        os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": f"{folder}/%p"}
        yield Path(folder)


def carriers(log: str) -> set[str]:
    """What NCCL says in its log that carries messages between nodes, such as `IB, GDRDMA` or `Socket`.

    Of the lines of its channels, which say what is used; without any, what it chose for a network that it did not need.
    """
    found = {", ".join([match["name"], *(["GDRDMA"] if "/GDRDMA" in match["rest"] else [])]) for match in CARRIER.finditer(log)}
    return found or {match["name"].strip() for match in CHOSEN.finditer(log)}


def speeds(group: Group, device: torch.device, largest: int) -> list[Speed]:
    """All-reduces of messages from 1 to `largest` megabytes among the group, each 16 times the one before.

    Raises:
        StageError: a sum is wrong.
    """
    sizes = [size for size in (16**power for power in range(8)) if size < largest]
    return [_speed(group, device, megabytes) for megabytes in (*sizes, largest)]


def _speed(group: Group, device: torch.device, megabytes: int) -> Speed:
    message = torch.full((megabytes * MEGABYTE // 4,), float(group.rank + 1), device=device)
    dist.all_reduce(message)
    expected = group.world * (group.world + 1) / 2
    if group.sum(float((message != expected).sum())) != [0.0]:
        raise StageError(f"an all-reduce of {megabytes} MB came to another sum than {expected}: the link or a device is broken")
    message.zero_()
    (trial,) = group.sum(_seconds(message, 2) / group.world)
    times = max(3, min(200, int(SECONDS / trial)))
    (seconds,) = group.sum(_seconds(message, times) / group.world)
    bus = 2 * (group.world - 1) / group.world
    return Speed(megabytes=megabytes, seconds=seconds, gigabytes_per_second=megabytes * MEGABYTE * bus / seconds / 1e9)


def _seconds(message: torch.Tensor, times: int) -> float:
    """The mean time of an all-reduce of `message`."""

    def done() -> float:
        if message.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    dist.barrier()
    start = done()
    for _ in range(times):
        dist.all_reduce(message)
    return (done() - start) / times
