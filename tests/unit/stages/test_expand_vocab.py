"""Vocabulary expansion: what must not change, what must, on real text."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from minima.data import piece_model, sample, tokenization
from minima.errors import DataError, UsageError
from minima.models import pretrained
from minima.options import ExpandVocab
from minima.stages import expand_vocab, init_model
from minima.workspace import artifact
from tests.unit import tiny

VOCAB = 500
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def english() -> list[str]:
    return [line for text in sample.documents("english", 600_000) for line in text.split(". ")]


@pytest.fixture(scope="module")
def chinese() -> list[str]:
    return sample.documents("chinese", 60_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, english: list[str], chinese: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("source")
    model = init_model.train_sentencepiece(english[:1500], VOCAB, "vocab_size", byte_fallback=True)
    tiny.llama(vocab=VOCAB).save_pretrained(folder / "llama")
    tokenization.write(model, folder / "llama")
    for name, texts in (("chinese", chinese), ("mixed", [*chinese, *english[1500:4000]])):
        (folder / f"{name}.model").write_bytes(init_model.train_sentencepiece(texts, 900, "size", byte_fallback=False))
    return folder


@pytest.fixture
def options(source: Path) -> ExpandVocab:
    return ExpandVocab(output_dir="", llama_tokenizer_dir=str(source / "llama"), chinese_sp_path=str(source / "chinese.model"))


def expand(folder: Path, options: ExpandVocab) -> dict[str, float]:
    folder.mkdir()
    return expand_vocab.run(options, artifact.Output(folder, options, {}))


@pytest.mark.parametrize("chinese_model", ["chinese", "mixed"])
def test_english_is_unchanged_and_chinese_is_shorter(
    source: Path, options: ExpandVocab, english: list[str], chinese: list[str], chinese_model: str, tmp_path: Path
) -> None:
    options = dataclasses.replace(options, chinese_sp_path=str(source / f"{chinese_model}.model"))
    metrics = expand(tmp_path / "a", options)
    old, new = tokenization.load(source / "llama"), tokenization.load(tmp_path / "a")
    lines = [*english, "  two spaces  between", "def f(x):\n        return x", "</s> 12345"]
    assert len(lines) > 3000
    assert tokenization.encode(new, lines) == tokenization.encode(old, lines)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a/tokenizer.model"))
    odd = ["😀 ½ naïve", " 中文 and English，mixed。", "龘靐", "“Quotes” — …"]
    assert tokenization.encode(new, [*lines, *chinese, *odd]) == judge.encode([*lines, *chinese, *odd])
    before, after = ([len(ids) for ids in tokenization.encode(loaded, chinese)] for loaded in (old, new))
    assert all(b > a for b, a in zip(before, after, strict=True))
    assert sum(before) > 1.5 * sum(after)
    assert len(new) == metrics["vocab_size"] == VOCAB + metrics["added_pieces"]


def test_old_pieces_keep_ids_and_scores_and_new_scores_fall_below(source: Path, options: ExpandVocab, tmp_path: Path) -> None:
    expand(tmp_path / "a", options)
    old, new = (piece_model.read_model(p / "tokenizer.model") for p in (source / "llama", tmp_path / "a"))
    assert list(new.pieces)[:VOCAB] == list(old.pieces)
    scores = [p.score for p in new.pieces][VOCAB:]
    lowest = min(p.score for p in old.pieces)
    assert scores == [lowest - 1 - i for i in range(len(scores))]
    added = [p.piece for p in new.pieces][VOCAB:]
    assert not any(c.isascii() for piece in added for c in piece)
    assert len(new.pieces) % 64 == 0
    theirs = [p.piece for p in piece_model.read_model(source / "chinese.model").pieces if p.piece in added]
    spare = [piece for piece in theirs if not expand_vocab.is_chinese(piece)]
    assert added == [piece for piece in theirs if piece not in spare] + spare


def test_the_published_rule_takes_ascii_pieces_which_change_english(
    source: Path, options: ExpandVocab, english: list[str], tmp_path: Path
) -> None:
    options = dataclasses.replace(options, chinese_sp_path=str(source / "mixed.model"), published_rule=True)
    expand(tmp_path / "a", options)
    added = [p.piece for p in piece_model.read_model(tmp_path / "a/tokenizer.model").pieces][VOCAB:]
    assert len(added) % 64 == -VOCAB % 64
    spare = [p for p in added if not expand_vocab.is_chinese(p)]
    assert added[-len(spare) :] == spare
    assert any(c.isascii() for piece in spare for c in piece)
    old, new = tokenization.load(source / "llama"), tokenization.load(tmp_path / "a")
    assert tokenization.encode(new, english) != tokenization.encode(old, english)


OLD = [f"<{i}>" for i in range(61)]
CHINESE = ["<0>", "日", "é", "本", "日本", "ü1", "，", "1本", "a", "ab", "日", "ö", "▁▁", "１", "龘x", "à", "b"]


def test_select_walks_chinese_first_then_spare_ones_without_digits() -> None:
    assert expand_vocab.select(OLD[:57], CHINESE, published_rule=False) == ["日", "本", "日本", "，", "é", "ö", "à"]
    assert expand_vocab.select([*OLD[:57], "1"], CHINESE, published_rule=True) == ["日", "本", "日本", "，", "1本", "é"]


def test_select_adds_no_spare_piece_to_a_multiple_of_64() -> None:
    for published_rule in (False, True):
        chosen = expand_vocab.select(OLD[:60], [p for p in CHINESE if p != "1本"], published_rule=published_rule)
        assert chosen == ["日", "本", "日本", "，"]


def test_select_trims_where_too_few_are_spare_but_keeps_characters() -> None:
    assert expand_vocab.select(OLD, ["日本", "本日", "日本日", "日", "本"], published_rule=False) == ["日本", "日", "本"]
    with pytest.raises(UsageError, match=r"2 Chinese and 0 spare pieces do not bring 61 pieces to a multiple of 64"):
        expand_vocab.select(OLD, ["日", "本"], published_rule=False)
    with pytest.raises(UsageError, match=r"none of its 2 pieces can be added"):
        expand_vocab.select([*OLD, "日", "本", "日本"], ["日", "本"], published_rule=False)


@settings(deadline=None)
@given(
    st.lists(st.text("日本中国人，。éöπ１1ab▁ ", min_size=1, max_size=3), max_size=60),
    st.integers(0, 61),
    st.booleans(),
)
def test_select_keeps_its_promises(chinese: list[str], count: int, published_rule: bool) -> None:
    try:
        added = expand_vocab.select(OLD[:count], chinese, published_rule=published_rule)
    except UsageError:
        return
    assert (count + len(added)) % 64 == 0
    assert len(set(added)) == len(added)
    assert set(added) <= set(chinese) - set(OLD[:count])
    characters = {piece for piece in added if len(piece) == 1}
    assert all(piece_model.spelled(piece, characters) for piece in added if expand_vocab.is_chinese(piece))
    if not published_rule:
        assert not any(c.isascii() for piece in added for c in piece)


def test_scores_are_distinct_below_the_minus_1e9_that_llama_gives_to_spaces(
    source: Path, chinese: list[str], tmp_path: Path
) -> None:
    old = piece_model.read_model(source / "llama/tokenizer.model")
    spaces = old.pieces.add(piece="▁▁", score=-1e9, type=piece_model.NORMAL)
    old.pieces.add(piece="▁▁▁▁", score=-1e9, type=piece_model.NORMAL)
    last = old.pieces.add(piece="é", score=-31740, type=piece_model.NORMAL)
    theirs = [p.piece for p in piece_model.read_model(source / "chinese.model").pieces]
    added = expand_vocab.select([p.piece for p in old.pieces], theirs, published_rule=False)
    for published_rule, start in ((False, spaces.score), (True, last.score)):
        grown = expand_vocab.extend(old, added, published_rule=published_rule)
        scores = [start, *(p.score for p in list(grown.pieces)[-len(added) :])]
        assert all(b < a for a, b in itertools.pairwise(scores))
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        tokenization.write(grown.SerializeToString(), tmp_path)
        judge = sentencepiece.SentencePieceProcessor(model_proto=grown.SerializeToString())
        lines = [*chinese, "a     b  中 国", "   中国"]
        assert tokenization.encode(tokenization.load(tmp_path), lines) == judge.encode(lines)
    assert scores[:3] == [-31740, -31741, -31742]


@pytest.mark.parametrize(("tied", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_old_rows_are_bit_identical_and_new_ones_are_means(
    source: Path, options: ExpandVocab, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    llama = shutil.copytree(source / "llama", tmp_path / "llama")
    tiny.llama(vocab=VOCAB, tied=tied, dtype=dtype).save_pretrained(llama)
    metrics = expand(tmp_path / "a", dataclasses.replace(options, llama_tokenizer_dir=str(llama)))

    old, new = (load_file(folder / "model.safetensors") for folder in (llama, tmp_path / "a"))
    assert list(old) == list(new)
    grown = EMBEDDINGS[:1] if tied else EMBEDDINGS
    for name in old:
        assert new[name].dtype == dtype
        assert torch.equal(new[name][:VOCAB] if name in grown else new[name], old[name])

    pieces = [p.piece for p in piece_model.read_model(tmp_path / "a/tokenizer.model").pieces]
    judge = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    for name in grown:
        assert new[name].shape == (metrics["vocab_size"], 32)
        for i in range(VOCAB, len(pieces)):
            # "a" keeps SentencePiece's leading space away from the piece; no old piece joins it to what follows.
            ids = judge.encode("a" + pieces[i])[len(judge.encode("a")) :]
            assert torch.equal(new[name][i], old[name][ids].float().mean(0).to(dtype))

    after = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert after.config.vocab_size == metrics["vocab_size"]
    assert after.dtype == dtype
    ids = torch.tensor([[1, *tokenization.encode(tokenization.load(tmp_path / "a"), ["In the beginning God"])[0]]])
    before = AutoModelForCausalLM.from_pretrained(llama)
    torch.testing.assert_close(after.float()(ids).logits[..., :VOCAB], before.float()(ids).logits)
    assert after.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]


def test_shards_without_embeddings_are_copied(source: Path, options: ExpandVocab, tmp_path: Path) -> None:
    llama = shutil.copytree(source / "llama", tmp_path / "llama")
    (llama / "model.safetensors").unlink()
    before = tiny.llama(vocab=VOCAB)
    before.save_pretrained(llama, max_shard_size="30KB")
    index = json.loads((llama / "model.safetensors.index.json").read_text())
    metrics = expand(tmp_path / "a", dataclasses.replace(options, llama_tokenizer_dir=str(llama)))

    shards = set(index["weight_map"].values())
    grown = {index["weight_map"][name] for name in EMBEDDINGS}
    assert len(grown) == 2
    assert shards - grown
    for shard in shards:
        same = (llama / shard).read_bytes() == (tmp_path / "a" / shard).read_bytes()
        assert same == (shard not in grown)
    now = json.loads((tmp_path / "a/model.safetensors.index.json").read_text())
    assert now["weight_map"] == index["weight_map"]
    assert now["metadata"]["total_size"] == index["metadata"]["total_size"] + 2 * 4 * 32 * metrics["added_pieces"]
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.equal(after.lm_head.weight[:VOCAB], before.lm_head.weight)


def test_drawn_rows_have_mean_and_covariance_of_the_old_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    old_VH = torch.randn(300, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + torch.arange(6)
    new_NH = expand_vocab.drawn(old_VH, 40_000, generator)
    scale = float(old_VH.T.cov().abs().max())
    torch.testing.assert_close(new_NH.mean(0), old_VH.mean(0), atol=0.05 * scale**0.5, rtol=0)
    torch.testing.assert_close(new_NH.T.cov(), old_VH.T.cov(), atol=0.05 * scale, rtol=0)


@pytest.mark.parametrize("rule", ["mean", "random"])
def test_drawn_rows_follow_the_seed(source: Path, options: ExpandVocab, rule: str, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((1, 1, 2)):
        expand(tmp_path / str(number), dataclasses.replace(options, embedding_init=rule, seed=seed))
        made.append(load_file(tmp_path / str(number) / "model.safetensors"))
    for name in EMBEDDINGS:
        first, again, other = (weights[name][VOCAB:] for weights in made)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        expected = 0.02 if rule == "random" else float(made[0][name][:VOCAB].std())
        assert abs(float(first.std()) / expected - 1) < 0.1
    assert not torch.equal(made[0][EMBEDDINGS[0]][VOCAB:], made[0][EMBEDDINGS[1]][VOCAB:])


def test_the_stated_size_is_reached_exactly(options: ExpandVocab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = int(expand(tmp_path / "a", options)["vocab_size"])
    assert expand(tmp_path / "b", dataclasses.replace(options, vocab_size=size))["vocab_size"] == size
    assert "new pieces for --vocab_size" not in capsys.readouterr().err
    before = tokenization.load(options.llama_tokenizer_dir)
    lines = [*sample.documents("english", 30_000), "<reserved_0> and <reserved_1>"]
    for wanted in (size - 3, size + 1, size + 200, 49216):
        out = tmp_path / str(wanted)
        metrics = expand(out, dataclasses.replace(options, vocab_size=wanted))
        assert metrics["vocab_size"] == wanted == VOCAB + metrics["added_pieces"] + metrics["reserved_pieces"]
        after = tokenization.load(out)
        assert len(after) == wanted
        assert metrics["reserved_pieces"] == sum(name.startswith("<reserved_") for name in after.get_vocab())
        assert tokenization.encode(after, lines) == tokenization.encode(before, lines), "English is as before"
        assert pretrained.load(out, dtype=torch.float32).model.embed_tokens.weight.shape[0] == wanted
    assert metrics["reserved_pieces"]
    assert f"{metrics['added_pieces']} new pieces and {metrics['reserved_pieces']} reserved ones, which no text gives, " in (
        said := capsys.readouterr().err
    )
    assert f"for --vocab_size 49216, where the rule alone gives {size - VOCAB}" in said
    with pytest.raises(UsageError, match=rf"--vocab_size: {VOCAB} is too little for {VOCAB} old .* rule gives {size}"):
        expand(tmp_path / "c", dataclasses.replace(options, vocab_size=VOCAB))


def test_rows_beyond_the_pieces_are_left_out(options: ExpandVocab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "padded"
    shutil.copytree(options.llama_tokenizer_dir, source)
    padded = LlamaForCausalLM.from_pretrained(source)
    padded.resize_token_embeddings(VOCAB + 1)
    padded.save_pretrained(source)
    expand(tmp_path / "plain", options)
    expand(tmp_path / "out", dataclasses.replace(options, llama_tokenizer_dir=str(source)))
    assert "model.embed_tokens.weight: 1 rows beyond the 500 pieces are left out" in capsys.readouterr().err
    one, other = (pretrained.load(tmp_path / name, dtype=torch.float32).state_dict() for name in ("plain", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bad_inputs_are_one_error_with_path_and_fix(source: Path, options: ExpandVocab, tmp_path: Path) -> None:
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(DataError, match=r"text\.model: not a SentencePiece model .*fetch the file again"):
        expand(tmp_path / "a", dataclasses.replace(options, chinese_sp_path=str(tmp_path / "text.model")))
    llama = shutil.copytree(source / "llama", tmp_path / "llama")
    options = dataclasses.replace(options, llama_tokenizer_dir=str(llama))
    weights = load_file(llama / "model.safetensors")
    save_file(weights | {name: weights[name][:-1].clone() for name in EMBEDDINGS}, llama / "model.safetensors")
    (llama / "config.json").write_text(json.dumps(json.loads((llama / "config.json").read_text()) | {"vocab_size": 499}))
    with pytest.raises(DataError, match=r"lm_head\.weight has 499 rows, tokenizer\.model has 500 pieces"):
        expand(tmp_path / "b", options)
    (llama / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors: \d+ bytes, its header speaks of \d+; not whole"):
        expand(tmp_path / "c", options)
    shutil.copyfile(source / "llama" / "model.safetensors", llama / "model.safetensors")
    shutil.copyfile(source / "llama" / "config.json", llama / "config.json")
    (llama / "tokenizer.model").unlink()
    with pytest.raises(
        DataError, match=r"tokenizer\.json alone cannot grow here .*leave expand-vocab out, and begin with build-data"
    ):
        expand(tmp_path / "byte-level", options)
    (llama / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"llama: no tokenizer\.model \(found .*copy it from where the weights come from"):
        expand(tmp_path / "d", options)
