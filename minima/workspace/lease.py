"""One writer per artifact folder, on any number of machines that share a file system.

The lease is a numbered file, `_lease.00000007.json`; the number is the fencing token and the highest one holds. A holder
proves that it lives by rewriting its own file in place (heartbeat). Who wants the folder watches the highest file: when it
says `released`, or did not change for `TTL` seconds on the watcher's own clock, the watcher creates the next number, which
only one can (O_EXCL, atomic on NFS too). No process ids, no flock: both mean nothing on another machine.

A look at the lease says nothing of the next moment, since any process may be frozen between the look and what it looked for.
Therefore each holder has a folder of its own in the artifact's, `.making-lease.00000007.1a2b3c4d`, and this holds: **a holder
touches names outside of its own folder only by renames out of it or into it.** Who follows first takes that folder away and
puts an empty file in its place (the fence), which stays: from then on neither rename works, and no library can make the
folder again. What the frozen one had open was in that folder, or is replaced by a copy before anybody goes on with it.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any

from minima.errors import NotReadyError, TerminatedError
from minima.workspace.files import sync

TTL = 10.0
"""Seconds without a heartbeat after which a holder counts as dead; so long a restart waits for one that was killed.

Beside six processes that wrote and fsynced 0.5 GiB/s on ext4, a heartbeat took at most 0.04 s in 708 (a write in place), and
0.74 s in 315 as it was before (a new file, a rename, and an fsync of each). No volume over the network was measured.
"""
BEAT = 2.0
"""Seconds between two heartbeats."""
MAKING = ".making-"
_DIGITS = "[0-9]" * 8


class Lease:
    """The right to change a folder, from entering the context to leaving it.

    Args:
        folder: the artifact's folder.
        name: which of several leases of the folder (each pod of an independent stage holds its own).
        ttl: seconds after which a silent holder counts as dead; TTL by default.
        patient: wait for a living holder to end too, instead of raising.

    Raises:
        NotReadyError: on entering, when a living holder is there (it is named). From every method, and on leaving in place of
            any error but SIGTERM, when the lease was lost.
    """

    def __init__(self, folder: Path, name: str = "lease", ttl: float | None = None, *, patient: bool = False) -> None:
        self.folder = folder
        self.name = name
        self.ttl = TTL if ttl is None else ttl
        self.patient = patient
        self.token = 0
        self._content = {"holder": os.environ.get("HOSTNAME") or socket.gethostname(), "id": uuid.uuid4().hex}
        self._beats = 0
        self._taken = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    @property
    def making(self) -> Path:
        """The folder in which only this holder writes; it ends with the lease."""
        return self._making(self.token, self._content["id"])

    def __enter__(self) -> "Lease":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._wait()
            self._thread.start()
            self.making.mkdir()
            self._fence()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.token:
            return
        held = self._holds()
        shutil.rmtree(self.making, ignore_errors=True)  # A fence in its place is no folder, and stays.
        self.release()
        if not held and isinstance(error, Exception) and not isinstance(error, TerminatedError):
            raise self._lost() from error

    def release(self) -> None:
        """Let another process have the folder at once; what leaving the context does after it removed the own folder."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._holds():
            with contextlib.suppress(FileNotFoundError):
                self._write("released")

    def check(self) -> None:
        """Look at the lease: to be called right before every rename.

        Raises:
            NotReadyError: another process holds it now.
        """
        if not self._holds():
            raise self._lost()

    def put(self, *names: str) -> None:
        """Bring entries of the own folder into place, at the same names in the artifact's; what is in the way is taken.

        A folder that is in the way is deleted only after the new one is in its place.
        """
        for name in names:
            here, there = self.making / name, self.folder / name
            away = self._away(name) if there.is_dir() and not there.is_symlink() else None
            for parent in [place for place in reversed(there.parents) if not place.exists()]:
                bare = self.making / f"parent-{next(self._taken)}"
                bare.mkdir()
                self.check()
                bare.rename(parent)
                sync(parent.parent)
            self.check()
            here.rename(there)
            if away:
                self._delete(away)
        for parent in {(self.folder / name).parent for name in names}:
            sync(parent)

    def take(self, name: str) -> None:
        """Take an entry out of the artifact's folder, if it is there, and delete it."""
        if away := self._away(name):
            self._delete(away)

    def _away(self, name: str) -> Path | None:
        """Take an entry into the own folder; None if it is not there."""
        away = self.making / f"taken-{next(self._taken)}"
        self.check()
        try:
            (self.folder / name).rename(away)
        except FileNotFoundError:
            self.check()  # It may be the own folder that is gone.
            return None
        return away

    @staticmethod
    def _delete(away: Path) -> None:
        if away.is_dir() and not away.is_symlink():
            # What a client of NFS keeps open stays as a hidden file until it is closed: it goes with the own folder.
            shutil.rmtree(away, ignore_errors=True)
        else:
            away.unlink()

    def write(self, name: str, text: str, *, durable: bool = True) -> None:
        """Make `text` the content of a file of the artifact's folder, which is there whole or not at all.

        With `durable=False`, for what is written often and comes again, a crash of the machine may leave it empty.
        """
        place = self.making / name
        place.write_text(text, encoding="utf-8", errors="backslashreplace")  # As files.write_atomically.
        if durable:
            sync(place)
            self.put(name)
        else:
            self.check()
            place.rename(self.folder / name)

    def move(self, place: Path) -> None:
        """Move all of the artifact's folder to the new folder `place`; leases and fences stay, and the folder with them."""
        place.mkdir()  # An error of it comes before anything moved.
        out = self.making / "moved"
        out.mkdir()
        # The marker is among the first: what is left of a move that was cut short is no artifact.
        for there in sorted(self.folder.iterdir(), key=lambda there: (not there.name.startswith("_"), there.name)):
            if not of_leases(there.name):
                self.check()
                there.rename(out / there.name)
        self.check()
        out.rename(place)

    def _wait(self) -> None:
        # Only what was seen in looks that follow one another closely is silence: after a pause between two, this process
        # may have been frozen, and the holder with it.
        close = self.ttl / 2
        looked = time.monotonic()
        deadline = looked + self.ttl
        token, seen = self._highest()
        told = sure = False
        while True:
            now = time.monotonic()
            late = now >= deadline
            if token == 0 or '"released"' in seen or (late and sure and now - looked <= close):
                if self._create(token + 1):
                    return
            elif not told:
                print(f"waiting up to {self.ttl:.0f} s: {self._holder(seen)} held {self.folder}", file=sys.stderr)
                told = True
            if sure or not late:
                time.sleep(min(0.2, self.ttl / 20))
            before, looked = looked, time.monotonic()
            found = self._highest()
            changed = found != (token, seen)
            living = changed and told and found[0] == token and '"released"' not in found[1]
            if living and not self.patient:
                raise NotReadyError(f"{self.folder}: {self._holder(found[1])} is writing it; wait for it, or stop it first")
            token, seen = found
            sure = late and not changed and looked - before <= close  # One more look after the time was up.
            if changed or looked - before > close:
                deadline = time.monotonic() + self.ttl

    def _create(self, token: int) -> bool:
        try:
            descriptor = os.open(self._place(token), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        self.token = token  # At once: a process that is stopped from here on releases it.
        try:
            os.pwrite(descriptor, self._text("held"), 0)
        finally:
            os.close(descriptor)
        sync(self.folder)
        return True

    def _fence(self) -> None:
        """Shut out all who held this lease before; the own folder is there already.

        One who makes its folder only after this looked for it finds the own number higher than its own.
        """
        if self._highest()[0] != self.token:
            raise self._lost()  # A late one: its number was free because its holder was followed, and swept.
        earlier = [(token, place) for token, place in self._files() if token < self.token]
        owns = {there for there in self.folder.glob(f"{MAKING}{self.name}.{_DIGITS}.*") if there.is_dir()}
        for token, place in earlier:
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                content = json.loads(place.read_text(encoding="utf-8"))
                if content["state"] != "released":
                    owns.add(self._making(token, content["id"]))
        for own in sorted(owns):
            if int(own.name.split(".")[-2]) < self.token:
                self._shut(own.name)
        for _, place in earlier:  # The lowest first: `_holds` counts on it.
            self.take(place.name)

    def _shut(self, name: str) -> None:
        fence = self.making / name
        fence.touch()
        while True:
            self.take(name)
            try:
                fence.rename(self.folder / name)
            except IsADirectoryError:  # Library code of its holder made it again.
                continue
            return

    def _holds(self) -> bool:
        """Whether the own file is there and the next is not: who comes after that sweeps the own file before the next."""
        try:
            mine = self._content["id"] in self._place(self.token).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        return mine and not self._place(self.token + 1).exists()

    def _lost(self) -> NotReadyError:
        token, seen = self._highest()
        return NotReadyError(f"{self.folder}: lost the lease to {self._holder(seen)} (token {token}, ours {self.token})")

    def _making(self, token: int, id_: str) -> Path:
        return self.folder / f"{MAKING}{self.name}.{token:08d}.{id_[:8]}"

    def _place(self, token: int) -> Path:
        return self.folder / f"_{self.name}.{token:08d}.json"

    def _files(self) -> list[tuple[int, Path]]:
        found = sorted(self.folder.glob(f"_{self.name}.{_DIGITS}.json"))
        return [(int(place.name.split(".")[-2]), place) for place in found]

    def _highest(self) -> tuple[int, str]:
        files = self._files()
        if not files:
            return 0, ""
        token, place = files[-1]
        try:
            return token, place.read_text(encoding="utf-8")
        except FileNotFoundError:
            return self._highest()  # A new holder swept it away between the two calls.

    def _text(self, state: str) -> bytes:
        text = json.dumps({**self._content, "state": state, "beat": self._beats})
        return text.encode().ljust(160 + len(self._content["holder"]))  # Always of one length: written over in place.

    def _write(self, state: str) -> None:
        # Neither O_CREAT, which would bring back what a follower swept away, nor O_TRUNC: no reader sees it empty. Closing
        # flushes it on NFS; no fsync, which would wait for whatever else is being written.
        descriptor = os.open(self._place(self.token), os.O_WRONLY)
        try:
            os.pwrite(descriptor, self._text(state), 0)
        finally:
            os.close(descriptor)

    def _beat(self) -> None:
        while not self._stop.wait(min(BEAT, self.ttl / 5)):
            self._beats += 1
            try:
                self._write("held")
            except FileNotFoundError:
                return  # Somebody followed.
            except OSError as error:
                # A full or failing disk: the next beat may work, and `check` tells if somebody followed meanwhile.
                print(f"{self.folder}: no heartbeat ({error})", file=sys.stderr)

    @staticmethod
    def _holder(seen: str) -> str:
        try:
            content: Any = json.loads(seen)
            return str(content["holder"])
        except (json.JSONDecodeError, KeyError, TypeError):
            return "an unknown holder"


def of_leases(name: str) -> bool:
    """Whether an entry of an artifact's folder is a lease, a holder's folder or a fence."""
    return name.startswith(MAKING) or fnmatchcase(name, f"_lease*.{_DIGITS}.json")


def names(folder: Path) -> set[str]:
    """The names of all leases of an artifact's folder that were ever held."""
    return {place.name[1:].split(".")[0] for place in folder.glob(f"_lease*.{_DIGITS}.json")}


@contextlib.contextmanager
def all_of(folder: Path) -> Iterator[Lease]:
    """Hold every lease of a folder; gives that of the folder itself."""
    with contextlib.ExitStack() as leases:
        first = leases.enter_context(Lease(folder))
        for name in sorted(names(folder) - {first.name}):
            leases.enter_context(Lease(folder, name))
        yield first
