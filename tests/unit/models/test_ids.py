"""One meaning of `<s>` and `</s>`, the tokenizer's, whatever else a folder says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minima.data import packing, tokenization
from minima.data.batch import collate
from minima.errors import DataError
from minima.models import pretrained
from minima.training.loss import cross_entropy
from tests.unit import tiny

WAYS: dict[str, dict[str, Any]] = {
    "LLaMA-1": {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1},
    "a list of ends": {"bos_token_id": 1, "eos_token_id": [7, 2]},
    "nothing": {"bos_token_id": None, "eos_token_id": None},
    "</s> pads": {"pad_token_id": 2},
    "a pad without a row": {"pad_token_id": 128},
}


def folder(place: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    tiny.llama().save_pretrained(place)
    tiny.tokenizer(place)
    for name, changes in (("config.json", config), ("generation_config.json", generation or {})):
        file = place / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return place


@pytest.mark.parametrize("way", WAYS)
def test_the_ids_are_the_tokenizers_in_training_and_in_what_is_written(way: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "model", WAYS[way])
    model = pretrained.load(source, dtype=torch.float32)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)
    batch = collate([{"indices": np.array([5, 6, 2, 1, 7])}], model.config, 16)
    assert batch.input_ids[0].tolist() == [1, 5, 6, 2, 1, 2, 2, 2]
    plain = pretrained.load(folder(tmp_path / "plain", {}), dtype=torch.float32)
    losses = [cross_entropy(64)(one, collate([{"indices": np.arange(3, 12)}], one.config, 16)).ce for one in (model, plain)]
    assert losses[0] == losses[1]
    pretrained.save(model, source, tmp_path / "saved", verb="adapt", made_of={})
    raw = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (raw["bos_token_id"], raw["eos_token_id"]) == (1, 2)
    written = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"], written["pad_token_id"]) == (1, 2, 2)


def test_no_row_of_the_embeddings_is_frozen(tmp_path: Path) -> None:
    model = pretrained.load(folder(tmp_path / "model", {"pad_token_id": 2}), dtype=torch.float32)
    ids = torch.tensor([[1, 5, 2, 6]])
    model(input_ids=ids, labels=ids).loss.backward()
    gradient = model.model.embed_tokens.weight.grad
    assert gradient is not None
    assert gradient[2].abs().sum() > 0


def test_more_ends_stay_in_generation(tmp_path: Path) -> None:
    for ends, expected in (([7, 2], [7, 2]), ([7, 8], 2), (None, 2)):
        source = folder(tmp_path / str(expected), {}, {"eos_token_id": ends, "temperature": 0.6, "do_sample": True})
        model = pretrained.load(source, dtype=torch.float32)
        assert model.generation_config.eos_token_id == expected
        assert model.generation_config.temperature == 0.6


def test_no_folder_says_what_generate_returns(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", {}, {"output_hidden_states": "llama", "return_dict_in_generate": True})
    model: Any = pretrained.load(source, dtype=torch.float32)
    assert model.generate(torch.tensor([[1, 5]]), max_new_tokens=2, do_sample=False).shape == (1, 4)


@pytest.mark.parametrize("begins", [True, False])
def test_a_tokenizer_that_appends_an_end(tmp_path: Path, begins: bool) -> None:
    source = folder(tmp_path / "model", {})
    place = source / "tokenizer.json"
    raw = json.loads(place.read_text())
    token = {name: {"id": name, "ids": [n], "tokens": [name]} for n, name in ((1, "<s>"), (2, "</s>"))}
    parts = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * begins
    parts += [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    raw["post_processor"] = {"type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": token}
    place.write_text(json.dumps(raw))
    loaded = tokenization.load(source)
    plain = loaded("ab", add_special_tokens=False)["input_ids"]
    assert loaded("ab")["input_ids"] == [1] * begins + plain
    assert packing.joined(loaded, ["ab"]).tolist() == [*plain, 2, 1]
    assert tokenization.load(folder(tmp_path / "other", {}))("ab")["input_ids"] == plain


def test_positions() -> None:
    config = tiny.llama().config
    pretrained.check_positions(config, 256)
    with pytest.raises(DataError, match=r"--max_seq_length: 257 tokens, the model has 256 positions"):
        pretrained.check_positions(config, 257)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised weights (gptq), which cannot be trained"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised weights (quantization_config)"),
        ({"model_type": "bert"}, "model_type 'bert'"),
    ],
)
def test_folders_of_another_sort(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    source = folder(tmp_path / "model", changes)
    with pytest.raises(DataError) as caught:
        pretrained.config(source)
    assert said in str(caught.value)


def test_adapters_alone_and_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="PEFT adapters alone; merge them into their model first: `AutoPeft"):
        pretrained.config(tmp_path)
    source = folder(tmp_path / "model", {})
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"no weights .*`AutoModelForCausalLM\.from_pretrained\(FOLDER\)\.save_pretrained"):
        pretrained.config(source)
