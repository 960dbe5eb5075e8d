"""Chat encoding against `apply_chat_template`, and the reader against anything that is not a conversation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from minima.data import chat, sample, tokenization
from minima.errors import DataError
from minima.stages import init_model

LONG = 1 << 20
TURNS = [
    {"User": "你好", "Assistant": "Hello there."},
    {"User": "How old was Noah?", "Assistant": "Six hundred years old."},
    {"User": " and\nthen ", "Assistant": ". 然后呢？\n"},
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    texts = sample.documents("english", 60_000)
    tokenization.write(init_model.train_sentencepiece(texts, 600, "vocab_size", byte_fallback=True), folder)
    return tokenization.load(folder)


def encoded(
    loaded: PreTrainedTokenizerBase, turns: list[chat.Turn], length: int = LONG, published: bool = False
) -> chat.Example:
    example = chat.encode(loaded, turns, "", length, published)
    assert example is not None
    return example


def texts() -> st.SearchStrategy[str]:
    pieces = st.sampled_from(
        ["</s>", "<s>", "<unk>", "</s", "s>", "<", "[|User|]", "|]", "]", " ", "\n", "答", "the", "。", "'"]
    )
    character = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
    return st.lists(pieces | character, min_size=1, max_size=6).map("".join).filter(str.strip)


turns = st.lists(st.fixed_dictionaries({"User": texts(), "Assistant": texts()}), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=turns, system=st.just("") | texts())
def test_indices_and_mask_are_what_the_installed_template_gives_at_inference(
    loaded: PreTrainedTokenizerBase, conversation: list[chat.Turn], system: str
) -> None:
    chat.install(loaded, system)
    example = chat.encode(loaded, conversation, system, LONG)
    assert example is not None
    there: Any = loaded.apply_chat_template(chat.messages(conversation), return_dict=True, return_assistant_tokens_mask=True)
    assert there["input_ids"] == [1, *example.indices]
    assert there["assistant_masks"] == [0, *example.mask]

    said, start = [], 0
    for number in range(len(conversation)):  # What a server is asked before each answer, then the answer and its </s>.
        asked = chat.messages(conversation[: number + 1])[:-1]
        prompt: Any = loaded.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        assert [1, *example.indices[: len(prompt) - 1]] == prompt
        end = example.indices.tolist().index(2, len(prompt) - 1) + 1
        assert not example.mask[start : len(prompt) - 1].any()
        assert example.mask[len(prompt) - 1 : end].all()
        said.append(loaded.decode(example.indices[len(prompt) - 1 : end - 1]))
        start = end
    assert start == len(example.indices)
    if not any(token in turn["Assistant"] for turn in conversation for token in ("</s>", "<s>", "<unk>", "▁")):
        assert said == [turn["Assistant"] for turn in conversation]


def test_the_published_segments_give_the_same_ids_on_real_conversations(loaded: PreTrainedTokenizerBase) -> None:
    for conversation in sample.conversations("english")[:200] + sample.conversations("chinese")[:50]:
        ours, theirs = encoded(loaded, conversation), encoded(loaded, conversation, published=True)
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert ours.mask.tolist() == theirs.mask.tolist()


def test_published_segments_are_tokenised_alone(loaded: PreTrainedTokenizerBase) -> None:
    ids = encoded(loaded, TURNS[:1], published=True).indices.tolist()
    segments = [chat.SYSTEM, chat.USER, "你好", chat.ASSISTANT, "Hello there."]
    system, user, question, assistant, answer = tokenization.encode(loaded, segments)
    assert ids == [*system, 2, *user, *question, 2, *assistant, *answer, 2]


@pytest.mark.parametrize("published", [False, True])
def test_over_long_conversations_lose_whole_trailing_turns(loaded: PreTrainedTokenizerBase, published: bool) -> None:
    ends = [len(encoded(loaded, TURNS[:n], published=published).indices) for n in (1, 2, 3)]
    whole = encoded(loaded, TURNS, published=published).indices.tolist()
    for length in range(ends[0], ends[2] + 3):
        example = encoded(loaded, TURNS, length, published)
        kept = sum(end <= length for end in ends)
        assert example.indices.tolist() == whole[: ends[kept - 1]]
        assert (example.dropped_turns, example.cut) == (3 - kept, False)
        assert example.indices[-1] == 2
        assert example.mask[-1] == 1


@pytest.mark.parametrize("published", [False, True])
def test_no_end_of_sequence_is_trained_after_a_cut_answer(loaded: PreTrainedTokenizerBase, published: bool) -> None:
    whole = encoded(loaded, TURNS[:1], published=published)
    question = int(whole.mask.argmax())
    for length in range(8, question + 1):
        assert chat.encode(loaded, TURNS, "", length, published) is None
    for length in range(question + 1, len(whole.indices)):
        example = encoded(loaded, TURNS, length, published)
        assert example.indices.tolist() == whole.indices.tolist()[:length]
        assert (example.dropped_turns, example.cut) == (2, True)
        assert 2 not in example.indices[example.mask == 1]
        assert example.mask.sum() == length - question


@pytest.mark.parametrize("published", [False, True])
def test_an_answer_that_is_not_trained_is_read_only(loaded: PreTrainedTokenizerBase, published: bool) -> None:
    whole, parts = encoded(loaded, TURNS, published=published), []
    for turn in range(len(TURNS)):
        others = [number for number in range(len(TURNS)) if number != turn]
        example = chat.encode(loaded, TURNS, "", LONG, published, others)
        assert example is not None
        assert (example.indices == whole.indices).all()
        parts.append(example.mask)
    assert (np.sum(parts, axis=0) == whole.mask).all()
    assert all(part.any() for part in parts)
    first = encoded(loaded, TURNS[:1], published=published)
    assert chat.encode(loaded, TURNS, "", len(first.indices), published, [0]) is None


def test_a_system_message_replaces_the_sentence_and_odd_roles_are_refused(loaded: PreTrainedTokenizerBase) -> None:
    chat.install(loaded)
    own = [{"role": "system", "content": 'say "no"\\n'}, *chat.messages(TURNS)]
    example = chat.encode(loaded, TURNS, 'say "no"\\n', LONG)
    assert example is not None
    assert loaded.apply_chat_template(own, return_dict=False) == [1, *example.indices]
    with pytest.raises(Exception, match="found tool"):
        loaded.apply_chat_template([{"role": "tool", "content": "3"}], tokenize=False)


def test_the_template_file_gives_the_format_with_nothing_of_ours(loaded: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / chat.TEMPLATE_FILE).write_text(chat.template("系统句。"), encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    rendered = theirs.apply_chat_template(chat.messages(TURNS[:1]), tokenize=False, add_generation_prompt=True)
    assert rendered == "<s>系统句。</s>[|User|] 你好</s>[|Assistant|] Hello there.</s>[|Assistant|]"


def test_a_tokenizer_that_merges_across_the_mark_is_refused(loaded: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["model"]["vocab"]["]▁"] = len(raw["model"]["vocab"])
    raw["model"]["vocab"] |= {c: len(raw["model"]["vocab"]) + n for n, c in enumerate("]|") if c not in raw["model"]["vocab"]}
    raw["model"]["merges"].insert(0, ["]", "▁"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"merges the end of \[\|Assistant\|\]"):
        chat.encode(tokenization.load(tmp_path), TURNS, "", LONG)


def test_control_tokens_that_somebody_types_stay_text(loaded: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    size = max(raw["model"]["vocab"].values()) + 1
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for number, (content, special) in enumerate((("<|eot_id|>", True), ("<|im_end|>", True), ("<pad>", False))):
        raw["added_tokens"].append({"id": size + number, "content": content, "special": special, **plain})
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    theirs = tokenization.load(tmp_path)
    said = [{"User": "What is <|eot_id|>, </s> and <pad>?", "Assistant": "<|im_end|> ends, <|eot_id|> too."}]
    for published in (False, True):
        example = chat.encode(theirs, said, "a <|im_end|> b", LONG, published)
        assert example is not None
        ids = example.indices.tolist()
        assert not {size, size + 1} & set(ids)
        if not published:
            assert size + 2 not in ids
        assert ids.count(theirs.eos_token_id) == 3
    chat.install(theirs)
    asked: Any = theirs.apply_chat_template(chat.messages(said), return_dict=True)
    assert not set(range(size, size + 3)) & set(asked["input_ids"])


WORDS = ("the", "中国", "Ctrl+C")
CONTROLS = ("<|im_end|>", "[PAD]", "<pad>", "<｜end▁of▁turn｜>")
"""As folders of the hub have them: not called special."""


@pytest.fixture(scope="module")
def with_words(loaded: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("words")
    theirs = AutoTokenizer.from_pretrained(loaded.name_or_path, local_files_only=True)
    theirs.add_tokens([*WORDS, *CONTROLS])
    theirs.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return tokenization.load(folder)


def test_added_words_stay_as_they_are_typed(with_words: PreTrainedTokenizerBase) -> None:
    assert sorted(chat.control(with_words)) == sorted(CONTROLS)
    said = [{"User": "the other 中国 and 人民中国 ?", "Assistant": "Press Ctrl+C in the end. 中国"}]
    chat.install(with_words, "the system")
    shown = str(with_words.apply_chat_template(chat.messages(said), tokenize=False))
    assert shown == (
        "<s>the system</s>[|User|] the other 中国 and 人民中国 ?</s>[|Assistant|] Press Ctrl+C in the end. 中国</s>"
    )
    theirs = AutoTokenizer.from_pretrained(with_words.name_or_path, local_files_only=True)
    added = {theirs.convert_tokens_to_ids(word) for word in WORDS}
    example = chat.encode(with_words, said, "the system", LONG)
    assert example is not None
    assert example.indices.tolist() == theirs(shown, add_special_tokens=False)["input_ids"][1:]
    assert added <= set(example.indices.tolist())
    text = "the other 中国 and 人民中国 ? Ctrl+C"
    assert tokenization.encode(with_words, [text])[0] == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("token", CONTROLS)
def test_control_tokens_that_are_not_called_special_stay_text(with_words: PreTrainedTokenizerBase, token: str) -> None:
    number = with_words.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    assert not with_words.added_tokens_decoder[number].special
    example = chat.encode(with_words, [{"User": f"What is {token}?", "Assistant": f"{token} ends."}], "", LONG)
    assert example is not None
    assert number not in example.indices
