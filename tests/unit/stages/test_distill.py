"""adapt and distill as whole stages."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 its usual name
from transformers import AutoModelForCausalLM

from minima.data import order, records, tokenization
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
        tiny.tokenizer(tmp_path / name, runs.VOCABULARY)
    records.write(tmp_path / "train.tfrecord", runs.examples(24))
    records.write(tmp_path / "dev.tfrecord", runs.examples(4, seed=1))
    (tmp_path / "out").mkdir()
    return Distill(
        output_dir=str(tmp_path / "out"),
        teacher_model_name_or_path=str(tmp_path / "teacher"),
        student_model_name_or_path=str(tmp_path / "student"),
        record_path_or_regex=(str(tmp_path / "train.tfrecord"),),
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


@pytest.fixture
def two(options: Distill, tmp_path: Path) -> Adapt:
    """adapt on 20 and 15 records, three parts to one, in one epoch of 35 examples."""
    (tmp_path / "many").mkdir()
    records.write(tmp_path / "many" / "a.tfrecord", runs.examples(12, seed=2))
    records.write(tmp_path / "many" / "b.tfrecord", runs.examples(8, seed=3))
    records.write(tmp_path / "few.tfrecord", runs.examples(15, seed=4))
    shared = {f.name: getattr(options, f.name) for f in dataclasses.fields(Adapt) if hasattr(options, f.name)}
    sources = (str(tmp_path / "many"), str(tmp_path / "few.tfrecord"))
    folders = {"model_name_or_path": options.student_model_name_or_path, "record_path_or_regex": sources}
    return Adapt(**shared | folders | {"mixture": (3.0, 1.0)})


def weights(chosen: Adapt) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(chosen.output_dir).state_dict()
    return found


def test_a_mixture_is_a_training_on_the_same_examples_by_hand(
    two: Adapt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many, few = [*runs.examples(12, seed=2), *runs.examples(8, seed=3)], runs.examples(15, seed=4)
    # 35 · ¾ = 26.25 and 35 · ¼ = 8.75: 26 and 9. Of the 20 six come twice, of the 15 six not at all.
    kept = [np.arange(26, dtype=np.uint64) % np.uint64(20), np.arange(9, dtype=np.uint64)]
    turns = [order.permute(kept[0], 20, b"776/source 0"), order.permute(kept[1], 15, b"776/source 1")]
    by_hand = [*(many[int(i)] for i in turns[0]), *(few[int(i)] for i in turns[1])]
    metrics = run(two, adapt)
    said = capsys.readouterr().err
    assert f"{tmp_path}/many: 26 examples of an epoch, of 20 records (1.3 times each)" in said
    assert f"{tmp_path}/few.tfrecord: 9 examples of an epoch, of 15 records (0.6 times each)" in said
    assert metrics["mixture"] == [
        {"source": f"{tmp_path}/many", "records": 20, "examples_per_epoch": 26},
        {"source": f"{tmp_path}/few.tfrecord", "records": 15, "examples_per_epoch": 9},
    ]
    assert (metrics["steps"], metrics["left_out_examples"]) == (5, 0)
    records.write(tmp_path / "by-hand.tfrecord", by_hand)
    (tmp_path / "other").mkdir()
    plain = dataclasses.replace(
        two, output_dir=str(tmp_path / "other"), record_path_or_regex=(str(tmp_path / "by-hand.tfrecord"),), mixture=()
    )
    assert "mixture" not in run(plain, adapt)
    mixed, expected = weights(two), weights(plain)
    assert all(torch.equal(mixed[name], expected[name]) for name in expected)


def test_several_sources_without_weights_are_one_corpus(two: Adapt, tmp_path: Path) -> None:
    run(dataclasses.replace(two, mixture=()), adapt)
    both = [*runs.examples(12, seed=2), *runs.examples(8, seed=3), *runs.examples(15, seed=4)]
    records.write(tmp_path / "both.tfrecord", both)
    (tmp_path / "other").mkdir()
    one = dataclasses.replace(
        two, output_dir=str(tmp_path / "other"), record_path_or_regex=(str(tmp_path / "both.tfrecord"),), mixture=()
    )
    run(one, adapt)
    mixed, expected = weights(dataclasses.replace(two, mixture=())), weights(one)
    assert all(torch.equal(mixed[name], expected[name]) for name in expected)


def test_sources_share_no_file_with_each_other_or_the_held_out(two: Adapt, tmp_path: Path) -> None:
    for sources, said in (
        ((str(tmp_path / "many"), str(tmp_path / "many" / "a*.tfrecord")), "a.tfrecord is in two of its sources"),
        ((str(tmp_path / "many"), str(tmp_path / "dev.tfrecord")), "--dev_record_path_or_regex: .*dev.tfrecord is in --record"),
    ):
        with pytest.raises(UsageError, match=said):
            run(dataclasses.replace(two, record_path_or_regex=sources), adapt)


def test_a_source_of_empty_files(two: Adapt, tmp_path: Path) -> None:
    """As a copy that failed leaves them."""
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "train-0.tfrecord").touch()
    sources = (*two.record_path_or_regex, str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"--record_path_or_regex: .*none: its files are empty; build or copy them again"):
        run(dataclasses.replace(two, record_path_or_regex=sources, mixture=()), adapt)


def test_a_source_of_another_tokenizer(two: Adapt, tmp_path: Path) -> None:
    marker = {"format": FORMAT, "verb": "build-data", "key": "0", "identity": {}, "inputs": {}, "files": {}}
    (tmp_path / "many" / MARKER).write_text(json.dumps(marker | {"metrics": {"tokenizer": "another"}}))
    swapped = dataclasses.replace(two, record_path_or_regex=two.record_path_or_regex[::-1])
    for chosen in (two, swapped):
        with pytest.raises(DataError, match=r"--record_path_or_regex: the records in .*many were made with another tokenizer"):
            run(chosen, adapt)


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
