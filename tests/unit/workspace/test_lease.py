"""One writer per folder, whatever dies and however many want it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from minima.errors import NotReadyError
from minima.workspace.lease import TTL as DEFAULT_TTL
from minima.workspace.lease import Lease

TTL = 0.6
HOLD = """
import sys, time
from pathlib import Path
from minima.workspace.lease import Lease
with Lease(Path(sys.argv[1]), ttl=0.6):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_released_lease_is_taken_at_once_with_a_higher_token(tmp_path: Path) -> None:
    with Lease(tmp_path) as first:
        first.check()
    started = time.monotonic()
    with Lease(tmp_path) as second:
        assert time.monotonic() - started < DEFAULT_TTL
        assert second.token == first.token + 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_living_holder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTNAME", "minima-3b-distill-1a2b3c4d-worker-0")
    with (
        Lease(tmp_path, ttl=TTL),
        pytest.raises(NotReadyError, match="minima-3b-distill-1a2b3c4d-worker-0 is writing"),
        Lease(tmp_path, ttl=TTL),
    ):
        pass


def test_a_killed_holder_is_followed_after_the_ttl(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.communicate()
    started = time.monotonic()
    with Lease(tmp_path, ttl=TTL) as lease:
        assert time.monotonic() - started >= TTL * 0.9
        lease.check()


def test_a_frozen_holder_notices_that_it_was_followed(tmp_path: Path) -> None:
    frozen = Lease(tmp_path, ttl=TTL)
    with frozen:
        frozen._stop.set()  # As a stopped machine: no heartbeat any more.
        frozen._thread.join()
        with Lease(tmp_path, ttl=TTL) as next_one:
            with pytest.raises(NotReadyError, match="lost the lease"):
                frozen.check()
            next_one.check()
    with pytest.raises(NotReadyError):
        frozen.check()


def test_the_farewell_of_a_lost_holder_does_not_disturb_the_next(tmp_path: Path) -> None:
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    with Lease(tmp_path, ttl=TTL) as lease:
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        process.communicate()
        time.sleep(TTL)
        lease.check()


def _contend(folder: str, barrier: Barrier, inside: str) -> None:
    barrier.wait()
    try:
        with Lease(Path(folder), ttl=TTL) as lease:
            mark = Path(inside) / str(os.getpid())
            mark.touch()
            alone = len(list(Path(inside).iterdir())) == 1
            time.sleep(3 * TTL)
            lease.check()
            mark.unlink()
            sys.exit(0 if alone else 1)
    except NotReadyError:
        sys.exit(75)


def test_of_many_that_want_it_at_once_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    process = holder(tmp_path / "folder")
    process.kill()
    process.communicate()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    arguments = (str(tmp_path / "folder"), barrier, str(tmp_path / "inside"))
    contenders = [context.Process(target=_contend, args=arguments) for _ in range(4)]
    for contender in contenders:
        contender.start()
    for contender in contenders:
        contender.join(60)
    assert sorted(contender.exitcode or 0 for contender in contenders) == [0, 75, 75, 75]


def test_leases_of_several_names_do_not_meet(tmp_path: Path) -> None:
    with Lease(tmp_path, "lease-0") as one, Lease(tmp_path, "lease-1") as other:
        one.check()
        other.check()


def test_a_folder_that_is_moved_away_loses_the_lease(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with Lease(folder) as lease:
        folder.rename(tmp_path / "b")
        with pytest.raises(NotReadyError):
            lease.check()
    assert not folder.exists()
