"""Reading from a source in spite of faults that pass, and choosing of its files."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from minima.errors import DataError, LostPeerError, UsageError, listed
from minima.sources.source import File, Source, TransientError
from minima.workspace.files import matching

TRIES = 7
"""Times that a source is asked in vain before the process ends, to be started again."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds before the second try, doubled before each next one; and as long as a server may ask for."""
LONGEST_NAME = 255
"""Bytes of a file's name on the file systems of Linux."""
NAP = 1.0
"""Seconds of such a wait after which it is looked whether it is still for something."""
Value = TypeVar("Value")


def patiently(ask: Callable[[], Value]) -> Value:
    """What `ask` gives, asked again after faults that pass.

    Raises:
        LostPeerError: it gave nothing in `TRIES` tries.
    """
    tries = 0
    while True:
        try:
            return ask()
        except TransientError as fault:
            tries += 1
            rest(fault, tries)


def rest(fault: TransientError, tries: int, told: Callable[[int], None] = lambda size: None) -> None:
    """Wait before the next try, as long as `told` lets it.

    Raises:
        LostPeerError: that was the last one.
    """
    if tries >= TRIES:
        raise LostPeerError(
            f"{fault}; asked {tries} times in vain, what is whole is kept and the same command goes on"
        ) from None
    wait = min(max(fault.wait, FIRST_WAIT * 2 ** (tries - 1)), LONGEST_WAIT)
    print(f"fetch: {fault}; asking again in {wait:.0f} s", file=sys.stderr, flush=True)
    while wait > 0:
        told(0)
        time.sleep(min(wait, NAP))
        wait -= NAP


class Sink(Protocol):
    """What bytes are written to."""

    def write(self, chunk: bytes, /) -> object:
        """Add to what is there."""

    def tell(self) -> int:
        """How many bytes are there."""

    def seek(self, size: int, /) -> object:
        """Go back to the beginning, which 0 is."""

    def truncate(self) -> object:
        """End here."""


def read(source: Source, file: File, start: int, stop: int | None, out: Sink, told: Callable[[int], None]) -> None:
    """Write the bytes of a file from `start` to before `stop`, or to its end, to `out`, which is empty.

    Args:
        source: of the file.
        file: to read.
        start: the first byte.
        stop: the one after the last; None where nobody knows the size.
        out: what to write to.
        told: how many bytes came; fewer than none if some must come again; what it raises ends a wait too.

    Raises:
        LostPeerError: the source does not give them.
        DataError: it gives more than it said.
    """
    tries = 0
    while True:
        before = out.tell()
        try:
            for chunk in source.read(file, start + before, stop):
                out.write(chunk)
                told(len(chunk))
            if stop is not None and start + out.tell() < stop:
                raise TransientError(f"{file.name} ended after {start + out.tell():,} of {stop:,} bytes")
            break
        except TransientError as fault:
            came = out.tell() > before
            if not file.ranges:  # All of it must come again, and a server that always breaks off must not go on for ever.
                told(-out.tell())
                out.seek(0)
                out.truncate()
            tries = 1 if came and file.ranges else tries + 1
            rest(fault, tries, told)
    if stop is not None and start + out.tell() > stop:
        raise DataError(f"{file.name}: {start + out.tell():,} bytes came, the source said {stop:,}")


def chosen(files: Sequence[File], include: Sequence[str], exclude: Sequence[str], into: str) -> list[File]:
    """Those of a source's files that are asked for, by their names in the artifact.

    Left out is what begins with `.` or `_`, also a folder, as from all that a stage reads.

    Args:
        files: of the source.
        include: globs of names in the artifact; none for all.
        exclude: globs of those that are not.
        into: the folder of the artifact to which they go.
    """
    by_name = {f"{into}/{file.name}" if into else file.name: file for file in files}
    names = sorted(name for name in by_name if not any(part.startswith((".", "_")) for part in name.split("/")))
    if include:
        names = sorted({name for pattern in include for name in matching(names, pattern)})
    left_out = {name for pattern in exclude for name in matching(names, pattern)}
    return [by_name[name] for name in names if name not in left_out]


def check_names(names: Sequence[str], reserved: Sequence[str]) -> None:
    """Check that names can be those of files in an artifact.

    Raises:
        DataError: one leads out of its folder.
        UsageError: one is a file's and a folder's, or the artifact's own.
    """
    whole = set(names)
    for name in names:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name or any(ord(c) < 32 for c in name):
            raise DataError(
                f"the source names a file {name!r}, which leads out of its folder or is no name; leave it out (exclude)"
            )
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
            raise DataError(f"the source names a file {name!r}; a part of more than {LONGEST_NAME} bytes is none, leave it out")
        if path.parts[0] in reserved:
            raise UsageError(f"--exclude: {path.parts[0]} is a name that the artifact's folder needs itself; leave {name} out")
        if clash := whole & {parent.as_posix() for parent in path.parents}:
            raise UsageError(
                f"--source: {clash.pop()} is a file, and the folder of {name}; put one source into a folder (NAME=…)"
            )
    if len(whole) < len(names):
        twice = listed(sorted({name for name in names if list(names).count(name) > 1}))
        raise UsageError(f"--source: several sources have {twice}; put each into a folder of its own (NAME=…)")
