"""PID 1 of a pod: check, start, pass signals on, and end with an exit code that Kubernetes can act on.

Options, the output's marker and the inputs are checked before anything heavy is imported. A stage runs in this process;
an elastic one in workers under torchrun's agent, which this process becomes. Exit 0 only when a valid marker was seen.
"""

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from minima import artifact, flags, process
from minima.errors import BUG, DISK_FULL, OUT_OF_MEMORY, TERMINATED, DiskFullError, StageError, TerminatedError
from minima.lease import Lease
from minima.options import STAGES, Options

AGENT = "MINIMA_AGENT"
"""Process id of the agent, for its workers."""
STARTED = "MINIMA_STARTED"
"""When PID 1 began, in seconds since the epoch, for its workers."""
TERMINATION_LOG = Path("/dev/termination-log")
POLL = 2.0
"""Seconds between two looks for the marker that another pod writes."""


def stage(verb: str, argv: list[str]) -> int:
    """Run one stage and return the exit code of the program."""
    os.environ[STARTED] = str(time.time())
    return guarded(verb, lambda: _stage(verb, argv))


def _stage(verb: str, argv: list[str]) -> int:
    options = flags.parse(STAGES[verb], argv)
    marker = artifact.finished(options)
    if marker is not None:
        print(f"finished already: {options.output_dir} ({artifact.summary(marker)})", file=sys.stderr)
        return 0
    inputs = artifact.check_inputs(options)
    folder = Path(options.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StageError(f"--output_dir: {folder} is a file; name a folder") from None
    if options.elastic:
        code = _agent(options, argv)
        if code:
            return code
    else:
        signal.signal(signal.SIGTERM, _terminated)
        signal.signal(signal.SIGINT, _terminated)
        _run_here(options, folder, inputs)
    marker = artifact.finished(options)
    if marker is None:
        raise StageError(f"{folder}: the stage ended without its marker")
    print(f"finished: {folder} ({artifact.summary(marker)})", file=sys.stderr)
    return 0


def _run_here(options: Options, folder: Path, inputs: dict[str, dict[str, Any]]) -> None:
    pod, pods = process.pod()
    with Lease(folder, f"lease-{pod}" if pods > 1 else "lease") as lease:
        if artifact.finished(options):
            return  # Another process made it while this one waited for the lease.
        if not options.independent:
            artifact.clear_unfinished(folder)
        output = artifact.Output(folder, options, inputs, lease.check, float(os.environ[STARTED]))
        metrics = module(options.verb).run(options, output)
        if pod == 0:
            output.commit(metrics)
            return
    while artifact.finished(options) is None:
        time.sleep(POLL)


def work(verb: str, argv: list[str]) -> int:
    """Run one worker of an elastic stage, under torchrun's variables; rank 0 holds the lease and writes the marker."""
    options = flags.parse(STAGES[verb], argv)
    inputs = artifact.check_inputs(options)
    folder = Path(options.output_dir)
    first = os.environ["RANK"] == "0"
    with Lease(folder) if first else contextlib.nullcontext() as lease:
        check = lease.check if lease else lambda: None
        output = artifact.Output(folder, options, inputs, check, float(os.environ[STARTED]))
        stage_module = module(verb)
        metrics = stage_module.run(options, output)
        if first:
            output.commit(metrics)
        # One worker that ends with 0 makes the whole job Succeeded: none may end before the marker is there.
        distributed = importlib.import_module("torch.distributed")
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
    return 0


def module(verb: str) -> ModuleType:
    """The module of a stage."""
    if not Path("/dev/nvidiactl").exists():
        # DeepSpeed, which transformers imports too, would say on stdout that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return importlib.import_module(f"minima.{verb.replace('-', '_')}")


def _agent(options: Options, argv: list[str]) -> int:
    """Become torchrun's agent for this node, configured by the PET_* variables, and return the right exit code."""
    from torch.cuda import is_available
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.utils.logging import get_logger
    from torch.distributed.launcher.api import elastic_launch

    os.environ.setdefault("PET_NPROC_PER_NODE", "gpu" if is_available() else "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ[AGENT] = str(os.getpid())
    for name in ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api"):
        get_logger(name).setLevel("CRITICAL")  # What failed is said once, below.
    alone = os.environ.get("PET_NNODES", "1") in {"1", "1:1"}
    local = ["--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", options.verb]
    words = [*(local if alone else []), "--module", "minima.worker", options.verb, *argv]
    config, command, arguments = torchrun.config_from_args(torchrun.get_args_parser().parse_args(words))
    try:
        elastic_launch(config, command)(*arguments)
    except SignalException as stopped:
        raise TerminatedError(f"stopped by {stopped.sigval.name}; the same command goes on from the last checkpoint") from None
    except ChildFailedError as failed:
        code, message = root_cause([(f.timestamp, f.exitcode, _words(f.message)) for f in failed.failures.values()])
        say(options.verb, message)
        return code
    return 0


def _words(message: str | dict[str, Any]) -> str:
    """What a worker said: torch gives the body of its error file, or a text of its own where there is none."""
    return message if isinstance(message, str) else str(message["message"])


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


def guarded(verb: str, program: Callable[[], int]) -> int:
    """Call `program`, and turn what it raises into one message and an exit code; only a bug prints a traceback."""
    try:
        with _one_form_of_errors():
            return program()
    except StageError as error:
        say(verb, str(error))
        return error.exit_code
    except MemoryError:
        say(verb, "out of memory; a smaller micro-batch or a larger pool helps")
        return OUT_OF_MEMORY
    except KeyboardInterrupt:
        say(verb, "interrupted; the same command goes on")
        return TERMINATED
    except Exception as error:  # noqa: BLE001 the last resort: said in full, and with its own exit code
        traceback.print_exc()
        say(verb, f"unexpected {type(error).__name__}: {error}; this is a bug of minima, please report it")
        return BUG


@contextlib.contextmanager
def _one_form_of_errors() -> Iterator[None]:
    """A full disk may show in any write."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            place = error.filename or "the workspace"
            raise DiskFullError(f"{place}: no space left (exit {DISK_FULL}); make room, the same command goes on") from error
        raise


def say(verb: str, message: str) -> None:
    """Say the last words on stderr, and to Kubernetes, which shows them in the pod's status."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # A worker tells its agent, which says the root cause once.
        body = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(report).write_text(json.dumps(body), encoding="utf-8")
        return
    print(f"minima {verb}: {message}", file=sys.stderr, flush=True)
    if TERMINATION_LOG.is_file() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(message[:4000], encoding="utf-8")


def _terminated(number: int, frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, signal.SIG_IGN)  # Nothing may interrupt the farewell.
    raise TerminatedError(f"stopped by {signal.Signals(number).name}; the same command goes on")
