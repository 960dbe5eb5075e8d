"""Files that are there whole or not at all, also after a crash of the machine."""

import hashlib
import os
import uuid
from pathlib import Path


def write_atomically(place: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` to a file that is there either whole or not at all, also after a crash of the machine.

    With `durable=False`, for what is written often and comes again, a crash of the machine may leave it empty.
    """
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")  # Process ids are the same in every pod.
    with open(temporary, "w", encoding="utf-8") as out:
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
