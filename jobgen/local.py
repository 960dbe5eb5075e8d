"""`jobgen run --local`: the stages of a pipeline on this machine, each by the command line that its pod gets."""

import glob
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from jobgen.artifacts import ASIDE, check_outside_inputs, set_aside
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, plan
from jobgen.report import Result, report, say
from minima.errors import TERMINATED, NotReadyError, UsageError
from minima.process.workers import die_with_parent
from minima.workspace import artifact
from minima.workspace.marker import MARKER


def run_local(pipeline: Pipeline, *, workspace: str, from_stage: str | None) -> int:
    """Run every stage that is not finished, in order, and print the report.

    Args:
        pipeline: what to run.
        workspace: folder of all artifacts; made if it is not there.
        from_stage: set this stage's artifact and all that follow from it aside first.

    Returns:
        0, or the exit code of the stage that failed.

    Raises:
        UsageError: no such stage; the stages' program is not installed.
        NotReadyError: an input from outside is not there.
        DataError: a finished artifact, or an input from outside, is not what it was.
    """
    if not workspace or glob.has_magic(workspace):
        raise UsageError(f"--workspace: found {workspace!r}; a folder's path without the characters *, ? and [ is valid")
    root = Path(workspace).absolute()
    steps = plan(pipeline, str(root))
    program = _program()
    check_outside_inputs(pipeline, steps)
    if from_stage is not None:
        set_aside(steps, from_stage, root / pipeline.name / ASIDE)
    results: dict[str, Result] = {}
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.name}"
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
                raise NotReadyError(f"{step.output_dir}: {step.name} ended with 0 but left no {MARKER}")
        else:
            say(f"{title}: finished already ({artifact.summary(marker)})")
        results[step.name] = Result.of(marker, os.path.relpath(step.output_dir))
    print(report(results))
    return 0


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
