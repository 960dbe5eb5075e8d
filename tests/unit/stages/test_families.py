"""The families that people have, from the teacher's folder to a finetuned student, each as it really is configured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from minima.data import records, tokenization
from minima.errors import DataError, TerminatedError
from minima.models import pretrained
from minima.options import Adapt, Convert, Distill, Evaluate, Finetune, Prune
from minima.stages import adapt, convert, distill, evaluate, finetune, prune
from minima.workspace.artifact import Output
from minima.workspace.lease import Lease
from minima.workspace.model_folder import EMBEDDINGS, HEAD
from tests.unit import families
from tests.unit.stages.test_convert import masked
from tests.unit.training import runs

IDS = torch.randint(3, families.VOCAB, (3, 20), generator=torch.Generator().manual_seed(5))
WHOLE = {"layer": 4, "hidden": 48, "head": 6, "intermediate": 40}
SMALL = {"layer": 3, "hidden": 32, "head": 4, "intermediate": 24}


@pytest.fixture(scope="module", params=families.FAMILIES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a family's teacher, what prune made of it, and records."""
    place = tmp_path_factory.mktemp("family")
    families.write(place / "teacher", request.param)
    records_of(place)
    run(prune, prune_options(place))
    return place


def records_of(place: Path) -> None:
    drawn = np.random.default_rng(0).integers(3, families.VOCAB, (24, 16))
    records.write(place / "a.tfrecord", [{"indices": ids} for ids in drawn])
    records.write(place / "dev.tfrecord", [{"indices": ids[::-1]} for ids in drawn[:4]])


def prune_options(place: Path) -> Prune:
    teacher, data = str(place / "teacher"), str(place / "a.tfrecord")
    return Prune(
        output_dir=str(place / "pruned"), teacher_model_name_or_path=teacher, record_path_or_regex=data, max_seq_length=16
    )


def run(stage: Any, options: Any) -> dict[str, Any]:
    Path(options.output_dir).mkdir()
    with Lease(Path(options.output_dir)) as lease:
        metrics: dict[str, Any] = stage.run(options, Output(lease.folder, options, {}, lease))
    return metrics


def cut(place: Path, output: Path, **sizes: Any) -> dict[str, Any]:
    return run(convert, Convert(output_dir=str(output), model_name_or_path=str(place / "pruned"), **sizes))


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def test_the_tokenizer_is_what_tokenizer_json_says(place: Path) -> None:
    """A class of transformers may build another one: GPT2Tokenizer, which SmolLM2 names, splits no digits."""
    teacher = place / "teacher"
    loaded, written = tokenization.load(teacher), Tokenizer.from_file(str(teacher / "tokenizer.json"))
    expected = [written.encode(text, add_special_tokens=False).ids for text in families.TEXTS]
    assert tokenization.encode(loaded, families.TEXTS) == expected
    backend: Any = loaded.backend_tokenizer
    now, then = json.loads(backend.to_str()), json.loads((teacher / "tokenizer.json").read_text())
    assert {part: now[part] for part in ("normalizer", "pre_tokenizer", "decoder")} == {
        part: then[part] for part in ("normalizer", "pre_tokenizer", "decoder")
    }


@pytest.mark.parametrize("family", families.FAMILIES)
def test_parameters_and_flops_are_counted_exactly(family: str) -> None:
    model = families.model(family)
    shape = pretrained.shape(model.config)
    assert shape.parameters == model.num_parameters()
    model.set_attn_implementation("eager")
    tokens = IDS.numel()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    # The eager kernel computes the whole square, whatever the mask hides.
    square = 4 * shape.layer * shape.head * shape.head_dim * IDS.shape[1]
    assert counter.get_total_flops() == tokens * (2 * shape.multiplied + square)
    window = shape.window or IDS.shape[1]
    seen = sum(min(place + 1, window) for place in range(IDS.shape[1]))
    per_token = 4 * shape.layer * shape.head * shape.head_dim * seen / IDS.shape[1]
    assert shape.attention_flops(IDS.shape[1]) == pytest.approx(per_token, abs=0.5)


def test_prune_reorders_and_changes_nothing(place: Path) -> None:
    teacher, pruned = (loaded(place / name).double() for name in ("teacher", "pruned"))
    assert not torch.equal(pruned.model.embed_tokens.weight, teacher.model.embed_tokens.weight)
    # Norms compute in fp32, also here.
    torch.testing.assert_close(pruned(IDS).logits, teacher(IDS).logits, rtol=1e-5, atol=5e-6)
    raw = [json.loads((place / name / "config.json").read_text()) for name in ("teacher", "pruned")]
    rope = raw[1]["rope_parameters"]
    # As transformers 4 reads it.
    assert raw[1]["rope_theta"] == rope["rope_theta"]
    assert raw[1]["rope_scaling"] == (families.LLAMA_3_SCALING if rope["rope_type"] == "llama3" else None)
    for one in raw:  # What `<s>` and `</s>` are is said by the tokenizer.
        for name in ("bos_token_id", "eos_token_id", "dtype", "rope_theta", "rope_scaling"):
            one.pop(name, None)
    assert raw[0] == raw[1]


def test_a_conversion_to_the_same_shape_is_bit_equal(place: Path, tmp_path: Path) -> None:
    cut(place, tmp_path / "same", **WHOLE)
    before, after = (load_file(p / "model.safetensors") for p in (place / "pruned", tmp_path / "same"))
    added = after.keys() - before.keys()
    # A Qwen2 with heads of their own width would become a LLaMA; here it stays what it is.
    assert not added
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(loaded(place / "pruned")(IDS).logits, loaded(tmp_path / "same")(IDS).logits)


@pytest.mark.parametrize(("hidden", "head", "neurons"), [(32, 4, 24), (48, 2, 1)])
def test_the_student_equals_the_masked_teacher(place: Path, tmp_path: Path, hidden: int, head: int, neurons: int) -> None:
    sizes = {"layer": 3, "hidden": hidden, "head": head, "intermediate": neurons}
    metrics = cut(place, tmp_path / "student", **sizes)
    full, student = loaded(place / "pruned"), loaded(tmp_path / "student")
    layers = [int(n) for n in metrics["layers"].split(",")]
    expected = masked(full, layers, hidden, head, neurons)
    torch.testing.assert_close(student(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=5e-5)
    assert metrics["parameters"] == student.num_parameters()
    config, teacher = student.config, full.config
    assert pretrained.head_dim(config) == pretrained.head_dim(teacher)
    assert config.rope_parameters == teacher.rope_parameters
    assert config.tie_word_embeddings == teacher.tie_word_embeddings
    assert getattr(config, "sliding_window", None) == getattr(teacher, "sliding_window", None)
    narrow = head * pretrained.head_dim(config) != hidden
    assert config.model_type == ("llama" if teacher.model_type == "qwen2" and narrow else teacher.model_type)
    one, other = (
        AutoTokenizer.from_pretrained(p)(families.TEXTS)["input_ids"] for p in (place / "teacher", tmp_path / "student")
    )
    assert one == other


def trained(place: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Options of a training of three steps."""
    return {
        "output_dir": str(tmp_path),
        "dev_record_path_or_regex": str(place / "dev.tfrecord"),
        "max_seq_length": 16,
        "global_batch_size": 8,
        "learning_rate": 3e-3,
        **changes,
    }


LONG = [pytest.param(family, marks=pytest.mark.long) for family in families.FAMILIES if family != "Qwen2.5"]


@pytest.mark.parametrize("place", ["Qwen2.5", *LONG], indirect=True)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # Of peft 0.21 when it loads adapters.
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_every_stage_of_training(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """adapt, convert, distill, finetune whole and with LoRA, evaluate: what is written computes what was measured."""
    runs.alone(monkeypatch)
    data, teacher = str(place / "a.tfrecord"), str(place / "teacher")
    cut(place, tmp_path / "student", **SMALL)
    student = str(tmp_path / "student")
    stages: dict[str, tuple[Any, Any]] = {
        "adapted": (
            adapt,
            Adapt(**trained(place, tmp_path / "adapted", model_name_or_path=teacher, record_path_or_regex=data)),
        ),
        "distilled": (
            distill,
            Distill(
                **trained(place, tmp_path / "distilled", record_path_or_regex=data),
                teacher_model_name_or_path=teacher,
                student_model_name_or_path=student,
            ),
        ),
        "tuned": (
            finetune,
            Finetune(**trained(place, tmp_path / "tuned", model_name_or_path=student, train_record_path_or_regex=data)),
        ),
    }
    lora = dataclasses.replace(stages["tuned"][1], output_dir=str(tmp_path / "lora"), lora_r=4)
    stages["lora"] = (finetune, lora)
    for name, (stage, options) in stages.items():
        metrics = run(stage, options)
        assert metrics["steps"] == 3
        assert metrics["dev_perplexity"] != metrics["dev_perplexity_start"]
        measured = run(
            evaluate,
            Evaluate(
                output_dir=str(tmp_path / f"{name}-evaluated"),
                model_name_or_path=str(tmp_path / name),
                dev_record_path_or_regex=str(place / "dev.tfrecord"),
                tasks=(),
                question="1 2",
            ),
        )
        assert measured["dev_perplexity"] == pytest.approx(metrics["dev_perplexity"], rel=1e-5)
        assert AutoTokenizer.from_pretrained(tmp_path / name)(families.TEXTS) == AutoTokenizer.from_pretrained(teacher)(
            families.TEXTS
        )
    adapted: Any = PeftModel.from_pretrained(loaded(tmp_path / "student"), tmp_path / "lora" / "adapter")
    torch.testing.assert_close(loaded(tmp_path / "lora")(IDS).logits, adapted(IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((EMBEDDINGS,), ""),
        ((HEAD,), ""),
        ((EMBEDDINGS, HEAD), ""),
        ((EMBEDDINGS, "another head"), r"its output layer is not its embeddings, though config\.json says so"),
    ],
    ids=["embeddings", "head", "both", "two"],
)
def test_tied_folders_as_tools_write_them(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    """One matrix under either name, or under both; two different ones are refused before anything is scored."""
    source = families.write(tmp_path / "teacher", "SmolLM2")
    expected = loaded(source)(IDS).logits
    tensors = load_file(source / "model.safetensors")
    matrix = tensors.pop(EMBEDDINGS)
    named = {name: matrix.clone() for name in names if name in (EMBEDDINGS, HEAD)}
    if "another head" in names:
        named[HEAD] = matrix + 1
    save_file(tensors | named, source / "model.safetensors", {"format": "pt"})
    records.write(tmp_path / "a.tfrecord", [{"indices": np.arange(3, 19)}])
    options = Prune(
        output_dir=str(tmp_path / "pruned"),
        teacher_model_name_or_path=str(source),
        record_path_or_regex=str(tmp_path / "a.tfrecord"),
        max_seq_length=16,
    )
    if said:
        with pytest.raises(DataError, match=said):
            run(prune, options)
    else:
        run(prune, options)
        torch.testing.assert_close(loaded(tmp_path / "pruned")(IDS).logits, expected, rtol=1e-4, atol=1e-5)
        assert HEAD not in load_file(tmp_path / "pruned" / "model.safetensors")


@pytest.mark.parametrize("family", ["small Qwen2.5", "windowed Mistral"])
def test_training_goes_on_bit_for_bit(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases, which get no weight decay, tied embeddings and a window, stopped in the third of six steps."""
    runs.alone(monkeypatch)

    def train(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        model = families.model(family)
        model.config.bos_token_id, model.config.eos_token_id = 1, 2
        return runs.weights(runs.run(runs.options(tmp_path / name), llama=model, **changes)[0])

    unbroken, start = train("unbroken"), runs.weights(families.model(family))
    with pytest.raises(TerminatedError):
        train("resumed", terminate_at=2 * 8 + 1)
    resumed = train("resumed")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    assert not any(torch.equal(start[name], unbroken[name]) for name in unbroken)
