"""Conversations as people have them, told by what each one holds: all become turns of a question and an answer.

- tutorial: `[{"User": …, "Assistant": …}, …]`
- sharegpt: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}`
- openai: `{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}`
- alpaca, also BELLE's: `{"instruction": …, "input": …, "output": …}`, with earlier turns as `"history": [[…, …], …]`
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minima.data import containers
from minima.data.containers import ARROW, JSON, JSON_LINES, PARQUET
from minima.data.documents import Bad
from minima.errors import did_you_mean

KINDS = (JSON_LINES, JSON, PARQUET, ARROW)
"""Of files."""
TUTORIAL, SHAREGPT, OPENAI, ALPACA = FORMATS = ("tutorial", "sharegpt", "openai", "alpaca")
KEYS = ("User", "Assistant")
SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_NO_TOOLS = ("", "[]", "{}", "null")
"""Texts of the key `tools` that name none; ShareGPT has JSON there, as a text."""
_VALID = 'valid: turns {"User": "…", "Assistant": "…"}, or the formats sharegpt, openai and alpaca'
_KNOWN = {
    TUTORIAL: set(KEYS),
    SHAREGPT: {"conversations", "system", "from", "value"},
    OPENAI: {"messages", "system", "role", "content"},
    ALPACA: {"instruction", "input", "output", "system", "history"},
}

Turn = dict[str, str]


class Conversation(NamedTuple):
    """Turns of KEYS, and the system sentence that the conversation brings; empty for none."""

    turns: list[Turn]
    system: str = ""


class Found(NamedTuple):
    """A conversation as it was read.

    Attributes:
        form: one of FORMATS.
        ignored: keys that mean nothing to this program.
    """

    conversation: Conversation
    form: str
    ignored: frozenset[str]


def read(place: str | Path, form: str = "auto") -> Iterator[Found | Bad]:
    """The conversations of a file: a JSON array of them, one on each line, or one in each row of a Parquet file.

    Args:
        place: the file.
        form: one of FORMATS, or `auto` to tell each by its content.

    Raises:
        DataError: the file is damaged, or an array is not JSON.
    """
    place = Path(place)
    kind = containers.kind(place)
    with containers.damage(place):
        if kind == PARQUET:
            rows = (row for batch in containers.parquet(place).iter_batches(1024) for row in batch.to_pylist())
            numbered: Iterator[tuple[int, Any]] = enumerate(rows)
        else:
            numbered = containers.lines(place) if kind == JSON_LINES else containers.values(place)
        for number, raw in numbered:
            if isinstance(raw, bytes) and not raw.strip():
                continue
            try:
                yield understood(_parsed(raw) if isinstance(raw, bytes) else raw, form)
            except ValueError as error:
                yield Bad(f"{place}, row {number}" if kind == PARQUET else f"{place}:{number}", str(error))


def understood(value: Any, form: str = "auto") -> Found:
    """What a JSON value says, if it is a conversation.

    Raises:
        ValueError: it is none, or not of `form`; with what is wrong.
    """
    told = tell(value)
    if form not in {"auto", told}:
        raise ValueError(f"of the format {told}, where --format says {form}")
    system = ""
    if isinstance(value, dict):
        system = value.get("system") or ""
        if not isinstance(system, str):
            raise ValueError(f"system is {_kind(system)}; valid: a text")
    keys = set(value) if isinstance(value, dict) else set()
    match told:
        case "tutorial":
            turns = [_turn(turn, number) for number, turn in enumerate(value)]
        case "alpaca":
            given = value.get("input") or ""
            if isinstance(given, str) and not given.strip():
                given = ""
            question = _text(value["instruction"], "instruction") + (f"\n{_text(given, 'input')}" if given else "")
            turns = [*_history(value.get("history") or []), {"User": question, "Assistant": _text(value["output"], "output")}]
        case _:
            speaker, content, turn_key = (
                ("from", "value", "conversations") if told == "sharegpt" else ("role", "content", "messages")
            )
            said = value[turn_key] if isinstance(value, dict) else value
            if not isinstance(said, list) or not said:
                raise ValueError(f"{turn_key} is {'an empty list' if said == [] else _kind(said)}; {_VALID}")
            spoken = [_spoken(one, number, speaker, content) for number, one in enumerate(said)]
            keys |= {key for one in said for key in one}
            if spoken[0][0] == "system":
                first = spoken.pop(0)[1]
                if system.strip() and system != first:
                    raise ValueError(
                        f"two system sentences, {_short(system)} under the key system and {_short(first)} as the first "
                        "message; valid: one (join them, or take one out)"
                    )
                system = first
            turns = _paired(spoken)
    return Found(Conversation(turns, system), told, frozenset(keys - _KNOWN[told]))


def tell(value: Any) -> str:
    """The format of a conversation, by its keys.

    Raises:
        ValueError: it has none.
    """
    if isinstance(value, list) and value:
        first = value[0] if isinstance(value[0], dict) else {}
        return OPENAI if {"role", "content"} <= first.keys() else SHAREGPT if {"from", "value"} <= first.keys() else TUTORIAL
    if isinstance(value, dict):
        for form, wanted in ((SHAREGPT, {"conversations"}), (OPENAI, {"messages"}), (ALPACA, {"instruction", "output"})):
            if wanted <= value.keys():
                tools = value.get("tools")
                if tools and not (isinstance(tools, str) and "".join(tools.split()) in _NO_TOOLS):
                    raise ValueError("a conversation with tools, which this program cannot write; leave it out")
                said = value.get("conversations")
                roles = isinstance(said, list) and said and isinstance(said[0], dict) and "role" in said[0]
                if form == SHAREGPT and roles:
                    raise ValueError("conversations with role and content; valid: these under the key messages")
                return form
    raise ValueError(f"found {'an empty list' if value == [] else _kind(value)}; {_VALID}")


def _turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"turn {number}: found {_kind(turn)}; {_VALID}")
    for key in turn:
        if key not in KEYS:
            raise ValueError(f"turn {number}: unknown key {_short(key)}; {did_you_mean(key, KEYS)}")
    for key in KEYS:
        if key not in turn:
            raise ValueError(f"turn {number}: no key {key!r}, found {', '.join(turn) or 'none'}; {_VALID}")
    return {key: _text(turn[key], f"turn {number}: {key}") for key in KEYS}


def _history(pairs: Any) -> list[Turn]:
    """The turns before an instruction."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == len(KEYS) for pair in pairs):
        raise ValueError(f"history is {_kind(pairs)}; valid: a list of pairs of a question and an answer")
    named = enumerate(pairs)
    return [{key: _text(said, f"history {n}") for key, said in zip(KEYS, pair, strict=True)} for n, pair in named]


def _spoken(one: Any, number: int, speaker: str, content: str) -> tuple[str, str]:
    """Who speaks, and what."""
    if not isinstance(one, dict) or speaker not in one or content not in one:
        raise ValueError(f"message {number}: found {_kind(one)}; valid: an object with {speaker} and {content}")
    who = SPEAKERS.get(one[speaker].lower()) if isinstance(one[speaker], str) else None
    if who is None or one.get("tool_calls"):
        known = ", ".join(SPEAKERS)
        raise ValueError(
            f"message {number}: by {_short(one[speaker])}, whom this program cannot write (tools?); valid: {known}"
        )
    said = one[content]
    if isinstance(said, list) and said and all(isinstance(p, dict) and p.get("type") == "text" for p in said):
        said = "".join(str(part.get("text", "")) for part in said)
    return who, _text(said, f"message {number}: {content}")


def _paired(spoken: list[tuple[str, str]]) -> list[Turn]:
    if not spoken:
        raise ValueError("a system sentence alone; nothing is asked")
    for number, (who, _) in enumerate(spoken):
        expected = ("user", "assistant")[number % 2]
        if who != expected:
            raise ValueError(f"message {number} is by the {who}, where the {expected} is expected; valid: they alternate")
    if len(spoken) % 2:
        raise ValueError("its last question has no answer; take it out")
    return [{"User": asked, "Assistant": said} for (_, asked), (_, said) in zip(spoken[::2], spoken[1::2], strict=True)]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = f"blank text {_short(value)}" if isinstance(value, str) else _kind(value)
        raise ValueError(f"{what} is {found}; valid: a text that is not blank (take the turn out)")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} has half a surrogate pair, which is no character; {_short(value)}")
    return value


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); .json files hold one list, .jsonl files a conversation a line") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply for a conversation") from None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}
    return f"{names.get(type(value), 'null')} {_short(value)}"


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
