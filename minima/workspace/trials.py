"""What a workspace's file system must do, tried out and not looked up.

The contracts of artifacts and leases stand on a shared POSIX file system: atomic rename, fsync, exclusive creation, and
other processes that see a rename at once. Each trial takes an empty folder, says what it found, and raises OSError or
ValueError where a promise is broken.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

SLOW_CLOCK = 2.0
"""Seconds that the file system's clock may differ from this machine's before it is worth a word."""


def _rename(place: Path) -> str:
    old, new = place / "old", place / "new"
    old.write_text("old", encoding="utf-8")
    new.write_text("new", encoding="utf-8")
    with open(old, encoding="utf-8") as reader:
        os.replace(new, old)
        if old.read_text(encoding="utf-8") != "new" or new.exists():
            raise ValueError("a rename over an existing file did not replace it")
        if reader.read() != "old":
            raise ValueError("a rename changed a file that was open")
    return "replaces an existing file; open files keep their content"


def _rename_seen(place: Path) -> str:
    """Another process, started first, must see a rename right after it, in the same and in a new folder."""
    target = place / "seen"
    target.write_text("old", encoding="utf-8")
    program = "import sys\nfor line in sys.stdin: print(open(line.strip()).read(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for content in ("old", "new"):
            if content == "new":
                (place / "next").write_text("new", encoding="utf-8")
                os.replace(place / "next", target)
            print(target, file=reader.stdin, flush=True)
            said = reader.stdout.readline().strip()
            if said != content:
                raise ValueError(f"another process read {said!r} where {content!r} had been renamed to")
        reader.stdin.close()
    return "another process sees it at once (try it from another node too)"


def _fsync(place: Path) -> str:
    start = time.perf_counter()
    with open(place / "synced", "wb") as file:
        file.write(b"0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return f"file and folder in {1000 * (time.perf_counter() - start):.1f} ms"


def _exclusive(place: Path) -> str:
    target = place / "exclusive"
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with contextlib.suppress(FileExistsError):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        raise ValueError("O_EXCL succeeded although the file was there")
    return "O_EXCL refuses an existing file"


def _fence(place: Path) -> str:
    """What shuts out a process that lost its lease: its folder is taken away, and a file put there."""
    own, fence = place / "own", place / "fence"
    (own / "made").mkdir(parents=True)
    own.rename(place / "taken")
    fence.touch()
    fence.rename(own)
    tries = ((own / "made", place / "made"), (place / "taken", own / "taken"))
    for old, new in tries:
        with contextlib.suppress(NotADirectoryError):
            old.rename(new)
            raise ValueError(f"a rename from {old} to {new} worked where {own} is a file")
    return "no rename goes through a folder that was taken away"


def _times(place: Path) -> str:
    """The finest step seen in modification times, and how far the file system's clock is from this machine's."""
    target = place / "times"
    stamps: list[int] = []
    end = time.monotonic() + 1.0
    while len(set(stamps)) < 3 and time.monotonic() < end:
        target.write_text("x", encoding="utf-8")
        stamps.append(target.stat().st_mtime_ns)
        time.sleep(0.001)
    differ = abs(time.time() - stamps[-1] / 1e9)
    steps = [b - a for a, b in pairwise(stamps) if b > a]
    step = f"steps of {min(steps) / 1e6:.0f} ms or less" if steps else "steps of 1 s or more"
    return f"{step}{f'; its clock is {differ:.1f} s off' if differ > SLOW_CLOCK else ''}"


ALL: Mapping[str, Callable[[Path], str]] = {
    "rename": _rename,
    "rename, seen elsewhere": _rename_seen,
    "fsync": _fsync,
    "exclusive creation": _exclusive,
    "fence": _fence,
    "modification times": _times,
}
