"""Light imports only: every worker process that a test starts imports this module."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minima.errors import DataError, LostPeerError, StageError
from minima.process import workers as pool


def killed(item: int) -> Iterator[int]:
    yield item
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def buggy(item: int) -> Iterator[int]:
    yield item
    raise ZeroDivisionError("on purpose")


def full(item: int) -> Iterator[int]:
    yield item
    raise OSError(28, "No space left on device", f"/disk/{item}")


def greedy(item: int) -> Iterator[int]:
    yield item
    raise MemoryError(f"item {item} is too large")


def wrong(item: int) -> Iterator[int]:
    yield item
    raise DataError(f"item {item} is wrong")


def counting(item: int) -> Iterator[tuple[int, int]]:
    for step in range(3):
        yield item, step


def living_children() -> list[str]:
    """Command lines of the processes of `workers` that this process has started and that live."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            command = (status.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(lines["PPid"]) == os.getpid() and b"minima.process.workers" in command:
            found.append(command.decode())
    return found


def test_workers_that_fail(capfd: pytest.CaptureFixture[str]) -> None:
    arrived = list(pool.stream(counting, range(5), 2))
    assert sorted(arrived) == [(item, step) for item in range(5) for step in range(3)]
    assert all([s for i, s in arrived if i == item] == [0, 1, 2] for item in range(5))
    with pytest.raises(LostPeerError, match=r"killed by SIGKILL.*fewer --num_processors"):
        list(pool.stream(killed, range(3), 2))
    with pytest.raises(StageError, match="this is a bug"):
        list(pool.stream(buggy, range(3), 2))
    assert "ZeroDivisionError: on purpose" in capfd.readouterr().err
    with pytest.raises(OSError, match="No space left") as caught:
        list(pool.stream(full, range(3), 2))
    assert caught.value.errno == 28
    assert str(caught.value.filename).startswith("/disk/")
    with pytest.raises(MemoryError, match=r"^item [01] is too large$"):
        list(pool.stream(greedy, range(3), 2))
    with pytest.raises(DataError, match=r"^item [01] is wrong$"):
        list(pool.stream(wrong, range(3), 2))
    begun = pool.stream(counting, range(5), 2)
    next(begun)
    assert len(living_children()) == 2
    begun.close()
    assert not living_children()


TASK = """
import os, time
def endless(item):
    yield os.getpid()
    while True:
        time.sleep(0.1)
"""
PROGRAM = """
from minima.process import stop, workers
stop.watch("test")
import endless
for pid in workers.stream(endless.endless, [0, 1], 2):
    print(pid, flush=True)
"""


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(living, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "endless.py").write_text(TASK)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def start(program: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("to_all", [False, True])
def test_no_worker_outlives_the_program(program: Path, how: signal.Signals, to_all: bool) -> None:
    """A terminal sends its signals to all; only the first process may say something, and its code is that of a stop."""
    with start(program) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        assert all(map(living, pids))
        if to_all:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        said = process.stderr.read()
        process.wait()
    assert all_end(pids, 5)
    if how == signal.SIGKILL:
        assert (process.returncode, said) == (-9, "")
    else:
        assert (process.returncode, said) == (143, f"minima test: stopped by {how.name}; the same command goes on\n")


def session(leader: int) -> list[int]:
    """The living processes of the session that `leader` began."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = place.read_text().rsplit(")", 1)[1].split()
            if int(words[3]) == leader and words[0] != "Z":
                found.append(int(place.parent.name))
    return found


def test_no_process_is_left_whenever_the_program_is_killed(program: Path) -> None:
    """20 moments from its very start: also one between the start of a worker and its first own instruction."""
    began = time.monotonic()
    with start(program) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        whole = time.monotonic() - began
        process.kill()
        assert all_end(pids, 5)
    seen = 0
    for moment in (1.5 * whole * n / 19 for n in range(20)):
        with start(program) as process:
            time.sleep(moment)
            there = session(process.pid)
            seen = max(seen, len(there))
            process.kill()
            process.wait()
            assert all_end(session(process.pid), 5), f"killed after {moment:.2f} s, with {there}"
    assert seen > 1, "at one of the moments a worker must have been there"
