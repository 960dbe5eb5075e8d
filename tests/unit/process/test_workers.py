"""Light imports only: every worker process that a test starts imports this module."""

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
        if int(lines["PPid"]) == os.getpid() and b"spawn_main" in command:
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
    with pytest.raises(DataError, match=r"^item [01] is wrong$"):
        list(pool.stream(wrong, range(3), 2))
    begun = pool.stream(counting, range(5), 2)
    next(begun)
    assert len(living_children()) == 2
    begun.close()
    assert not living_children()


ENDLESS = """
import sys, time
def endless(item):
    import os
    yield os.getpid()
    while True:
        time.sleep(0.1)
if __name__ == "__main__":
    import signal
    from minima.process import workers as pool
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job is started with SIGINT ignored.
    for pid in pool.stream(endless, [0, 1], 2):
        print(pid, flush=True)
"""


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_program(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with program:
        assert program.stdout is not None
        assert program.stderr is not None
        pids = [int(program.stdout.readline()) for _ in range(2)]
        assert all(map(living, pids))
        if how == signal.SIGINT:
            os.killpg(program.pid, how)  # A terminal's Ctrl-C reaches all; only the first process may say something.
        else:
            program.send_signal(how)
        said = program.stderr.read()
        program.wait()
    deadline = time.monotonic() + 5
    while any(map(living, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(living, pids))
    assert said.count("Traceback") == (1 if how == signal.SIGINT else 0), said
