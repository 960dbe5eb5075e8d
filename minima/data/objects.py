"""The text of a JSON object, or of a row of a table, by its keys."""

import contextlib
import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minima.data.containers import UNMARKED, is_unmarked
from minima.errors import did_you_mean, listed
from minima.options import BuildData

LINE, PARAGRAPH, FILE = "line", "paragraph", "file"
"""What is a document of a text file."""


@dataclass(frozen=True)
class Form:
    """How documents stand in the files.

    Attributes:
        text_key: keys of the text in an object or a row; several texts are joined by a line break, without those that are
            absent or null.
        document: of a text file, what is one document: LINE, PARAGRAPH or FILE.
        encoding: of text and JSON.
        wanted: what else an object must hold, by its keys, each with the values of which it has one.

    A key with dots also leads into objects: `meta.text` is `text` in what `meta` holds.
    """

    text_key: tuple[str, ...] = ("text",)
    document: str = LINE
    encoding: str = "utf-8"
    wanted: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: BuildData) -> "Form":
        """As the options say."""
        wanted: dict[str, list[str]] = {}
        for word in options.filter:
            key, _, value = word.partition("=")
            wanted.setdefault(key, []).append(value)
        return cls(options.text_key, options.document, options.encoding, wanted)

    @property
    def keys(self) -> list[str]:
        """All that is read of an object."""
        return [*self.text_key, *self.wanted]


class Left(enum.Enum):
    """Why an object or a row that is not bad gives no document: its text is blank, or it is not what --filter asks for."""

    BLANK = "blank"
    FILTERED = "filtered"


def of_line(line: bytes, form: Form) -> str | Left:
    """The text of a line of JSON; raises ValueError with what is wrong."""
    try:
        text = line.decode(form.encoding)
        if is_unmarked(text):
            raise ValueError(UNMARKED)
        value = json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    return of_object(value, form)


def of_object(value: Any, form: Form) -> str | Left:
    """The text of an object; raises ValueError with what is wrong."""
    if isinstance(value, UnicodeDecodeError):  # A row that cannot be read.
        raise value
    if not isinstance(value, dict):
        key = json.dumps(form.text_key[0])
        strings = isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
        remedy = f"; `jq -c '.. | strings | {{{key}: .}}' FILE >NEW.jsonl` makes one of each string" * strings
        raise ValueError(f'a JSON {type(value).__name__}, where a document is an object such as {{{key}: "…"}}{remedy}')
    for key, valid in form.wanted.items():
        try:
            found = _under(value, key)
        except KeyError:
            return Left.FILTERED
        if (found if isinstance(found, str) else json.dumps(found, default=str)) not in valid:
            return Left.FILTERED
    there: dict[str, Any] = {}
    for key in form.text_key:
        with contextlib.suppress(KeyError):
            there[key] = _under(value, key)
    if not there:
        raise ValueError(f"no key {form.text_key[0]!r}; {_keys_of_text(form.text_key[0], value)}")
    texts = []
    for key, text in there.items():
        if isinstance(text, bytes):  # A column that does not say that it is text.
            text = text.decode(form.encoding)
        if text is None and len(form.text_key) > 1:
            continue  # As many titles are.
        if not isinstance(text, str):
            kind = "null" if text is None else f"a JSON {type(text).__name__}"
            raise ValueError(f"{key!r} is {kind}, not a string; {_string_of(key, text)}")
        if not text.isascii():
            text.encode()  # An escape can name half a character.
        if text.strip():
            texts.append(text)
    return "\n".join(texts) or Left.BLANK


def _under(value: Mapping[str, Any], key: str) -> Any:
    """What stands under a key, which may lead into objects.

    Raises:
        KeyError: nothing does.
    """
    if key in value:
        return value[key]
    first, _, rest = key.partition(".")
    inner = value.get(first)
    if not rest or not isinstance(inner, dict):
        raise KeyError(key)
    return _under(inner, rest)


def _string_of(key: str, text: Any) -> str:
    """What to do where a key holds no string: join or take out those that it holds."""
    inner = list(text.values()) if isinstance(text, dict) else text
    if not isinstance(inner, list) or not inner or not all(isinstance(one, str) for one in inner):
        return "--text_key names the key of the text"
    path = "." + ".".join(map(json.dumps, key.split(".")))
    if isinstance(text, list):
        return f"if it is one text in pieces, join them: `jq -c '{path} |= join(\"\\n\")' FILE >NEW.jsonl`"
    return f"if each of its strings is a document: `jq -c '{path}[] | {{{json.dumps(key)}: .}}' FILE >NEW.jsonl`"


def _keys_of_text(key: str, value: dict[str, Any]) -> str:
    """What to do where an object has no such key: name another, or take out the list in which the documents stand."""
    if not value:
        return "the object is empty"
    if {"conversations"} <= value.keys() or {"messages"} <= value.keys() or {"instruction", "output"} <= value.keys():
        return f"a conversation (keys {listed(sorted(value))}), which is for `minima build-chat-data`"
    for name, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            return f"if the documents are the objects in the list under {name!r}: {objects_of(name)}"
    objects = [inner for inner in value.values() if isinstance(inner, dict)]
    if 1 < len(objects) == len(value) and all(inner.keys() == objects[0].keys() or key in inner for inner in objects):
        if all(name.isdigit() for name in objects[0]):  # A table of pandas by its columns.
            return f"--text_key names the key of the text: {did_you_mean(key, value)}"
        return "if the documents are the objects under all keys: `jq -c '.[]' FILE >NEW.jsonl`"
    keys = [name for name, inner in _leaves(value) if isinstance(inner, str)] or [name for name, _ in _leaves(value)]
    if not keys:
        return f"and no other key holds a text, found {listed(sorted(value))}"
    return f"--text_key names the key of the text: {did_you_mean(key, keys)}"


def objects_of(name: str) -> str:
    """The command that takes out the list under a key of a JSON file."""
    return f"`jq -c '.[\"{name}\"][]' FILE >NEW.jsonl`"


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of an object that hold neither objects nor lists, with those of objects in it."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{prefix}{name}.")
        elif not isinstance(inner, list):
            yield prefix + name, inner
