"""metrics.jsonl, TensorBoard events and lines."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minima.training.metrics import Metrics


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_events_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics(tmp_path, 0, 4)
    metrics.log(2, {"loss": 1.5, "tokens_per_second": 123456.0})
    metrics.close()
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row.pop("time") > 1e9
    assert row == {"step": 2, "loss": 1.5, "tokens_per_second": 123456.0}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(2, 1.5)]
    assert capsys.readouterr().err == "step 2/4 loss 1.5 tokens_per_second 123,456\n"


def test_rows_after_the_checkpoint_come_once(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, 9)
    for step in (0, 1, 2, 3):
        metrics.log(step, {"loss": 1.0})
    metrics.close()
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # Killed while writing.
    metrics = Metrics(tmp_path, 2, 9)
    metrics.log(3, {"loss": 0.5})
    metrics.close()
    assert steps(tmp_path) == [0, 1, 2, 3]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_new_beginning_drops_all(tmp_path: Path) -> None:
    for _ in range(2):
        metrics = Metrics(tmp_path, 0, 9)
        metrics.log(0, {"dev_perplexity": 9.0})
        metrics.close()
    assert steps(tmp_path) == [0]
