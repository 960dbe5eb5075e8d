"""The processes of a run, and what they agree on."""

import gc
import logging
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from minima.errors import TerminatedError
from minima.process import stop
from minima.process.launch import FAREWELLS


class Alone:
    """The group of a single process that needs no channel, with what `Group` can do.

    Attributes:
        rank: 0.
        world: 1.
    """

    rank, world = 0, 1

    def sum(self, *values: float) -> list[float]:
        """The values."""
        return list(values)

    def sum_or_stop(self, *values: float) -> list[float]:
        """The values: a stop ends a single process without being asked for."""
        return list(values)


class Group:
    """The processes of this run, and a channel between their CPUs that never waits for a device.

    Attributes:
        rank: of this process.
        world: number of processes.
        control: gloo group for counts, flags and verdicts; a peer that hangs is lost after DeepSpeed's time (10 minutes,
            or DEEPSPEED_TIMEOUT), as in the collectives of the device.
        end: gloo group in which the others wait while rank 0 writes and hashes what the group made.
    """

    def __init__(self, device: torch.device) -> None:
        import deepspeed  # Takes seconds, which one who is alone need not spend.
        from deepspeed.constants import default_pg_timeout

        # DeepSpeed collects garbage at every turn of its start; the many objects of the libraries are none.
        gc.collect()
        gc.freeze()
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
        FAREWELLS.append(self.farewell)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in fp64."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def sum_or_stop(self, *values: float) -> list[float]:
        """As `sum`, with one more number in the same message: whether a process was told to stop.

        Raises:
            TerminatedError: in all processes, if any was.
        """
        *sums, stops = self.sum(*values, float(stop.requested() is not None))
        if stops:
            raise TerminatedError("stopped; the same command goes on")
        return sums

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def farewell(self) -> None:
        """Return when every process of the group is here, and leave it."""
        dist.barrier(group=self.end)
        dist.destroy_process_group()
