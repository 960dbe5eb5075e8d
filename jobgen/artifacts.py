"""The artifacts of a pipeline, on a file system that is seen from here: setting them aside, and what none of them makes."""

import contextlib
import glob
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, following
from jobgen.report import say
from minima.errors import NotReadyError
from minima.options import inputs, option_of, reads, split_digest
from minima.workspace import artifact
from minima.workspace.lease import all_of
from minima.workspace.marker import CHECKPOINTS, MARKER

ASIDE = "_aside"
LOGS = "_logs"
"""In a pipeline's folder: what each stage wrote that ran on this machine."""


def work_of(steps: list[Step], from_stage: str) -> list[Path]:
    """The artifacts of `from_stage` and of all that follow from it that are finished, or have a checkpoint.

    Raises:
        UsageError: there is no such stage.
    """
    chosen = following(steps, from_stage)
    folders = [Path(step.output_dir) for step in steps if step.name in chosen]
    return [folder for folder in folders if (folder / MARKER).exists() or (folder / CHECKPOINTS).exists()]


def set_aside(steps: list[Step], from_stage: str, aside: Path) -> list[Path]:
    """Move the artefacts of `from_stage` and of all that follow from it to `aside`, after naming them.

    Returns:
        Where they are now.
    """
    chosen = following(steps, from_stage)
    folders = [Path(step.output_dir) for step in steps if step.name in chosen]
    return move_aside([folder for folder in folders if folder.exists() and not bare(folder)], aside)


def move_aside(folders: list[Path], aside: Path) -> list[Path]:
    """Move artifacts to `aside`, after naming them.

    Returns:
        Where they are now.

    Raises:
        NotReadyError: a stage writes in one of them; then all are where they were.
    """
    moves = []
    for folder in folders:
        number = 1
        while (place := aside / f"{folder.name}.{number}").exists():
            number += 1
        say(f"set aside {os.path.relpath(folder)} as {os.path.relpath(place)}")
        moves.append((folder, place))
    with contextlib.ExitStack() as leases:  # Not under the hands of a stage that still runs, in any of its pods.
        held = [leases.enter_context(all_of(folder)) for folder, _ in moves]
        aside.mkdir(parents=True, exist_ok=True)
        for lease, (_, place) in zip(held, moves, strict=True):
            lease.move(place)
    return [place for _, place in moves]


def bare(folder: Path) -> bool:
    """Whether a folder has no more than a lease in it: its artifact was set aside."""
    return all(place.name.startswith((".", "_lease")) for place in folder.iterdir())


def check_needs(steps: list[Step], part: list[Step], from_stage: str | None = None) -> dict[str, dict[str, Any]]:
    """Check that what `part` of the steps reads of the others is finished, and stays when `from_stage` is set aside.

    Returns:
        The markers of those that are read.

    Raises:
        NotReadyError: one is not.
    """
    own = {step.name for step in part}
    gone = following(steps, from_stage) if from_stage is not None else set()
    markers = {}
    for step in steps:
        reader = next((each.name for each in part if step.name in each.needs), None)
        if reader is None or step.name in own:
            continue
        marker = artifact.finished(step.options) if step.name not in gone else None
        if marker is None:
            raise NotReadyError(f"--only {reader}: {step.name}, which it reads, is not finished; --until {reader} makes both")
        markers[step.name] = marker
    return markers


@dataclass(frozen=True)
class Outside:
    """What no stage makes.

    Attributes:
        place: where the pipeline file names it.
        path: absolute, as its first reader sees it.
        what: is expected there, in the words of `option`'s `input`.
        readers: the stages that read it.
    """

    place: str
    path: str
    what: str
    readers: tuple[str, ...]

    @property
    def there(self) -> bool:
        """Whether something is there, as far as can be seen from here."""
        return Path(self.path).exists() or bool(glob.glob(self.path))


def outside(pipeline: Pipeline, steps: list[Step]) -> list[Outside]:
    """All that these steps read and no stage makes, in the order in which it is wanted."""
    made = tuple(step.output_dir for step in steps)
    found: dict[tuple[str, str], Outside] = {}
    for step in steps:
        for name, value in reads(step.options).items():
            path, option = split_digest(value)[0], option_of(name)
            what = inputs(type(step.options))[option]
            if path.startswith(made):
                continue
            reference = pipeline.stages[step.name].references.get(name)
            key = ("inputs", reference.name) if reference else ("stages", step.name, "options", option)
            place = pipeline.place(*key)
            before = found.get((place, path), Outside(place, path, what, ()))
            found[place, path] = replace(before, readers=tuple(dict.fromkeys((*before.readers, step.name))))
    return list(found.values())


def check_outside_inputs(pipeline: Pipeline, steps: list[Step], below: str = "/") -> None:
    """Check that what no stage makes is there, as far as it lies `below` a folder that can be seen from here.

    Raises:
        NotReadyError: something is not; a line for each.
    """
    missing = [one for one in outside(pipeline, steps) if one.path.startswith(below) and not one.there]
    if missing:
        remedy = "put it there, correct the path, or let a stage fetch it (`minima fetch --help`)"
        wanted = [f"{one.path}, where {', '.join(one.readers)} wants {one.what}" for one in missing]
        lines = [f"{one.place}: nothing at {what}; {remedy}" for one, what in zip(missing, wanted, strict=True)]
        raise NotReadyError("\n".join(lines))
