"""What a person sees of something that goes on: lines that stay and, on a terminal, lines below them that change."""

import shutil
import sys
import threading
import time
from typing import TextIO

QUIET_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""


class Screen:
    """What a program that runs for long writes to.

    Args:
        stream: standard error, unless what is shown is the result itself.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._shown = 0
        """Lines below those that stay."""
        self._said = time.monotonic()
        self._lock = threading.RLock()  # A signal's handler may speak while the program does.

    @property
    def width(self) -> int:
        """Characters of a line; a terminal's last column stays free."""
        return shutil.get_terminal_size((100, 24)).columns - 1

    def say(self, text: str) -> None:
        """A line that stays; long ones are not cut."""
        with self._lock:
            self._write(f"{self._back()}{text}\n")
            self._said = time.monotonic()

    def show(self, *lines: str) -> None:
        """Lines in place of those shown before; without a terminal the first of them, once in a while."""
        with self._lock:
            if not self.terminal:
                if lines and time.monotonic() - self._said >= QUIET_SECONDS:
                    self.say(lines[0])
                return
            room = shutil.get_terminal_size().lines - 1
            kept = [line[: self.width] for line in lines[:room]]
            self._write(self._back() + "".join(f"{line}\n" for line in kept))
            self._shown = len(kept)

    def _back(self) -> str:
        """To where the lines that change began, with nothing below."""
        shown, self._shown = self._shown, 0
        return f"\x1b[{shown}A\r\x1b[J" if shown else ""

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
