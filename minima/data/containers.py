"""Files that text comes in: plain or compressed, with lines, JSON values or columns; streamed, and told by content.

What a file holds is told by the end of its name, and where that says nothing by its first bytes (`wiki_00`).
"""

import bz2
import codecs
import contextlib
import functools
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
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
    ".lzma": lzma.LZMAFile,
    ".zst": lambda place: io.BufferedReader(pyarrow.input_stream(place, compression="zstd"), BLOCK),
    ".zstd": lambda place: io.BufferedReader(pyarrow.input_stream(place, compression="zstd"), BLOCK),
    ".lz4": lambda place: io.BufferedReader(pyarrow.input_stream(place, compression="lz4"), BLOCK),
}
_MAGIC = {
    rb"\x1f\x8b\x08": ".gz",
    rb"BZh[1-9]1AY&SY": ".bz2",
    rb"\xfd7zXZ\x00": ".xz",
    rb"\x5d\x00\x00[\x00-\xff]{2}\xff{8}": ".lzma",
    rb"\x28\xb5\x2f\xfd": ".zst",
    rb"\x04\x22\x4d\x18": ".lz4",
}
"""First bytes of compressed files, which no text begins with."""
WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How files begin that say themselves that they are UTF-16 or UTF-32; the longer marks first, for they begin like others."""
UNMARKED = "UTF-16 or UTF-32 without a mark at its beginning; convert it: `iconv -f UTF-16LE -t UTF-8 FILE >NEW`"
"""What is said of what holds so many NULs as ASCII does in these."""
TEXT, JSON_LINES, JSON, PARQUET, ARROW = ".txt", ".jsonl", ".json", ".parquet", ".arrow"
_ALIASES = {".ndjson": JSON_LINES, ".jsonlines": JSON_LINES, ".pq": PARQUET, ".feather": ARROW}
KINDS = (JSON_LINES, JSON, TEXT, PARQUET, ARROW)
CONVERT = "convert the file: `iconv -f gb18030 -t utf-8 FILE >NEW`, if it is in that encoding"
BOM = b"\xef\xbb\xbf"
_ENDS = set(" \t\r\n,]")
_ITEM = re.compile(rb"""[\[\s]*\{\s*"(?:[^"\\\n]|\\.)*+"\s*:  |  \[[\[\s]*"(?:[^"\\\n]|\\.)*+(?:"\s*[,\]]|\Z)""", re.VERBOSE)
"""How an object begins, and an array of objects or strings, however bad the rest is; `[Music]` and `{{Infobox` do not."""
_PIECES = re.compile(rb"[^\r]*(?:\r\n|\r|\n)|[^\r]+")
_SPACE, _BETWEEN = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")


def is_kind(name: str, kinds: tuple[str, ...] = KINDS) -> bool:
    """Whether a file of this name may be one of `kinds`: it ends like one, or in nothing that tells."""
    ends = _ends(name)
    return not ends or ends[-1] in kinds


def kind(place: Path) -> str:
    """Which of KINDS a file is: by the end of its name, or by its first bytes; JSON with a value on each line is JSON_LINES.

    Which of both sorts of JSON it is, its content tells: either is found under the name of the other.
    """
    return _told(_kind, place)


def _kind(place: Path) -> str:
    ends = _ends(place.name)
    found = ends[-1] if ends and ends[-1] in KINDS else ""
    start = b"" if found in {TEXT, PARQUET, ARROW} else head(place, 4096).removeprefix(BOM).lstrip()
    if not found:
        found = PARQUET if start.startswith(b"PAR1") else ARROW if start.startswith(b"ARROW1") else TEXT
        found = JSON if found == TEXT and is_json(place) else found
    if found == JSON_LINES and not re.match(rb"\[|\{\s*\n", start):
        return found  # However bad its lines are.
    return JSON_LINES if found in {JSON, JSON_LINES} and _is_lines(place) else JSON if found == JSON_LINES else found


def is_json(place: Path) -> bool:
    """Whether a file holds JSON, by its content: it begins like an object or an array of what may be documents, or most of
    its first lines are objects."""
    return bool(_told(_json, place))


def _json(place: Path) -> str:
    start = head(place, BLOCK).removeprefix(BOM).lstrip()
    lines = [line for line in start.split(b"\n", 100)[:100] if line.strip()]
    objects = sum(bool(_ITEM.match(line)) or isinstance(_value(line), dict) for line in lines)
    return JSON if _ITEM.match(start) or objects * 2 >= max(1, len(lines)) else ""


def _told(ask: Callable[[Path], str], place: Path) -> str:
    """What a file says; it is opened once for all who ask, while it does not change: a million small files lie far away."""
    stat = place.stat()
    return _answer(ask, place, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(1 << 16)
def _answer(ask: Callable[[Path], str], place: Path, *_: int) -> str:
    return ask(place)


def _ends(name: str) -> list[str]:
    """The suffixes of a name in small letters, without those of compression and of numbers (`part.00000`)."""
    found = [end.lower() for end in Path(name).suffixes]
    return [_ALIASES.get(end, end) for end in found if end[1:2].isalpha() and end not in PACKED]


def packed(place: Path) -> str:
    """How a file is compressed, or in which of WIDE it is, so that it can only be read from its beginning; or empty.

    The end of its name says so, or its first bytes: some downloads are compressed and do not say it (`a.jsonl`).
    """
    end = place.suffix.lower()
    return end if end in PACKED else _told(_packed, place)


def _packed(place: Path) -> str:
    with open(place, "rb") as file:
        start = file.read(16)
    found = next((end for magic, end in _MAGIC.items() if re.match(magic, start)), "")
    return found or next((encoding for mark, encoding in WIDE.items() if start.startswith(mark)), "")


def opened(place: Path) -> Any:
    """A binary file of what `place` holds, decompressed, and as UTF-8 if it is in one of WIDE."""
    way = packed(place)
    if way in PACKED:
        return PACKED[way](str(place))
    return io.BufferedReader(_Narrow(place, way), BLOCK) if way else open(place, "rb")


class _Narrow(io.RawIOBase):
    """A file in one of WIDE, as UTF-8; what is no character comes as bytes that are none in UTF-8 either."""

    def __init__(self, place: Path, encoding: str) -> None:
        self._file = open(place, encoding=encoding, errors="surrogatepass", newline="")  # noqa: SIM115
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            try:
                self._left = self._file.read(BLOCK).encode(errors="surrogatepass")
            except UnicodeDecodeError as error:
                raise EOFError(str(error)) from None  # As of a compressed one that is cut short.
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def is_unmarked(text: str) -> bool:
    """Whether a text that was read as one of single bytes is UNMARKED."""
    return "\0" in text and text.count("\0") * 4 > len(text)  # As ASCII: every other byte is one.


def head(place: Path, size: int) -> bytes:
    """The first bytes, decompressed."""
    with damage(place), opened(place) as file:
        found: bytes = file.read(size)
        return found


def _is_lines(place: Path) -> bool:
    """Whether a JSON file holds a value on each line, rather than one array, or values over several lines."""
    start = head(place, BLOCK).removeprefix(BOM).lstrip()
    first, _, rest = start.partition(b"\n")
    if len(start) >= BLOCK // 2 and not rest:  # A line that goes on and on.
        return first.startswith(b"{")
    if isinstance(_value(first), dict | list):
        return first.startswith(b"{") or bool(rest.strip())
    if first.rstrip()[-1:] in {b"[", b"{", b","}:  # It goes on in the next line.
        return False
    # The first may be bad where others are not.
    alike = b"[" if first.startswith(b"[") else b"{"
    return any(line.startswith(alike) and isinstance(_value(line), dict | list) for line in rest.split(b"\n", 100)[:100])


def _value(line: bytes) -> Any:
    """What a line of JSON holds; None for what is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


@contextlib.contextmanager
def damage(place: Path) -> Iterator[None]:
    """Say of a file that its compression or form is damaged.

    Raises:
        DataError: it is.
    """
    try:
        yield
    except (
        pyarrow.ArrowInvalid,
        pyarrow.ArrowNotImplementedError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(f"{place}: damaged ({error}); fetch it again, or compress it again") from None
    except FileNotFoundError:
        raise DataError(f"{place}: gone since this began; leave the files alone while they are read") from None
    except OSError as error:
        if error.errno:  # Those of the system have a number, those of bz2 and zstandard have none.
            raise
        raise DataError(f"{place}: damaged ({error}); fetch it again, or compress it again") from None


def lines(place: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with its number, from 1; of a plain one also those in the bytes from `begin` to `end`.

    Where a carriage return alone ends a line, the pieces have one number.
    """
    with opened(place) as file:
        if begin:
            file.seek(begin)
        offset = begin
        for number, line in enumerate(file, 1):
            if line.find(b"\r", 0, -2) < 0:
                yield number, line
            else:
                yield from ((number, piece) for piece in _PIECES.findall(line))
            offset += len(line)
            if end is not None and offset >= end:
                return


def values(place: Path, encoding: str = "utf-8", arrays: bool = False) -> Iterator[tuple[int, Any]]:
    """The values of a JSON file that is one array or value, or one after the other, each with the line on which it begins.

    With `arrays` an array is a value, too, in place of those in it.

    Raises:
        DataError: it is not JSON; what follows could not be told apart.
    """
    parse = json.JSONDecoder().raw_decode
    with opened(place) as binary:
        # A byte that is no text spoils the value that it is in, not the file.
        source = codecs.getreader("utf-8-sig" if encoding == "utf-8" else encoding)(binary, "surrogateescape")
        text, at, line, size = "", 0, 1, BLOCK
        between, end = _SPACE, False
        while True:
            start = between.match(text, at).end()  # type: ignore[union-attr] # It matches nothing, too.
            line += text.count("\n", at, start)
            at, wrong = start, "it ends too early"
            if not arrays and between is _SPACE and text[at : at + 1] == "[":
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
                wrong = UNMARKED if is_unmarked(text[at:]) else wrong
                # A byte of a character in another encoding may be a backslash.
                way = CONVERT if re.search("[\udc80-\udcff]", text) else "mend or fetch the file"
                raise DataError(f"{place}: the value that begins on line {line} is not JSON ({wrong}); {way}")
            more = source.read(size)
            text, at, end, size = text[at:] + more, 0, not more, size * 2


def rows(
    place: Path,
    kind: str,
    choose: Callable[[list[str]], list[str]] = lambda names: names,
    groups: Sequence[int] | None = None,
) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a Parquet or Arrow file; in place of one with a text that is not UTF-8, what Python says of it.

    Args:
        place: the file.
        kind: PARQUET or ARROW.
        choose: of the names of all columns, those that are read.
        groups: of Parquet, which row groups; None for all.

    Raises:
        DataError: the file is none.
    """
    batches: Iterator[Any]
    if kind == PARQUET:
        file = parquet(place)
        batches = file.iter_batches(1024, row_groups=groups, columns=choose(file.schema_arrow.names))
    else:
        names, source = _arrow(place)
        columns = choose(names)
        batches = (batch.select(columns) for batch in source)
    for batch in batches:
        try:
            found = batch.to_pylist()
        except UnicodeDecodeError:
            found = [_row(batch.slice(number, 1)) for number in range(batch.num_rows)]
        yield from found


def _row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error


def _arrow(place: Path) -> tuple[list[str], Iterator[Any]]:
    """The columns of an Arrow file, stream or not, and its batches."""
    _check_plain(place)
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
    _check_plain(place)
    try:
        return pyarrow.parquet.ParquetFile(place)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(f"{place}: not a Parquet file ({error}); fetch it again (is it a Git LFS pointer?)") from None


def _check_plain(place: Path) -> None:
    if (way := packed(place)) in PACKED:
        raise DataError(f"{place}: compressed ({way}), where columns are read; unpack it first")
