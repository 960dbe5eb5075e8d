"""How often a stage was started without getting anywhere: nothing in Kubernetes limits the restarts of `ExitCode`."""

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from minima.errors import NO_FAILURE, NOT_READY, AttemptsError, NoPeerError, NotReadyError, StageError
from minima.workspace.lease import Lease
from minima.workspace.marker import CHECKPOINTS, MARKER, STEP, STEPS, artifact_files

PREFIX = "_attempts"
FILE = f"{PREFIX}.json"
START = "lease-start"
"""The lease under which a pod that holds no other counts the start of its group."""


def progress(folder: Path) -> int:
    """What an unfinished stage has done: the step of its newest checkpoint, or the number of its shards, or MiB fetched."""
    steps = [int(place.name.removeprefix(STEP)) for place in (folder / CHECKPOINTS).glob(STEPS)]
    return max(steps, default=0) or len(list(folder.glob("*.tfrecord"))) or _fetched_bytes(folder) >> 20


def _unit(folder: Path) -> str:
    if any((folder / CHECKPOINTS).glob(STEPS)):
        return "step"
    return "shard" if any(folder.glob("*.tfrecord")) or not _fetched(folder) else "MiB"


def _fetched(folder: Path) -> list[Path]:
    """What is in place of what comes from outside: whole files, archives to be unpacked, and slices of others."""
    return [*artifact_files(folder), *(place for place in (folder / CHECKPOINTS).rglob("*") if place.is_file())]


def _fetched_bytes(folder: Path) -> int:
    size = 0
    for place in _fetched(folder):
        with contextlib.suppress(FileNotFoundError):  # A whole file replaced its slices.
            size += place.stat().st_size
    return size


def progressed(folder: Path) -> float:
    """When `progress` last grew, in seconds since the epoch; 0 if it never did."""
    made = [*(folder / CHECKPOINTS).glob(STEPS), *folder.glob("*.tfrecord")] or _fetched(folder)
    times = []
    for place in made:
        with contextlib.suppress(FileNotFoundError):  # A newer checkpoint replaced it.
            times.append(place.stat().st_mtime)
    return max(times, default=0.0)


@contextlib.contextmanager
def counted(lease: Lease, max_attempts: int, file: str = FILE) -> Iterator[Callable[[], None]]:
    """Count this start, unless it ends by what is for a person to mend; progress since the last one begins the count again.

    Gives what takes it back, for a process that is stopped without unwinding.

    Args:
        lease: on the artifact's folder.
        max_attempts: that may come to nothing.
        file: in the folder.

    Raises:
        AttemptsError: more than `max_attempts` starts without progress.
    """
    now = _read(lease.folder, file)
    _write(lease, file, {**now, "attempts": now["attempts"] + 1, "begun": False})
    _check(lease.folder, file, now["attempts"] + 1, max_attempts)
    take_back = partial(_take_back, lease, file, now["attempts"])
    try:
        yield take_back
    except StageError as error:
        if error.exit_code in NO_FAILURE:
            take_back()
        raise


@contextlib.contextmanager
def begun(folder: Path, max_attempts: int) -> Iterator[Callable[[], None]]:
    """Note that a group of processes begins, whose first one will count it: one that dies before that counts at the next.

    To be called before anything is imported that may be too large for the pod, by the pod of the first process. One that
    waits in vain for the other pods counts for nothing. Gives what takes it back, as `counted` does.

    Raises:
        AttemptsError: the first process would say so.
    """
    with Lease(folder, START, patient=True) as lease:
        now = _read(folder, FILE)
        attempts = now["attempts"] + now["begun"]
        _write(lease, FILE, {**now, "attempts": attempts, "begun": True})
    _check(folder, FILE, attempts + 1, max_attempts)
    take_back = partial(_take_back_start, folder, attempts)
    try:
        yield take_back
    except StageError as error:
        if error.exit_code in NO_FAILURE:  # Its first process may have counted, and had no time to take it back.
            take_back()
        elif error.exit_code == NOT_READY or isinstance(error, NoPeerError):
            _take_back_start(folder, max_attempts)
        raise


def _read(folder: Path, file: str) -> dict[str, Any]:
    place, now = folder / file, progress(folder)
    before = {"progress": now, "attempts": 0, "begun": False}
    if place.exists():
        before |= json.loads(place.read_text(encoding="utf-8"))
    return {**before, "progress": now, "attempts": before["attempts"] if before["progress"] >= now else 0}


def _write(lease: Lease, file: str, content: dict[str, Any]) -> None:
    if not (lease.folder / MARKER).exists():  # Another group may have finished it.
        lease.write(file, json.dumps(content))


def _check(folder: Path, file: str, attempts: int, max_attempts: int) -> None:
    if attempts > max_attempts:
        unit, now = _unit(folder), progress(folder)
        what = f"{unit} {now}" if now else "its start"
        raise AttemptsError(
            f"{folder}: {max_attempts} starts without progress beyond {what}; read the logs, mend the cause, "
            f"then remove {folder / file} to start again"
        )


def _take_back(lease: Lease, file: str, at_most: int) -> None:
    with contextlib.suppress(OSError, NotReadyError):  # Of a full disk, say: the error that is on its way tells more.
        now = _read(lease.folder, file)
        _write(lease, file, {**now, "attempts": min(now["attempts"], at_most), "begun": False})


def _take_back_start(folder: Path, at_most: int) -> None:
    with contextlib.suppress(OSError, NotReadyError), Lease(folder, START) as lease:
        _take_back(lease, FILE, at_most)
