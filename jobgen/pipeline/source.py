"""YAML text to plain values, with the line of every key.

Stricter than YAML 1.1: keys are strings and never repeated, and a number is written as YAML 1.2 writes it too.
"""

import codecs
import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from minima.errors import UsageError, did_you_mean, listed, on_a_line, told

DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_TAG = "tag:yaml.org,2002:"
ALIASED = 10_000
"""Values that all aliases together may stand for: who reads a value goes through each of them."""


@dataclass(frozen=True)
class Place:
    """Where things stand in a file; called with the keys from the root, gives `file:line: a.b.c`."""

    file: str
    lines: Mapping[tuple[str, ...], int]
    aliases: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """Where what an alias stands for is written."""

    def nearest(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The path, or of the keys above it the nearest one that is there."""
        while path and self._written(path) not in self.lines:
            path = path[:-1]
        return path

    def line(self, *path: str) -> int:
        """The line of a key, or of the nearest one above it that is there."""
        return self.lines.get(self._written(self.nearest(path)), 1)

    def _written(self, path: tuple[str, ...]) -> tuple[str, ...]:
        written: tuple[str, ...] = ()
        for number, key in enumerate(path):
            written = (*written, key)
            if number + 1 < len(path):  # The alias itself stands where it is used.
                written = self.aliases.get(written, written)
        return written

    def __call__(self, *path: str) -> str:
        told = ".".join(map(on_a_line, path))
        return f"{self.file}:{self.line(*path)}{': ' if told else ''}{told}"


@dataclass(frozen=True)
class Document:
    """The root's value and the place of every key."""

    value: Any
    place: Place

    def line(self, *path: str) -> int:
        return self.place.line(*path)


def read(place: Path, name: str, what: str, known: Iterable[str] = ()) -> str:
    """The text of a file that people wrote.

    Args:
        place: where it is.
        name: what errors call it.
        what: it should be.
        known: other names for one.

    Raises:
        UsageError: it cannot be read as UTF-8.
    """
    if not name or "://" in name or name == "-":
        raise UsageError(
            f"{name or 'FILE'}: found {told(name)}; a file on this machine, or one of {listed([*known])}, is valid"
        )
    try:
        content = place.read_bytes()
    except IsADirectoryError:
        raise UsageError(f"{name}: a folder; name a {what} file in it") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        folder = Path(str(place).replace("\0", "")).parent
        files = [str(file) for file in folder.glob("*.y*ml")] if folder.is_dir() else []
        beside = difflib.get_close_matches(name, files, n=8, cutoff=0)
        raise UsageError(f"{name}: no such file or shipped {what}; {did_you_mean(name, [*known, *beside])}") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from None
    save = "save it as UTF-8"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(f"{name}: not UTF-8 text but UTF-16 or UTF-32; {save}")
    if b"\0" in content:
        raise UsageError(f"{name}: not UTF-8 text: it holds NUL bytes, as UTF-16 and binary files do; a {what} file is valid")
    try:
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{line}: not UTF-8 text: found the byte {content[error.start]:#x}; {save}") from None


def parse(text: str, file: str, start: str = "`jobgen init NAME` writes a pipeline to start from") -> list[Document]:
    """The documents of `text`, at least one.

    Args:
        text: YAML.
        file: what errors call it.
        start: what to say of an empty one.

    Raises:
        UsageError: not YAML, empty, a repeated key, a value of a kind that no pipeline has.
    """
    documents = []
    try:
        for root in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if isinstance(root, yaml.ScalarNode) and not root.value and root.style is None:
                continue  # Nothing stands between two lines of ---, or after the last one.
            if not isinstance(root, yaml.MappingNode):
                line = root.start_mark.line + 1
                found = "a list" if isinstance(root, yaml.SequenceNode) else told(root.value)
                raise UsageError(f"{file}:{line}: found {found}; a mapping of keys such as `name: …` is valid")
            lines: dict[tuple[str, ...], int] = {(): root.start_mark.line + 1}
            converter = _Converter(file, lines)
            documents.append(Document(converter.value(root, ()), Place(file, lines, converter.aliases)))
            if converter.errors:
                raise UsageError("\n".join(converter.errors))
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{file}:{_not_yaml(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X}"
        raise UsageError(f"{file}:{line}: not YAML: found {what}; text without control characters is valid") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UsageError(f"{file}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # PyYAML's scanner: \UFFFFFFFF, a version of 5,000 digits.
        raise UsageError(f"{file}: not YAML: {error}") from None
    if not documents:
        raise UsageError(f"{file}: empty; {start}")
    return documents


_REMEDIES = {
    r"found character '\\t' .*": "found a tab; blanks are valid",
    r"found character (.*) that cannot start any token": r"found a value that begins with \1; put it in quotes",
    "mapping values are not allowed here": "found a ':' where none can be; `key: value` is valid, a value with ': ' in quotes, "
    "and all keys of a mapping in one column; look at the line above, too",
    r"expected ('.*'), but (?:got|found) (.*)": r"found \2; \1 is valid",
    "expected the node content, but found (.*)": r"found \1 in place of a value",
    "expected <block end>, but found .*": "the line is indented otherwise than those beside it",
    "could not find expected ':'": "found a line that is no `key: value`",
    "found undefined alias (.*)": r"found an alias of \1, which no & names; put it in quotes if a text is meant",
    "expected alphabetic or numeric character, but found .*": "found a value that begins with * or &; put it in quotes",
    "found unexpected end of stream": "found the file's end; a closing quote is valid",
    "second occurrence": "found an anchor of the same name twice; name one otherwise",
}
"""What to say instead of PyYAML's words."""


def _not_yaml(error: yaml.MarkedYAMLError) -> str:
    """The line of an error, and what to say of it."""
    problem = error.problem or error.context or "unreadable"
    for pattern, said in _REMEDIES.items():
        if match := re.fullmatch(pattern, problem):
            problem = match.expand(said).replace("'<stream end>'", "the file's end").replace("'<scalar>'", "a value")
            break
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    began = error.context_mark.line + 1 if error.context_mark else line
    return f"{line}: not YAML: {problem}" + (f" (of what begins on line {began})" if began != line else "")


def joined(text: str, other: str) -> str:
    """Two texts as the documents of one."""
    events = yaml.parse(other, Loader=yaml.SafeLoader)
    begins = any(isinstance(event, yaml.DocumentStartEvent) and event.explicit for event in itertools.islice(events, 2))
    return f"{text.rstrip(chr(10))}\n{'...' if begins else '---'}\n{other.lstrip(chr(0xFEFF))}"


class _Converter:
    def __init__(self, file: str, lines: dict[tuple[str, ...], int]) -> None:
        self.file = file
        self.lines = lines
        self.errors: list[str] = []
        self.aliases: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.paths: dict[int, tuple[str, ...]] = {}
        """Of nodes, where each of them first stands."""
        self.done: dict[int, tuple[Any, int]] = {}
        """Values of nodes, for aliases, and how many values each holds; _OPEN for one that is not finished yet."""
        self.size = 0
        """Values so far, those that aliases stand for included."""
        self.aliased = 0

    def value(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        if id(node) in self.done:
            found, size = self.done[id(node)]
            if found is _OPEN:
                self.error(node, path, "an alias inside its own anchor")
                return None
            self.size += size
            self.aliased += size
            self.aliases[path] = self.paths[id(node)]
            if self.aliased > ALIASED:
                place = Place(self.file, self.lines)(*path)
                raise UsageError(f"{place}: aliases up to here stand for {self.aliased} values; at most {ALIASED} are valid")
            return found
        self.done[id(node)] = _OPEN, 0
        self.paths[id(node)] = path
        before = self.size
        self.size += 1
        match node:
            case yaml.MappingNode() if node.tag == f"{_TAG}map":
                found = self.mapping(node, path)
            case yaml.SequenceNode() if node.tag == f"{_TAG}seq":
                found = []
                for number, item in enumerate(node.value):
                    self.lines[(*path, str(number))] = item.start_mark.line + 1
                    found.append(self.value(item, (*path, str(number))))
            case yaml.ScalarNode():
                found = self.scalar(node, path)
            case _:
                found = None
                self.error(node, path, _tagged(node.tag))
        self.done[id(node)] = found, self.size - before
        return found

    def mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                what = "found a list or mapping as a key; a string is valid; a template such as {{ … }} must be filled in first"
                self.error(key_node, path, what)
                continue
            if key_node.tag == f"{_TAG}merge":
                what = "found the merge key <<, which YAML 1.2 has not; write its keys here, or all of the value as an alias"
                self.error(key_node, path, what)
                continue
            if key_node.tag != f"{_TAG}str":
                what = f"{key!r} in quotes" if key_node.tag.startswith(_TAG) else "a string without a tag"
                self.error(key_node, path, f"found {on_a_line(key)} as a key; {what} is valid")
                continue
            if key in found:
                first = self.lines[(*path, key)]
                self.error(key_node, (*path, key), f"a repeated key, first on line {first}; remove one")
                continue
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = None
            found[key] = self.value(value_node, (*path, key))
        return found

    def scalar(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str":
                if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                    self.error(node, path, "half a surrogate pair; write the character itself")
                return text
            case "null":
                return None
            case "bool" if text.lower() in {"true", "false"}:
                return text.lower() == "true"
            case "int" if DECIMAL.fullmatch(text):
                if len(text) <= 18:
                    return int(text)
                self.error(node, path, f"found a number of {len(text)} digits; at most 18 are valid, or a string in quotes")
            case "float" if ":" not in text and "_" not in text:
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case "bool":
                self.error(node, path, f"found {text}; true, false or a string in quotes is valid")
            case "int" | "float":
                self.error(node, path, f"found {text[:80]}; a number in plain decimal or a string in quotes is valid")
            case "timestamp" | "value" as kind:
                read = "a date" if kind == "timestamp" else "a key's default"
                self.error(node, path, f"found {text}, which YAML 1.1 reads as {read}; put it in quotes")
            case _:
                self.error(node, path, _tagged(node.tag))
        return None

    def error(self, node: yaml.Node, path: tuple[str, ...], message: str) -> None:
        place = Place(self.file, {path: node.start_mark.line + 1})
        self.errors.append(f"{place(*path)}: {message}")


def _tagged(tag: str) -> str:
    return f"found the tag {on_a_line(tag.replace(_TAG, '!!'))}; a value without a tag is valid, a string in quotes"


_OPEN = object()
