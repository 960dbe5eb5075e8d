"""A source of files, whatever speaks there."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a source.

    Attributes:
        name: relative, with `/`.
        size: in bytes; None where the source does not say.
        version: changes when the content does, as far as the source says.
        sha256: of the content, in hex, where the source says it; `blob` is Git's hash of it.
        ranges: whether it can be read from any byte on.
        handle: what the source calls it.
    """

    name: str
    size: int | None
    version: str = ""
    sha256: str = ""
    blob: str = ""
    ranges: bool = True
    handle: Any = field(default=None, compare=False)


class Source(Protocol):
    """What all sources do.

    Attributes:
        one: whether it is one file by its address, rather than a folder; known when its files are.
    """

    one: bool

    def files(self) -> list[File]:
        """All of its files.

        Raises:
            TransientError: it does not answer, and may soon.
            StageError: it never will, until somebody acts.
        """

    def read(self, file: File, start: int, stop: int | None) -> Iterator[bytes]:
        """The bytes of a file from `start` to before `stop`, or to its end. It may raise what `files` raises."""

    def close(self) -> None:
        """End all connections."""


class TransientError(Exception):
    """A fault that may be gone soon.

    Attributes:
        wait: seconds until the source wants to be asked again; 0 if it did not say.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def wrong(file: File, place: Path) -> str:
    """What differs between a file that was read and what its source says of it; empty for nothing."""
    size = place.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size:,} bytes, the source says {file.size:,}"
    if file.sha256 and (found := digest(place)) != file.sha256:
        return f"SHA-256 {found}, the source says {file.sha256}"
    if file.blob and (found := digest(place, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))) != file.blob:
        return f"Git blob {found}, the source says {file.blob}"
    return ""


def digest(place: Path, to: Any = None) -> str:
    """SHA-256 of a file, or another hash that was begun already, in hex."""
    made = to or hashlib.sha256()
    with open(place, "rb") as file:
        while chunk := file.read(CHUNK):
            made.update(chunk)
    return str(made.hexdigest())


def folder_digest(files: Mapping[str, str], *, one: bool) -> str:
    """What `minima digest` says of a folder with these files, by name and SHA-256; with `one`, of the one file."""
    if one:
        return next(iter(files.values()))
    lines = [f"{found}  {name}\n" for name, found in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
