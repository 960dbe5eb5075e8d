"""Files that text comes in: plain or compressed, with lines, JSON values or columns; streamed, and told by content.

What a file holds is told by the end of its name, and where that says nothing by its first bytes (`wiki_00`).
"""

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from minima.errors import DataError

BLOCK = 1 << 20
"""Bytes that are read at once, and looked at to tell what a file holds."""
PACKED: dict[str, Callable[[str], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda place: io.BufferedReader(pyarrow.input_stream(place, compression="zstd"), BLOCK),
}
_MAGIC = {rb"\x1f\x8b\x08": ".gz", rb"BZh[1-9]1AY&SY": ".bz2", rb"\xfd7zXZ\x00": ".xz", rb"\x28\xb5\x2f\xfd": ".zst"}
"""First bytes of compressed files, which no text begins with."""
TEXT, JSON_LINES, JSON, PARQUET, ARROW = ".txt", ".jsonl", ".json", ".parquet", ".arrow"
_ALIASES = {".ndjson": JSON_LINES}
KINDS = (JSON_LINES, JSON, TEXT, PARQUET, ARROW)
BOM = b"\xef\xbb\xbf"
_ENDS = set(" \t\r\n,]")
_SPACE, _BETWEEN = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")


def is_kind(name: str, kinds: tuple[str, ...] = KINDS) -> bool:
    """Whether a file of this name may be one of `kinds`: it ends like one, or in nothing that tells."""
    ends = _ends(name)
    return not ends or ends[-1] in kinds


def kind(place: Path) -> str:
    """Which of KINDS a file is: by the end of its name, or by its first bytes; JSON with a value on each line is JSON_LINES."""
    ends = _ends(place.name)
    found = ends[-1] if ends and ends[-1] in KINDS else ""
    if not found:
        start = head(place, 4096)
        is_json = start.removeprefix(BOM).lstrip()[:1] in {b"{", b"["}
        found = PARQUET if start.startswith(b"PAR1") else JSON if is_json else TEXT
    return JSON_LINES if found == JSON and _is_lines(place) else found


def _ends(name: str) -> list[str]:
    """The suffixes of a name in small letters, without those of compression and of numbers (`part.00000`)."""
    found = [end.lower() for end in Path(name).suffixes]
    return [_ALIASES.get(end, end) for end in found if end[1:2].isalpha() and end not in PACKED]


def packed(place: Path) -> str:
    """How a file is compressed, so that it can only be read from its beginning: one of PACKED, or empty.

    The end of its name says so, or its first bytes: some downloads are compressed and do not say it (`a.jsonl`).
    """
    if (end := place.suffix.lower()) in PACKED:
        return end
    with open(place, "rb") as file:
        start = file.read(16)
    return next((end for magic, end in _MAGIC.items() if re.match(magic, start)), "")


def opened(place: Path) -> Any:
    """A binary file of what `place` holds, decompressed."""
    end = packed(place)
    return PACKED[end](str(place)) if end else open(place, "rb")


def head(place: Path, size: int) -> bytes:
    """The first bytes, decompressed."""
    with damage(place), opened(place) as file:
        found: bytes = file.read(size)
        return found


def _is_lines(place: Path) -> bool:
    """Whether a JSON file holds a value on each line, rather than one array, or values over several lines."""
    start = head(place, BLOCK).removeprefix(BOM).lstrip()
    line, _, rest = start.partition(b"\n")
    if len(start) >= BLOCK // 2 and not rest:  # A line that goes on and on.
        return line.startswith(b"{")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.startswith(b"{") or bool(rest.strip())


@contextlib.contextmanager
def damage(place: Path) -> Iterator[None]:
    """Say of a file that its compression or form is damaged.

    Raises:
        DataError: it is.
    """
    try:
        yield
    except (pyarrow.ArrowInvalid, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{place}: damaged ({error}); fetch it again, or compress it again") from None
    except OSError as error:
        if error.errno:  # Those of the system have a number, those of bz2 and zstandard have none.
            raise
        raise DataError(f"{place}: damaged ({error}); fetch it again, or compress it again") from None


def lines(place: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with its number, from 1; of a plain one also those in the bytes from `begin` to `end`."""
    with opened(place) as file:
        if begin:
            file.seek(begin)
        offset = begin
        for number, line in enumerate(file, 1):
            yield number, line
            offset += len(line)
            if end is not None and offset >= end:
                return


def values(place: Path, encoding: str = "utf-8") -> Iterator[tuple[int, Any]]:
    """The values of a JSON file that is one array or value, or one after the other, each with the line on which it begins.

    Raises:
        DataError: it is not JSON; what follows could not be told apart.
    """
    parse = json.JSONDecoder().raw_decode
    with opened(place) as binary:
        source = codecs.getreader("utf-8-sig" if encoding == "utf-8" else encoding)(binary)
        text, at, line, size = "", 0, 1, BLOCK
        between, end = _SPACE, False
        while True:
            start = between.match(text, at).end()  # type: ignore[union-attr] # It matches nothing, too.
            line += text.count("\n", at, start)
            at, wrong = start, "it ends too early"
            if between is _SPACE and text[at : at + 1] == "[":
                at, between = at + 1, _BETWEEN
                continue
            if between is _BETWEEN and text[at : at + 1] == "]":
                at, between = at + 1, _SPACE
                continue
            if at < len(text):
                try:
                    value, used = parse(text, at)
                    if end or text[at] in '{["' or text[used : used + 1] in _ENDS:  # A number may go on in what follows.
                        yield line, value
                        line += text.count("\n", at, used)
                        at, size = used, BLOCK
                        continue
                except RecursionError:
                    raise DataError(f"{place}:{line}: JSON that is nested too deeply") from None
                except json.JSONDecodeError as error:
                    wrong = f"{error.msg} at line {line + text.count(chr(10), at, error.pos)}"
                except ValueError as error:
                    wrong = str(error)
            elif end and between is _SPACE:
                return
            if end:
                raise DataError(f"{place}: the value that begins on line {line} is not JSON ({wrong}); mend or fetch the file")
            try:
                more = source.read(size)
            except UnicodeDecodeError as error:
                raise DataError(f"{place}: not {encoding.upper()} ({error.reason}); convert the file") from None
            text, at, end, size = text[at:] + more, 0, not more, size * 2


def arrow(place: Path) -> tuple[list[str], Iterator[Any]]:
    """The columns of an Arrow file, stream or not, and its batches."""
    source = pyarrow.memory_map(str(place))
    if head(place, 6) == b"ARROW1":
        file = pyarrow.ipc.open_file(source)
        return file.schema.names, (file.get_batch(number) for number in range(file.num_record_batches))
    stream = pyarrow.ipc.open_stream(source)
    return stream.schema.names, iter(stream)


def parquet(place: Path) -> Any:
    """An open Parquet file.

    Raises:
        DataError: it is none.
    """
    try:
        return pyarrow.parquet.ParquetFile(place)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{place}: not a Parquet file ({error}); fetch it again (is it a Git LFS pointer?)") from None
