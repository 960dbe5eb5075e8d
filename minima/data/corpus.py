"""Documents of running text: `.jsonl` (a JSON object a line) and `.txt` (a document a line), also with `.gz`.

A corpus is cut into spans, the unit of work of a process: big plain files at the ends of lines, a compressed file whole.
"""

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minima.errors import DataError, did_you_mean, listed

KINDS = (".jsonl", ".txt", ".jsonl.gz", ".txt.gz")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Span:
    """Whole lines of one file.

    Attributes:
        file: the file, relative to the corpus's folder, with `/`.
        begin: byte at which the first line begins.
        end: byte after the last line.
    """

    file: str
    begin: int
    end: int


class Document(NamedTuple):
    """One text, and the byte of its file (decompressed) at which its line begins: its place in the corpus."""

    offset: int
    text: str


def files(folder: str | Path, pattern: str, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """The files of a corpus, relative to `folder`, sorted; hidden ones and an artifact's markers are left out.

    Args:
        folder: the corpus.
        pattern: a glob below `folder`; only `**` reaches into any depth.
        kinds: the ends of names that can be read.

    Raises:
        DataError: nothing matches, or a match is of a kind that cannot be read.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: not a folder; --input_dir names the folder that holds the files")
    found = [name for name in glob.glob(pattern, root_dir=folder, recursive=True) if os.path.isfile(os.path.join(folder, name))]
    found = sorted(Path(name).as_posix() for name in set(found) if not os.path.basename(name).startswith((".", "_")))
    if not found:
        there = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
        hint = " ('**/' in front of the pattern looks into folders)" if any(name.endswith("/") for name in there) else ""
        raise DataError(f"{folder}: no file matches --input_regex {pattern!r}; the folder holds {listed(there)}{hint}")
    strange = [name for name in found if not name.endswith(kinds)]
    if strange:
        valid = ", ".join(kinds)
        raise DataError(f"{folder}: --input_regex {pattern!r} matches {listed(strange)}; valid kinds of files: {valid}")
    return found


def spans(folder: str | Path, pattern: str, megabytes: int) -> list[Span]:
    """Cut the files of a corpus into spans of about `megabytes` MiB each; the same files give the same spans anywhere.

    Raises:
        DataError: as `files` says; or all files are empty.
    """
    names = files(folder, pattern)
    found = [span for name in names for span in _spans(Path(folder), name, megabytes << 20)]
    if not found:
        raise DataError(f"{folder}: all files that match --input_regex {pattern!r} are empty ({listed(names)})")
    return found


def _spans(folder: Path, name: str, size: int) -> Iterator[Span]:
    with open(folder / name, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        begin = 0
        while begin < total:
            end = total
            if not name.endswith(".gz") and begin + size < total:
                file.seek(begin + size - 1)
                file.readline()
                end = file.tell()
            yield Span(name, begin, end)
            begin = end


def documents(folder: str | Path, span: Span, text_key: str) -> Iterator[Document]:
    """The documents of a span in the order of the file; blank lines and blank texts are left out.

    Args:
        folder: the corpus.
        span: one of its spans.
        text_key: the key of the text in a line of `.jsonl`.

    Raises:
        DataError: a line is not UTF-8, not a JSON object, or has no text; or a compressed file is damaged.
    """
    place = Path(folder) / span.file
    is_json = span.file.removesuffix(".gz").endswith(".jsonl")
    for offset, line in _lines(place, span):
        try:
            text = _json_text(line, text_key) if is_json else line.decode()
        except ValueError as error:
            raise DataError(f"{place}:{_line_number(place, offset)}: {_explained(error)}") from None
        if text.strip():
            yield Document(offset, text)


def _lines(place: Path, span: Span) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, without their ends, each with its offset."""
    offset = span.begin
    with open(place, "rb") as file:
        file.seek(span.begin)
        source: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file) if place.name.endswith(".gz") else file
        try:
            for line in source:
                if source is file and offset >= span.end:
                    return
                content = line.removeprefix(_BOM) if offset == 0 else line
                content = content.removesuffix(b"\n").removesuffix(b"\r")
                if content and not content.isspace():
                    yield offset, content
                offset += len(line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            what = f"damaged after {offset} bytes of its text ({error}); compress it again, or copy it again"
            raise DataError(f"{place}: {what}") from None


def _json_text(line: bytes, text_key: str) -> str:
    """Raises ValueError with what is wrong."""
    try:
        document = json.loads(line.decode())
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f'a JSON {type(document).__name__}, where a document is an object such as {{"{text_key}": "…"}}')
    if text_key not in document:
        keys = did_you_mean(text_key, document) if document else "the object is empty"
        raise ValueError(f"no key {text_key!r}; --text_key names the key of the text: {keys}")
    text = document[text_key]
    if not isinstance(text, str):
        kind = "null" if text is None else f"a JSON {type(text).__name__}"
        raise ValueError(f"{text_key!r} is {kind}, not a string; --text_key names the key of the text")
    if b"\\u" in line:  # Only an escape can name half a character.
        text.encode()
    return text


def _explained(error: ValueError) -> str:
    match error:
        case UnicodeDecodeError():
            return f"not UTF-8 (byte {error.object[error.start]:#04x} at column {error.start + 1}); convert the file to UTF-8"
        case UnicodeEncodeError():
            return f"half a surrogate pair ({error.object[error.start]!a}), which is no character; repair or drop the line"
        case json.JSONDecodeError():
            return f"not JSON ({error.msg} at column {error.colno}); a .jsonl file has one JSON object a line"
    return str(error)


def _line_number(place: Path, offset: int) -> int:
    """The number of the line that begins at byte `offset` (decompressed), from 1."""
    with gzip.open(place, "rb") if place.name.endswith(".gz") else open(place, "rb") as file:
        number = 1
        while offset > 0:
            block = file.read(min(offset, 1 << 20))
            number += block.count(b"\n")
            offset -= len(block)
        return number
