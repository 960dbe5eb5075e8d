"""The text of a JSON object, or of a row of a table, by its keys."""

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minima.errors import did_you_mean, listed
from minima.options import BuildData

LINE, PARAGRAPH, FILE = "line", "paragraph", "file"
"""What is a document of a text file."""


@dataclass(frozen=True)
class Form:
    """How documents stand in the files.

    Attributes:
        text_key: keys of the text in an object or a row; several texts are joined by a line break.
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
        value = json.loads(line.decode(form.encoding))
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    return of_object(value, form)


def of_object(value: Any, form: Form) -> str | Left:
    """The text of an object; raises ValueError with what is wrong."""
    if isinstance(value, UnicodeDecodeError):  # A row that cannot be read.
        raise value
    if not isinstance(value, dict):
        example = f'{{"{form.text_key[0]}": "…"}}'
        raise ValueError(f"a JSON {type(value).__name__}, where a document is an object such as {example}")
    for key, valid in form.wanted.items():
        try:
            found = _under(value, key)
        except KeyError:
            return Left.FILTERED
        if (found if isinstance(found, str) else json.dumps(found, default=str)) not in valid:
            return Left.FILTERED
    texts = []
    for key in form.text_key:
        try:
            text = _under(value, key)
        except KeyError:
            raise ValueError(f"no key {key!r}; {_keys_of_text(key, value)}") from None
        if isinstance(text, bytes):  # A column that does not say that it is text.
            text = text.decode(form.encoding)
        if text is None and len(form.text_key) > 1:
            continue  # As many titles are.
        if not isinstance(text, str):
            kind = "null" if text is None else f"a JSON {type(text).__name__}"
            raise ValueError(f"{key!r} is {kind}, not a string; --text_key names the key of the text")
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


def _keys_of_text(key: str, value: dict[str, Any]) -> str:
    """What to do where an object has no such key: name another, or take out the list in which the documents stand."""
    if not value:
        return "the object is empty"
    if {"conversations"} <= value.keys() or {"messages"} <= value.keys() or {"instruction", "output"} <= value.keys():
        return f"a conversation (keys {listed(sorted(value))}), which is for `minima build-chat-data`"
    for name, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            return f"if the documents are the objects in the list under {name!r}: {objects_of(name)}"
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
