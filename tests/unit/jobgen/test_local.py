"""What a person sees of `jobgen run --local`, with a program that stands in for minima; the real one is in tests/smoke."""

import contextlib
import os
import pty
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobgen import local
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from tests.unit.jobgen.cluster.test_conduct import make

SHORT = Path(__file__).parents[2] / "cluster" / "short.yaml"
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
sys.path.insert(0, {root!r})
from minima.workspace import progress
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True)
print("UserWarning: of a library")
print("UserWarning: of another", file=sys.stderr)
with progress.Reporter((folder / progress.file()).write_text) as reporter:
    reporter.phase("writing", 4, "files")
    reporter.at(3)
    time.sleep(1.5)
pathlib.Path(os.environ["MINIMA_TERMINATION_LOG"]).write_text("the last words")
sys.exit({code})
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "minima"
    place.write_text(PROGRAM.format(python=sys.executable, root=str(Path(local.__file__).parents[1]), code=65))
    place.chmod(0o755)
    monkeypatch.setattr(local, "_program", lambda: str(place))
    monkeypatch.chdir(tmp_path)
    return place


def test_a_stage_that_fails_says_its_last_words_and_where_the_rest_is(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert local.run_local(spec.load(str(SHORT)), workspace="w", from_stage=None) == 65
    said = capsys.readouterr()
    first, second, third = said.err.splitlines()
    assert re.fullmatch(r"\[1/3\] init-model  failed with exit code 65 after \ds: the last words", first)
    (log,) = Path("w/short/_logs").iterdir()
    assert second == f"all that it wrote is in {log}"
    assert third.startswith("finished stages are kept; `jobgen run ")
    head, *rest = log.read_text().splitlines()
    assert "minima init-model --output_dir" in head
    assert {"UserWarning: of a library", "UserWarning: of another"} <= set(rest)


def test_verbose_shows_the_command_line_and_all_that_is_written(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert local.run_local(spec.load(str(SHORT)), workspace="w", from_stage=None, verbose=True) == 65
    said = capfd.readouterr()
    assert "[1/3] init-model  minima init-model --output_dir" in said.err.splitlines()[0]
    assert "UserWarning: of another" in said.err
    assert "UserWarning: of a library" in said.out
    assert "_logs" not in said.err


def test_on_a_terminal_a_line_moves(program: Path) -> None:
    """In a pseudo-terminal of 80 columns: the progress of the stage, then in its place how it ended."""
    ours, theirs = os.openpty()
    child = os.fork()
    if child == 0:
        sys.stderr = os.fdopen(theirs, "w")
        os.environ["COLUMNS"] = "80"
        os._exit(local.run_local(spec.load(str(SHORT)), workspace="w", from_stage=None))
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:
        pass  # How Linux says that the other end is closed.
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 65
    text = said.decode()
    assert "[1/3] init-model  starting" in text
    assert re.search(r"\x1b\[1A\r\x1b\[J\[1/3\] init-model  writing  █{15}░{5}  3/4  \ds left", text)
    assert re.search(r"\x1b\[1A\r\x1b\[J\[1/3\] init-model  failed with exit code 65", text)


PATIENT = """#!{python}
import os, pathlib, sys, time
sys.path.insert(0, {root!r})
from minima.process import stop
stop.watch("stage")
stop.remember()
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True)
(folder / "pid").write_text(str(os.getpid()))
while not stop.requested():
    time.sleep(0.01)
for line in range(100):
    print(line, flush=True)
(folder / "saved").touch()
os._exit(143)
"""


@pytest.fixture
def terminal(program: Path) -> Iterator[tuple[int, int, int]]:
    """`jobgen run --local` in the foreground of a terminal of its own: the terminal's other end, its process, the stage's."""
    program.write_text(PATIENT.format(python=sys.executable, root=str(Path(local.__file__).parents[1])))
    child, ours = pty.fork()
    if child == 0:
        os._exit(local.run_local(spec.load(str(SHORT)), workspace="w", from_stage=None, verbose=True))
    (stage,) = wait_for(lambda: list(Path("w/short").glob("*/pid")) if Path("w/short").is_dir() else [])
    number = int(wait_for(stage.read_text))
    yield ours, child, number
    for pid in (child, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_ctrl_z_stops_the_stage_too_and_it_goes_on(terminal: tuple[int, int, int]) -> None:
    ours, jobgen, stage = terminal
    os.write(ours, b"\x1a")
    assert os.WIFSTOPPED(os.waitpid(jobgen, os.WUNTRACED)[1])
    wait_for(lambda: state(stage) == "T")
    os.kill(jobgen, signal.SIGCONT)
    wait_for(lambda: state(stage) != "T")
    os.write(ours, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(jobgen, 0)[1]) == 143
    assert len(list(Path("w/short").glob("*/saved"))) == 1


def test_a_closed_terminal_is_a_stop(terminal: tuple[int, int, int]) -> None:
    """The stage saves, though nothing that it says can be written any more."""
    ours, jobgen, _ = terminal
    os.close(ours)
    assert os.waitstatus_to_exitcode(os.waitpid(jobgen, 0)[1]) == 143
    assert len(list(Path("w/short").glob("*/saved"))) == 1


def test_only_a_second_ctrl_c_does_not_wait(terminal: tuple[int, int, int]) -> None:
    ours, jobgen, stage = terminal
    os.kill(stage, signal.SIGSTOP)
    for _ in range(2):
        os.kill(jobgen, signal.SIGTERM)
        time.sleep(0.2)
        assert os.waitpid(jobgen, os.WNOHANG) == (0, 0)
    os.write(ours, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(jobgen, 0)[1]) == 143
    assert not list(Path("w/short").glob("*/saved"))


def test_finished_stages_are_kept_and_reported(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = plan(spec.load(str(SHORT)), str(tmp_path / "w"))
    for step in steps:
        make(step)
    assert local.run_local(spec.load(str(SHORT)), workspace="w", from_stage=None) == 0
    said = capsys.readouterr()
    *lines, last = said.err.splitlines()
    assert [line.split()[:3] for line in lines] == [[f"[{n}/3]", step.name, "kept"] for n, step in enumerate(steps, 1)]
    assert last == "all 3 stages are finished, after 0s"
    header, _, *rows = said.out.split("\n\n")[0].splitlines()
    assert header.split() == ["stage", "seconds", "tokens/s", "MiB", "artifact"]
    assert [row.split()[0] for row in rows] == [step.name for step in steps]
    assert not Path("w/short/_logs").exists()
