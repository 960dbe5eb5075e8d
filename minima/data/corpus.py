"""A corpus: its files, and the spans of text into which they are cut, the unit of work of a process.

Big files are cut (documents.py), and small ones go together into one span, so that a corpus of a thousand files of one
document makes no thousand shards.
"""

import fnmatch
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minima.data import containers, documents
from minima.data.documents import Bad, Part
from minima.data.objects import LINE, Form, Left
from minima.errors import DataError, listed
from minima.workspace.files import matching, walk
from minima.workspace.marker import MARKER
from minima.workspace.model_folder import check_pointers


@dataclass(frozen=True)
class Span:
    """Parts of files, in the order of their names, that one process works on."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes, as they stand in the files."""
        return sum(part.size for part in self.parts)


BESIDE = (
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "cache-*.arrow"),  # The library `datasets`.
    *(f"{name}{end}" for name in ("readme", "licen[cs]e", "notice", "copying", "changelog") for end in ("", ".md", ".txt")),
    *("thumbs.db", "desktop.ini", "*.crc", "*.md5", "*.sha1", "*.sha256"),
)
"""What programs and people write beside data, in small letters: read only by a pattern that is its very name."""


def files(folder: str | Path, pattern: str, kinds: tuple[str, ...] = containers.KINDS) -> list[str]:
    """The files of a corpus, relative to `folder`, sorted.

    Left out are hidden ones, an artifact's markers, BESIDE, what the hub's cache keeps beside its `snapshots`, and a file that
    was reached by another name already. What may be missed is said.

    Args:
        folder: the corpus; links in it are followed.
        pattern: a glob below `folder`; only `**` reaches into any depth.
        kinds: of files that can be read.

    Raises:
        DataError: nothing matches, or a match cannot be read or is a Git LFS pointer.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: not a folder; --input_dir names the folder that holds the files")
    there = walk(root)
    matched = matching(there, pattern)
    beside = {name for name in matched if name.split("/")[-1] != pattern.split("/")[-1] and _is_beside(name)} | _of_cache(there)
    found = [name for name in matched if name not in beside]
    if not found:
        listing = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
        hint = " ('**/' in front of the pattern looks into folders)" if any(name.endswith("/") for name in listing) else ""
        raise DataError(f"{folder}: no file matches --input_regex {pattern!r}; the folder holds {listed(listing)}{hint}")
    lost = [name for name in found if not (root / name).is_file()]
    if lost:
        raise DataError(f"{folder}: {listed(lost)}: links that lead to no file; mend them, or choose an --input_regex without")
    check_pointers(folder, found)  # As text they would be trained on.
    strange = [name for name in found if not containers.is_kind(name, kinds)]
    if strange:
        valid = f"{', '.join(kinds)}, each also with {', '.join(containers.PACKED)}, and names without an end"
        raise DataError(
            f"{folder}: --input_regex {pattern!r} matches {listed(strange)}; valid kinds of files: {valid}; "
            f"{_way_to_kind(root / strange[0], kinds)}, or choose an --input_regex without"
        )
    first: dict[object, str] = {}
    for name in found:
        first.setdefault(_identity(root / name), name)
    once = sorted(first.values())
    _say(folder, "beside the data, so left out", sorted(beside.intersection(matched)))
    _say(folder, "begin with _, so left out", _underscored(root, once, pattern))
    _say(folder, "another name of a file that is read already", sorted(set(found) - set(once)))
    _say(folder, "empty", [name for name in once if not (root / name).stat().st_size])
    return once


def _say(folder: str | Path, what: str, names: list[str]) -> None:
    if names:
        print(f"{folder}: {listed(names)}: {what}", file=sys.stderr)


def _is_beside(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.split("/")[-1].lower(), pattern) for pattern in BESIDE)


def _of_cache(names: list[str]) -> set[str]:
    """The files that the hub's cache keeps beside its `snapshots`, which are links to some of them."""
    tops = {f"/{name}".rpartition("/snapshots/")[0] for name in names if "/snapshots/" in f"/{name}"}
    return {n for n in names if any(f"/{n}".startswith((f"{top}/blobs/", f"{top}/refs/")) for top in tops)}


def _identity(place: Path) -> object:
    """What two names of one file have in common: where links lead, or its number where it has other names."""
    stat = place.stat()
    return (stat.st_dev, stat.st_ino) if stat.st_nlink > 1 else os.path.realpath(place)


def _underscored(root: Path, found: list[str], pattern: str) -> list[str]:
    """What lies beside the files that were found and would be one too, did its name not begin with `_`."""
    left = []
    for folder in sorted({name.rpartition("/")[0] for name in found} | {""}):
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        if any(entry.name == MARKER for entry in entries):
            continue  # An artifact has such files of its own.
        for entry in entries:
            alike = fnmatch.fnmatchcase(entry.name, pattern.split("/")[-1]) and Path(entry.name).suffix in containers.KINDS
            if entry.name.startswith("_") and ("**" in pattern if entry.is_dir() else alike):
                left.append(f"{folder}/{entry.name}".lstrip("/"))
    return left


def _way_to_kind(place: Path, kinds: tuple[str, ...]) -> str:
    """How a file of no kind becomes one that can be read, by its name and content."""
    name = place.name
    ends = [end.lower() for end in place.suffixes]
    if {".tar", ".tgz", ".zip", ".tbz2", ".txz", ".7z", ".rar"} & set(ends):
        return f"{name} is an archive: unpack it (`minima fetch` does with --unpack true, for .zip and .tar)"
    if ends[-1] in {".z", ".lz", ".lzo", ".br", ".snappy", ".sz"}:
        return f"{name} is compressed in a way that is not read: unpack it"
    for number, end in enumerate(ends[:-1]):
        if end in kinds:  # x.jsonl.part0, x.jsonl.gz.part0
            ended = end + (ends[number + 1] if ends[number + 1] in containers.PACKED else "")
            whole = name[: name.lower().rindex(ended) + len(ended)]
            return f"if {name} is a part of a split file, join its parts (`cat {whole}.* >{whole}`, then remove them)"
    end = containers.TEXT if containers.TEXT in kinds and not containers.is_json(place) else kinds[0]
    return f"rename {name} if it is one of them (say {name}{end}), convert it if it is not"


def spans(folder: str | Path, pattern: str, megabytes: int, document: str = LINE) -> list[Span]:
    """Cut the files of a corpus into spans of about `megabytes` MiB each; the same files give the same spans anywhere.

    Raises:
        DataError: as `files` says; or all files are empty.
    """
    names = files(folder, pattern)
    found: list[Span] = []
    parts: list[Part] = []
    wanted = size = megabytes << 20
    for name in names:
        for part in documents.parts(Path(folder), name, size, document):
            parts.append(part)
            wanted -= part.size
            if wanted <= 0:
                found.append(Span(tuple(parts)))
                parts, wanted = [], size
    if parts:
        found.append(Span(tuple(parts)))
    if not found:
        raise DataError(f"{folder}: all files that match --input_regex {pattern!r} are empty ({listed(names)})")
    return found


def read(folder: str | Path, span: Span, form: Form) -> Iterator[str | Bad | Left]:
    """The documents of a span in the order of the files, and what is left out.

    Raises:
        DataError: as `documents.read` says.
    """
    for part in span.parts:
        yield from documents.read(Path(folder), part, form)
