"""AutoTokenizer on what `tokenizer.write` writes, against the sentencepiece package."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from minima.data import chat, piece_model, sample, tokenization
from minima.errors import DataError
from minima.stages import init_model
from minima.workspace.marker import FORMAT, MARKER
from tests.unit import families

ODD_LINES = [
    *("", " ", "  two before", "two  between", "behind  ", "\n", "a\n\nb", "tab\there", "▁x", "\x00\x1f", "<0x0A>"),
    *(
        "😀👨‍👩‍👧 12345 ½",
        "<s>foo</s><unk>",
        "aaaaaaa ------ ======",
        "哈哈哈哈哈",
        "naïve café",
        "\u200b\ufeff",
        "        if x:",
    ),
]


def train(language: str, size: int = 400, **changes: object) -> bytes:
    texts = sample.documents(language, 60_000)
    return init_model.train_sentencepiece(texts, size, "vocab_size", **{"byte_fallback": True, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> bytes:
    return train("english")


@pytest.fixture(scope="module")
def folder(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    tokenization.write(model, folder)
    return folder


def test_ids_are_those_of_sentencepiece_on_real_text(model: bytes, folder: Path, tmp_path: Path) -> None:
    judge = sentencepiece.SentencePieceProcessor(model_proto=model)
    lines = [*sample.documents("english", 300_000), *sample.documents("chinese", 60_000), *ODD_LINES]
    loaded = tokenization.load(folder)
    assert tokenization.encode(loaded, lines) == judge.encode(lines)
    assert len(loaded) == judge.vocab_size()

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    loaded.save_pretrained(tmp_path)
    assert tokenization.encode(tokenization.load(tmp_path), lines) == judge.encode(lines)


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_ids_are_those_of_sentencepiece_on_any_text(language: str, tmp_path: Path) -> None:
    model = train(language, 700)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenization.write(model, tmp_path)
    judge, loaded = sentencepiece.SentencePieceProcessor(model_proto=model), tokenization.load(tmp_path)
    words = st.sampled_from(["the", " the", "and", "LORD", "  ", "\n", "</s>", "<s>", "中国", "人民", "，", "▁", "aa", "😀"])
    texts = st.lists(words | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=12).map("".join)

    @settings(max_examples=300, deadline=None)
    @given(texts)
    def equal(text: str) -> None:
        assert tokenization.encode(loaded, [text]) == judge.encode([text])

    equal()


def test_a_call_puts_the_beginning_of_sequence_in_front_and_decoding_gives_the_text(folder: Path) -> None:
    loaded = tokenization.load(folder)
    assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    for text in ["In the beginning", " 空格 at first", "two  between\n"]:
        ids = loaded(text)["input_ids"]
        assert ids == [1, *tokenization.encode(loaded, [text])[0]]
        assert loaded.decode(ids, skip_special_tokens=True) == text
    assert loaded("</s>", add_special_tokens=False)["input_ids"] == [2]  # What the chat template is made of.
    assert 2 not in tokenization.encode(loaded, ["</s>"])[0]
    assert tokenization.encode(loaded, []) == []


def test_a_file_is_copied_and_stale_files_go(model: bytes, tmp_path: Path) -> None:
    (tmp_path / "my.model").write_bytes(model)
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 400}')
    tokenization.write(tmp_path / "my.model", tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == model
    assert not (tmp_path / "added_tokens.json").exists()


def test_load_says_what_is_wrong_with_a_folder(folder: Path, model: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: not a folder"):
        tokenization.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no tokenizer; a model folder has tokenizer\.json or tokenizer\.model.*copy"):
        tokenization.load(tmp_path)
    content = (folder / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content)
    assert tokenization.load(tmp_path).eos_token == "</s>"  # A tokenizer without a model beside it, nor a configuration.
    (tmp_path / "config.json").write_text('{"model_type": "llama", "eos_token_id": 5}')
    (tmp_path / "tokenizer.json").write_text(content.replace("</s>", "<end>"))
    with pytest.raises(
        DataError, match=r'has no eos_token; name it in tokenizer_config\.json, such as "eos_token": "<0x02>" \(eos'
    ):
        tokenization.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: holds a list"):
        tokenization.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    for broken in (content[: len(content) // 2], "{}", '{"model": 3}', "", "\ud800".encode("utf-16", "surrogatepass")):
        (tmp_path / "tokenizer.json").write_bytes(broken if isinstance(broken, bytes) else broken.encode())
        with pytest.raises(DataError, match=r"tokenizer\.json: not .*copy it again"):
            tokenization.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"tokenizer\.model: a Git LFS pointer, not the file; `git lfs pull`"):
        tokenization.load(tmp_path)
    empty = json.loads(content)
    empty["model"] |= {"vocab": {"<unk>": 0, "<s>": 1, "</s>": 2}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(empty))
    with pytest.raises(DataError, match=r"empty but for"):  # As LlamaTokenizer(vocab_file=…) is.
        tokenization.load(tmp_path)


def test_write_refuses_what_it_cannot_reproduce(tmp_path: Path, model: bytes) -> None:
    with pytest.raises(DataError, match=r"not a SentencePiece model"):
        tokenization.write(model[:100], tmp_path)
    with pytest.raises(DataError, match=r"cannot be read"):
        tokenization.write(tmp_path / "nowhere.model", tmp_path)
    with pytest.raises(DataError, match=r"no byte pieces"):
        tokenization.write(train("english", byte_fallback=False), tmp_path)
    proto = piece_model.parse_model(model, "")
    proto.normalizer_spec.remove_extra_whitespaces = True
    proto.pieces[300].type = piece_model.USER_DEFINED
    with pytest.raises(DataError, match=r"remove_extra_whitespaces, user-defined pieces; valid: BPE"):
        tokenization.write(proto.SerializeToString(), tmp_path)
    assert not list(tmp_path.iterdir())


def write_model(folder: Path, content: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    tokenization.write(content, folder)
    return folder


def changed(folder: Path, name: str, **changes: object) -> Path:
    """A copy of a tokenizer whose `tokenizer.json` has other parts."""
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    place = copy / "tokenizer.json"
    content = json.loads(place.read_text())
    content["model"] |= {key: value for key, value in changes.items() if key in content["model"]}
    content |= {key: value for key, value in changes.items() if key not in content["model"]}
    place.write_text(json.dumps(content, indent=7))
    return copy


def test_a_fingerprint_is_of_what_ids_mean(model: bytes, tmp_path: Path) -> None:
    ours = tokenization.fingerprint(tokenization.load(write_model(tmp_path / "ours", model)))
    content = json.loads((tmp_path / "ours" / "tokenizer.json").read_text())
    added = [*content["added_tokens"], {**content["added_tokens"][-1], "id": 400, "content": "<pad>"}]
    word = {**added[-1], "content": "heaven", "special": False, "normalized": True}
    same: dict[str, dict[str, Any]] = {
        "written otherwise": {},
        "a token beside the pieces": {"added_tokens": added},
        "one that is not called special": {"added_tokens": [*added[:-1], {**added[-1], "special": False}]},
        "appends </s>": {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
            }
        },
    }
    for name, changes in same.items():
        assert tokenization.fingerprint(tokenization.load(changed(tmp_path / "ours", name, **changes))) == ours, name
    vocabulary = content["model"]["vocab"]
    swapped = {**vocabulary, "▁the": vocabulary["▁a"], "▁a": vocabulary["▁the"]}
    others = {
        "two ids the other way round": {"vocab": swapped},
        "another order of merges": {"merges": content["model"]["merges"][::-1]},
        "lower case": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, content["normalizer"]]}},
        "compatibility forms": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, content["normalizer"]]}},
        "no space in front": {"normalizer": content["normalizer"]["normalizers"][1]},
        "an added word": {"added_tokens": [*added[:-1], word]},
        "another added word": {"added_tokens": [*added[:-1], {**word, "content": "中国"}]},
        "an added word, not within others": {"added_tokens": [*added[:-1], {**word, "single_word": True}]},
    }
    found = {
        name: tokenization.fingerprint(tokenization.load(changed(tmp_path / "ours", name, **c))) for name, c in others.items()
    }
    assert ours not in found.values()
    assert len(set(found.values())) == len(found)


def test_records_of_another_tokenizer_with_as_many_pieces(
    model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backwards = [text[::-1] for text in sample.documents("english", 60_000)]
    other = init_model.train_sentencepiece(backwards, 400, "vocab_size", byte_fallback=True)
    one, two = (tokenization.load(write_model(tmp_path / name, m)) for name, m in (("one", model), ("two", other)))
    assert len(one) == len(two)
    (tmp_path / "data").mkdir()
    marker = {"format": FORMAT, "verb": "build-data", "key": "0", "identity": {}, "inputs": {}, "files": {}}
    place = tmp_path / "data" / MARKER
    place.write_text(json.dumps({**marker, "metrics": {"tokenizer": tokenization.fingerprint(one)}}))
    paths = [tmp_path / "data" / "train-0.tfrecord"]
    tokenization.check_records(paths, "record_path_or_regex", one)
    tokenization.check_same(one, one, "x")
    with pytest.raises(
        DataError, match=r"--record_path_or_regex: .*data were made with another tokenizer .* than that of .*two"
    ):
        tokenization.check_records(paths, "record_path_or_regex", two)
    with pytest.raises(DataError, match=r"--x: the ids of its tokenizer .*one\) mean other text than those of .*two"):
        tokenization.check_same(one, two, "x")
    assert not capsys.readouterr().err
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost/tokenizer.model").symlink_to("../../blobs/0")
    with pytest.raises(DataError, match=r"lost: tokenizer\.model: links that lead to no file"):
        tokenization.load(tmp_path / "lost")
    place.unlink()
    tokenization.check_records(paths * 2, "record_path_or_regex", two)  # Of records without a marker nobody knows.
    said = f"--record_path_or_regex: {tmp_path}/data: no marker: which tokenizer made these records is not known\n"
    assert capsys.readouterr().err == said


HUB = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False}
"""What the configurations of hub folders have in common."""


def hub_folder(folder: Path, model: bytes, **described: Any) -> Path:
    """A model folder as people upload it, with `tokenizer.model` and a configuration."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / tokenization.MODEL_FILE).write_bytes(model)
    (folder / tokenization.CONFIG_FILE).write_text(json.dumps({**HUB, **described}))
    return folder


@pytest.mark.parametrize(
    "described",
    [
        {"tokenizer_class": "LlamaTokenizer", "legacy": True},
        {"tokenizer_class": "LlamaTokenizer", "legacy": False, "use_fast": False},
        {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True, "add_prefix_space": True},
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": None},
    ],
)
def test_folders_of_the_hub_give_the_ids_of_sentencepiece(
    described: dict[str, Any], model: bytes, folder: Path, tmp_path: Path
) -> None:
    """transformers' own class drops a space at the beginning of a text, with any of these settings."""
    judge = sentencepiece.SentencePieceProcessor(model_proto=model)
    hub = hub_folder(tmp_path / "hub", model, **described)
    (hub / "added_tokens.json").write_text(json.dumps({"<pad>": judge.vocab_size()}))
    (hub / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    loaded = tokenization.load(hub)
    lines = [*sample.documents("english", 20_000), *ODD_LINES, " leading", "<pad> is text"]
    assert tokenization.encode(loaded, lines) == judge.encode(lines)
    assert tokenization.encode(loaded, [" leading"])[0][0] == judge.piece_to_id("▁")
    assert tokenization.fingerprint(loaded) == tokenization.fingerprint(tokenization.load(folder))
    loaded.save_pretrained(tmp_path / "again")
    shutil.copy(hub / "config.json", tmp_path / "again")
    shutil.copy(hub / tokenization.MODEL_FILE, tmp_path / "again")
    assert tokenization.encode(tokenization.load(tmp_path / "again"), lines) == judge.encode(lines)


def test_added_words_of_a_folder_of_the_hub_get_the_ids_that_transformers_gives(model: bytes, tmp_path: Path) -> None:
    hub = hub_folder(tmp_path / "hub", model, tokenizer_class="LlamaTokenizer")
    theirs = AutoTokenizer.from_pretrained(hub, local_files_only=True)
    theirs.add_tokens(["中国"])
    theirs.save_pretrained(tmp_path / "added")
    for name in ("config.json", tokenization.MODEL_FILE):
        shutil.copy(hub / name, tmp_path / "added")
    loaded = tokenization.load(tmp_path / "added")
    found = tokenization.encode(loaded, ["In 中国 and there"])[0]
    assert found == theirs("In 中国 and there", add_special_tokens=False)["input_ids"]
    assert theirs.convert_tokens_to_ids("中国") in found


def test_no_space_in_front_where_the_folder_says_so(model: bytes, tmp_path: Path) -> None:
    hub = hub_folder(tmp_path / "hub", model, tokenizer_class="LlamaTokenizer", legacy=False, add_prefix_space=False)
    loaded = tokenization.load(hub)
    lines = ["the of", "a", " leading", "x\n y"]
    by_transformers = loaded(lines, add_special_tokens=False)["input_ids"]
    assert tokenization.encode(loaded, lines) == by_transformers


def test_pieces_of_equal_score_as_in_chinese_llama(model: bytes, tmp_path: Path) -> None:
    """Its pieces were appended with the score 0: SentencePiece takes the leftmost first, whatever their order."""
    proto = piece_model.parse_model(model, "")
    there = {piece.piece for piece in proto.pieces}
    for text in ("人", "国", "中", "人民", "国人", "中国", "中国人民"):
        if text not in there:
            proto.pieces.add(piece=text, score=0.0, type=piece_model.NORMAL)
    grown = proto.SerializeToString()
    judge = sentencepiece.SentencePieceProcessor(model_proto=grown)
    loaded = tokenization.load(hub_folder(tmp_path / "hub", grown, tokenizer_class="LlamaTokenizer"))
    lines = ["中国人", "国人民", "the 中国人民 of", "人民中国"]
    assert tokenization.encode(loaded, lines) == judge.encode(lines)
    assert [judge.id_to_piece(i) for i in tokenization.encode(loaded, ["中国人"])[0]] == ["▁", "中国", "人"]


def test_a_folder_with_byte_pieces_in_tokenizer_json_alone(tmp_path: Path) -> None:
    """As Llama 3's: `tokenizer.model`, where there is one, is no SentencePiece model, or another one than the ids are of."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(sample.documents("english", 20_000), trainer)
    made.save(str(tmp_path / tokenization.TOKENIZER_FILE))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    (tmp_path / tokenization.CONFIG_FILE).write_text(json.dumps(described))
    lines = [" leading", "the of <|eot_id|> and", "汉字 is text\n"]
    for content in (None, b"IQ== 0\nIg== 1\n", train("english", 500)):
        if content:
            (tmp_path / tokenization.MODEL_FILE).write_bytes(content)
        tokenization._processor.cache_clear()
        loaded = tokenization.load(tmp_path)
        found = tokenization.encode(loaded, lines)
        assert [made.decode(ids, skip_special_tokens=False) for ids in found] == lines
        assert loaded.convert_tokens_to_ids("<|eot_id|>") not in found[1], "what people type stays text"
        assert found[0] == made.encode(lines[0], add_special_tokens=False).ids


LLAMA = {"tokenizer_class": "LlamaTokenizer", "legacy": False}
CODE = {"tokenizer_class": "YiTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_yi.YiTokenizer", None]}}
FIRST = {"tokenizer_class": "LLaMATokenizer", "bos_token": "", "eos_token": "", "unk_token": ""}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "both, as LLaMA-2 and TinyLlama": ("both", LLAMA),
    "both, no space in front": ("both", {**LLAMA, "add_prefix_space": False}),
    "tokenizer.model alone": ("model", LLAMA),
    "tokenizer.model with code": ("model", CODE),
    "tokenizer.model of the first LLaMAs": ("model", FIRST),
    "tokenizer.json with code": ("json", CODE),
    "tokenizer.json of another class": ("json", {"tokenizer_class": "LlamaTokenizerFast"}),
    "a class of nobody": ("json", {"tokenizer_class": 3}),
    "SmolLM2": ("smollm2", {}),
    "LLaMA-3 as DeepSeek-LLM": ("llama3", {"tokenizer_class": "LlamaTokenizerFast"}),
    "Qwen2": ("qwen2", {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_written_folder_serves_with_the_ids_of_training(layout: str, model: bytes, tmp_path: Path) -> None:
    """transformers builds other tokenizers of such folders than what they hold, or would run their code."""
    files, described = LAYOUTS[layout]
    source = tmp_path / "source"
    if files in ("smollm2", "llama3", "qwen2"):
        source.mkdir()
        families.byte_level(source, files)
        edit(source, **described)
    else:
        hub_folder(source, model, **described)
        if files != "model":
            tokenization.write(model, source)
            edit(source, **HUB, **described)
        if files == "json":
            (source / tokenization.MODEL_FILE).unlink()
    trained = tokenization.load(source)
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    tokenization.make_plain(copy)
    served = AutoTokenizer.from_pretrained(copy, local_files_only=True)
    assert (served.eos_token, served.bos_token or served.eos_token) == (trained.eos_token, trained.bos_token)
    lines = [*ODD_LINES[1:], " leading", "1234 the\n of"]
    bare = served(lines, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenization.encode(trained, lines) == bare
    assert trained(lines)["input_ids"] == served(lines)["input_ids"]
    said: Any = [{"role": "user", "content": " Who <b> is it?"}, {"role": "assistant", "content": "he  is 12 "}]
    for one in (trained, served):
        chat.install(one)
    asked: list[Any] = [one.apply_chat_template(said, return_dict=True) for one in (trained, served)]
    ours, theirs = (one["input_ids"] for one in asked)
    assert ours == theirs
    assert ours[0] == trained.bos_token_id
    again = tokenization.load(copy)
    assert tokenization.fingerprint(again) == tokenization.fingerprint(trained)


def edit(folder: Path, **changes: Any) -> None:
    place = folder / tokenization.CONFIG_FILE
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def test_ids_that_no_tokenizer_json_gives_keep_their_folder_as_it_is(model: bytes, tmp_path: Path) -> None:
    """Chinese-LLaMA's pieces of equal scores: merges have an order, SentencePiece takes the leftmost."""
    proto = piece_model.parse_model(model, "")
    for text in ("人", "国", "中", "民", "国人", "中国", "人民", "中国人民"):
        proto.pieces.add(piece=text, score=0.0, type=piece_model.NORMAL)
    hub = hub_folder(tmp_path / "hub", proto.SerializeToString(), **LLAMA)
    before = {place.name: place.read_bytes() for place in hub.iterdir()}
    tokenization.make_plain(hub)
    assert {place.name: place.read_bytes() for place in hub.iterdir()} == before


def test_control_tokens_are_text_whether_a_folder_calls_them_special_or_not(tmp_path: Path) -> None:
    """Qwen2.5 has `<tool_call>`, and Qwen2 not: records of one are records of the other."""
    found = {}
    for name, special in (("plain", None), ("ordinary", False), ("special", True)):
        folder = tmp_path / name
        folder.mkdir()
        families.byte_level(folder, "qwen2")
        place = folder / tokenization.TOKENIZER_FILE
        raw = json.loads(place.read_text())
        if special is not None:
            number = len(raw["model"]["vocab"]) + len(raw["added_tokens"])
            raw["added_tokens"].append({**raw["added_tokens"][-1], "id": number, "content": "<tool_call>", "special": special})
            place.write_text(json.dumps(raw))
        loaded = tokenization.load(folder)
        assert ("<tool_call>" in loaded.get_vocab()) is (special is not None)
        ids = tokenization.encode(loaded, ["a <tool_call> of <|im_end|>"])[0]
        found[name] = (ids, tokenization.fingerprint(loaded))
        assert loaded.decode(ids) == "a <tool_call> of <|im_end|>"
    assert found["plain"] == found["ordinary"] == found["special"]


def test_a_tokenizer_with_more_ids_than_the_model_has_rows(model: bytes, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", model)
    (folder / "config.json").write_text('{"vocab_size": 400}')
    (folder / "added_tokens.json").write_text('{"<pad>": 400}')
    tokenization.load(folder)  # No text has a control token.
    (folder / "config.json").write_text('{"vocab_size": 399}')
    with pytest.raises(DataError, match=r"has the id 399, and the model 399 rows .*`model\.resize_token_embeddings\(400\)`"):
        tokenization.load(folder)


def test_tokenizers_in_older_and_in_other_forms(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(DataError, match=r"no tokenizer; .*`AutoTokenizer\.from_pretrained\(FOLDER\)\.save_pretrained"):
        tokenization.load(tmp_path)
    (tmp_path / tokenization.MODEL_FILE).write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(DataError, match=r"not a SentencePiece model .*ranks for tiktoken, as of LLaMA-3: fetch tokenizer"):
        tokenization.load(tmp_path)


def test_marks_of_an_editor_in_a_folder_of_a_tokenizer_alone(model: bytes, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        folder = write_model(tmp_path / name.partition(".")[0], model)
        (folder / "config.json").unlink()
        place = folder / name
        place.write_bytes(b"\xef\xbb\xbf" + (place.read_bytes() if place.is_file() else b"{}"))
        with pytest.raises(DataError, match=rf"{name}: begins with a UTF-8 byte order mark .*`sed -i .* {place}`"):
            tokenization.load(folder)
