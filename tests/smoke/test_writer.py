"""One writer: a stage that is frozen, followed by another to its end, and thawed, changes no byte of what that one made."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.pipeline.plan import Step, plan
from jobgen.pipeline.spec import load
from minima.process.workers import POD_COUNT, POD_INDEX
from minima.workspace import artifact
from tests.smoke import freezing

pytestmark = pytest.mark.smoke
SMOKE = Path(__file__).parents[2] / "jobgen/pipelines/smoke.yaml"
SMALL: dict[str, dict[str, Any]] = {
    "init-model": {"layer": 2, "hidden": 32, "head": 4, "kv_head": 2, "intermediate": 48, "english_characters": 150_000},
    "build-data": {"num_processors": 1},
    "prune": {"num_examples": 16, "num_layer_examples": 8},
    "convert": {"layer": 1, "hidden": 16, "head": 2, "kv_head": 1, "intermediate": 32},
    "evaluate": {"tasks": ["smoke_english"], "limit": 4},
}
TRAINING = {"max_steps": 6, "save_interval": 2, "log_interval": 2, "global_batch_size": 4, "per_device_train_batch_size": 2}
STAGES = list(yaml.safe_load(SMOKE.read_text())["stages"])
"""Those of the smoke pipeline: every verb, finetune twice."""
QUICK = ("init-model", "expand-vocab", "adapt")
"""What runs in every test: files, a folder's weights, checkpoints and logs. With build-data's pods below."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> "Small":
    return Small(tmp_path_factory.mktemp("writer"))


class Small:
    """The smoke pipeline with models and runs as small as they can be, run as far as tests need it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = yaml.safe_load(SMOKE.read_text())
        for name, stage in file["stages"].items():
            stage["options"] |= SMALL.get(name, {})
            if "save_interval" in stage["options"]:
                stage["options"] |= TRAINING
        (folder / "small.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
        self.steps = {step.name: step for step in plan(load(str(folder / "small.yaml")), str(folder / "made"))}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([freezing.__name__])
        self.points: dict[str, list[str]] = {}

    def start(
        self, name: str, output: Path, log: str, env: dict[str, str] | None = None, stop_at: int = 0
    ) -> ForkServerProcess:
        """Start a stage with another output folder."""
        argv = list(self.steps[name].argv[1:])
        argv[argv.index("--output_dir") + 1] = str(output)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        env = {"TMPDIR": str(self.folder), **(env or {})}
        process = self.context.Process(target=freezing.run, args=(argv, port, self.folder / log, env, stop_at))
        process.start()
        return process

    def made(self, name: str) -> Step:
        """A stage whose artifact is there, made if it was not."""
        step = self.steps[name]
        if artifact.finished(step.options) is None:
            for option in step.argv:
                if option.startswith(str(self.folder / "made")) and not option.startswith(step.output_dir):
                    before = next(s.name for s in self.steps.values() if option.startswith(s.output_dir))
                    self.made(before)
            self.ends(self.start(name, Path(step.output_dir), f"{name}.log"), f"{name}.log")
            self.points[name] = (self.folder / f"{name}.points").read_text().splitlines()
        return step

    def beside(self, name: str, folder: str) -> Path:
        """Another output folder of a stage, beside its inputs."""
        return Path(self.steps[name].output_dir).with_name(folder)

    def points_of_pods(self) -> list[list[str]]:
        """The points of each of two pods that share build-data."""
        logs = [f"pod-{n}.log" for n in (0, 1)]
        if not (self.folder / logs[0]).exists():
            output = self.beside("build-data", "pods")
            pods = [self.start("build-data", output, log, pod(n)) for n, log in enumerate(logs)]
            for process, log in zip(pods, logs, strict=True):
                self.ends(process, log)
        return [(self.folder / log).with_suffix(".points").read_text().splitlines() for log in logs]

    def ends(self, process: ForkServerProcess, log: str, code: int | None = 0) -> int:
        """Wait for the end of a process."""
        process.join(120)
        said = (self.folder / log).read_text()
        assert process.exitcode is not None, said
        assert code is None or process.exitcode == code, said
        return process.exitcode


def stopped(process: ForkServerProcess) -> bool:
    """Wait until a process has stopped itself; False if it ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        if state in "TZ":
            return state == "T"
        time.sleep(0.02)
    return False


def everything(folder: Path) -> dict[str, str]:
    """What a folder holds, by name; leases are left out, which whoever comes late may take."""
    found = {}
    for place in sorted(folder.rglob("*")):
        if not place.name.startswith("_lease"):
            content = "folder" if place.is_dir() else hashlib.sha256(place.read_bytes()).hexdigest()
            found[str(place.relative_to(folder))] = content
    return found


@contextlib.contextmanager
def frozen(
    small: Small, name: str, output: Path, stop_at: int, env: dict[str, str] | None = None
) -> Iterator[ForkServerProcess]:
    """A stage that has stopped itself at a point."""
    process = small.start(name, output, "frozen.log", env, stop_at)
    try:
        assert stopped(process), (small.folder / "frozen.log").read_text()
        yield process
    finally:
        process.kill()
        process.join()


def thaw(small: Small, process: ForkServerProcess, output: Path) -> str:
    """Let a frozen holder go on beside the finished artifact of its follower; what happened."""
    before = everything(output)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)
    code = small.ends(process, "frozen.log", code=None)
    said = (small.folder / "frozen.log").read_text()
    after = everything(output)
    assert after == before, {n: (before.get(n), after.get(n)) for n in {*before, *after} if before.get(n) != after.get(n)}
    assert code in (0, 75), said
    assert "Traceback" not in said, said
    assert code == 0 or "lost the lease" in said, said
    return f"{code} {'lost the lease' if code else 'saw the marker'}"


def tell(name: str, points: list[str], number: int, happened: str) -> None:
    """A line of the table."""
    print(f"{name:16} {number:3} of {len(points):3}  {points[number - 1]:36} {happened}", flush=True)


def chosen(points: list[str], full: bool, before: str) -> list[int]:
    """Numbers of points: all of them, or that between the last look and a rename."""
    always = [n for n, name in enumerate(points, 1) if name not in ("look", "putting _progress.json")]
    # Behind the last of these it is a matter of time whether the progress is written once more.
    return list(range(1, always[-1] + 1)) if full else [points.index(before)]


FULL = pytest.mark.parametrize(
    "full", [False, pytest.param(True, marks=pytest.mark.long)], ids=["before-it-ends", "everywhere"]
)


@FULL
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in STAGES])
def test_a_thawed_holder_changes_nothing(small: Small, name: str, full: bool) -> None:
    small.made(name)
    for number in chosen(small.points[name], full, "putting _SUCCESS.json"):
        output = small.beside(name, f"{name}-{number}")
        with frozen(small, name, output, number) as holder:
            small.ends(small.start(name, output, "follower.log"), "follower.log")
            tell(name, small.points[name], number, thaw(small, holder, output))


def pod(index: int, count: int = 2) -> dict[str, str]:
    """What tells a pod of build-data which one it is."""
    return {POD_INDEX: str(index), POD_COUNT: str(count)}


@FULL
@pytest.mark.parametrize("index", [0, 1])
def test_a_thawed_pod_changes_nothing(small: Small, index: int, full: bool) -> None:
    """Of two that share a stage; the other one goes on, and the follower has the number of the frozen one."""
    small.made("expand-vocab")
    points = small.points_of_pods()[index]
    before = ["putting _SUCCESS.json", "putting .span-00001-of-00003.json"][index]
    for number in chosen(points, full, before):
        output = small.beside("build-data", f"pod-{index}-{number}")
        other = small.start("build-data", output, "other.log", pod(1 - index))
        with frozen(small, "build-data", output, number, pod(index)) as holder:
            small.ends(small.start("build-data", output, "follower.log", pod(index)), "follower.log")
            small.ends(other, "other.log")
            tell(f"build-data/{index}", points, number, thaw(small, holder, output))


def test_a_thawed_pod_of_a_larger_number_changes_nothing(small: Small) -> None:
    """Nobody has its number again; the one that writes the marker shuts it out."""
    small.made("expand-vocab")
    points = small.points_of_pods()[1]
    number = points.index("putting train-00001-of-00003.tfrecord")
    output = small.beside("build-data", "fewer")
    with frozen(small, "build-data", output, number, pod(1)) as holder:
        small.ends(small.start("build-data", output, "follower.log"), "follower.log")
        tell("build-data/1", points, number, thaw(small, holder, output))


@pytest.mark.long
@pytest.mark.parametrize("moment", [2.0, 5.0, 8.0, 11.0, 14.0, 17.0, 20.0])
def test_a_thawed_group_changes_nothing(small: Small, moment: float) -> None:
    """All processes of a training pod, with torchrun's agent and two workers, stopped at any moment."""
    small.made("adapt")
    output = small.beside("adapt", f"group-{moment}")
    argv = list(small.steps["adapt"].argv)
    argv[argv.index("--output_dir") + 1] = str(output)
    command = [sys.executable, "-m", "minima", *argv[1:]]
    env = {**os.environ, "PET_NPROC_PER_NODE": "2", "PET_NNODES": "1"}
    holder = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with holder:
        time.sleep(moment)
        group = stop_all(holder.pid)
        follower = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert follower.returncode == 0, follower.stderr
        before = everything(output)
        for process in group:
            os.kill(process, signal.SIGCONT)
        said, _ = holder.communicate(timeout=180)
    assert everything(output) == before
    assert holder.returncode in (0, 75), said
    assert "Traceback" not in said, said
    print(f"adapt, 2 workers, {len(group)} processes stopped at {moment} s: {holder.returncode}")


def stop_all(first: int) -> set[int]:
    """Stop a process and all that come from it; their ids, parents before children."""
    found: dict[int, None] = {}
    while True:
        new = [p for p in (first, *(c for parent in found for c in children(parent))) if p not in found]
        if not new:
            return set(found)
        for process in new:
            os.kill(process, signal.SIGSTOP)
            found[process] = None


def children(parent: int) -> list[int]:
    """The children of a process."""
    return [int(c) for task in Path(f"/proc/{parent}/task").glob("*") for c in (task / "children").read_text().split()]
