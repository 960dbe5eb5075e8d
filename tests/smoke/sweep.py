"""SIGTERM at many moments of a stage; as a program over a workspace of the smoke pipeline.

`python -m tests.smoke.sweep FOLDER [STAGE…]` prints a table. The stage is started again and again in one folder, as in a
cluster, so what one start leaves the next one meets. A folder that was finished is removed, and at the end the same command
finishes once more. SIGKILL of the first process alone is for those that start others.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobgen.pipeline.plan import Step, plan
from jobgen.pipeline.spec import load
from minima.workspace.marker import MARKER, read_marker

MINIMA = Path(sys.executable).parent / "minima"
SECONDS = 8.0
"""Most moments are spread over this."""
GRACE, SAVING = 60.0, 600.0
"""What Kubernetes waits for a pod to end: of a plain stage, and of one that saves a checkpoint."""
WITH_WORKERS = ("build-data", "build-chat-data")


@dataclass
class Swept:
    """What happened at all moments of a stage.

    Attributes:
        codes: how often it ended with each exit code.
        longest: seconds from the signal to the end, at most.
        waits: how often a start had to wait for the lease of the one before.
        wrong: what must not be.
    """

    codes: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0
    waits: int = 0
    wrong: list[str] = field(default_factory=list)


def sweep(step: Step, moments: Sequence[float], folder: Path) -> Swept:
    """Stop `step` at each of the `moments`, in seconds from its start, and run it to its end at last, in `folder`."""
    place = folder / step.name
    words = [str(place) if word == step.output_dir else word for word in step.argv[1:]]
    processes = step.pods * step.processes if step.options.elastic else 1
    # As `jobgen run --local` has it: sums of floats depend on the threads.
    env = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    env |= {"PET_NPROC_PER_NODE": str(processes), "PET_NNODES": "1"}
    swept = Swept()
    for moment in moments:
        with subprocess.Popen([MINIMA, *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as stage:
            assert stage.stderr is not None
            time.sleep(moment)
            stage.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            said = stage.stderr.read()  # Until its last process has ended.
            code = stage.wait()
        code = 128 - code if code < 0 else code
        swept.codes[code] += 1
        swept.longest = max(swept.longest, time.monotonic() - sent)
        swept.waits += "waiting up to" in said
        finished = (place / MARKER).exists()
        if code != 143 and not (code == 0 and finished):
            swept.wrong.append(f"{step.name}: {code} after SIGTERM at {moment:.2f} s\n{said[-2000:]}")
        if "Traceback" in said:
            swept.wrong.append(f"{step.name}: a traceback after SIGTERM at {moment:.2f} s\n{said[-2000:]}")
        if finished:
            subprocess.run(["rm", "-r", place], check=True)
    done = subprocess.run([MINIMA, *words], env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        swept.wrong.append(f"{step.name}: {done.returncode} at last\n{done.stderr[-2000:]}")
    else:
        here, there = ({n: f["sha256"] for n, f in read_marker(p)["files"].items()} for p in (place, Path(step.output_dir)))
        # Logs have times, results.json names the model's artifact, and a model card the paths of this folder.
        differ = [
            n for n in here.keys() | there.keys() if n.endswith(("safetensors", "tfrecord")) and here.get(n) != there.get(n)
        ]
        if differ:
            swept.wrong.append(f"{step.name}: other content than of an unbroken run in {', '.join(differ)}")
    return swept


def kill(step: Step, moments: Sequence[float], folder: Path) -> float:
    """SIGKILL the first process of `step` at each of the `moments`; seconds until no process of its session lives, at most."""
    words = [str(folder / f"{step.name}-killed") if word == step.output_dir else word for word in step.argv[1:]]
    longest = 0.0
    for moment in moments:
        with subprocess.Popen(
            [MINIMA, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as first:
            time.sleep(moment)
            first.kill()
            sent = time.monotonic()
            while living(first.pid):
                time.sleep(0.01)
            longest = max(longest, time.monotonic() - sent)
    return longest


def living(session: int) -> bool:
    """Whether a process of a session lives."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = place.read_text().rsplit(")", 1)[1].split()
            if int(words[3]) == session and words[0] != "Z":
                return True
    return False


def moments(step: Step, count: int) -> list[float]:
    """From the start of a stage on, with a quarter more over all of the time that it took."""
    return [*spread(count), *spread(count // 4, read_marker(Path(step.output_dir))["seconds"])]


def spread(count: int, last: float = SECONDS) -> list[float]:
    """From 0 to `last`, evenly."""
    return [last * number / max(count - 1, 1) for number in range(count)]


def main() -> None:
    """Sweep the stages named on the command line, or all; 40 moments of each."""
    workspace, *names = sys.argv[1:]
    print(f"{'stage':16} {'exit codes':24} {'to the end':>10} {'waits':>6}", flush=True)
    for step in plan(load("smoke"), os.path.abspath(workspace)):
        if names and step.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="minima-sweep-") as folder:
            swept = sweep(step, moments(step, 40), Path(folder))
        codes = ", ".join(f"{number} × {code}" for code, number in sorted(swept.codes.items()))
        print(f"{step.name:16} {codes:24} {swept.longest:8.1f} s {swept.waits:6}", flush=True)
        for line in swept.wrong:
            print(line, flush=True)
        if step.name in WITH_WORKERS:
            with tempfile.TemporaryDirectory(prefix="minima-sweep-") as folder:
                seconds = kill(step, spread(20), Path(folder))
            print(f"{step.name:16} killed, no process is left after {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
