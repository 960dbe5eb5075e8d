"""Documents of running text, streamed out of parts of files.

A part is some bytes of a plain file of lines, or some row groups of a Parquet file; any other file is one part.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minima.data import containers
from minima.data.containers import ARROW, BOM, JSON, JSON_LINES, PARQUET, TEXT
from minima.data.objects import FILE, LINE, PARAGRAPH, Form, Left, of_line, of_object
from minima.errors import DataError, did_you_mean

_WIKI = re.compile(rb"""<doc id=(?:(?:"[^"\n]*"|[^">\n])*|[^>\n]*)>\s*""")
_WIKI_END = re.compile(rb"</doc>\s*\Z")


@dataclass(frozen=True)
class Part:
    """A part of one file: its name relative to the corpus, with `/`, and bytes or row groups from `begin` to before `end`."""

    file: str
    begin: int
    end: int
    size: int
    """Bytes, as they stand in the file."""


class Bad(NamedTuple):
    """What should have been a document: where it stands, and what is wrong with it."""

    where: str
    what: str


NAMED = 10
"""Bad items that are named; the others are counted."""


def check_bad(where: str, noun: str, bad: int, total: int, named: Sequence[Bad], max_bad_fraction: float) -> None:
    """Check that no more are bad than may be.

    Raises:
        DataError: more are; it names the first of them.
    """
    if bad <= max_bad_fraction * total:
        return
    said = itertools.pairwise(["", *(what for _, what in named[:NAMED])])
    lines = "\n".join(
        f"{one.where}: {'the same' if what == before and '`' in what else what}"
        for one, (before, what) in zip(named, said, strict=False)
    )
    more = f"\nand {bad - NAMED} more" if bad > NAMED else ""
    raise DataError(
        f"{where}: {bad} of {total} {noun} are bad:\n{lines}{more}\n"
        f"mend them, or leave such {noun} out with --max_bad_fraction (now {max_bad_fraction:g})"
    )


def parts(folder: Path, name: str, size: int, document: str = LINE) -> Iterator[Part]:
    """Cut a file into parts of at least `size` bytes, where its kind allows it.

    Raises:
        DataError: a Parquet file that is none.
    """
    place = folder / name
    total = place.stat().st_size
    if total == 0:
        return
    kind = containers.kind(place)
    if kind == PARQUET:
        metadata = containers.parquet(place).metadata
        begin = groups = 0
        for group in range(metadata.num_row_groups):
            groups += metadata.row_group(group).total_byte_size
            if groups >= size or group + 1 == metadata.num_row_groups:
                share = total * (group + 1 - begin) // max(1, metadata.num_row_groups)
                yield Part(name, begin, group + 1, share)
                begin, groups = group + 1, 0
    elif (
        total <= size
        or containers.packed(place)
        or not (kind == JSON_LINES or (kind == TEXT and document != FILE and not _is_wiki(place)))
    ):
        yield Part(name, 0, total, total)
    else:
        with open(place, "rb") as file:
            begin = 0
            while begin < total:
                end = total
                if begin + size < total:
                    file.seek(begin + size - 1)
                    file.readline()
                    while kind == TEXT and document == PARAGRAPH and (line := file.readline()) and not line.isspace():
                        pass
                    end = file.tell()
                yield Part(name, begin, end, end - begin)
                begin = end


def read(folder: Path, part: Part, form: Form) -> Iterator[str | Bad | Left]:
    """The documents of a part in the order of the file, and what is left out; blank lines of a file of lines are nothing.

    Raises:
        DataError: the file is damaged, so that what follows cannot be read, or has no such keys.
    """
    place = folder / part.file
    with containers.damage(place):
        yield from _read(place, part, form)


def _read(place: Path, part: Part, form: Form) -> Iterator[str | Bad | Left]:
    kind = containers.kind(place)
    if kind in {PARQUET, ARROW}:
        found: Iterable[tuple[int, Any]] = _rows(place, part, form, kind)
    elif containers.packed(place) in containers.WIDE.values():
        form = replace(form, encoding="utf-8")
    elif containers.packed(place) and containers.head(place, 4).startswith(tuple(containers.WIDE)):
        raise DataError(f"{place}: UTF-16 or UTF-32 within what is compressed; unpack it, and it is read")
    convert: Callable[[Any], str | Left] = partial(of_object, form=form)
    if kind == TEXT:
        _check_text(place, part, form)
        found, convert = _texts(place, part, form), partial(_decoded, form=form)
    elif kind == JSON_LINES:
        found, convert = _lines(place, part), partial(of_line, form=form)
    elif kind == JSON:
        found = containers.values(place, form.encoding)
    before = functools.cache(partial(_line_breaks, place, part.begin))  # Counted once, and only if something is bad.
    for number, raw in found:
        try:
            yield convert(raw)
        except ValueError as error:
            where = f"{place}, row {number}" if kind in {PARQUET, ARROW} else f"{place}:{before() + number}"
            yield Bad(where, _explained(error))


def _check_text(place: Path, part: Part, form: Form) -> None:
    """Check that a text file can hold what is asked for, and is no JSON by another name, whose keys would be text."""
    if form.wanted:
        raise DataError(f"{place}: a text file, which has no keys; choose an --input_regex without, or leave out --filter")
    if not part.begin and containers.is_json(place):
        raise DataError(f"{place}: JSON, which would be read as text; rename it to {place.name}.jsonl")


def _line_breaks(place: Path, end: int) -> int:
    """How many there are in the bytes before `end` of a plain file."""
    with open(place, "rb") as file:
        count = 0
        while end > 0:
            block = file.read(min(end, containers.BLOCK))
            count += block.count(b"\n")
            end -= len(block)
        return count


def _all_lines(place: Path, part: Part) -> Iterator[tuple[int, bytes]]:
    if containers.packed(place):
        return containers.lines(place)
    return containers.lines(place, part.begin, part.end)


def _lines(place: Path, part: Part) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without their ends."""
    for number, line in _all_lines(place, part):
        content = line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(BOM)
        if content and not content.isspace():
            yield number, content


def _texts(place: Path, part: Part, form: Form) -> Iterator[tuple[int, bytes]]:
    """The documents of a text file, each with the number of its first line in the part."""
    wiki = _is_wiki(place)
    if form.document == LINE and not wiki:
        yield from _lines(place, part)
        return
    if form.document == FILE and not wiki:
        with containers.opened(place) as file:
            yield 1, file.read().removeprefix(BOM)
        return
    block: list[bytes] = []
    first = 1
    for number, marked in itertools.chain(_all_lines(place, part), [(0, b"")]):
        line = marked.removeprefix(BOM)
        begins = _WIKI.match(line) if wiki else None
        ends = not line or bool(begins) or (not wiki and line.decode(form.encoding, "replace").isspace())
        rest = _WIKI_END.sub(b"", line[begins.end() :] if begins else line) if wiki else b"" if ends else line
        if ends and block:
            if content := b"".join(block).strip(b"\r\n"):  # Not what lies between two articles.
                yield first, content
            block = []
        if rest:
            first = first if block else number
            block.append(rest)


def _is_wiki(place: Path) -> bool:
    """Whether a text file is what WikiExtractor writes: `<doc id=… title=…>`, the article, `</doc>`."""
    return bool(_WIKI.match(containers.head(place, 4096).removeprefix(BOM)))


def _rows(place: Path, part: Part, form: Form, kind: str) -> Iterator[tuple[int, Any]]:
    def columns(there: list[str]) -> list[str]:
        found = {key if key in there else key.partition(".")[0]: key for key in form.keys}
        for column, key in found.items():
            if column not in there:
                option = "--text_key" if key in form.text_key else "--filter"
                raise DataError(f"{place}: no column {key!r}, which {option} names; {did_you_mean(key, there)}")
        return list(found)

    number, groups = 0, None
    if kind == PARQUET:
        metadata = containers.parquet(place).metadata
        number = sum(metadata.row_group(group).num_rows for group in range(part.begin))
        groups = range(part.begin, part.end)
    yield from enumerate(containers.rows(place, kind, columns, groups), number)


def _decoded(content: bytes, form: Form) -> str | Left:
    text = content.decode(form.encoding).replace("\r\n", "\n").replace("\r", "\n")
    if containers.is_unmarked(text):
        raise ValueError(containers.UNMARKED)
    return text if text.strip() else Left.BLANK


def _explained(error: ValueError) -> str:
    """What is wrong, for an error message about a document."""
    match error:
        case UnicodeDecodeError():
            found = f"byte {error.object[error.start]:#04x} at column {error.start + 1}"
            return f"not {error.encoding.upper()} ({found}); --encoding names another one, such as gb18030"
        case UnicodeEncodeError():
            found = error.object[error.start]
            byte = "a byte that is not of the --encoding, or " * ("\udc80" <= found <= "\udcff")
            return f"{byte}half a surrogate pair ({found!a}), which is no character; repair or drop the line"
        case json.JSONDecodeError():
            return f"not JSON ({error.msg} at column {error.colno}); a .jsonl file has one JSON object a line"
    return str(error)
