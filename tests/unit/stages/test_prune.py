"""The stage prune, whole: what it writes, and that the reordered model computes what the teacher does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from minima.data import records
from minima.errors import DataError, UsageError
from minima.models import pretrained, weights
from minima.models.importance import SCORES
from minima.options import Prune
from minima.stages import prune
from minima.workspace.artifact import Output
from tests.unit import tiny

VOCAB = 128


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def write_teacher(folder: Path, teacher: LlamaForCausalLM, dtype: torch.dtype | None = None) -> Path:
    pretrained.save(teacher, tokenizer(), folder, verb="init-model", made_of={}, dtype=dtype)
    return folder


def write_records(place: Path, count: int = 6, length: int = 20, seed: int = 0) -> Path:
    drawn = np.random.default_rng(seed).integers(0, VOCAB, (count, length))
    records.write(place, [{"indices": ids} for ids in drawn])
    return place


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Runs prune with a tiny teacher, unless told otherwise, into a new folder."""
    write_records(tmp_path / "a.tfrecord")
    count = iter(range(100))

    def run(
        teacher: LlamaForCausalLM | None = None, dtype: torch.dtype | None = None, **changes: Any
    ) -> tuple[dict[str, Any], Path]:
        folder = tmp_path / f"teacher{next(count)}"
        output = tmp_path / f"output{next(count)}"
        output.mkdir()
        options = Prune(
            output_dir=str(output),
            teacher_model_name_or_path=str(write_teacher(folder, teacher or tiny.llama(layers=3), dtype)),
            record_path_or_regex=str(tmp_path / "*.tfrecord"),
            max_seq_length=16,
            attn_implementation="sdpa",
        )
        options = replace(options, **changes)
        return prune.run(options, Output(output, options, {})), output

    return run


@pytest.mark.parametrize(
    "teacher",
    [tiny.llama(layers=3), tiny.llama(layers=3, kv_heads=4, tied=True), tiny.llama(layers=3, kv_heads=1)],
    ids=["grouped", "multi-head tied", "one key-value head"],
)
def test_the_reordered_model_gives_the_teachers_logits(stage: Callable[..., Any], teacher: LlamaForCausalLM) -> None:
    _, folder = stage(teacher)
    reordered = AutoModelForCausalLM.from_pretrained(folder)
    assert reordered.config.tie_word_embeddings == teacher.config.tie_word_embeddings
    assert reordered.num_parameters() == teacher.num_parameters()
    assert not torch.equal(reordered.model.embed_tokens.weight, teacher.model.embed_tokens.weight)
    ids = torch.arange(40).reshape(2, 20)
    torch.testing.assert_close(reordered(ids).logits, teacher(ids).logits, rtol=1e-4, atol=1e-5)
    # Norms compute in fp32 also here, or it would be 1e-12.
    torch.testing.assert_close(reordered.double()(ids).logits, teacher.double()(ids).logits, rtol=1e-5, atol=2e-6)
    teacher.float()


def test_the_batch_changes_no_score(stage: Callable[..., Any], tmp_path: Path) -> None:
    """Records of 3 to 16 tokens; in fp32, so up to rounding, and every order the same."""
    records.write(tmp_path / "short.tfrecord", [{"indices": np.arange(3, 6 + n)} for n in (0, 4, 9)])
    teacher = tiny.llama(layers=3)
    files = [stage(teacher, per_device_eval_batch_size=size)[1] / SCORES for size in (1, 2, 9)]
    alone, *together = (load_file(file) for file in files)
    for scores in together:
        for name, expected in alone.items():
            if name.endswith("_order"):
                assert torch.equal(scores[name], expected), name
            else:
                torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-6)


def test_the_folder(stage: Callable[..., Any]) -> None:
    teacher = tiny.llama(layers=3)
    teacher.generation_config.max_new_tokens = 7
    metrics, folder = stage(teacher)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "importance.safetensors",
        "model.safetensors",
        "sparsity_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert AutoTokenizer.from_pretrained(folder)("w7 w9")["input_ids"] == [7, 9]
    assert json.loads((folder / "generation_config.json").read_text())["max_new_tokens"] == 7
    scores = load_file(folder / SCORES)
    assert {name: (tensor.dtype, list(tensor.shape)) for name, tensor in scores.items()} == {
        "heads": (torch.float32, [3, 2]),
        "neurons": (torch.float32, [3, 48]),
        "hidden": (torch.float32, [32]),
        "layers": (torch.float64, [3]),
        "head_order": (torch.int64, [3, 2]),
        "neuron_order": (torch.int64, [3, 48]),
        "hidden_order": (torch.int64, [32]),
    }
    for name in ("head", "neuron", "hidden"):
        values = scores["hidden" if name == "hidden" else f"{name}s"]
        ordered = values.gather(-1, scores[f"{name}_order"])
        assert (ordered.diff(dim=-1) <= 0).all()
        torch.testing.assert_close(values.norm(dim=-1), torch.ones(values.shape[:-1]))
    assert metrics["examples"] == 6
    assert metrics["tokens"] == 6 * 16
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]))
    assert metrics["most_needed_layer"] == int(scores["layers"].argmax())
    assert metrics["least_needed_layer_rise"] == scores["layers"].min().item()
    assert json.loads((folder / "sparsity_map.json").read_text())["0"]["hidden"] == 0


def test_places_hold_what_the_order_says(stage: Callable[..., Any]) -> None:
    teacher = tiny.llama(layers=3)
    _, folder = stage(teacher)
    scores, reordered = load_file(folder / SCORES), AutoModelForCausalLM.from_pretrained(folder)
    hidden, groups = scores["hidden_order"], scores["head_order"][1]
    old, new = teacher.model.layers[1], reordered.model.layers[1]
    assert torch.equal(new.input_layernorm.weight, old.input_layernorm.weight[hidden])
    assert torch.equal(new.mlp.up_proj.weight, old.mlp.up_proj.weight[scores["neuron_order"][1]][:, hidden])
    by_group = old.self_attn.q_proj.weight[:, hidden].reshape(2, 16, 32)
    assert torch.equal(new.self_attn.q_proj.weight.reshape(2, 16, 32), by_group[groups])


def test_weights_keep_their_type(stage: Callable[..., Any]) -> None:
    _, folder = stage(dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_permutations_of_wide_models_are_exact(tmp_path: Path) -> None:
    # bf16, in which the published code kept permutations, cannot tell 257 from 256.
    teacher = tiny.llama(layers=1, hidden=512, intermediate=300, vocab=8)
    write_teacher(tmp_path / "t", teacher)
    generator = torch.Generator().manual_seed(1)
    hidden, neurons = torch.randperm(512, generator=generator), torch.randperm(300, generator=generator)
    selection = weights.Selection([0], hidden, torch.tensor([[1, 0]]), neurons[None])
    found = weights.select(tmp_path / "t", teacher.config, selection)
    assert torch.equal(found["model.embed_tokens.weight"], teacher.model.embed_tokens.weight[:, hidden])
    assert torch.equal(
        found["model.layers.0.mlp.down_proj.weight"], teacher.model.layers[0].mlp.down_proj.weight[hidden][:, neurons]
    )


def test_runs_are_repeatable_and_the_seed_matters(stage: Callable[..., Any]) -> None:
    found = [load_file(stage(num_examples=2, seed=seed)[1] / SCORES)["hidden"] for seed in (5, 5, 6)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_choice_of_records() -> None:
    assert prune.choose(10, 4, 1) == prune.choose(10, 4, 1)
    assert prune.choose(10, 4, 1) != prune.choose(10, 4, 2)
    assert sorted(prune.choose(10, 99, 1)) == list(range(10))


def test_records_are_cut() -> None:
    record = {"indices": np.arange(10, 18), "mask": np.arange(8) % 2}
    found = prune.cut(record, 0, 5)
    assert {name: feature.tolist() for name, feature in found.items()} == {
        "indices": [10, 11, 12, 13, 14],
        "mask": [0, 1, 0, 1, 0],
    }


def test_the_published_rule_gives_other_scores(stage: Callable[..., Any]) -> None:
    default, published = (load_file(stage(published_rule=p)[1] / SCORES)["hidden"] for p in (False, True))
    assert (default - published).abs().max() > 1e-3


def test_without_layers(stage: Callable[..., Any]) -> None:
    metrics, folder = stage(num_layer_examples=0)
    assert "layers" not in load_file(folder / SCORES)
    assert "most_needed_layer" not in metrics


def test_short_records(stage: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    records.write(tmp_path / "short" / "b.tfrecord", [{"indices": np.array([5])}])
    with pytest.raises(UsageError, match="record 0 has 1 tokens; at least 2"):
        stage(record_path_or_regex=str(tmp_path / "short"))


def test_records_of_another_vocabulary(stage: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    records.write(tmp_path / "other" / "b.tfrecord", [{"indices": np.array([5, 128])}])
    with pytest.raises(DataError, match=r"the id 128; the model's vocabulary ends at 127"):
        stage(record_path_or_regex=str(tmp_path / "other"))


def test_records_without_labels(stage: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "masked").mkdir()
    records.write(tmp_path / "masked" / "b.tfrecord", [{"indices": np.arange(5), "mask": np.zeros(5, dtype=np.int64)}])
    with pytest.raises(DataError, match="no label counts"):
        stage(record_path_or_regex=str(tmp_path / "masked"))


def test_a_teacher_without_tokenizer(stage: Callable[..., Any], tmp_path: Path) -> None:
    pretrained.save(tiny.llama(), None, tmp_path / "bare", verb="x", made_of={})
    with pytest.raises(DataError, match="no tokenizer"):
        stage(teacher_model_name_or_path=str(tmp_path / "bare"))


def test_a_broken_teacher(stage: Callable[..., Any]) -> None:
    teacher = tiny.llama()
    with torch.no_grad():
        teacher.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match=r"the loss of .* is nan"):
        stage(teacher)


def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    tmp_path: Path, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "load", None)
    with pytest.raises(DataError, match="--max_seq_length: 512 tokens, the model has 256 positions"):
        stage(max_seq_length=512)
    records.write(tmp_path / "a.tfrecord", [{"indices": np.arange(5)}] * 5 + [{"indices": np.array([5])}])
    with pytest.raises(UsageError, match="record 5 has 1 tokens"):
        stage()
