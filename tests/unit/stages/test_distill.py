"""adapt and distill as whole stages."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 its usual name
from transformers import AutoModelForCausalLM

from minima.data import records, tokenization
from minima.data.batch import collate
from minima.errors import DataError, UsageError
from minima.models import pretrained
from minima.options import Adapt, Distill
from minima.stages import adapt, distill
from minima.workspace.artifact import Output
from minima.workspace.lease import Lease
from minima.workspace.marker import FORMAT, MARKER
from tests.unit import tiny
from tests.unit.training import runs


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@pytest.fixture
def options(tmp_path: Path) -> Distill:
    """A teacher of another shape, records and a place for the student."""
    for name, changes in {"teacher": {"hidden": 48, "seed": 1}, "student": {}}.items():
        runs.model(**changes).save_pretrained(tmp_path / name)
        tiny.tokenizer(tmp_path / name)
    records.write(tmp_path / "train.tfrecord", runs.examples(24))
    records.write(tmp_path / "dev.tfrecord", runs.examples(4, seed=1))
    (tmp_path / "out").mkdir()
    return Distill(
        output_dir=str(tmp_path / "out"),
        teacher_model_name_or_path=str(tmp_path / "teacher"),
        student_model_name_or_path=str(tmp_path / "student"),
        record_path_or_regex=str(tmp_path / "train.tfrecord"),
        dev_record_path_or_regex=str(tmp_path / "dev.tfrecord"),
        max_seq_length=16,
        global_batch_size=8,
        learning_rate=3e-3,
        ce_weight=0.3,
        temperature=2.0,
        log_interval=1,
    )


def run(options: Any, stage: Any = distill) -> dict[str, Any]:
    with Lease(Path(options.output_dir)) as lease:
        found: dict[str, Any] = stage.run(options, Output(lease.folder, options, {}, lease))
    return found


def test_the_loss_of_a_batch(options: Distill) -> None:
    teacher, student = runs.model(hidden=48, seed=1), runs.model()
    batch = collate(runs.examples(4), student.config, 16)
    sums = distill.batch_loss(teacher, options)(student, batch)
    counted = batch.labels.flatten() != -100
    logits, known = (m(input_ids=batch.input_ids).logits.flatten(0, 1)[counted] for m in (student, teacher))
    ce = F.cross_entropy(logits, batch.labels.flatten()[counted], reduction="sum")
    kd = 4 * F.cross_entropy(logits / 2, (known / 2).softmax(-1), reduction="sum")
    torch.testing.assert_close(sums.ce, ce)
    torch.testing.assert_close(sums.kd, kd)
    torch.testing.assert_close(sums.total, 0.3 * ce + 0.7 * kd)
    sums.total.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_writes_a_student_that_transformers_loads(options: Distill) -> None:
    metrics = run(options)
    folder = Path(options.output_dir)
    assert metrics["steps"] == 3
    assert metrics["dev_perplexity"] < metrics["dev_perplexity_start"]
    assert metrics["trainable_parameters"] == metrics["parameters"] == runs.model().num_parameters()
    student = AutoModelForCausalLM.from_pretrained(folder)
    assert student.dtype == torch.float32
    assert not torch.equal(student.lm_head.weight, runs.model().lm_head.weight)
    assert (folder / "tokenizer.json").is_file()
    assert '"kd"' in (folder / "metrics.jsonl").read_text()


def test_another_vocabulary(options: Distill, tmp_path: Path) -> None:
    llama = runs.tiny.llama(vocab=72)
    llama.save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="its vocabulary has 72 rows, the student's 64"):
        run(dataclasses.replace(options, teacher_model_name_or_path=str(tmp_path / "other")))


def other_tokenizer(folder: Path) -> None:
    """As many pieces as before, two of them exchanged."""
    place = folder / "tokenizer.json"
    raw = json.loads(place.read_text())
    vocab = raw["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    place.write_text(json.dumps(raw))


def test_a_student_with_another_tokenizer(options: Distill) -> None:
    other_tokenizer(Path(options.student_model_name_or_path))
    with pytest.raises(DataError, match=r"--teacher_model_name_or_path: the ids of its tokenizer .* mean other text"):
        run(options)


def test_records_of_another_tokenizer(options: Distill, tmp_path: Path) -> None:
    """What build-data says of its tokenizer is compared before any model is loaded."""
    made = {"tokenizer": tokenization.fingerprint(tokenization.load(options.student_model_name_or_path))}
    marker = {"format": FORMAT, "verb": "build-data", "key": "0", "identity": {}, "inputs": {}, "files": {}, "metrics": made}
    (tmp_path / MARKER).write_text(json.dumps(marker))
    shared = {f.name: getattr(options, f.name) for f in dataclasses.fields(Adapt) if hasattr(options, f.name)}
    chosen = Adapt(**shared | {"model_name_or_path": options.student_model_name_or_path})
    assert run(chosen, adapt)["steps"] == 3
    for folder in (options.student_model_name_or_path, options.teacher_model_name_or_path):
        other_tokenizer(Path(folder))
    for stage, one in ((adapt, chosen), (distill, options)):
        with pytest.raises(DataError, match=r"--record_path_or_regex: the records in .* were made with another tokenizer"):
            run(one, stage)


def test_longer_than_the_positions(options: Distill) -> None:
    with pytest.raises(DataError, match="257 tokens, the model has 256 positions"):
        run(dataclasses.replace(options, max_seq_length=257))


def test_adapt_in_bfloat16(options: Distill) -> None:
    shared = {f.name: getattr(options, f.name) for f in dataclasses.fields(Adapt) if hasattr(options, f.name)}
    chosen = Adapt(
        **shared | {"model_name_or_path": options.student_model_name_or_path, "use_bf16": True, "use_act_ckpt": True}
    )
    metrics = run(chosen, adapt)
    assert metrics["dev_perplexity"] < metrics["dev_perplexity_start"]
    written = pretrained.load(options.output_dir, dtype=torch.float32)
    assert AutoModelForCausalLM.from_pretrained(options.output_dir).dtype == torch.bfloat16
    nll = count = 0.0
    for one in runs.examples(4, seed=1):
        batch = collate([one], written.config, 16)
        logits = written(input_ids=batch.input_ids).logits.flatten(0, 1)
        nll += F.cross_entropy(logits, batch.labels.flatten(), reduction="sum").item()
        count += batch.trained
    assert torch.tensor(nll / count).exp().item() == pytest.approx(metrics["dev_perplexity"], rel=2e-2)
