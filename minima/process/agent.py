"""torchrun's agent for the workers of this pod, configured by the PET_* variables."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from minima.errors import BUG, TERMINATED, LostPeerError, NoPeerError, TerminatedError, WorkerError
from minima.options import Options
from minima.process import family, stop

INPUTS = "MINIMA_INPUTS"
"""File with what the agent found of the inputs, for its workers: hashing them again on each device would take hours."""


def run(options: Options, argv: list[str], inputs: dict[str, dict[str, Any]]) -> None:
    """Start the workers, and return when all of them, on all pods, have ended with 0.

    Args:
        options: of the stage.
        argv: its command line without the verb.
        inputs: what was found of them.

    Raises:
        WorkerError: with the code and the words of the worker that failed first.
        TerminatedError: a stop, when the workers have ended.
        NoPeerError: the other pods do not come.
        LostPeerError: they went.
    """
    from torch.cuda import is_available
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousTimeoutError
    from torch.distributed.elastic.utils.logging import get_logger
    from torch.distributed.launcher.api import elastic_launch

    os.environ.setdefault("PET_NPROC_PER_NODE", "gpu" if is_available() else "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ[family.AGENT] = str(os.getpid())
    for name in ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api"):
        get_logger(name).setLevel("CRITICAL")  # What failed is said once, below.
    local = ["--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", options.verb]
    words = [*(local if alone() else []), "--module", "minima.process.worker", options.verb, *argv]
    config, command, arguments = torchrun.config_from_args(torchrun.get_args_parser().parse_args(words))
    config.signals_to_handle = ""  # Its handlers raise what some of its own code swallows.
    with (
        tempfile.NamedTemporaryFile("w", prefix="minima-inputs-", suffix=".json", encoding="utf-8") as file,
        stop.before_the_end(Path(file.name).unlink),
    ):
        json.dump(inputs, file)
        file.flush()
        os.environ[INPUTS] = file.name
        stop.pass_on()
        try:
            elastic_launch(config, command)(*arguments)
        except ChildFailedError as failed:
            causes = [(f.timestamp, f.exitcode, _words(f.message)) for f in failed.failures.values()]
            if stop.requested():
                said = next((text for _, code, text in causes if code == TERMINATED), "stopped; the same command goes on")
                raise TerminatedError(said) from None
            raise WorkerError(*root_cause(causes)) from None
        except RendezvousTimeoutError as nobody:
            raise NoPeerError("the other pods of the group did not come; tried again") from nobody
        except (RendezvousError, DistError) as lost:
            raise LostPeerError(f"the group of pods did not meet, or lost one ({lost}); run again") from lost


def alone() -> bool:
    """Whether all workers are in this pod."""
    return os.environ.get("PET_NNODES", "1") in {"1", "1:1"}


def hosts_rendezvous() -> bool:
    """Whether this is the pod, of several, where the others meet."""
    return alone() or os.environ.get("PET_RDZV_ENDPOINT", "").partition(":")[0] == os.environ.get("HOSTNAME")


def root_cause(failures: list[tuple[int, int, str]]) -> tuple[int, str]:
    """Of (time, exit code, message) of failed workers, the code to end with and what to say.

    A permanent failure (below 128) explains its peers' lost connections, so it goes before them; then the earliest.
    A negative code is a signal. Code 1 is Python's own for an error that nobody expected.
    """
    codes = [(time_, 128 - code if code < 0 else BUG if code == 1 else code, message) for time_, code, message in failures]
    _, code, message = min(codes, key=lambda failure: (failure[1] >= 128, failure[1] == TERMINATED, failure[0]))
    if message.startswith("Signal ") or not message.strip():
        message = f"a worker ended with exit code {code}"
    return code, message


def _words(message: str | dict[str, Any]) -> str:
    """What a worker said: torch gives the body of its error file, or a text of its own where there is none."""
    return message if isinstance(message, str) else str(message["message"])
