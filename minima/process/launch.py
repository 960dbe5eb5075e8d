"""PID 1 of a pod: check, start, pass signals on, and end with an exit code that Kubernetes can act on.

Options, the output's marker and the inputs are checked before anything heavy is imported. A stage runs in this process;
an elastic one in workers under torchrun's agent, which this process becomes. Exit 0 only when a valid marker was seen.
"""

import contextlib
import errno
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from minima import flags
from minima.errors import (
    BUG,
    OUT_OF_MEMORY,
    TERMINATED,
    DataError,
    DiskFullError,
    LostPeerError,
    NotReadyError,
    StageError,
    UsageError,
)
from minima.options import VERBS, Options
from minima.process import agent, stop, words, workers
from minima.workspace import artifact, attempts, model_folder, progress
from minima.workspace.inputs import check_inputs
from minima.workspace.lease import MAKING, Lease, all_of
from minima.workspace.marker import CHECKPOINTS

STARTED = "MINIMA_STARTED"
"""When PID 1 began, in seconds since the epoch, for its workers."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
FAREWELLS: list[Callable[[], None]] = []
"""What brings the workers together when the marker is there: added by the group in which they meet."""
POLL = 2.0
"""Seconds between two looks for the marker that another pod writes."""


def run(verb: str, argv: list[str]) -> int:
    """Run one stage and return the exit code of the program."""
    os.environ[STARTED] = str(time.time())
    return guarded(verb, lambda: _run(verb, argv))


def _run(verb: str, argv: list[str]) -> int:
    options = flags.parse(VERBS[verb], argv)
    marker = artifact.finished(options)
    if marker is not None:
        _tidy(Path(options.output_dir))
        print(f"finished already: {options.output_dir} ({artifact.summary(marker, options)})", file=sys.stderr)
        return 0
    inputs = check_inputs(options)
    model_folder.check_inputs(options)
    folder = Path(options.output_dir)
    _claim(folder, inputs)
    if options.elastic:
        first = agent.hosts_rendezvous()
        begun = attempts.begun(folder, options.max_attempts) if first else contextlib.nullcontext()
        with begun as take_back, stop.before_the_end(take_back):
            try:
                agent.run(options, argv, inputs)
            except StageError:
                if artifact.finished(options) is None:  # A peer lost after the marker is no failure.
                    raise
    else:
        _run_here(options, folder, inputs)
    marker = artifact.finished(options)
    if marker is None:
        raise StageError(f"{folder}: the stage ended without its marker")
    print(f"finished: {folder} ({artifact.summary(marker, options)})", file=sys.stderr)
    return 0


def _tidy(folder: Path) -> None:
    """Remove from a finished artifact what is there only if its process ended right after the marker."""
    if any(place.is_dir() for name in (CHECKPOINTS, f"{MAKING}*") for place in folder.glob(name)):
        with contextlib.suppress(OSError, NotReadyError), all_of(folder) as lease:
            artifact.tidy(lease)


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
    lease = Lease(folder, f"lease-{pod}" if pod else "lease")
    with stop.before_the_end(lease.release), lease:
        if artifact.finished(options):
            return  # Another process made it while this one waited for the lease.
        file = f"_attempts-{pod}.json" if pod else attempts.FILE
        started = float(os.environ[STARTED])
        with progress.Reporter(_writing(lease, progress.file(pod)), started) as reporter:
            counted = attempts.counted(lease, options.max_attempts, file)
            with counted as take_back, stop.before_the_end(take_back), one_form_of_errors():
                output = artifact.Output(lease.making, options, inputs, lease, started, reporter)
                metrics = module(options.verb).run(options, output)
            if pod == 0:
                output.commit(metrics)
                return
            reporter.phase(progress.WAITING)
    while artifact.finished(options) is None:
        time.sleep(POLL)


def _writing(lease: Lease, name: str) -> Callable[[str], None]:
    """What writes a small file beside the artifact, that comes again and need not outlast a crash of the machine."""
    return lambda text: lease.write(name, text, durable=False)


def work(verb: str, argv: list[str]) -> int:
    """Run one worker of an elastic stage, under torchrun's variables; rank 0 holds the lease and writes the marker."""
    options = flags.parse(VERBS[verb], argv)
    inputs = json.loads(Path(os.environ[agent.INPUTS]).read_text(encoding="utf-8"))
    folder = Path(options.output_dir)
    first = os.environ["RANK"] == "0"
    lease = Lease(folder) if first else None
    with stop.before_the_end(lease.release if lease else None), lease or contextlib.nullcontext():
        if first and artifact.finished(options):
            raise NotReadyError(f"{folder}: another process finished it meanwhile")  # The agent sees it, and ends with 0.
        started = float(os.environ[STARTED])
        with progress.Reporter(_writing(lease, progress.file()) if lease else None, started) as reporter:
            # The others write nothing but their part of each checkpoint, where the first one tells them.
            output = artifact.Output(lease.making if lease else folder, options, inputs, lease, started, reporter)
            counted = attempts.counted(lease, options.max_attempts) if lease else contextlib.nullcontext()
            with counted as take_back, stop.before_the_end(take_back), one_form_of_errors():
                metrics = module(verb).run(options, output)
            if first:
                output.commit(metrics)
        # One worker that ends with 0 makes the whole job Succeeded: none may end before the marker is there.
        for farewell in FAREWELLS:
            farewell()
    return 0


def module(verb: str) -> ModuleType:
    """The module of a stage."""
    if not Path("/dev/nvidiactl").exists():
        # DeepSpeed, which transformers imports too, would say on stdout that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return importlib.import_module(f"minima.stages.{verb.replace('-', '_')}")


def guarded(verb: str, program: Callable[[], int]) -> int:
    """Call `program`, and turn what it raises into one message and an exit code; only a bug prints a traceback."""
    try:
        with one_form_of_errors():
            return program()
    except StageError as error:
        code, message = error.exit_code, str(error)
    except MemoryError:
        code, message = OUT_OF_MEMORY, "out of memory; a smaller micro-batch or a larger pool helps"
    except Exception as error:  # noqa: BLE001 the last resort: said in full, and with its own exit code
        code, message = BUG, f"unexpected {type(error).__name__}: {error}; this is a bug of minima, please report it"
        if not stop.requested():
            traceback.print_exc()
    if stop.requested() and code != TERMINATED:  # It may fail because of the stop; if not, it will fail again.
        code, message = TERMINATED, f"stopped; the same command goes on (on the way: {message})"
    words.say(verb, message)
    return code


@contextlib.contextmanager
def one_form_of_errors() -> Iterator[None]:
    """Turn what the system and libraries raise for no room, no memory, a lost peer or a lost device into our errors.

    Raises:
        DiskFullError: a full disk, which may show in any write.
        DataError: a file or a folder that whom this runs as may not read.
        MemoryError: of the host or of the device.
        LostPeerError: the group or the device failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            place = error.filename or "the workspace"
            raise DiskFullError(f"{place}: no space left; make room, the same command goes on") from error
        if isinstance(error, PermissionError) and error.filename:
            who = f"user {os.geteuid()} of group {os.getegid()}"
            raise DataError(
                f"{error.filename}: {error.strerror} for {who}, as whom this runs; let it read and enter (`chmod -R a+rX`), or "
                "run as another (a pod's securityContext: runAsUser, fsGroup)"
            ) from error
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
