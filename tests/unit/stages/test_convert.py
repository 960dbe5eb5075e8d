"""The stage convert: the student equals the masked teacher, and what cannot be cut is refused."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from minima import flags
from minima.errors import DataError, UsageError
from minima.models import pretrained
from minima.models.importance import SCORES
from minima.options import Convert, Prune
from minima.stages import convert, prune
from minima.workspace.artifact import Output
from tests.unit import tiny
from tests.unit.stages.test_prune import write_records, write_teacher

LAYERS, HIDDEN, HEADS, GROUPS, NEURONS = 5, 48, 6, 3, 40
IDS = torch.arange(60).reshape(3, 20)


def teacher(**changes: Any) -> LlamaForCausalLM:
    return tiny.llama(LAYERS, HIDDEN, HEADS, **{"kv_heads": GROUPS, "intermediate": NEURONS, **changes})


@pytest.fixture(scope="module", params=["grouped", "multi-head tied"])
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that prune made."""
    place = tmp_path_factory.mktemp("pruned")
    made = teacher(kv_heads=HEADS, tied=True) if "tied" in request.param else teacher()
    made.generation_config.max_new_tokens = 7
    folder = place / "output"
    folder.mkdir()
    options = Prune(
        output_dir=str(folder),
        teacher_model_name_or_path=str(write_teacher(place / "teacher", made)),
        record_path_or_regex=str(write_records(place / "a.tfrecord")),
        attn_implementation="sdpa",
        max_seq_length=32,
    )
    prune.run(options, Output(folder, options, {}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def cut(pruned: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Runs convert on `pruned`."""

    def run(**changes: Any) -> tuple[dict[str, Any], Path]:
        output = tmp_path / "student"
        output.mkdir()
        options = Convert(output_dir=str(output), model_name_or_path=str(pruned), layer=3, hidden=32, head=4, intermediate=24)
        options = replace(options, **changes)
        return convert.run(options, Output(output, options, {})), output

    return run


def masked(full: Any, layers: list[int], hidden: int, head: int, neurons: int) -> Any:
    """The model with zeros wherever something is masked; its size is unchanged but for the layers."""
    full = copy.deepcopy(full)
    full.model.layers = nn.ModuleList(full.model.layers[n] for n in layers)
    columns = head * pretrained.head_dim(full.config)
    with torch.no_grad():
        full.lm_head.weight = nn.Parameter(full.lm_head.weight.clone())
        full.model.embed_tokens.weight = nn.Parameter(full.model.embed_tokens.weight.clone())
        full.model.embed_tokens.weight[:, hidden:] = 0
        for layer in full.model.layers:
            layer.self_attn.o_proj.weight[hidden:] = 0
            layer.self_attn.o_proj.weight[:, columns:] = 0
            layer.mlp.down_proj.weight[hidden:] = 0
            layer.mlp.down_proj.weight[:, neurons:] = 0
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                if projection.bias is not None:
                    projection.bias[hidden:] = 0
    return full


@pytest.mark.parametrize(("hidden", "head", "neurons"), [(32, 4, 24), (48, 6, 40), (44, 2, 1), (16, 4, 40)])
def test_the_student_equals_the_masked_teacher(
    cut: Callable[..., Any], pruned: Path, hidden: int, head: int, neurons: int
) -> None:
    metrics, folder = cut(hidden=hidden, head=head, intermediate=neurons)
    full, student = (AutoModelForCausalLM.from_pretrained(f) for f in (pruned, folder))
    layers = [int(n) for n in metrics["layers"].split(",")]
    expected = masked(full, layers, hidden, head, neurons)
    torch.testing.assert_close(student(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=2e-5)
    assert metrics["parameters"] == student.num_parameters()
    assert metrics["parameters_teacher"] == full.num_parameters()


def test_the_correction_of_eps_counts(cut: Callable[..., Any], pruned: Path) -> None:
    _, folder = cut(keep_layers="0,1,2")
    full, student = (AutoModelForCausalLM.from_pretrained(f) for f in (pruned, folder))
    assert student.config.rms_norm_eps == pytest.approx(full.config.rms_norm_eps * 48 / 32)
    expected = masked(full, [0, 1, 2], 32, 4, 24)
    for net, eps in ((expected, 0.5), (student, 0.5 * 48 / 32)):
        for module in net.modules():
            if isinstance(module, LlamaRMSNorm):
                module.variance_epsilon = eps
    torch.testing.assert_close(student(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=2e-5)


def test_the_folder(cut: Callable[..., Any], pruned: Path) -> None:
    _, folder = cut()
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (pruned / name).read_bytes()
    config = AutoModelForCausalLM.from_pretrained(folder).config
    full = pretrained.config(pruned)
    assert (config.num_attention_heads, config.head_dim, config.hidden_size) == (4, 8, 32)
    assert config.num_key_value_heads == 4 * pretrained.kv_heads(full) // HEADS
    assert (config.num_hidden_layers, config.intermediate_size) == (3, 24)
    assert config.tie_word_embeddings == full.tie_word_embeddings
    assert config.rope_parameters == full.rope_parameters


def test_the_student_generates(cut: Callable[..., Any]) -> None:
    _, folder = cut()
    student, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    made = student.generate(**tokenizer("w5 w6", return_tensors="pt"), do_sample=False, pad_token_id=0)
    assert 2 < made.shape[1] <= 2 + 7  # max_new_tokens of the teacher's generation configuration


def test_measured_layers_are_those_most_missed(cut: Callable[..., Any], pruned: Path) -> None:
    rises = load_file(pruned / SCORES)["layers"].tolist()
    metrics, _ = cut(layer=2)
    kept = [int(n) for n in metrics["layers"].split(",")]
    assert kept == sorted(kept)
    assert min(rises[n] for n in kept) >= max(rise for n, rise in enumerate(rises) if n not in kept)


def kept(available: int, **options: Any) -> list[int]:
    plain = Convert(output_dir="", model_name_or_path="", layer=1, hidden=4, head=1, intermediate=1)
    return convert.keep_layers(replace(plain, **options), available, {"layers": torch.tensor([3.0, -1.0, 2.0, 0.5, 2.0])})


def test_rules_of_layers() -> None:
    assert kept(5, layer=3) == [0, 2, 4]
    assert kept(5, layer=2) == [0, 2]
    assert kept(32, layer=24, keep_layers="middle") == list(range(4, 28))
    assert kept(32, layer=24, published_rule=True) == list(range(4, 28))
    assert kept(5, layer=2, keep_layers="middle") == [1, 2]
    assert kept(5, layer=3, keep_layers="0,1,4") == [0, 1, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2, "keep_layers": "first"}, "valid: measured, middle, or numbers such as 0,1,4"),
        ({"layer": 2, "keep_layers": "0,1,4"}, r"valid: 2 \(layer\) rising numbers"),
        ({"layer": 2, "keep_layers": "1,1"}, "rising numbers"),
        ({"layer": 2, "keep_layers": "4,1"}, "rising numbers"),
        ({"layer": 2, "keep_layers": "-1,2"}, "numbers such as 0,1,4"),
        ({"layer": 2, "keep_layers": "0,1", "published_rule": True}, "contradicts published_rule"),
        ({"hidden": 30}, "30 is not a multiple of head 4; nearest valid: 28 and 32"),
        ({"hidden": 47}, "nearest valid: 44 and 48"),
        ({"hidden": 3}, "nearest valid: 4"),
        ({"kv_head": 3}, "3 does not divide head 4; valid: 1, 2, 4"),
    ],
)
def test_options_that_contradict_one_another(options: dict[str, Any], message: str) -> None:
    plain = {"output_dir": "o", "model_name_or_path": "m", "layer": 1, "hidden": 32, "head": 4, "intermediate": 24}
    with pytest.raises(UsageError, match=message):
        flags.build(Convert, {**plain, **options}, str)


def student(**options: Any) -> Any:
    plain = Convert(output_dir="", model_name_or_path="", layer=1, hidden=32, head=4, intermediate=24)
    return convert.student(replace(plain, **options), teacher().config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 52}, "--hidden: 52, the model has 48; valid: 1 to 48"),
        ({"head": 8}, "--head: 8, the model has 6; valid: 1 to 6"),
        ({"intermediate": 41}, "--intermediate: 41, the model has 40; valid: 1 to 40"),
        ({"layer": 6}, "--layer: 6, the model has 5; valid: 1 to 5"),
        ({"layer": 2, "keep_layers": "1,5"}, "--keep_layers: 1,5, the model has 5 layers; valid: 0 to 4"),
        ({"head": 3, "hidden": 30}, r"keeps its 2 queries; valid \(head with kv_head\): 2 with 1, 4 with 2, 6 with 3"),
        ({"head": 4, "kv_head": 1}, r"keeps its 2 queries; valid \(head with kv_head\): 2 with 1, 4 with 2, 6 with 3"),
    ],
)
def test_shapes_that_cannot_be_cut(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        student(**options)


def test_key_value_heads() -> None:
    assert student().num_key_value_heads == student(kv_head=2).num_key_value_heads == 2


def test_the_published_rule(cut: Callable[..., Any], pruned: Path) -> None:
    metrics, folder = cut(published_rule=True)
    full, student = (AutoModelForCausalLM.from_pretrained(f) for f in (pruned, folder))
    assert metrics["layers"] == "1,2,3"
    assert student.config.rms_norm_eps == full.config.rms_norm_eps
    assert torch.equal(student.model.norm.weight, full.model.norm.weight[:32])
    assert torch.equal(student.model.layers[0].mlp.gate_proj.weight, full.model.layers[1].mlp.gate_proj.weight[:24, :32])


def test_measured_without_scores_of_layers(cut: Callable[..., Any], pruned: Path) -> None:
    scores = load_file(pruned / SCORES)
    try:
        save_file({name: tensor for name, tensor in scores.items() if name != "layers"}, pruned / SCORES)
        with pytest.raises(UsageError, match=r"num_layer_examples 0.*`--keep_layers middle`"):
            cut()
    finally:
        save_file(scores, pruned / SCORES)


def test_a_folder_that_prune_did_not_make(cut: Callable[..., Any], pruned: Path) -> None:
    with pytest.raises(DataError, match=r"has no importance\.safetensors; valid: a folder that `minima prune` made"):
        cut(model_name_or_path=str(pruned.parent / "teacher"))


def test_broken_scores_and_weights(cut: Callable[..., Any], pruned: Path, tmp_path: Path) -> None:
    for number, (name, message) in enumerate([(SCORES, "run `minima prune` again"), ("model.safetensors", "not whole")]):
        copied = tmp_path / f"copy{number}"
        copied.mkdir()
        for file in pruned.iterdir():
            content = file.read_bytes()
            (copied / file.name).write_bytes(content[: len(content) // 2] if file.name == name else content)
        with pytest.raises(DataError, match=message):
            cut(model_name_or_path=str(copied), output_dir=str(tmp_path / f"o{number}"))
        (tmp_path / "student").rmdir()


def test_sharded_weights(cut: Callable[..., Any], pruned: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(pruned).save_pretrained(sharded, max_shard_size="40KB")
    for file in pruned.iterdir():
        if file.name != "model.safetensors":
            (sharded / file.name).write_bytes(file.read_bytes())
    assert not (sharded / "model.safetensors").exists()
    _, one = cut()
    one = one.rename(tmp_path / "one")
    _, two = cut(model_name_or_path=str(sharded))
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
