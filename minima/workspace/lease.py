"""One writer per artifact folder, on any number of machines that share a file system.

The lease is a numbered file, `_lease.00000007.json`; the number is the fencing token and the highest one holds. A holder
proves that it lives by rewriting its own file (heartbeat). Who wants the folder watches the highest file: when it says
`released`, or did not change for `TTL` seconds on the watcher's own clock, the watcher creates the next number, which only
one can (exclusive link(2), atomic on NFS too). No process ids, no flock: both mean nothing on another machine.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from minima.errors import NotReadyError
from minima.workspace.files import sync, write_atomically

TTL = 10.0
"""Seconds without a heartbeat after which a holder counts as dead."""
BEAT = 2.0
"""Seconds between two heartbeats."""


class Lease:
    """The right to write into a folder, from entering the context to leaving it.

    Args:
        folder: the artifact's folder.
        name: which of several leases of the folder (each pod of an independent stage holds its own).
        ttl: seconds after which a silent holder counts as dead.

    Raises:
        NotReadyError: on entering, when a living holder is there (it is named); from `check`, when the lease was lost.
    """

    def __init__(self, folder: Path, name: str = "lease", ttl: float = TTL) -> None:
        self.folder = folder
        self.name = name
        self.ttl = ttl
        self.token = 0
        self._content = {"holder": os.environ.get("HOSTNAME") or socket.gethostname(), "id": uuid.uuid4().hex, "state": "held"}
        self._beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.ttl
        token, seen = self._highest()
        told = False
        while True:
            if token == 0 or '"released"' in seen or time.monotonic() >= deadline:
                if self._create(token + 1):
                    break
            elif not told:
                print(f"waiting up to {self.ttl:.0f} s: {self._holder(seen)} held {self.folder}", file=sys.stderr)
                told = True
            time.sleep(min(0.2, self.ttl / 20))
            now = self._highest()
            if now != (token, seen):
                if told and now[0] == token and '"released"' not in now[1]:
                    raise NotReadyError(f"{self.folder}: {self._holder(now[1])} is writing it; wait for it, or stop it first")
                token, seen = now
                deadline = time.monotonic() + self.ttl
        self._thread.start()
        for place in self._files():
            if place != self._place(self.token):
                place.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Let another process have the folder at once; what leaving the context does."""
        self._stop.set()
        self._thread.join()
        if self._holds():
            self._write("released")

    def check(self) -> None:
        """Make sure that this process still holds the lease; to be called right before every rename that publishes.

        Raises:
            NotReadyError: another process holds it now.
        """
        if not self._holds():
            token, seen = self._highest()
            raise NotReadyError(f"{self.folder}: lost the lease to {self._holder(seen)} (token {token}, ours {self.token})")

    def _holds(self) -> bool:
        return self.token > 0 and self._place(self.token).exists() and not self._place(self.token + 1).exists()

    def _place(self, token: int) -> Path:
        return self.folder / f"_{self.name}.{token:08d}.json"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"_{self.name}.{'[0-9]' * 8}.json"))

    def _highest(self) -> tuple[int, str]:
        files = self._files()
        if not files:
            return 0, ""
        try:
            return int(files[-1].name.split(".")[-2]), files[-1].read_text(encoding="utf-8")
        except FileNotFoundError:
            return self._highest()  # A new holder swept it away between the two calls.

    def _create(self, token: int) -> bool:
        temporary = self.folder / f".{self.name}.{self._content['id']}"
        temporary.write_text(self._text("held"), encoding="utf-8")
        try:
            os.link(temporary, self._place(token))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        sync(self.folder)
        self.token = token
        return True

    def _text(self, state: str) -> str:
        return json.dumps({**self._content, "state": state, "beat": self._beats})

    def _write(self, state: str) -> None:
        write_atomically(self._place(self.token), self._text(state))

    def _beat(self) -> None:
        while not self._stop.wait(min(BEAT, self.ttl / 5)):
            self._beats += 1
            try:
                if not self._holds():
                    return
                self._write("held")
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
