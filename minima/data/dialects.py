"""What a JSON value says that is a conversation, told by what it holds: all become turns of a question and an answer.

- tutorial: `[{"User": …, "Assistant": …}, …]`
- sharegpt: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}`
- openai: `{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}`
- alpaca, also BELLE's: `{"instruction": …, "input": …, "output": …}`, with earlier turns as `"history": [[…, …], …]`, or in the
  instruction: `Human:…\nAssistant:…\nHuman:…\nAssistant:`

A list of messages may also stand alone, or under another of LISTS. What a command could make one of these gets the command.
"""

import contextlib
import json
import re
from typing import Any, NamedTuple

from minima.data.containers import CONVERT
from minima.data.objects import objects_of
from minima.errors import did_you_mean

TUTORIAL, SHAREGPT, OPENAI, ALPACA = FORMATS = ("tutorial", "sharegpt", "openai", "alpaca")
KEYS = ("User", "Assistant")
MESSAGES = {SHAREGPT: ("from", "value"), OPENAI: ("role", "content")}
"""The keys of a message, for who speaks and what."""
LISTS = ("conversations", "messages", "conversation")
"""Keys under which messages stand."""
SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TRAINED = ("weight", "train", "loss")
"""Keys of a message that say whether the loss counts it, by true or false, or 1 or 0."""
_MORE = {
    "tools": "tools",
    "functions": "tools",
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "more than text"),
}
"""Keys of what a conversation cannot have here."""
_NONE = ("", "[]", "{}", "null")
"""Texts of such a key that name nothing; ShareGPT has JSON there, as a text."""
VALID = 'valid: turns {"User": "…", "Assistant": "…"}, or the formats sharegpt, openai and alpaca'
_KNOWN = {"instruction", "input", "output", "system", "history"}
"""Keys of the format alpaca."""
_PAIRS = [
    (asked, said)
    for asked in ("prompt", "question", "query", "instruction", "human", "user", "User", "input", "Instruction")
    for said in ("completion", "response", "answer", "output", "target", "assistant", "Assistant", "Output")
]
"""Keys of a question and an answer in other formats."""
_EACH = "[.] | flatten[] | "
"""Gives jq the objects of a file, whether they are in an array or follow each other."""
_BELLE = re.compile(r"(?:^|\n)\s*(Human|Assistant)[:：]")

Turn = dict[str, str]


class Conversation(NamedTuple):
    """Turns of KEYS, the system sentence that the conversation brings (empty for none), and the numbers of the turns whose
    answer is not trained."""

    turns: list[Turn]
    system: str = ""
    untrained: tuple[int, ...] = ()


class Found(NamedTuple):
    """A conversation as it was read.

    Attributes:
        form: one of FORMATS.
        ignored: keys that mean nothing to this program.
        flat: it is all the turns of a file, which could be conversations of one turn each.
    """

    conversation: Conversation
    form: str
    ignored: frozenset[str]
    flat: bool = False


def understood(value: Any, form: str = "auto") -> Found:
    """What a JSON value says, if it is a conversation.

    Raises:
        ValueError: it is none, or not of `form`; with what is wrong.
    """
    if isinstance(value, UnicodeDecodeError):  # A row that cannot be read.
        raise ValueError(f"not UTF-8 ({value.reason})")
    told = tell(value)
    if form not in {"auto", told}:
        raise ValueError(f"of the format {told}, where --format says {form}")
    system = ""
    if isinstance(value, dict):
        system = value.get("system") or ""
        system = "" if _blank(system) else _text(system, "system")
    ignored = _held(value) if isinstance(value, dict) else set()
    untrained: tuple[int, ...] = ()
    match told:
        case "tutorial":
            turns = [_turn(turn, number) for number, turn in enumerate(value)]
        case "alpaca":
            turns = _of_alpaca(value)
            ignored -= _KNOWN
        case _:
            said, where = _messages(value)
            if not isinstance(said, list) or not said:
                raise ValueError(f"{where} is {'an empty list' if said == [] else _kind(said)}; {VALID}")
            spoken = [_spoken(one, number, *MESSAGES[told]) for number, one in enumerate(said)]
            ignored -= {where, "system"}
            ignored |= set[str]().union(*map(_held, said)) - {*MESSAGES[told], *TRAINED}
            if spoken[0].who == "system":
                first = spoken.pop(0).text
                if system and first and system != first:
                    raise ValueError(
                        f"two system sentences, {_short(system)} under the key system and {_short(first)} as the first "
                        "message; valid: one (join them, or take one out)"
                    )
                system = first or system
            turns = _paired(spoken)
            untrained = tuple(number for number, answer in enumerate(spoken[1::2]) if not answer.trained)
            if len(untrained) == len(turns):
                raise ValueError("none of its answers is to be trained; take it out")
    return Found(Conversation(turns, system, untrained), told, frozenset(ignored))


def _held(value: dict[str, Any]) -> set[str]:
    """The keys under which something stands."""
    return {key for key, held in value.items() if held is not None}


def _messages(value: Any) -> tuple[Any, str]:
    """The messages in a value, and under which key they stand; a column may hold them as JSON."""
    if not isinstance(value, dict):
        return value, ""
    where = next((name for name in LISTS if value.get(name) is not None), "")
    said = value.get(where)
    if isinstance(said, str):
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(said)
    return said, where


def tell(value: Any) -> str:
    """The format of a conversation, by its keys.

    Raises:
        ValueError: it has none.
    """
    if isinstance(value, dict):
        for key, what in _MORE.items():
            held = value.get(key)
            if held and not (isinstance(held, str) and "".join(held.split()) in _NONE):
                raise ValueError(f"a conversation with {what} (the key {key!r}), which this program cannot write; leave it out")
        if {"chosen", "rejected"} <= value.keys() and "messages" not in value:
            raise ValueError("preferences (keys chosen and rejected), by which this program does not train; leave it out")
    said, where = _messages(value)
    if isinstance(said, list) and said:
        first = said[0] if isinstance(said[0], dict) else {}
        for form, keys in MESSAGES.items():
            if set(keys) <= first.keys():
                return form
    if isinstance(value, list) and value:
        return TUTORIAL
    if where and not (isinstance(said, list) and said and isinstance(said[0], dict) and _pair(said[0])):
        return SHAREGPT if where == "conversations" else OPENAI
    if isinstance(value, dict) and {"instruction", "output"} <= value.keys():
        return ALPACA
    raise ValueError(f"found {'an empty list' if value == [] else _kind(value)}; {_way(value)}")


def _way(value: Any) -> str:
    """How what is no conversation becomes one."""
    if not isinstance(value, dict):
        return VALID
    system = next((f"system: .{key}, " for key in ("system", "system_prompt") if key in value), "")
    if pair := _pair(value):
        asked, said = pair
        more = system + next((f"input: .{key}, " for key in ("context", "input") if key in value and key not in pair), "")
        more += "history: .history, " if "history" in value else ""
        made = f"{{{more}instruction: .{asked}, output: .{said}}}"
        return f"`jq -c '{_EACH}{made}' FILE >NEW.jsonl` makes the format alpaca of it"
    for asked, said in _PAIRS:  # Messages under both, or under one.
        held = {key: value.get(key) for key in (asked, said)}
        if all(_said(one) or isinstance(one, str) for one in held.values()) and any(map(_said, held.values())):
            whole = zip(("user", "assistant"), held, strict=True)
            asks, says = (f".{key}[]" if _said(held[key]) else _message(who, key) for who, key in whole)
            return _as_messages(system, f"{asks}, {says}")
    for name, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            if pair := _pair(inner[0]):
                asked, said = map(_message, ("user", "assistant"), pair)
                return _as_messages(system, f'.["{name}"][] | {asked}, {said}')
            return f"if the conversations are the objects in the list under {name!r}: {objects_of(name)}"
    if any(isinstance(value.get(key), str) for key in ("text", "content")):
        return f"running text is for `minima build-data`; {VALID}"
    return VALID


def _said(value: Any) -> bool:
    """Whether these are messages of the format openai."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and {"role", "content"} <= value[0].keys()


def _message(who: str, key: str) -> str:
    """How jq makes a message of what stands under a key."""
    return f'{{role: "{who}", content: .{key}}}'


def _as_messages(system: str, made: str) -> str:
    return f"`jq -c '{_EACH}{{{system}messages: [{made}]}}' FILE >NEW.jsonl` makes the format openai of it"


def _pair(value: dict[str, Any]) -> tuple[str, str] | None:
    """The keys of a question and an answer that an object has."""
    return next(((a, b) for a, b in _PAIRS if isinstance(value.get(a), str) and isinstance(value.get(b), str)), None)


def _of_alpaca(value: dict[str, Any]) -> list[Turn]:
    """The turns of an instruction and those before it."""
    given = "" if _blank(value.get("input")) else value["input"]
    instruction = value["instruction"]
    if given and _blank(instruction):
        question = _text(given, "input")
    else:
        question = _text(instruction, "instruction") + (f"\n{_text(given, 'input')}" if given else "")
    *before, question = _dialogue(question)
    earlier = [{"User": asked, "Assistant": said} for asked, said in zip(before[::2], before[1::2], strict=True)]
    last = {"User": question, "Assistant": _text(value["output"], "output")}
    return [*_history(value.get("history") or []), *earlier, last]


def _dialogue(instruction: str) -> list[str]:
    """What Human and Assistant say in turns in an instruction, up to the last question; or the instruction, if it is none."""
    before, *pieces = _BELLE.split(instruction)
    names, said = pieces[::2], [text.strip() for text in pieces[1::2]]
    if before.strip() or names[:1] != ["Human"] or names[-1] != "Assistant" or said[-1]:
        return [instruction]
    if names != ["Human", "Assistant"] * (len(names) // 2):
        raise ValueError("instruction: Human: and Assistant: do not alternate in it; mend it, or take it out")
    return [_text(text, f"instruction, what is said at place {place}") for place, text in enumerate(said[:-1])]


def _turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"turn {number}: found {_kind(turn)}; {VALID}")
    for key in turn:
        if key not in KEYS:
            raise ValueError(f"turn {number}: unknown key {_short(key)}; {did_you_mean(key, KEYS)}")
    for key in KEYS:
        if key not in turn:
            raise ValueError(f"turn {number}: no key {key!r}, found {', '.join(turn) or 'none'}; {VALID}")
    return {key: _text(turn[key], f"turn {number}: {key}") for key in KEYS}


def _history(pairs: Any) -> list[Turn]:
    """The turns before an instruction."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == len(KEYS) for pair in pairs):
        raise ValueError(f"history is {_kind(pairs)}; valid: a list of pairs of a question and an answer")
    named = enumerate(pairs)
    return [{key: _text(said, f"history {n}") for key, said in zip(KEYS, pair, strict=True)} for n, pair in named]


class _Spoken(NamedTuple):
    number: int
    who: str
    text: str
    trained: bool


def _spoken(one: Any, number: int, speaker: str, content: str) -> _Spoken:
    """A message: who speaks, what, and whether the loss counts it."""
    if not isinstance(one, dict) or speaker not in one or content not in one:
        raise ValueError(f"message {number}: found {_kind(one)}; valid: an object with {speaker} and {content}")
    who = SPEAKERS.get(one[speaker].lower()) if isinstance(one[speaker], str) else None
    if who is None or one.get("tool_calls") or one.get("function_call"):
        known = ", ".join(SPEAKERS)
        raise ValueError(
            f"message {number}: by {_short(one[speaker])}, whom this program cannot write (tools?); valid: {known}"
        )
    said = one[content]
    if isinstance(said, list) and said and all(isinstance(p, dict) and p.get("type") == "text" for p in said):
        parts = [part.get("text") for part in said]
        said = "".join(parts) if all(isinstance(part, str) for part in parts) else said
    # The first message may say that there is no system sentence, as the key system may.
    said = "" if who == "system" and number == 0 and _blank(said) else _text(said, f"message {number}: {content}")
    weights = {key: one[key] for key in TRAINED if one.get(key) is not None}
    for key, weight in weights.items():
        if weight not in (0, 1):  # False and true are these, too.
            raise ValueError(f"message {number}: {key} is {_kind(weight)}; valid: 0 or 1, true or false")
    return _Spoken(number, who, said, all(weights.values()))


def _paired(spoken: list[_Spoken]) -> list[Turn]:
    if not spoken:
        raise ValueError("a system sentence alone; nothing is asked")
    for place, one in enumerate(spoken):
        expected = ("user", "assistant")[place % 2]
        if one.who != expected:
            raise ValueError(
                f"message {one.number} is by the {one.who}, where the {expected} is expected; valid: they alternate"
            )
    if len(spoken) % 2:
        raise ValueError("its last question has no answer; take it out")
    return [{"User": q.text, "Assistant": a.text} for q, a in zip(spoken[::2], spoken[1::2], strict=True)]


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = f"blank text {_short(value)}" if isinstance(value, str) else _kind(value)
        raise ValueError(f"{what} is {found}; valid: a text that is not blank (take the turn out)")
    if not value.isascii() and (halves := re.findall("[\ud800-\udfff]", value)):
        if all("\udc80" <= half <= "\udcff" for half in halves):  # As Python reads bytes that are no text.
            raise ValueError(f"{what} is not UTF-8, or has half a surrogate pair; {_short(value)}; {CONVERT}")
        raise ValueError(f"{what} has half a surrogate pair, which is no character; {_short(value)}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}
    names |= {type(None): "null", bytes: "binary"}
    return f"{names.get(type(value), type(value).__name__)} {_short(value)}"


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
