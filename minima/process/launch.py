"""PID 1 of a pod: check, start, pass signals on, and end with an exit code that Kubernetes can act on.

Options, the output's marker and the inputs are checked before anything heavy is imported. A stage runs in this process;
an elastic one in workers under torchrun's agent, which this process becomes. Exit 0 only when a valid marker was seen.
"""

import contextlib
import errno
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from minima import flags
from minima.errors import (
    BUG,
    OUT_OF_MEMORY,
    TERMINATED,
    DiskFullError,
    LostPeerError,
    NoPeerError,
    NotReadyError,
    StageError,
    TerminatedError,
    UsageError,
    WorkerError,
)
from minima.options import VERBS, Options
from minima.process import workers
from minima.workspace import artifact, attempts, progress
from minima.workspace.inputs import check_inputs
from minima.workspace.lease import Lease
from minima.workspace.marker import CHECKPOINTS, clear_unfinished

AGENT = "MINIMA_AGENT"
"""Process id of the agent, for its workers."""
STARTED = "MINIMA_STARTED"
"""When PID 1 began, in seconds since the epoch, for its workers."""
INPUTS = "MINIMA_INPUTS"
"""File with what the agent found of the inputs, for its workers: hashing them again on each device would take hours."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
TERMINATION_LOG = Path(os.environ.get("MINIMA_TERMINATION_LOG", "/dev/termination-log"))
"""Where Kubernetes, or `jobgen run --local`, looks for a program's last words."""
POLL = 2.0
"""Seconds between two looks for the marker that another pod writes."""


def run(verb: str, argv: list[str]) -> int:
    """Run one stage and return the exit code of the program."""
    os.environ[STARTED] = str(time.time())
    # At once: the kernel drops SIGTERM for a PID 1 without a handler. torchrun's agent puts its own in place later.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, _terminated)
    return guarded(verb, lambda: _run(verb, argv))


def _run(verb: str, argv: list[str]) -> int:
    options = flags.parse(VERBS[verb], argv)
    marker = artifact.finished(options)
    if marker is not None:
        # Still there if the process ended right after the marker.
        shutil.rmtree(Path(options.output_dir) / CHECKPOINTS, ignore_errors=True)
        print(f"finished already: {options.output_dir} ({artifact.summary(marker)})", file=sys.stderr)
        return 0
    inputs = check_inputs(options)
    folder = Path(options.output_dir)
    _claim(folder, inputs)
    if options.elastic:
        with attempts.begun(folder, options.max_attempts) if _hosts_rendezvous() else contextlib.nullcontext():
            try:
                _agent(options, argv, inputs)
            except StageError:
                if artifact.finished(options) is None:  # A peer lost after the marker is no failure.
                    raise
    else:
        _run_here(options, folder, inputs)
    marker = artifact.finished(options)
    if marker is None:
        raise StageError(f"{folder}: the stage ended without its marker")
    print(f"finished: {folder} ({artifact.summary(marker)})", file=sys.stderr)
    return 0


def _claim(folder: Path, inputs: dict[str, dict[str, Any]]) -> None:
    """Make the output folder, unless something stands there that a stage could destroy.

    Raises:
        UsageError: it cannot be made, is or holds an input or lies in one, or holds files that no stage made.
    """
    here = folder.resolve()
    for name, entry in inputs.items():
        there = Path(entry["path"].split("*")[0]).resolve()
        if here == there or here in there.parents or there in here.parents:
            raise UsageError(f"--output_dir: {folder} overlaps with --{name} {entry['path']}; name a folder of its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [place.name for place in folder.iterdir() if not place.name.startswith((".", "_"))]
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise UsageError(f"--output_dir: {folder}: {error.strerror}; name a folder that can be made and written") from None
    if strangers and not any(folder.glob("_lease*.json")):
        raise UsageError(f"--output_dir: {folder} holds what no stage made ({sorted(strangers)[0]}, …); name a new folder")


def _run_here(options: Options, folder: Path, inputs: dict[str, dict[str, Any]]) -> None:
    pod, _ = workers.pod()
    with Lease(folder, f"lease-{pod}" if pod else "lease") as lease:
        if artifact.finished(options):
            return  # Another process made it while this one waited for the lease.
        file = f"_attempts-{pod}.json" if pod else attempts.FILE
        started = float(os.environ[STARTED])
        with progress.Reporter(folder / progress.file(pod), lease.check, started) as reporter:
            with attempts.counted(folder, options.max_attempts, file), one_form_of_errors():
                if not options.independent:
                    clear_unfinished(folder)
                output = artifact.Output(folder, options, inputs, lease.check, started, reporter)
                metrics = module(options.verb).run(options, output)
            if pod == 0:
                output.commit(metrics)
                return
            reporter.phase(progress.WAITING)
    while artifact.finished(options) is None:
        time.sleep(POLL)


def work(verb: str, argv: list[str]) -> int:
    """Run one worker of an elastic stage, under torchrun's variables; rank 0 holds the lease and writes the marker."""
    options = flags.parse(VERBS[verb], argv)
    inputs = json.loads(Path(os.environ[INPUTS]).read_text(encoding="utf-8"))
    folder = Path(options.output_dir)
    first = os.environ["RANK"] == "0"
    with Lease(folder) if first else contextlib.nullcontext() as lease:
        if first and artifact.finished(options):
            raise NotReadyError(f"{folder}: another process finished it meanwhile")  # The agent sees it, and ends with 0.
        check = lease.check if lease else lambda: None
        started = float(os.environ[STARTED])
        with progress.Reporter(folder / progress.file() if first else None, check, started) as reporter:
            output = artifact.Output(folder, options, inputs, check, started, reporter)
            counted = attempts.counted(folder, options.max_attempts) if first else contextlib.nullcontext()
            with counted, one_form_of_errors():
                metrics = module(verb).run(options, output)
            if first:
                output.commit(metrics)
        # One worker that ends with 0 makes the whole job Succeeded: none may end before the marker is there.
        importlib.import_module("minima.training.engine").farewell()
    return 0


def module(verb: str) -> ModuleType:
    """The module of a stage."""
    if not Path("/dev/nvidiactl").exists():
        # DeepSpeed, which transformers imports too, would say on stdout that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return importlib.import_module(f"minima.stages.{verb.replace('-', '_')}")


def _alone() -> bool:
    """Whether all workers are in this pod."""
    return os.environ.get("PET_NNODES", "1") in {"1", "1:1"}


def _hosts_rendezvous() -> bool:
    """Whether this is the pod, of several, where the others meet."""
    return _alone() or os.environ.get("PET_RDZV_ENDPOINT", "").partition(":")[0] == os.environ.get("HOSTNAME")


def _agent(options: Options, argv: list[str], inputs: dict[str, dict[str, Any]]) -> None:
    """Become torchrun's agent for this node, configured by the PET_* variables.

    Raises:
        WorkerError: with the code and the words of the worker that failed first.
        TerminatedError: SIGTERM or Ctrl-C, when the workers have ended.
        NoPeerError: the other pods do not come.
        LostPeerError: they went.
    """
    from torch.cuda import is_available
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousTimeoutError
    from torch.distributed.elastic.utils.logging import get_logger
    from torch.distributed.launcher.api import elastic_launch

    os.environ.setdefault("PET_NPROC_PER_NODE", "gpu" if is_available() else "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ[AGENT] = str(os.getpid())
    for name in ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api"):
        get_logger(name).setLevel("CRITICAL")  # What failed is said once, below.
    local = ["--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", options.verb]
    words = [*(local if _alone() else []), "--module", "minima.process.worker", options.verb, *argv]
    config, command, arguments = torchrun.config_from_args(torchrun.get_args_parser().parse_args(words))
    with tempfile.NamedTemporaryFile("w", prefix="minima-inputs-", suffix=".json", encoding="utf-8") as file:
        json.dump(inputs, file)
        file.flush()
        os.environ[INPUTS] = file.name
        _end_at_once_before_workers(options.verb)
        try:
            elastic_launch(config, command)(*arguments)
        except SignalException as stopped:
            text = f"stopped by {stopped.sigval.name}; the same command goes on from the last checkpoint"
            raise TerminatedError(text) from None
        except ChildFailedError as failed:
            causes = [(f.timestamp, f.exitcode, _words(f.message)) for f in failed.failures.values()]
            raise WorkerError(*root_cause(causes)) from None
        except RendezvousTimeoutError as nobody:
            raise NoPeerError("the other pods of the group did not come; tried again") from nobody
        except (RendezvousError, DistError) as lost:
            raise LostPeerError(f"the group of pods did not meet, or lost one ({lost}); run again") from lost


def _end_at_once_before_workers(verb: str) -> None:
    """On SIGTERM end within a second while no worker runs: looking for the pod to meet blocks Python's handlers for long."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)

    def watch() -> None:
        while os.read(reading, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        time.sleep(1)
        if signal.getsignal(signal.SIGTERM) is _terminated:  # It did not run, nor has torch put its own there for workers.
            say(verb, "stopped while waiting for the other pods; the same command goes on")
            os._exit(TERMINATED)

    threading.Thread(target=watch, name="sigterm", daemon=True).start()


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
        with one_form_of_errors():
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
def one_form_of_errors() -> Iterator[None]:
    """Turn what the system and libraries raise for no room, no memory, a lost peer or a lost device into our errors.

    Raises:
        DiskFullError: a full disk, which may show in any write.
        MemoryError: of the host or of the device.
        LostPeerError: the group or the device failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            place = error.filename or "the workspace"
            raise DiskFullError(f"{place}: no space left; make room, the same command goes on") from error
        raise
    except Exception as error:
        torch = sys.modules.get("torch")
        text = str(error)
        if type(error).__name__ == "SafetensorError" and any(f"os error {number}" in text for number in NO_ROOM):
            raise DiskFullError(f"no space left for weights ({error}); make room, the same command goes on") from error
        if torch is None or not isinstance(error, RuntimeError):
            raise
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise MemoryError(text.splitlines()[0]) from error
        lost = (torch.distributed.DistError, torch.AcceleratorError)
        if isinstance(error, lost) or "gloo" in text or "NCCL" in text:
            where = os.environ.get("RANK", "0")
            raise LostPeerError(f"rank {where} lost a peer or its device ({text.splitlines()[0]}); run again") from error
        raise


def say(verb: str, message: str) -> None:
    """Say the last words on stderr, and to Kubernetes, which shows them in the pod's status."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # A worker tells its agent, which says the root cause once.
        body = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(report).write_text(json.dumps(body), encoding="utf-8")
        return
    print(f"minima {verb}: {message}", file=sys.stderr, flush=True)
    leave(message)


def leave(message: str) -> None:
    """Leave the last words of a container where Kubernetes shows them."""
    if TERMINATION_LOG.is_file() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(message[:4000], encoding="utf-8")


def _terminated(number: int, frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, signal.SIG_IGN)  # Nothing may interrupt the farewell.
    raise TerminatedError(f"stopped by {signal.Signals(number).name}; the same command goes on")
