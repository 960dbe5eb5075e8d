"""`jobgen run --local`: the stages of a pipeline on this machine, each by the command line that its pod gets."""

import contextlib
import glob
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from jobgen.pipeline import Pipeline
from jobgen.plan import Step, plan
from jobgen.report import report
from minima import artifact
from minima.errors import TERMINATED, NotReadyError, UsageError, did_you_mean
from minima.inputs import split_digest
from minima.lease import Lease
from minima.marker import MARKER
from minima.options import inputs
from minima.process import die_with_parent

ASIDE = "_aside"


def run_local(pipeline: Pipeline, *, workspace: str, from_stage: str | None) -> int:
    """Run every stage that is not finished, in order, and print the report.

    Args:
        pipeline: what to run.
        workspace: folder of all artefacts; made if it is not there.
        from_stage: set this stage's artefact and all that follow from it aside first.

    Returns:
        0, or the exit code of the stage that failed.

    Raises:
        UsageError: no such stage; the stages' program is not installed.
        NotReadyError: an input from outside is not there.
        DataError: a finished artefact, or an input from outside, is not what it was.
    """
    if not workspace or glob.has_magic(workspace):
        raise UsageError(f"--workspace: found {workspace!r}; a folder's path without the characters *, ? and [ is valid")
    root = Path(workspace).absolute()
    steps = plan(pipeline, str(root))
    program = _program()
    check_outside_inputs(pipeline, steps)
    if from_stage is not None:
        set_aside(steps, from_stage, root / pipeline.name / ASIDE)
    markers: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.stage}"
        marker = artifact.finished(step.options)
        if marker is None:
            say(f"{title}: {' '.join(step.argv)}")
            code = _run(program, step)
            if code:
                again = shlex.join(["jobgen", "run", str(pipeline.source), "--local", "--workspace", workspace])
                say(f"{title}: ended with exit code {code}; finished stages are kept, `{again}` goes on")
                return code
            marker = artifact.finished(step.options)
            if marker is None:
                raise NotReadyError(f"{step.output_dir}: {step.stage} ended with 0 but left no {MARKER}")
        else:
            say(f"{title}: finished already ({artifact.summary(marker)})")
        markers[step.stage] = marker
    print(report(markers, {step.stage: os.path.relpath(step.output_dir) for step in steps}))
    return 0


def following(steps: list[Step], stage: str) -> set[str]:
    """`stage` and all that follow from it.

    Raises:
        UsageError: there is no such stage.
    """
    if stage not in {step.stage for step in steps}:
        raise UsageError(f"--from {stage}: no such stage; {did_you_mean(stage, [s.stage for s in steps])}")
    found = {stage}
    for step in steps:  # In topological order, so one pass finds all.
        if found & set(step.needs):
            found.add(step.stage)
    return found


def set_aside(steps: list[Step], from_stage: str, aside: Path) -> list[Path]:
    """Move the artefacts of `from_stage` and of all that follow from it to `aside`, after naming them.

    Returns:
        Where they are now.
    """
    chosen = following(steps, from_stage)
    found = [Path(s.output_dir) for s in steps if s.stage in chosen and Path(s.output_dir).exists()]
    moves = []
    for folder in found:
        number = 1
        while (place := aside / f"{folder.name}.{number}").exists():
            number += 1
        say(f"set aside {os.path.relpath(folder)} as {os.path.relpath(place)}")
        moves.append((folder, place))
    with contextlib.ExitStack() as leases:  # Not under the hands of a stage that still runs, in any of its pods.
        for folder, _ in moves:
            names = {"lease", *(place.name[1:].split(".")[0] for place in folder.glob("_lease*.json"))}
            for name in sorted(names):
                leases.enter_context(Lease(folder, name))
        aside.mkdir(parents=True, exist_ok=True)
        for folder, place in moves:
            folder.rename(place)
    return [place for _, place in moves]


def check_outside_inputs(pipeline: Pipeline, steps: list[Step], below: str = "/") -> None:
    """Check that what no stage makes is there, as far as it lies `below` a folder that can be seen from here.

    Raises:
        NotReadyError: something is not.
    """
    made = tuple(step.output_dir for step in steps)
    for step in steps:
        for option in inputs(type(step.options)):
            path = split_digest(getattr(step.options, option))[0]
            if not path.startswith(below) or path.startswith(made) or Path(path).exists() or glob.glob(path):
                continue
            reference = pipeline.stages[step.stage].references.get(option)
            key = ("inputs", reference.name) if reference else ("stages", step.stage, "options", option)
            raise NotReadyError(f"{pipeline.place(*key)}: nothing at {path}; put it there or correct the path")


def _program() -> str:
    beside = Path(sys.executable).parent / "minima"
    found = str(beside) if beside.exists() else shutil.which("minima")
    if found is None:
        raise UsageError("the program minima is not installed; pip install 'minima[train,text]' -c constraints.txt")
    return found


def _run(program: str, step: Step) -> int:
    """Run one stage with the variables that the operator would set, and pass signals on to it."""
    processes = step.pods * step.processes if step.options.elastic else 1
    threads = max(1, (os.cpu_count() or 1) // processes)
    env = {"OMP_NUM_THREADS": str(threads), **os.environ, "PET_NPROC_PER_NODE": str(processes), "PET_NNODES": "1"}
    parent = os.getpid()
    # In its own process group a terminal's Ctrl-C reaches the stage once, through here, and not in the middle of its farewell.
    child = subprocess.Popen([program, *step.argv[1:]], env=env, process_group=0, preexec_fn=lambda: die_with_parent(parent))
    interrupts = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            say("stopping; a second Ctrl-C does not wait for the checkpoint")
        child.send_signal(signal.SIGTERM if interrupts == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return TERMINATED if interrupts else 128 - code if code < 0 else code


def say(text: str) -> None:
    """Tell whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
