"""`jobgen gc` where the workspace is seen from: artifacts that nothing of the pipeline file refers to, their logs, and what was
set aside."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jobgen.artifacts import ASIDE, LOGS, bare, move_aside
from jobgen.pipeline.pipeline import KEY_LENGTH, Pipeline
from jobgen.pipeline.plan import Step, plan
from jobgen.report import table
from minima.workspace.lease import MAKING
from minima.workspace.marker import CHECKPOINTS, MARKER

ARTIFACT = re.compile(rf"[a-z][-a-z0-9]*-[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something in the workspace that nothing of the pipeline file refers to.

    Attributes:
        place: its folder or file.
        what: artifact, unfinished artifact, set aside, or log.
        size: of all its files, in bytes.
    """

    place: Path
    what: str
    size: int


def leftovers(pipeline: Pipeline, steps: list[Step]) -> list[Leftover]:
    """What the pipeline's folder of the workspace holds beside the artifacts of `steps`, and beside what jobgen never made."""
    folder = Path(steps[0].output_dir).parent
    kept = {Path(step.output_dir).name for step in steps}
    found: list[tuple[Path, str]] = []
    for place in _inside(folder):
        if place.is_dir() and ARTIFACT.fullmatch(place.name) and place.name not in kept and _ours(place) and not bare(place):
            found.append((place, "artifact" if (place / MARKER).is_file() else "unfinished artifact"))
    found += [(place, "set aside") for place in _inside(folder / ASIDE) if place.is_dir()]
    for place in _inside(folder / LOGS):
        if place.is_file() and place.suffix == ".log" and ARTIFACT.fullmatch(place.stem) and place.stem not in kept:
            found.append((place, "log"))
    return [Leftover(place=place, what=what, size=_size(place)) for place, what in found]


def collect(pipeline: Pipeline, *, workspace: str, yes: bool) -> int:
    """Show the leftovers and their sizes, and with `yes` remove them.

    Raises:
        NotReadyError: a stage writes in one of the artifacts; then nothing was removed.
    """
    steps = plan(pipeline, str(Path(workspace).absolute()))
    folder = Path(steps[0].output_dir).parent
    found = leftovers(pipeline, steps)
    if not found:
        print(f"in {folder} is nothing that {pipeline.source} does not refer to")
        return 0
    print(table(["what", "bytes", "place"], [[each.what, f"{each.size:,}", str(each.place)] for each in found]), flush=True)
    total = f"{sum(each.size for each in found):,} bytes in {folder}"
    if not yes:
        print(f"{total}; --yes removes them")
        return 0
    # Away from where stages look first: a folder that is half removed is nobody's artifact.
    aside = folder / ASIDE
    moved = move_aside([each.place for each in found if each.place.parent == folder], aside)
    for place in [*moved, *(each.place for each in found if each.place.parent != folder)]:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    print(f"removed {total}")
    return 0


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if it is not there. No links, and nothing hidden, such as the conductor's marks."""
    if not folder.is_dir():
        return []
    return [place for place in sorted(folder.iterdir()) if not place.is_symlink() and not place.name.startswith(".")]


def _ours(folder: Path) -> bool:
    """Whether a stage wrote in a folder; its name alone may be anybody's, as `notes-20251126` is."""
    traces = (MARKER, "_lease*.json", f"{CHECKPOINTS}/", f"{MAKING}*")
    return any(True for trace in traces for _ in folder.glob(trace))


def _size(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    return sum((Path(where) / name).lstat().st_size for where, _, names in os.walk(place) for name in names)
