"""The artifacts of a pipeline, on a file system that is seen from here: setting them aside, and what none of them makes."""

import contextlib
import glob
import os
from pathlib import Path

from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, following
from jobgen.report import say
from minima.errors import NotReadyError
from minima.options import inputs, split_digest
from minima.workspace.lease import all_of

ASIDE = "_aside"
LOGS = "_logs"
"""In a pipeline's folder: what each stage wrote that ran on this machine."""


def set_aside(steps: list[Step], from_stage: str, aside: Path) -> list[Path]:
    """Move the artefacts of `from_stage` and of all that follow from it to `aside`, after naming them.

    Returns:
        Where they are now.
    """
    chosen = following(steps, from_stage)
    return move_aside([Path(s.output_dir) for s in steps if s.name in chosen and Path(s.output_dir).exists()], aside)


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


def check_outside_inputs(pipeline: Pipeline, steps: list[Step]) -> None:
    """Check that what no stage makes is there.

    Raises:
        NotReadyError: something is not.
    """
    made = tuple(step.output_dir for step in steps)
    for step in steps:
        for option in inputs(type(step.options)):
            path = split_digest(getattr(step.options, option))[0]
            if not path or path.startswith(made) or Path(path).exists() or glob.glob(path):
                continue
            reference = pipeline.stages[step.name].references.get(option)
            key = ("inputs", reference.name) if reference else ("stages", step.name, "options", option)
            raise NotReadyError(f"{pipeline.place(*key)}: nothing at {path}; put it there or correct the path")
