"""`jobgen run --local`: the stages of a pipeline on this machine, each by the command line that its pod gets."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from jobgen.artifacts import ASIDE, LOGS, check_needs, check_outside_inputs, set_aside
from jobgen.pipeline.estimate import expected
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import ALL, Part, Step, plan
from jobgen.report import Result, headline, report, titled
from jobgen.screen import Screen
from minima.errors import TERMINATED, NotReadyError, UsageError
from minima.process import stop
from minima.process.family import die_with_parent
from minima.workspace import artifact, progress
from minima.workspace.marker import MARKER
from minima.workspace.progress import duration

LOOK = 0.5
"""Seconds between two looks at the progress of a stage."""


def run_local(pipeline: Pipeline, *, workspace: str, from_stage: str | None, part: Part = ALL, verbose: bool = False) -> int:
    """Run every stage that is not finished, in order, and print the report.

    Args:
        pipeline: what to run.
        workspace: folder of all artifacts; made if it is not there.
        from_stage: set this stage's artifact and all that follow from it aside first.
        part: the stages to run.
        verbose: show each stage's command line and what it writes, instead of one line of progress.

    Returns:
        0, or the exit code of the stage that failed.

    Raises:
        UsageError: no such stage; the stages' program is not installed.
        NotReadyError: an input from outside is not there, or a stage that `part` needs is not finished.
        DataError: a finished artifact, or an input from outside, is not what it was.
    """
    root = Path(workspace).absolute()
    whole = plan(pipeline, str(root))
    steps = part.steps(whole)
    program = _program()
    check_needs(whole, steps, from_stage)
    check_outside_inputs(pipeline, steps)
    if from_stage is not None:
        set_aside(whole, from_stage, root / pipeline.name / ASIDE)
    results: dict[str, Result] = {}
    screen, began = Screen(), time.monotonic()
    for number, step in enumerate(steps, 1):
        title = titled(number, len(steps), step.name, max(len(step.name) for step in steps))
        marker = artifact.finished(step.options)
        kept = marker is not None
        if marker is None:
            log = root / pipeline.name / LOGS / f"{Path(step.output_dir).name}.log"
            code, seconds, words = _run(program, step, title, log, screen, verbose=verbose)
            if code:
                again = shlex.join(["jobgen", "run", str(pipeline.source), "--local", "--workspace", workspace, *part.words])
                how = "stopped" if code == TERMINATED else f"failed with exit code {code}"
                screen.say(f"{title}  {how} after {duration(seconds)}{f': {words}' if words else ''}")
                if code != TERMINATED and not verbose:
                    screen.say(f"all that it wrote is in {os.path.relpath(log)}")
                screen.say(f"finished stages are kept; `{again}` goes on")
                return code
            marker = artifact.finished(step.options)
            if marker is None:
                raise NotReadyError(f"{step.output_dir}: {step.name} ended with 0 but left no {MARKER}")
        results[step.name] = result = Result.of(marker, os.path.relpath(step.output_dir), expected(step, marker["metrics"]))
        screen.say(f"{title}  {'kept' if kept else duration(result.seconds):>6}  {headline(result)}".rstrip())
        for words in artifact.measured_otherwise(marker, step.options):
            screen.say(f"{title}          {words}")
    screen.say(
        f"{'all ' if steps == whole else ''}{len(steps)} stages are finished, after {duration(time.monotonic() - began)}"
    )
    print(report(results))
    return 0


def _program() -> str:
    beside = Path(sys.executable).parent / "minima"
    found = str(beside) if beside.exists() else shutil.which("minima")
    if found is None:
        raise UsageError("the program minima is not installed; pip install 'minima[train,text]' -c constraints.txt")
    return found


def _run(program: str, step: Step, title: str, log: Path, screen: Screen, *, verbose: bool) -> tuple[int, float, str]:
    """Run one stage with the variables that the operator would set, and pass signals on to it.

    Returns:
        Its exit code, the seconds that it took, and its last words.
    """
    processes = step.pods * step.processes if step.options.elastic else 1
    threads = max(1, (os.cpu_count() or 1) // processes)
    parent, began = os.getpid(), time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        words = stack.enter_context(tempfile.NamedTemporaryFile("r", prefix="minima-words-", encoding="utf-8"))
        env = {"OMP_NUM_THREADS": str(threads), **os.environ, "PET_NPROC_PER_NODE": str(processes), "PET_NNODES": "1"}
        env["MINIMA_TERMINATION_LOG"] = words.name
        out = None
        if verbose:
            screen.say(f"{title}  {shlex.join(step.argv)}")
        else:
            out = stack.enter_context(open(log, "a", encoding="utf-8"))
            out.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(step.argv)}\n")
            out.flush()
        child = subprocess.Popen(
            [program, *step.argv[1:]],
            env=env,
            stdout=out,
            stderr=out,
            # In its own process group a terminal's Ctrl-C reaches the stage once, through here, and not in its farewell.
            process_group=0,
            preexec_fn=lambda: die_with_parent(parent),
        )
        stopping = stack.enter_context(_signals_passed_on(child, screen))
        started = time.time()
        try:
            while (code := _ended(child)) is None:
                if not verbose:
                    now = progress.read(Path(step.output_dir))
                    # Of an earlier attempt, until this one has written its own.
                    now = now if now and now.time >= started else progress.Progress(phase="starting", since=started)
                    screen.show(f"{title}  {progress.line(now, screen.width - len(title) - 2)}")
        finally:
            screen.show()
        code = TERMINATED if stopping() else 128 - code if code < 0 else code
        return code, time.monotonic() - began, words.read().strip()


@contextlib.contextmanager
def _signals_passed_on(child: subprocess.Popen[bytes], screen: Screen) -> Iterator[Callable[[], bool]]:
    """Within it a stop and a pause (Ctrl-Z) of this process are the stage's; gives whether it was told to stop."""
    stopping = False

    def stop_child(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if number == signal.SIGHUP:
            stop.leave_terminals()
        # A terminal that closes may say so twice, and some send SIGTERM again: only a person does not want to wait.
        again = stopping and number == signal.SIGINT
        child.send_signal(signal.SIGKILL if again else signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)
        if not stopping:
            screen.say("stopping; a second Ctrl-C does not wait for the checkpoint")
        stopping = True

    def pause_child(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)

    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop_child)
    handlers |= dict.fromkeys((signal.SIGTSTP, signal.SIGCONT), pause_child)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup(1)
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield lambda: stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(child: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a child, if it ends within a moment."""
    try:
        return child.wait(LOOK)
    except subprocess.TimeoutExpired:
        return None
