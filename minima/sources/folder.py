"""A folder or a file that this machine sees, such as another claim."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from minima.addresses import Address
from minima.errors import NotReadyError
from minima.sources.source import CHUNK, File
from minima.workspace.files import walk


class Folder:
    """What lies at a path."""

    def __init__(self, address: Address) -> None:
        self.place = Path(address.url)
        self.one = self.place.is_file()

    def files(self) -> list[File]:
        if self.one:
            return [self._file(self.place.name, self.place)]
        if not self.place.is_dir():
            raise NotReadyError(f"nothing at {self.place}; check the path, and that the pod mounts it (`pod` of the stage)")
        return [self._file(name, self.place / name) for name in walk(self.place)]

    def _file(self, name: str, place: Path) -> File:
        try:
            found = place.stat()
        except OSError as error:
            raise NotReadyError(f"{place}: {error.strerror}; mend it there, or leave it out (exclude)") from None
        if not stat.S_ISREG(found.st_mode):
            raise NotReadyError(f"{place} is no file, but a pipe, a socket or a device; take it away")
        return File(name=name, size=found.st_size, version=str(found.st_mtime_ns), handle=place)

    def close(self) -> None:
        """Nothing is open."""

    def read(self, file: File, start: int, stop: int | None) -> Iterator[bytes]:
        try:
            opened = open(file.handle, "rb")  # noqa: SIM115 what follows may be an error of the other side
        except OSError as error:
            raise NotReadyError(f"{file.handle}: {error.strerror}; user {os.getuid()} must be able to read it") from None
        with opened:
            opened.seek(start)
            while chunk := opened.read(CHUNK if stop is None else min(CHUNK, stop - opened.tell())):
                yield chunk
