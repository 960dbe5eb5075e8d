"""Every part of a template that says everything, with odd values in its place: what the rules and the server are both asked."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

EVERYTHING: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("everything.yaml").read_text(encoding="utf-8"))
WORDS = ("", "A_B", "a..b", "a b", "/a", "..a", "a/b/c", "a" * 64, "a" * 254, "-a", "1", "a:b")
NUMBERS = (-1, 0, 101, 65536, 2**31, 2**40)
FREE = ("labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests", "overhead", "options")
"""Mappings whose keys are anybody's."""


def parts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, value
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from parts(item, (*path, key))
    for number, item in enumerate(value) if isinstance(value, list) else ():
        yield from parts(item, (*path, str(number)))


def changed() -> Iterator[tuple[str, dict[str, Any]]]:
    """Templates with one part that is another, or is gone; each with what it is."""
    for path, value in parts(EVERYTHING):
        if len(path) < 2:
            continue
        match value:
            case bool():
                others: tuple[Any, ...] = (not value,)
            case str():
                others = WORDS
            case int():
                others = NUMBERS
            case list():
                others = ([], value + value)
            case _:
                others = ({}, *({**value, word: next(iter(value.values()))} for word in WORDS if path[-1] in FREE))
        for other in others:
            yield f"{'.'.join(path)} = {str(other)[:80]!r}", _with(path, other)
        yield f"{'.'.join(path)} gone", _with(path, None)


def _with(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(EVERYTHING)
    holder: Any = made
    for step in path[:-1]:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    last: Any = int(path[-1]) if isinstance(holder, list) else path[-1]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return made
