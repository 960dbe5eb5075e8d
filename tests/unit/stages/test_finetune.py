"""finetune as a whole stage: LoRA, its merge, tied embeddings, the chat template."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from minima.data import records
from minima.errors import DataError
from minima.options import Finetune, Options
from minima.stages import finetune
from minima.training import folders
from minima.workspace.artifact import Output
from minima.workspace.lease import Lease
from tests.unit import tiny
from tests.unit.training import runs

IDS = torch.arange(3, 19)[None]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@pytest.fixture
def options(tmp_path: Path) -> Finetune:
    records.write(tmp_path / "chat.train.tfrecord", runs.examples(24))
    records.write(tmp_path / "chat.dev.tfrecord", runs.examples(4, seed=1))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "out").mkdir()
    return Finetune(
        output_dir=str(tmp_path / "out"),
        model_name_or_path=str(tmp_path / "model"),
        train_record_path_or_regex=(str(tmp_path / "*.train.tfrecord"),),
        dev_record_path_or_regex=str(tmp_path / "*.dev.tfrecord"),
        max_seq_length=16,
        global_batch_size=8,
        learning_rate=1e-2,
        num_patience_epochs=1,
    )


def run(options: Finetune, *, tied: bool = False) -> dict[str, Any]:
    runs.model(tied=tied).save_pretrained(options.model_name_or_path)
    tiny.tokenizer(Path(options.model_name_or_path), runs.VOCABULARY)
    with Lease(Path(options.output_dir)) as lease:
        return finetune.run(options, Output(lease.folder, options, {}, lease))


# Of peft 0.21 when it loads the adapters: it asks transformers by an old name, and sees the base's tied embeddings.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("tied", [False, True])
def test_merged_equals_adapted(tied: bool, options: Finetune) -> None:
    """Defect 8: the published LoRA script could not run, and never merged."""
    metrics = run(dataclasses.replace(options, lora_r=4, use_act_ckpt=True), tied=tied)
    assert metrics["dev_perplexity"] < metrics["dev_perplexity_start"]
    base = AutoModelForCausalLM.from_pretrained(options.model_name_or_path)
    start = base(input_ids=IDS).logits
    merged = AutoModelForCausalLM.from_pretrained(options.output_dir)
    adapted: Any = PeftModel.from_pretrained(base, Path(options.output_dir) / "adapter")
    expected = adapted(input_ids=IDS).logits
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    assert (start - expected).abs().max() > 0.1
    original = runs.model(tied=tied)
    assert torch.equal(merged.model.embed_tokens.weight, original.model.embed_tokens.weight)
    assert not torch.equal(merged.lm_head.weight, original.lm_head.weight)
    targets = sum(4 * (m.in_features + m.out_features) for m in original.model.modules() if isinstance(m, torch.nn.Linear))
    assert metrics["trainable_parameters"] == targets + original.lm_head.weight.numel()


def test_the_chat_template_of_a_source_behind_one_of_running_text(tmp_path: Path) -> None:
    for name in ("text", "chat"):
        (tmp_path / name).mkdir()
        records.write(tmp_path / name / "a.tfrecord", runs.examples(1))
    (tmp_path / "chat" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "out").mkdir()
    found = records.Records(tmp_path / name / "a.tfrecord" for name in ("text", "chat"))
    finetune.copy_template(found, Output(tmp_path / "out", Options(output_dir=""), {}))
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_whole_model_and_the_chat_template(options: Finetune) -> None:
    metrics = run(options)
    assert (Path(options.output_dir) / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (Path(options.output_dir) / "adapter").exists()
    assert metrics["trainable_parameters"] == metrics["parameters"]
    assert metrics["best_step"] == metrics["steps"] == 3


@pytest.mark.parametrize("marked", [True, False])
def test_records_that_are_too_long_are_refused_before_the_model_is_loaded(
    marked: bool, options: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "model", lambda *_: pytest.fail("the model is loaded"))
    place = Path(options.model_name_or_path).parent / "records"
    place.mkdir()
    records.write(place / "a.tfrecord", [{"indices": np.arange(3, 3 + length)} for length in (4, 9)])
    if marked:
        whole: dict[str, Any] = {"format": 1, "verb": "", "key": "", "inputs": {}, "files": {}, "metrics": {}}
        (place / "_SUCCESS.json").write_text(json.dumps(whole | {"identity": {"max_seq_length": 32}}))
    valid = "32, with which they were built" if marked else "9 or more, as they were built"
    long = dataclasses.replace(options, train_record_path_or_regex=(str(place),), max_seq_length=8)
    message = r"--train_record_path_or_regex: \S+/a\.tfrecord: record 1 holds 9 ids, and --max_seq_length is 8; valid: "
    with pytest.raises(DataError, match=message + valid):
        run(long)


def test_adapters_begin_the_same_in_each_process(options: Finetune) -> None:
    """The seed is the option's, not the process's."""
    small = dataclasses.replace(options, lora_r=2)
    found = []
    for _ in range(2):
        torch.manual_seed(small.seed)
        found.append(finetune.with_adapters(runs.model(), small).state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
