"""How often a stage was started without getting anywhere: nothing in Kubernetes limits the restarts of `ExitCode`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from minima.errors import NO_FAILURE, AttemptsError, StageError
from minima.files import write_atomically
from minima.marker import CHECKPOINTS

FILE = "_attempts.json"


def progress(folder: Path) -> int:
    """What an unfinished stage has done: the step of its newest checkpoint, or the number of its shards."""
    steps = [int(place.name.removeprefix("step-")) for place in (folder / CHECKPOINTS).glob("step-*")]
    return max(steps, default=0) or len(list(folder.glob("*.tfrecord")))


@contextlib.contextmanager
def counted(folder: Path, max_attempts: int) -> Iterator[None]:
    """Count this start, unless it ends by what is for a person to mend; progress since the last one begins the count again.

    Raises:
        AttemptsError: more than `max_attempts` starts without progress.
    """
    _count(folder, max_attempts)
    try:
        yield
    except StageError as error:
        if error.exit_code in NO_FAILURE:
            _forgive(folder)
        raise


def _count(folder: Path, max_attempts: int) -> None:
    place = folder / FILE
    now = progress(folder)
    before = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"progress": now, "attempts": 0}
    attempts = 1 + (before["attempts"] if before["progress"] >= now else 0)
    write_atomically(place, json.dumps({"progress": now, "attempts": attempts}))
    if attempts > max_attempts:
        unit = "step" if (folder / CHECKPOINTS).exists() else "shard"
        what = f"{unit} {now}" if now else "its start"
        raise AttemptsError(
            f"{folder}: {max_attempts} starts without progress beyond {what}; read the logs, mend the cause, "
            f"then remove {place} to start again"
        )


def _forgive(folder: Path) -> None:
    place = folder / FILE
    now = json.loads(place.read_text(encoding="utf-8"))
    write_atomically(place, json.dumps({**now, "attempts": max(0, now["attempts"] - 1)}))
