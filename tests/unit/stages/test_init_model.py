"""What the smoke pipeline starts from."""

import dataclasses
import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minima import flags
from minima.data import conversations, piece_model, tokenization
from minima.errors import UsageError
from minima.models import pretrained
from minima.options import InitModel
from minima.stages import init_model
from minima.workspace import artifact

OPTIONS = InitModel(
    output_dir="",
    layer=3,
    hidden=32,
    head=4,
    kv_head=2,
    intermediate=48,
    vocab_size=400,
    chinese_vocab_size=500,
    english_characters=60_000,
    chinese_characters=40_000,
)


def make(folder: Path, options: InitModel = OPTIONS) -> dict[str, object]:
    folder.mkdir()
    return init_model.run(options, artifact.Output(folder, options, {}))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_equal_options_give_equal_bytes_and_the_seed_changes_only_the_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    make(tmp_path / "c", dataclasses.replace(OPTIONS, seed=1))
    other = contents(tmp_path / "c")
    assert [name for name in first if first[name] != other[name]] == ["model/model.safetensors"]


def test_the_folder_holds_a_model_that_loads_and_generates_and_real_input(tmp_path: Path) -> None:
    metrics = make(tmp_path / "a")
    assert sorted(contents(tmp_path / "a")) == [
        "chinese_sp.model",
        "conversations/chinese.jsonl",
        "conversations/english.jsonl",
        "model/README.md",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer.model",
        "model/tokenizer_config.json",
        "text/chinese.jsonl",
        "text/english.jsonl",
    ]
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "a/model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "a/model")
    assert (len(loaded), llama.config.num_key_value_heads, llama.dtype) == (400, 2, torch.float32)
    assert sum(p.numel() for p in llama.parameters()) == metrics["parameters"]
    ids = loaded("In the beginning", return_tensors="pt")
    assert llama.generate(**ids, max_new_tokens=4, min_new_tokens=4).shape == (1, ids["input_ids"].shape[1] + 4)

    texts = (tmp_path / "a/text/chinese.jsonl").read_text(encoding="utf-8").splitlines()
    assert metrics["chinese_documents"] == len(texts)
    assert metrics["chinese_characters"] == sum(len(json.loads(line)["text"]) for line in texts) >= 40_000
    assert len(list(conversations.read(tmp_path / "a/conversations/english.jsonl"))) == metrics["english_conversations"]


def test_the_chinese_model_has_pieces_of_several_characters_all_reachable(tmp_path: Path) -> None:
    make(tmp_path / "a")
    proto = piece_model.read_model(tmp_path / "a/chinese_sp.model")
    pieces = [p.piece for p in proto.pieces if p.type == piece_model.NORMAL]
    assert len(proto.pieces) == 500
    assert {"经济", "中国", "发展"} <= set(pieces)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a/chinese_sp.model"))
    assert judge.encode(pieces, out_type=str) == [[piece] for piece in pieces]


def test_the_first_loss_is_near_chance_and_falls_fast(tmp_path: Path) -> None:
    make(tmp_path / "a")
    llama = pretrained.load(tmp_path / "a/model", dtype=torch.float32).train()
    text = (tmp_path / "a/text/english.jsonl").read_text(encoding="utf-8")
    ids_BT = torch.tensor(tokenization.encode(tokenization.load(tmp_path / "a/model"), [text])[0][: 64 * 128]).view(64, 128)
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        batch = ids_BT[torch.arange(step * 4, step * 4 + 4) % 64]
        loss = llama(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert abs(losses[0] - torch.log(torch.tensor(400.0)).item()) < 0.4
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 30}, "hidden: 30 is not a multiple of head 4"),
        ({"hidden": 36}, "head: 4 of hidden 36 are odd in width"),
        ({"kv_head": 3}, "kv_head: 3 does not divide head 4; valid: 1, 2, 4"),
    ],
)
def test_shapes_that_no_model_has(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        flags.build(InitModel, dataclasses.asdict(OPTIONS) | changes, str)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"english_characters": 10**8}, r"--english_characters: 100000000 asked for"),
        ({"vocab_size": 30_000}, r"--vocab_size: 30000 pieces cannot be made of the text .*fewer or more text"),
        ({"chinese_vocab_size": 200_000}, r"--chinese_vocab_size: 200000 pieces cannot be made"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "a", dataclasses.replace(OPTIONS, **changes))  # type: ignore[arg-type]


def test_no_key_value_heads_means_as_many_as_heads(tmp_path: Path) -> None:
    make(tmp_path / "a", dataclasses.replace(OPTIONS, kv_head=0))
    assert pretrained.config(tmp_path / "a/model").num_key_value_heads == 4
