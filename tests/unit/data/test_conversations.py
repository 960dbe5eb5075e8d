"""Conversations as people have them."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minima.data import conversations, dialects
from minima.data.dialects import Conversation, Found
from minima.data.documents import Bad
from minima.errors import DataError

TURNS = [{"User": "你好", "Assistant": "Hello."}, {"User": "And </s>?", "Assistant": "It ends."}]
ONE = TURNS[:1]


def messages(speaker: str, content: str, names: tuple[str, str], turns: list[dict[str, str]] = TURNS) -> list[dict[str, str]]:
    return [
        {speaker: name, content: turn[key]} for turn in turns for name, key in zip(names, ("User", "Assistant"), strict=True)
    ]


SHAREGPT: dict[str, Any] = {"id": "1", "conversations": messages("from", "value", ("human", "gpt"))}
OPENAI: dict[str, Any] = {"messages": messages("role", "content", ("user", "assistant"))}
PARTS = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
SYSTEM = {"role": "system", "content": "Be kind."}
WAYS: dict[str, tuple[Any, str, Conversation, set[str]]] = {
    "tutorial": (TURNS, "tutorial", Conversation(TURNS), set()),
    "sharegpt": (SHAREGPT, "sharegpt", Conversation(TURNS), {"id"}),
    "sharegpt, other names": (
        {"conversations": messages("from", "value", ("user", "assistant")), "system": "Be kind."},
        "sharegpt",
        Conversation(TURNS, "Be kind."),
        set(),
    ),
    "sharegpt, no tools": ({**SHAREGPT, "tools": " [ ]"}, "sharegpt", Conversation(TURNS), {"id", "tools"}),
    "sharegpt, blank tools": ({**SHAREGPT, "tools": " "}, "sharegpt", Conversation(TURNS), {"id", "tools"}),
    "openai": (OPENAI, "openai", Conversation(TURNS), set()),
    "openai, system": ({"messages": [SYSTEM, *OPENAI["messages"]]}, "openai", Conversation(TURNS, "Be kind."), set()),
    "openai, the same system twice": (
        {"system": "Be kind.", "messages": [SYSTEM, *OPENAI["messages"]]},
        "openai",
        Conversation(TURNS, "Be kind."),
        set(),
    ),
    "openai, a system message that says nothing": (
        {"messages": [{"role": "system", "content": ""}, *OPENAI["messages"]]},
        "openai",
        Conversation(TURNS),
        set(),
    ),
    "openai, a null one beside a system": (
        {"system": "Be kind.", "messages": [{"role": "system", "content": None}, *OPENAI["messages"]]},
        "openai",
        Conversation(TURNS, "Be kind."),
        set(),
    ),
    "sharegpt, a system message that says nothing": (
        {"system": " ", "conversations": [{"from": "system", "value": "\n"}, *messages("from", "value", ("human", "gpt"))]},
        "sharegpt",
        Conversation(TURNS),
        set(),
    ),
    "openai, system beside": ({**OPENAI, "system": "Be kind."}, "openai", Conversation(TURNS, "Be kind."), set()),
    "openai, a list": ([SYSTEM, *OPENAI["messages"]], "openai", Conversation(TURNS, "Be kind."), set()),
    "openai, parts": (
        {
            "messages": [
                {"role": "user", "content": PARTS},
                {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
            ]
        },
        "openai",
        Conversation(ONE),
        set(),
    ),
    "alpaca": ({"instruction": "你好", "input": "", "output": "Hello."}, "alpaca", Conversation(ONE), set()),
    "openai, as other tools write it": (
        {"messages": [{**SYSTEM, "role": "developer"}, *messages("role", "content", ("User", "ASSISTANT"))]},
        "openai",
        Conversation(TURNS, "Be kind."),
        set(),
    ),
    "alpaca, history": (
        {"instruction": "And </s>?", "output": "It ends.", "history": [["你好", "Hello."]]},
        "alpaca",
        Conversation(TURNS),
        set(),
    ),
    "openai, under another key": (
        {"conversations": OPENAI["messages"], "messages": None},
        "openai",
        Conversation(TURNS),
        set(),
    ),
    "openai, what has no meaning where it stands": (
        {**OPENAI, "conversation": [{"role": "user", "content": "other"}], "weight": 0.5},
        "openai",
        Conversation(TURNS),
        {"conversation", "weight"},
    ),
    "openai, JSON in a column": ({"messages": json.dumps(OPENAI["messages"])}, "openai", Conversation(TURNS), set()),
    "openai, as WildChat": ({"conversation": OPENAI["messages"], "model": "x"}, "openai", Conversation(TURNS), {"model"}),
    "openai, an answer that is not trained": (
        {"messages": [{**one, "weight": int(place != 1)} for place, one in enumerate(OPENAI["messages"])]},
        "openai",
        Conversation(TURNS, untrained=(0,)),
        set(),
    ),
    "sharegpt, an answer that is not trained": (
        {"conversations": [*SHAREGPT["conversations"][:3], {**SHAREGPT["conversations"][3], "train": False}]},
        "sharegpt",
        Conversation(TURNS, untrained=(1,)),
        set(),
    ),
    "belle, several turns": (
        {"instruction": "Human:你好\nAssistant: Hello. \nHuman：And </s>?\n\nAssistant:", "input": "", "output": "It ends."},
        "alpaca",
        Conversation(TURNS),
        set(),
    ),
    "alpaca, a dialogue that is text": (
        {"instruction": "Human: a\nAssistant: b\nGo on!", "output": "c"},
        "alpaca",
        Conversation([{"User": "Human: a\nAssistant: b\nGo on!", "Assistant": "c"}]),
        set(),
    ),
    "alpaca, all in the input": (
        {"instruction": "", "input": "你好", "output": "Hello."},
        "alpaca",
        Conversation(ONE),
        set(),
    ),
    "alpaca, no history": ({"instruction": "你好", "output": "Hello.", "history": None}, "alpaca", Conversation(ONE), set()),
    "alpaca, blank": ({"instruction": "你好", "input": " \n", "output": "Hello."}, "alpaca", Conversation(ONE), set()),
    "belle": (
        {"instruction": "a", "input": "b", "output": "c", "topic": 1},
        "alpaca",
        Conversation([{"User": "a\nb", "Assistant": "c"}]),
        {"topic"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_format_is_told_by_its_content(tmp_path: Path, way: str) -> None:
    value, form, expected, ignored = WAYS[way]
    found = Found(expected, form, frozenset(ignored))
    lines = "\ufeff" + "\n\n".join(json.dumps(value, ensure_ascii=False) for _ in range(2))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps([value, value], indent=1))
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d").write_text(json.dumps([value, value]))
    names = ["a.jsonl", "b.json", "c.json.gz", "d"]
    if isinstance(value, dict):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([value, value]), tmp_path / "e.parquet")
        table = pyarrow.Table.from_pylist([value, value])
        with pyarrow.ipc.new_stream(str(tmp_path / "f.arrow"), table.schema) as out:
            out.write_table(table)
        names += ["e.parquet", "f.arrow"]
    for name in names:
        assert list(conversations.read(tmp_path / name)) == [found, found], name
    other = next(f for f in dialects.FORMATS if f != form)
    assert all(isinstance(one, Bad) for one in conversations.read(tmp_path / "a.jsonl", other))
    assert list(conversations.read(tmp_path / "a.jsonl", form)) == [found, found]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('[{"user": "a", "Assistant": "b"}]', "turn 0: unknown key 'user'; did you mean 'User'?"),
        ('[{"User": "a", "Assistent": "b"}]', "unknown key 'Assistent'; did you mean 'Assistant'?"),
        ('[{"User": "a"}]', "turn 0: no key 'Assistant', found User; valid: turns"),
        ('[{"User": "a", "Assistant": "b"}, {"User": 3, "Assistant": "b"}]', "turn 1: User is a number 3"),
        ('[{"User": "a", "Assistant": " "}]', "Assistant is blank text ' '"),
        ('[{"User": "a", "Assistant": "\\ud800"}]', "Assistant has half a surrogate pair"),
        ('{"User": "a", "Assistant": "b"}', "found an object"),
        ("[]", "found an empty list"),
        ('[["a"]]', "turn 0: found a list"),
        ("[{", "not JSON"),
        ("[" * 100_000, "JSON nested too deeply"),
        ("[null, " + "9" * 5000 + "]", "not JSON"),
        ('{"conversations": []}', "conversations is an empty list; valid: turns"),
        ('{"conversations": [{"from": "gpt", "value": "a"}]}', "message 0 is by the assistant, where the user is expected"),
        ('{"conversations": [{"from": "human", "value": "a"}]}', "its last question has no answer"),
        (
            '{"conversations": [{"from": "observation", "value": "a"}]}',
            "message 0: by 'observation', whom this program cannot write",
        ),
        ('{"tools": "[x]", "conversations": [{"from": "human", "value": "a"}]}', "a conversation with tools"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}', "message 1: by 'tool'"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "message 0: content is a list"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": null}]}]}',
            "message 0: content is a list",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}]}',
            "message 0: content is a list",
        ),
        ('{"messages": [{"role": "system", "content": "a"}]}', "a system sentence alone"),
        ('{"messages": [{"role": "system", "content": ""}]}', "a system sentence alone"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": ""}]}', "message 1: content is blank"),
        ('{"system": "\\ud800", "instruction": "a", "output": "b"}', "system has half a surrogate pair"),
        (
            '{"system": "a", "conversations": [{"from": "system", "value": "b"}, {"from": "human", "value": "c"}]}',
            "two system sentences, 'a' under the key system and 'b' as the first message; valid: one",
        ),
        ('{"instruction": "", "input": "", "output": "x"}', "instruction is blank text ''"),
        (
            '{"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "message 1 is by the assistant",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}',
            "none of its answers is to be trained",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]}',
            "message 1: weight is a number 0.5; valid: 0 or 1",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "function_call": {"a": 1}}]}',
            "message 1: by 'assistant', whom this program cannot write (tools?)",
        ),
        ('{"functions": [{"name": "x"}], "messages": []}', "a conversation with tools (the key 'functions')"),
        (
            '{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>"}]}',
            "a conversation with more than text (the key 'image')",
        ),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "preferences (keys chosen and rejected)"),
        (
            '{"instruction": "Human: a\\nHuman: b\\nAssistant:", "output": "c"}',
            "instruction: Human: and Assistant: do not alternate in it",
        ),
        ('{"text": "a"}', "running text is for `minima build-data`"),
    ],
)
def test_a_malformed_conversation_is_named_and_the_others_are_read(tmp_path: Path, line: str, message: str) -> None:
    place = tmp_path / "a.jsonl"
    place.write_text(f"{json.dumps(TURNS)}\n{line}\n{json.dumps(OPENAI)}\n")
    first, bad, last = conversations.read(place)
    assert isinstance(first, Found)
    assert isinstance(last, Found)
    assert isinstance(bad, Bad)
    assert bad.where == f"{place}:2"
    assert message in bad.what


@pytest.mark.parametrize("system", [{}, {"system": "Be kind."}, {"system_prompt": "Be kind."}, {"system_prompt": None}])
@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "你好", "completion": "Hello."},
        {"question": "你好", "answer": "Hello.", "id": 3},
        {"instruction": "你好", "context": "", "response": "Hello.", "category": "x"},
        {"conversation_id": 1, "conversation": [{"human": "你好", "assistant": "Hello."}]},
        {"prompt": OPENAI["messages"][:1], "completion": OPENAI["messages"][1:2]},
        {"input": OPENAI["messages"][:1], "output": "Hello.", "generator": "x"},
        {"prompt": "你好", "completion": OPENAI["messages"][1:2]},
        {"all-turns": [{"input": "你好", "output": "Hello."}]},
    ],
)
def test_the_command_that_is_advised_makes_a_conversation_of_it(tmp_path: Path, value: Any, system: Any) -> None:
    expected = Conversation(ONE, "".join(said for said in system.values() if said))
    follow_the_advice(tmp_path, {**system, **value}, expected)


def test_the_command_that_is_advised_takes_all_along(tmp_path: Path) -> None:
    before = [["你好", "Hello."]]
    follow_the_advice(tmp_path, {"query": "And </s>?", "response": "It ends.", "history": before}, Conversation(TURNS))
    follow_the_advice(
        tmp_path, {"data": [{"messages": messages("role", "content", ("user", "assistant"), ONE)}]}, Conversation(ONE)
    )


def follow_the_advice(tmp_path: Path, value: Any, expected: Conversation) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    (bad,) = conversations.read(tmp_path / "a.json")
    assert isinstance(bad, Bad)
    if "data" not in value:
        (tmp_path / "a.json").write_text(json.dumps([value]))
        assert list(conversations.read(tmp_path / "a.json")) == [bad]
    command = re.findall("`(jq -c .*) FILE >NEW.jsonl`", bad.what)[0]
    if shutil.which("jq") is None:
        pytest.skip("no jq here to try the advised command")
    made = subprocess.run(f"{command} a.json", shell=True, cwd=tmp_path, capture_output=True, check=True).stdout
    (tmp_path / "b.jsonl").write_bytes(made)
    (found,) = conversations.read(tmp_path / "b.jsonl")
    assert isinstance(found, Found)
    assert found.conversation == expected


@pytest.mark.parametrize("value", [TURNS, SHAREGPT["conversations"], OPENAI["messages"]])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_that_is_one_conversation(tmp_path: Path, value: Any, name: str, indent: int | None) -> None:
    (tmp_path / name).write_text(json.dumps(value, indent=indent))
    (found,) = conversations.read(tmp_path / name)
    assert isinstance(found, Found)
    assert found.conversation == Conversation(TURNS)


@pytest.mark.parametrize("value", [TURNS, SHAREGPT["conversations"], OPENAI["messages"]])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
def test_of_arrays_that_follow_each_other_each_is_a_conversation(tmp_path: Path, value: Any, name: str) -> None:
    """As `jq .` writes lines of them."""
    (tmp_path / name).write_text("\n".join(json.dumps(value, indent=2) for _ in range(3)))
    found = [one.conversation for one in conversations.read(tmp_path / name) if isinstance(one, Found)]
    assert found == [Conversation(TURNS)] * 3


@pytest.mark.parametrize("indent", [None, 1])
def test_of_many_turns_that_are_in_no_conversation_both_readings_are_told(tmp_path: Path, indent: int | None) -> None:
    pairs = [{"User": f"question {n}", "Assistant": "yes"} for n in range(conversations.MOST + 1)]
    (tmp_path / "a.json").write_text(json.dumps(pairs[1:], indent=indent))
    (one,) = conversations.read(tmp_path / "a.json")
    assert isinstance(one, Found)
    assert one.flat
    (tmp_path / "a.json").write_text(json.dumps(pairs, indent=indent))
    with pytest.raises(DataError, match=r"a\.json: 101 turns that are not in conversations") as error:
        list(conversations.read(tmp_path / "a.json"))
    if shutil.which("jq") is None:
        pytest.skip("no jq here to try the advised commands")
    expected = [[pair] for pair in pairs], [pairs]
    for command, talks in zip(re.findall("`(jq .*?)FILE >NEW.jsonl`", str(error.value)), expected, strict=True):
        subprocess.run(f"{command} a.json >b.jsonl", shell=True, cwd=tmp_path, check=True)
        found = [one for one in conversations.read(tmp_path / "b.jsonl") if isinstance(one, Found) and not one.flat]
        assert [one.conversation.turns for one in found] == talks


def test_an_array_under_any_name_and_a_bad_first_line(tmp_path: Path) -> None:
    for indent in (None, 1):
        (tmp_path / "a.jsonl").write_text(json.dumps([SHAREGPT, OPENAI], indent=indent))
        assert [one.form for one in conversations.read(tmp_path / "a.jsonl") if isinstance(one, Found)] == [
            "sharegpt",
            "openai",
        ]
    (tmp_path / "a.json").write_text(f'[{{"User": "cut\n{json.dumps(TURNS)}\n{json.dumps(TURNS)}\n')
    bad, *good = conversations.read(tmp_path / "a.json")
    assert isinstance(bad, Bad)
    assert [one.conversation.turns for one in good if isinstance(one, Found)] == [TURNS, TURNS]
    (tmp_path / "a").write_text("Once upon a time\n")
    with pytest.raises(DataError, match=r"a: running text, which is for `minima build-data`"):
        list(conversations.read(tmp_path / "a"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("value", [TURNS, {"messages": [SYSTEM | {"content": "请"}, *OPENAI["messages"]]}])
def test_of_another_encoding_the_command_is_told_in_any_file(tmp_path: Path, name: str, value: Any) -> None:
    both = [json.dumps(value, ensure_ascii=False)] * 2
    (tmp_path / name).write_text("\n".join(both) if name == "a.jsonl" else f"[{', '.join(both)}]", encoding="gb18030")
    found = list(conversations.read(tmp_path / name))
    assert len(found) == 2
    for bad in found:
        assert isinstance(bad, Bad)
        assert "not UTF-8" in bad.what
        assert "`iconv -f gb18030 -t utf-8 FILE >NEW`" in bad.what


def test_files_that_cannot_be_read_on(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([OPENAI, [{"User": "許", "Assistant": "b"}]], ensure_ascii=False), "big5", "ignore"
    )
    with pytest.raises(DataError, match=r"a\.json: the value that begins on line 1 is not JSON .*; convert the file: `iconv"):
        list(conversations.read(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('[\n[{"User": "a", "Assistant": "b"}],\n[{"User": "a"}')
    with pytest.raises(DataError, match=r"a\.json: the value that begins on line 3 is not JSON"):
        list(conversations.read(tmp_path / "a.json"))


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
keys = st.sampled_from(
    ["User", "Assistant", "conversations", "messages", "from", "value", "role", "content", "tools", "output"]
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
nearly = st.lists(st.dictionaries(keys, st.text(max_size=3) | anything, max_size=3), max_size=3)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=20) | (anything | nearly).map(lambda value: json.dumps(value).encode()))
def test_whatever_a_line_holds_it_is_a_conversation_or_bad(tmp_path: Path, content: bytes) -> None:
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(content)
        try:
            found = list(conversations.read(tmp_path / name))
        except DataError:
            continue
        for one in found:
            if isinstance(one, Found):
                assert one.conversation.turns
                assert all(set(turn) == {"User", "Assistant"} for turn in one.conversation.turns)


@pytest.mark.parametrize(
    "history", ["a", [["a"]], [["a", "b", "c"]], [{"User": "a", "Assistant": "b"}], [["a", None]], [["", "b"]]]
)
def test_a_history_that_is_none_is_bad(history: Any) -> None:
    """Turns are never dropped silently."""
    with pytest.raises(ValueError, match="history"):
        dialects.understood({"instruction": "a", "output": "b", "history": history})
