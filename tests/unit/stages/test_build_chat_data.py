"""Conversations to records."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from minima.data import chat, conversations, dialects, records, sample, tokenization
from minima.data.dialects import Conversation, Found
from minima.errors import DataError
from minima.options import BuildChatData
from minima.stages import build_chat_data, init_model
from minima.workspace import artifact

Examples = dict[str, list[tuple[list[int], list[int]]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    texts = sample.documents("english", 60_000)
    tokenization.write(init_model.train_sentencepiece(texts, 600, "vocab_size", byte_fallback=True), folder)
    (folder / "chat").mkdir()
    for language in sample.LANGUAGES:
        lines = [json.dumps(c) + "\n" for c in sample.conversations(language)[:120]]
        (folder / f"chat/{language}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def options(folder: Path) -> BuildChatData:
    return BuildChatData(
        output_dir="",
        input_dir=str(folder / "chat"),
        tokenizer_name_or_path=str(folder),
        max_seq_length=512,
        dev_proportion=0.1,
    )


def build(folder: Path, options: BuildChatData) -> dict[str, int]:
    folder.mkdir()
    return build_chat_data.run(options, artifact.Output(folder, options, {}))


def read(folder: Path) -> Examples:
    found: Examples = {}
    for split in ("train", "dev"):
        place = folder / f"{split}-00000-of-00001.tfrecord"
        rows = records.Records([place]) if place.exists() else None
        found[split] = [(rows[i]["indices"].tolist(), rows[i]["mask"].tolist()) for i in range(len(rows))] if rows else []
    return found


def test_records_are_the_template_s_ids_of_every_conversation(folder: Path, options: BuildChatData, tmp_path: Path) -> None:
    metrics = build(tmp_path / "a", dataclasses.replace(options, system="系统句。"))
    examples = read(tmp_path / "a")
    loaded = AutoTokenizer.from_pretrained(folder)
    template = (tmp_path / "a" / chat.TEMPLATE_FILE).read_text(encoding="utf-8")
    places = sorted((folder / "chat").iterdir())
    turns = [c.conversation.turns for place in places for c in conversations.read(place) if isinstance(c, Found)]
    expected = []
    for conversation in turns:
        coded: Any = loaded.apply_chat_template(
            chat.messages(conversation), chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        if len(coded["input_ids"]) <= 513:
            expected.append((coded["input_ids"][1:], coded["assistant_masks"][1:]))
    both = examples["train"] + examples["dev"]
    assert all(example in both for example in expected)
    assert len(expected) > 200
    assert metrics["conversations"] == len(turns) == len(both) + metrics["dropped_conversations"]
    assert (metrics["train_examples"], metrics["dev_examples"]) == (len(examples["train"]), len(examples["dev"]))
    assert metrics["tokens"] == sum(len(indices) for indices, _ in both)
    assert metrics["trained_tokens"] == sum(sum(mask) for _, mask in both)
    assert max(len(indices) for indices, _ in both) <= 512


def test_the_files_do_not_depend_on_the_number_of_processes(
    options: BuildChatData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_chat_data, "CHUNK", 7)
    build(tmp_path / "a", options)
    build(tmp_path / "b", dataclasses.replace(options, num_processors=2))
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab"]
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [
        "chat_template.jinja",
        "dev-00000-of-00001.tfrecord",
        "dev-00000-of-00001.tfrecord.index",
        "train-00000-of-00001.tfrecord",
        "train-00000-of-00001.tfrecord.index",
    ]


def test_the_split_is_by_conversation_seeded_and_without_leaks(options: BuildChatData, tmp_path: Path) -> None:
    conversations = [[{"User": f"question {i % 50}", "Assistant": "answer"}] for i in range(100)]
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat/a.json").write_text(json.dumps(conversations))
    options = dataclasses.replace(options, input_dir=str(tmp_path / "chat"), input_regex="*.json")
    sides: list[set[tuple[int, ...]]] = []
    for seed in (1, 1, 2):
        build(tmp_path / f"{len(sides)}", dataclasses.replace(options, seed=seed))
        examples = read(tmp_path / f"{len(sides)}")
        train, dev = ({tuple(indices) for indices, _ in examples[split]} for split in ("train", "dev"))
        assert not train & dev
        assert (len(examples["train"]), len(examples["dev"])) == (90, 10)
        sides.append(dev)
    assert sides[0] == sides[1] != sides[2]


@pytest.mark.parametrize(
    ("count", "proportion", "held_out"), [(1, 0.5, 0), (2, 0.001, 1), (2, 0.5, 1), (3, 0.5, 2), (40, 0.1, 4), (40, 0, 0)]
)
def test_at_least_one_conversation_is_held_out_and_one_stays(count: int, proportion: float, held_out: int) -> None:
    read = [Conversation([{"User": str(i), "Assistant": "answer"}]) for i in range(count)]
    assert len(build_chat_data.dev(read, proportion, 0)) == held_out


def test_conversations_that_begin_alike_are_on_one_side(options: BuildChatData, tmp_path: Path) -> None:
    """One may be the beginning of the other, or another answer to the same question."""
    (tmp_path / "chat").mkdir()
    turns = [[{"User": f"question {i}", "Assistant": answer}] for i in range(40) for answer in ("yes", "no")]
    turns += [[*turns[2 * i], {"User": f"and {i}", "Assistant": "well"}] for i in range(40)]
    (tmp_path / "chat/a.json").write_text(json.dumps(turns))
    options = dataclasses.replace(options, input_dir=str(tmp_path / "chat"), input_regex="*.json", dev_proportion=0.5)
    build(tmp_path / "out", options)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer_name_or_path)
    asked = {
        split: [re.findall(r"question \d+", str(tokenizer.decode(indices)))[0] for indices, _ in examples]
        for split, examples in read(tmp_path / "out").items()
    }
    assert not set(asked["train"]) & set(asked["dev"])
    assert (len(asked["train"]), len(asked["dev"])) == (60, 60)


@pytest.mark.parametrize("system", ["", "Be kind."])
def test_the_sentence_of_those_without_one_is_the_same_where_it_is_written_out(
    system: str, options: BuildChatData, tmp_path: Path
) -> None:
    (tmp_path / "chat").mkdir()
    turns = [[{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": "yes"}] for n in range(40)]
    written = [{"role": "system", "content": system or chat.SYSTEM}]
    talks = [{"messages": messages} for one in turns for messages in (one, [*written, *one])]
    (tmp_path / "chat/a.json").write_text(json.dumps(talks))
    options = dataclasses.replace(options, input_dir=str(tmp_path / "chat"), input_regex="*.json", system=system)
    build(tmp_path / "every", dataclasses.replace(options, dev_proportion=0.5))
    train, dev = ({tuple(indices) for indices, _ in side} for side in read(tmp_path / "every").values())
    assert (len(train), len(dev)) == (20, 20)
    assert not train & dev
    assert build(tmp_path / "few", dataclasses.replace(options, deduplicate=True))["duplicate_conversations"] == 40


def test_what_does_not_fit_is_counted(folder: Path, options: BuildChatData, tmp_path: Path) -> None:
    long = {"User": "short", "Assistant": "a long answer " * 100}
    conversations = [
        [{"User": "short", "Assistant": "short"}, long, long],
        [long, long],
        [{"User": "a long question " * 100, "Assistant": "short"}],
    ]
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat/a.jsonl").write_text("".join(json.dumps(c) + "\n" for c in conversations))
    options = dataclasses.replace(options, input_dir=str(tmp_path / "chat"), dev_proportion=0)
    metrics = build(tmp_path / "a", options)
    assert {key: metrics[key] for key in ("dropped_turns", "cut_answers", "dropped_conversations", "dev_examples")} == {
        "dropped_turns": 3,
        "cut_answers": 1,
        "dropped_conversations": 1,
        "dev_examples": 0,
    }
    _, cut = read(tmp_path / "a")["train"]
    assert len(cut[0]) == 512
    assert 2 not in np.asarray(cut[0])[np.asarray(cut[1]) == 1]
    assert not list((tmp_path / "a").glob("dev*"))


def test_bad_input_is_one_error(folder: Path, options: BuildChatData, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no file matches --input_regex '\*\.json'; the folder holds chinese\.jsonl, english\.jsonl"
    ):
        build(tmp_path / "a", dataclasses.replace(options, input_regex="*.json"))
    with pytest.raises(DataError, match=r"none of 2\d\d conversations .* fits into 8 tokens .*; [\d,]+ is the least") as error:
        build(tmp_path / "b", dataclasses.replace(options, max_seq_length=8))
    least, half, whole = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:is the|takes|all)", str(error.value))
    )
    assert 8 < least <= half <= whole
    one_less = dataclasses.replace(options, max_seq_length=least - 1)
    with pytest.raises(DataError, match="none of"):
        build(tmp_path / "one-less", one_less)
    assert build(tmp_path / "least", dataclasses.replace(options, max_seq_length=least))["train_examples"] >= 1
    every = build(tmp_path / "every", dataclasses.replace(options, max_seq_length=whole, dev_proportion=0))
    assert (every["dropped_turns"], every["cut_answers"], every["dropped_conversations"]) == (0, 0, 0)
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat/a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no conversation in a\.jsonl"):
        build(tmp_path / "c", dataclasses.replace(options, input_dir=str(tmp_path / "chat")))
    (tmp_path / "chat/a.jsonl").write_text('[{"User": "a", "Asistant": "b"}]\n')
    with pytest.raises(DataError, match=r"(?s)1 of 1 conv.* are bad:.*a\.jsonl:1: turn 0: unknown key 'Asistant'; did you"):
        build(tmp_path / "d", dataclasses.replace(options, input_dir=str(tmp_path / "chat")))
    with pytest.raises(DataError, match=r"no tokenizer"):
        build(tmp_path / "e", dataclasses.replace(options, tokenizer_name_or_path=str(tmp_path)))
    assert not any(list((tmp_path / name).iterdir()) for name in "abcde")


def said(turn: dict[str, str], speaker: str, content: str, *names: str) -> list[dict[str, str]]:
    return [{speaker: name, content: turn[key]} for name, key in zip(names, dialects.KEYS, strict=True)]


def test_all_formats_give_the_same_records(folder: Path, options: BuildChatData, tmp_path: Path) -> None:
    talks = [[{"User": f"What is {n}?", "Assistant": f"{n} is a number."}] for n in range(12)]
    forms: dict[str, list[Any]] = {
        "tutorial": talks,
        "sharegpt": [
            {"conversations": [{"from": "human", "value": t["User"]}, {"from": "gpt", "value": t["Assistant"]}]}
            for (t,) in talks
        ],
        "openai": [
            {"messages": [{"role": "user", "content": t["User"]}, {"role": "assistant", "content": t["Assistant"]}]}
            for (t,) in talks
        ],
        "alpaca": [{"instruction": t["User"], "input": "", "output": t["Assistant"]} for (t,) in talks],
    }
    made = {}
    for form, values in forms.items():
        (tmp_path / form).mkdir()
        (tmp_path / form / "a.json").write_text(json.dumps(values))
        changed = dataclasses.replace(options, input_dir=str(tmp_path / form), input_regex="*.json", format=form)
        build(tmp_path / f"out-{form}", changed)
        made[form] = read(tmp_path / f"out-{form}")
    assert all(one == made["tutorial"] for one in made.values())


def test_bad_conversations_are_counted_and_left_out_where_that_is_allowed(
    options: BuildChatData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talks").mkdir()
    good = json.dumps(
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "markdown": 1}], "id": 2}
    )
    bad = json.dumps([{"User": "a", "Assistant": None}])
    (tmp_path / "talks" / "a.jsonl").write_text("\n".join([good] * 20 + [bad] * 12))
    changed = dataclasses.replace(options, input_dir=str(tmp_path / "talks"), dev_proportion=0.0)
    with pytest.raises(
        DataError, match=r"(?s)12 of 32 conversations are bad:(.*a\.jsonl:\d+: turn 0: Assistant is null){10}.*and 2 more"
    ) as error:
        build(tmp_path / "a", changed)
    assert "jsonl:31:" not in str(error.value)
    metrics = build(tmp_path / "b", dataclasses.replace(changed, max_bad_fraction=0.4))
    assert (metrics["conversations"], metrics["bad_conversations"], metrics["train_examples"]) == (20, 12, 20)
    err = capsys.readouterr().err
    assert "build-chat-data: read 20 conversations in the format sharegpt" in err
    assert "left out 12 bad ones of 32" in err
    assert metrics["left_out_keys"] == 40
    assert "keys that were left out: id (20), markdown (20)" in err or "markdown (20), id (20)" in err


def test_turns_that_may_be_conversations_are_said(
    options: BuildChatData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat/a.json").write_text(json.dumps([{"User": "a", "Assistant": "b"}] * 40))
    build(tmp_path / "out", dataclasses.replace(options, input_dir=str(tmp_path / "chat"), input_regex="*.json"))
    assert "build-chat-data: one conversation each: a.json (40 turns); if each turn is a conv" in capsys.readouterr().err


def test_of_equal_conversations_the_first_is_kept_if_that_is_wanted(
    folder: Path, options: BuildChatData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "chat"
    source.mkdir()
    one, other = [{"User": "a b", "Assistant": "c"}], [{"User": "a b", "Assistant": "d"}]
    openai = {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]}
    told = {"messages": [{"role": "system", "content": "s"}, *openai["messages"]]}
    written = [one, other, one, openai, told, other]
    (source / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in written))
    some = dataclasses.replace(options, input_dir=str(source), dev_proportion=0.0)
    every = build(tmp_path / "every", some)
    assert (every["conversations"], every["duplicate_conversations"]) == (6, 0)
    few = build(tmp_path / "few", dataclasses.replace(some, deduplicate=True))
    assert (few["conversations"], few["duplicate_conversations"], few["train_examples"]) == (3, 3, 3)
    assert "build-chat-data: dropped 3 of 6 conversations, which an earlier one equals" in capsys.readouterr().err
    assert read(tmp_path / "few")["train"] == [read(tmp_path / "every")["train"][n] for n in (0, 1, 4)]
