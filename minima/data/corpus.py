"""A corpus: its files, and the spans of text into which they are cut, the unit of work of a process.

Big files are cut (documents.py), and small ones go together into one span, so that a corpus of a thousand files of one
document makes no thousand shards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minima.data import containers, documents
from minima.data.documents import Bad, Form, Part
from minima.errors import DataError, listed
from minima.workspace.files import matching, walk
from minima.workspace.model_folder import check_pointers


@dataclass(frozen=True)
class Span:
    """Parts of files, in the order of their names, that one process works on."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes, as they stand in the files."""
        return sum(part.size for part in self.parts)


OF_DATASETS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What the library `datasets` writes about the data beside it."""


def files(folder: str | Path, pattern: str, kinds: tuple[str, ...] = containers.KINDS) -> list[str]:
    """The files of a corpus, relative to `folder`, sorted; hidden ones, an artifact's markers and OF_DATASETS are left out.

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
    found = [name for name in matching(walk(root), pattern) if name.split("/")[-1] not in OF_DATASETS - {pattern}]
    if not found:
        there = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
        hint = " ('**/' in front of the pattern looks into folders)" if any(name.endswith("/") for name in there) else ""
        raise DataError(f"{folder}: no file matches --input_regex {pattern!r}; the folder holds {listed(there)}{hint}")
    lost = [name for name in found if not (root / name).is_file()]
    if lost:
        raise DataError(f"{folder}: {listed(lost)}: links that lead to no file; mend them, or choose an --input_regex without")
    check_pointers(folder, found)  # As text they would be trained on.
    strange = [name for name in found if not containers.is_kind(name, kinds)]
    if strange:
        valid = f"{', '.join(kinds)}, each also with {', '.join(containers.PACKED)}, and names without an end"
        raise DataError(
            f"{folder}: --input_regex {pattern!r} matches {listed(strange)}; valid kinds of files: {valid}; "
            f"{_way_to_kind(strange[0], kinds)}, or choose an --input_regex without"
        )
    return found


def _way_to_kind(name: str, kinds: tuple[str, ...]) -> str:
    """How a file of no kind becomes one that can be read, by its name."""
    name = name.split("/")[-1]
    ends = [end.lower() for end in Path(name).suffixes]
    if {".tar", ".tgz", ".zip", ".tbz2", ".txz", ".7z", ".rar"} & set(ends):
        return f"{name} is an archive: unpack it (`minima fetch` does with --unpack true, for .zip and .tar)"
    for number, end in enumerate(ends[:-1]):
        if end in kinds:  # x.jsonl.part0, x.jsonl.gz.part0
            ended = end + (ends[number + 1] if ends[number + 1] in containers.PACKED else "")
            whole = name[: name.lower().rindex(ended) + len(ended)]
            return f"if {name} is a part of a split file, join its parts (`cat {whole}.* >{whole}`, then remove them)"
    return f"rename {name} if it is one of them (say {name}{kinds[0]}), convert it if it is not"


def spans(folder: str | Path, pattern: str, megabytes: int, document: str = documents.LINE) -> list[Span]:
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


def read(folder: str | Path, span: Span, form: Form) -> Iterator[str | Bad]:
    """The documents of a span in the order of the files; blank ones are left out.

    Raises:
        DataError: as `documents.read` says.
    """
    for part in span.parts:
        yield from documents.read(Path(folder), part, form)
