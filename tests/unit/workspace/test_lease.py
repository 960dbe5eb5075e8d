"""One writer per folder, whatever dies and however many want it."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from minima.errors import NotReadyError
from minima.workspace.lease import MAKING, Lease
from minima.workspace.lease import TTL as DEFAULT_TTL

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


@pytest.mark.parametrize("look", [1, 3])
@pytest.mark.parametrize("both", [False, True], ids=["alone", "with the holder"])
def test_a_watcher_that_was_frozen_itself_takes_nothing_from_a_living_holder(tmp_path: Path, look: int, both: bool) -> None:
    """Right after a look, or before one and the holder with it, which beats a moment later."""
    with Lease(tmp_path, ttl=TTL) as living:
        watcher = Lease(tmp_path, ttl=TTL)
        looks, real = iter(range(1, 99)), watcher._highest

        def beat() -> None:
            living._beats += 1
            living._write("held")

        def highest() -> tuple[int, str]:
            if next(looks) != look:
                return real()
            found = real()
            time.sleep(2 * TTL)
            if both:
                found = real()
                threading.Timer(TTL / 5, beat).start()
            return found

        if both:
            living._stop.set()
            living._thread.join()
        watcher._highest = highest  # type: ignore[method-assign]
        with pytest.raises(NotReadyError, match="is writing it"):
            watcher.__enter__()
        assert next(looks) > look
        living.check()


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Lease]:
    """A holder that was followed without its knowing, as far as its next look."""
    lease = Lease(tmp_path, ttl=TTL)
    lease.__enter__()
    lease._stop.set()
    lease._thread.join()
    (lease.making / "weights").write_text("of the frozen one")
    yield lease
    lease.__exit__(None, None, None)


def names(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir() if not place.name.startswith("_lease")}


def test_neither_rename_of_a_frozen_holder_works_when_it_was_followed(tmp_path: Path, frozen: Lease) -> None:
    """It looked at the lease, and was stopped right before the rename."""
    with Lease(tmp_path, ttl=TTL) as lease:
        lease.write("weights", "of its follower")
        with pytest.raises(NotADirectoryError):
            (frozen.making / "weights").rename(tmp_path / "weights")
        with pytest.raises(NotADirectoryError):
            (tmp_path / "weights").rename(frozen.making / "taken")
        with pytest.raises(FileExistsError):
            frozen.making.mkdir(parents=True, exist_ok=True)
        with pytest.raises(NotADirectoryError):
            (frozen.making / "model").mkdir(parents=True, exist_ok=True)
        for change in (lambda: frozen.put("weights"), lambda: frozen.take("weights"), lambda: frozen.write("weights", "x")):
            with pytest.raises((NotReadyError, NotADirectoryError)):
                change()
    assert (tmp_path / "weights").read_text() == "of its follower"
    assert names(tmp_path) == {"weights", frozen.making.name}
    assert frozen.making.read_bytes() == b""


def test_what_a_lost_holder_meets_is_told_as_the_loss(tmp_path: Path) -> None:
    def stage() -> None:
        with Lease(tmp_path, ttl=TTL) as lost:
            lost._stop.set()
            lost._thread.join()
            with Lease(tmp_path, ttl=TTL):
                pass
            (lost.making / "config.json").write_text("{}")

    with pytest.raises(NotReadyError, match=r"lost the lease to .* \(token 2, ours 1\)"):
        stage()


@pytest.mark.parametrize("times", [0, 1, 5])
def test_a_library_that_makes_the_folder_again_does_not_win(
    tmp_path: Path, frozen: Lease, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Between its removal and the fence."""
    real, left = Lease.take, iter(range(times))

    def take(self: Lease, name: str) -> None:
        real(self, name)
        if name == frozen.making.name and next(left, None) is not None:
            (frozen.making / "model").mkdir(parents=True)

    monkeypatch.setattr(Lease, "take", take)
    with Lease(tmp_path, ttl=TTL):
        assert frozen.making.is_file()
    assert next(left, None) is None
    assert names(tmp_path) == {frozen.making.name}


def test_one_that_was_stopped_before_it_made_its_folder_finds_itself_lost(tmp_path: Path) -> None:
    late = Lease(tmp_path, ttl=TTL)
    assert late._create(1)
    with Lease(tmp_path, ttl=TTL):
        assert late.making.is_file(), "its lease names the folder"
        with pytest.raises(FileExistsError):
            late.making.mkdir()
    with Lease(tmp_path, ttl=TTL):
        pass
    again = Lease(tmp_path, ttl=TTL)  # It saw that token 1 was free, and was stopped there; token 2 was swept, 3 is held.
    assert again._create(2)
    again.making.mkdir()
    with pytest.raises(NotReadyError, match="lost the lease"):
        again._fence()


def test_who_is_fenced_while_it_fences_shuts_nobody_out(tmp_path: Path, frozen: Lease) -> None:
    second = Lease(tmp_path, ttl=TTL)
    assert second._create(2)
    second.making.mkdir()
    with Lease(tmp_path, ttl=TTL) as third:
        with pytest.raises((NotReadyError, OSError)):
            second._shut(third.making.name)
        assert third.making.is_dir()
        third.write("weights", "of the third")
    assert names(tmp_path) == {"weights", frozen.making.name, second.making.name}


def test_a_folder_that_is_set_aside_leaves_its_fences(tmp_path: Path, frozen: Lease) -> None:
    """Else the frozen one could make its folder again beside another run's."""
    folder = tmp_path / "artifact"
    (folder / "inside").mkdir(parents=True)
    with Lease(folder, ttl=TTL) as first:
        fence = folder / f"{MAKING}lease.00000001.0123abcd"
        fence.touch()
        first.move(tmp_path / "aside")
    assert names(folder) == {fence.name}
    assert names(tmp_path / "aside") == {"inside"}
    with Lease(folder, ttl=TTL) as second:
        second.move(tmp_path / "again")
    assert names(folder) == {fence.name}


def test_a_folder_is_deleted_only_when_the_new_one_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletion takes long, and a process that is killed meanwhile left neither."""
    there, kept, real = tmp_path / "tensorboard", list[set[str]](), shutil.rmtree

    def rmtree(place: Path, ignore_errors: bool) -> None:
        kept.append(names(there) if there.exists() else set())
        real(place, ignore_errors=ignore_errors)

    with Lease(tmp_path, ttl=TTL) as lease:
        for events in ({"first"}, {"first", "second"}):
            (lease.making / "tensorboard").mkdir()
            for name in events:
                (lease.making / "tensorboard" / name).touch()
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "rmtree", rmtree)
                lease.put("tensorboard")
    assert kept == [{"first", "second"}]


@pytest.mark.parametrize("moment", [1, 2])
def test_one_that_is_frozen_while_it_sets_aside_moves_nothing_of_its_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """It was stopped after it looked at the lease: right before it took an entry, or before it moved what it took."""
    folder, looks = tmp_path / "artifact", iter(range(1, 9))
    folder.mkdir()
    (folder / "weights").write_text("of the frozen one")
    slow = Lease(folder, ttl=TTL)

    def check() -> None:
        if next(looks) == moment:
            slow._stop.set()
            slow._thread.join()
            with Lease(folder, ttl=TTL) as follower:
                follower.write("weights", "of its follower")

    def set_aside() -> None:
        with slow:
            monkeypatch.setattr(slow, "check", check)
            slow.move(tmp_path / "aside")

    with pytest.raises(NotReadyError, match="lost the lease"):
        set_aside()
    assert next(looks) == moment + 1
    assert (folder / "weights").read_text() == "of its follower"
    assert names(tmp_path / "aside") == set()


def test_a_heartbeat_brings_nothing_back(tmp_path: Path, frozen: Lease) -> None:
    with Lease(tmp_path, ttl=TTL):
        with pytest.raises(FileNotFoundError):
            frozen._write("held")
        assert len(list(tmp_path.glob("_lease*"))) == 1


def test_a_reader_never_sees_half_a_heartbeat(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        over = threading.Event()

        def beat() -> None:
            while not over.is_set():
                lease._beats += 1
                lease._write("held")

        beating = threading.Thread(target=beat)
        beating.start()
        seen = [json.loads((tmp_path / "_lease.00000001.json").read_text()) for _ in range(2000)]
        over.set()
        beating.join()
    assert {s["id"] for s in seen} == {lease._content["id"]}
    assert {s["state"] for s in seen} == {"held"}


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
