"""YAML text to plain values, with the line of every key.

Stricter than YAML 1.1: keys are strings and never repeated, and a number is written as YAML 1.2 writes it too.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from minima.errors import UsageError, did_you_mean, told

DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_TAG = "tag:yaml.org,2002:"
ALIASED = 10_000
"""Values that all aliases together may stand for: who reads a value goes through each of them."""


@dataclass(frozen=True)
class Place:
    """Where things stand in a file; called with the keys from the root, gives `file:line: a.b.c`."""

    file: str
    lines: Mapping[tuple[str, ...], int]

    def line(self, *path: str) -> int:
        """The line of a key, or of the nearest one above it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def __call__(self, *path: str) -> str:
        told = ".".join(key if key.isprintable() else repr(key) for key in path)
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
    try:
        return place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except IsADirectoryError:
        raise UsageError(f"{name}: a folder; name a {what} file in it") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        folder = Path(str(place).replace("\0", "")).parent
        beside = [str(file) for file in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
        raise UsageError(f"{name}: no such file or shipped {what}; {did_you_mean(name, [*known, *beside])}") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from None


def parse(text: str, file: str) -> list[Document]:
    """The documents of `text`, at least one.

    Raises:
        UsageError: not YAML, empty, a repeated key, a value of a kind that no pipeline has.
    """
    documents = []
    try:
        for root in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if not isinstance(root, yaml.MappingNode):
                line = root.start_mark.line + 1
                raise UsageError(f"{file}:{line}: not a mapping; keys such as `name: …` are valid")
            lines: dict[tuple[str, ...], int] = {(): root.start_mark.line + 1}
            converter = _Converter(file, lines)
            documents.append(Document(converter.value(root, ()), Place(file, lines)))
            if converter.errors:
                raise UsageError("\n".join(converter.errors))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{file}{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UsageError(f"{file}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # PyYAML's scanner: \UFFFFFFFF, a version of 5,000 digits.
        raise UsageError(f"{file}: not YAML: {error}") from None
    if not documents:
        raise UsageError(f"{file}: empty; `jobgen init NAME` writes a pipeline to start from")
    return documents


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
            if self.aliased > ALIASED:
                place = Place(self.file, self.lines)(*path)
                raise UsageError(f"{place}: aliases up to here stand for {self.aliased} values; at most {ALIASED} are valid")
            return found
        self.done[id(node)] = _OPEN, 0
        before = self.size
        self.size += 1
        match node:
            case yaml.MappingNode():
                found = self.mapping(node, path)
            case yaml.SequenceNode():
                found = []
                for number, item in enumerate(node.value):
                    self.lines[(*path, str(number))] = item.start_mark.line + 1
                    found.append(self.value(item, (*path, str(number))))
            case _:
                found = self.scalar(node, path)
        self.done[id(node)] = found, self.size - before
        return found

    def mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                written = repr(key) if isinstance(key, str) else "a list or mapping"
                self.error(key_node, path, f"found {written} as a key; a string is valid, in quotes if need be")
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
            case "int" if DECIMAL.fullmatch(text) and len(text) <= 18:
                return int(text)
            case "float" if ":" not in text and "_" not in text:
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case "bool":
                self.error(node, path, f"found {text}; true, false or a string in quotes is valid")
            case "int" | "float":
                self.error(node, path, f"found {told(text)}; a number in plain decimal or a string in quotes is valid")
            case kind:
                self.error(node, path, f"found {told(text)} ({kind}); put a string in quotes")
        return None

    def error(self, node: yaml.Node, path: tuple[str, ...], message: str) -> None:
        place = Place(self.file, {path: node.start_mark.line + 1})
        self.errors.append(f"{place(*path)}: {message}")


_OPEN = object()
