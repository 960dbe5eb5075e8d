"""Archives: the files in one, by names that cannot lead out of a folder."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from minima.addresses import ARCHIVES
from minima.errors import DataError

VALID = f"an archive's name ends in {', '.join(ARCHIVES)}"
Opens = Callable[[], IO[bytes] | None]


def is_one(name: str) -> bool:
    """Whether a file of this name is an archive."""
    return name.endswith(ARCHIVES)


def unpack(place: Path, name: str, folder: Path) -> Iterator[str]:
    """Write the files of an archive below `folder`, and give their names there, relative, one after the other.

    What begins with `.` or `_`, also a folder, is left out, as from all that a stage reads.

    Args:
        place: where the archive is.
        name: what errors call it, and what says its kind.
        folder: where its files go.

    Raises:
        DataError: it cannot be read; a name leads out of the folder or comes twice; or something is neither file nor folder.
    """
    seen: set[str] = set()
    with _read_as(name):
        for inside, regular, opens in _zip(place) if name.endswith(".zip") else _tar(place):
            path = PurePosixPath(inside)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in inside or any(ord(c) < 32 for c in inside):
                raise DataError(f"--source: {name} holds {inside!r}, which leads out of its folder; nothing of it is used")
            if any(part.startswith((".", "_")) for part in path.parts):
                continue
            if not regular:
                raise DataError(f"--source: {name} holds {inside!r}, which is no file and no folder; nothing of it is used")
            if str(path) in seen:
                raise DataError(f"--source: {name} holds {inside!r} twice")
            seen.add(str(path))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            content = opens()
            assert content is not None
            with content, open(folder / path, "wb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
            yield str(path)
    if not seen:
        raise DataError(f"--source: {name} holds no file")


@contextmanager
def _read_as(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"--source: {name} cannot be unpacked ({error}); valid: {', '.join(ARCHIVES)} without a password"
        ) from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"--source: {name} holds a file and a folder of one name ({Path(str(error.filename)).name})") from None
    except OSError as error:
        if error.errno is not None:  # Of the disk; a broken gzip has none.
            raise
        raise DataError(f"--source: {name} cannot be unpacked ({error})") from None


def _zip(place: Path) -> Iterator[tuple[str, bool, Opens]]:
    with zipfile.ZipFile(place) as archive:
        for entry in archive.infolist():
            kind = entry.external_attr >> 28  # Of Unix: 0 unsaid, 8 a file, 10 a link.
            if not entry.is_dir():
                yield entry.filename, kind in (0, 8), lambda entry=entry: archive.open(entry)  # type: ignore[misc]


def _tar(place: Path) -> Iterator[tuple[str, bool, Opens]]:
    with tarfile.open(place) as archive:
        for entry in archive:
            if not entry.isdir():
                name = entry.name.removeprefix("./")
                yield name, entry.isreg(), lambda entry=entry: archive.extractfile(entry)  # type: ignore[misc]
