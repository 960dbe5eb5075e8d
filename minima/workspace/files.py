"""Files that are there whole or not at all, also after a crash of the machine."""

import errno
import fnmatch
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def write_atomically(place: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` to a file that is there either whole or not at all, also after a crash of the machine.

    With `durable=False`, for what is written often and comes again, a crash of the machine may leave it empty.
    """
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")  # Process ids are the same in every pod.
    # The name of a file may be no UTF-8; JSON has the same escape.
    with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(text)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    os.replace(temporary, place)
    if durable:
        sync(place.parent)


def sync(place: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(place: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(folder: Path) -> list[str]:
    """All files below a folder, relative to it, sorted: what a stage may read there, and what a digest is made of.

    Links are followed, but not back into a folder that leads to them. Left out is what begins with `.` or `_` (caches,
    markers) with all that is below it. A link that leads nowhere is listed, for somebody meant it to be a file.
    """
    return sorted(_walk(folder, "", (os.path.realpath(folder),)))


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.name.startswith((".", "_")):
            continue
        if not _is_folder(entry):
            yield prefix + entry.name
        elif (real := os.path.realpath(entry.path)) not in above:
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # A link that leads to itself leads nowhere.


def matching(names: list[str], pattern: str) -> list[str]:
    """Those of `names`, relative with `/`, that a glob matches; `**` stands for any folders, also none."""
    wanted = list(PurePosixPath(pattern).parts)
    return [name for name in names if _matches(name.split("/"), wanted)]


def _matches(parts: list[str], wanted: list[str]) -> bool:
    if not parts or not wanted:
        return parts == wanted
    if wanted[0] == "**" and len(wanted) > 1:
        return _matches(parts, wanted[1:]) or _matches(parts[1:], wanted)
    if wanted == ["**"]:
        return True
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
