"""metrics.jsonl, TensorBoard events and lines."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from minima.training.metrics import Metrics
from minima.workspace.lease import Lease

# Else TensorBoard imports TensorFlow, whose messages are not those of the tfrecord package in this process.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    with Lease(tmp_path) as lease:
        yield lease


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_events_and_lines(tmp_path: Path, lease: Lease, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics(lease, 0, 4)
    metrics.log(2, {"loss": 1.5, "tokens_per_second": 123456.0})
    metrics.close()
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row.pop("time") > 1e9
    assert row == {"step": 2, "loss": 1.5, "tokens_per_second": 123456.0}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(2, 1.5)]
    assert capsys.readouterr().err == "step 2/4 loss 1.5 tokens_per_second 123,456\n"


def test_rows_after_the_checkpoint_come_once(tmp_path: Path, lease: Lease) -> None:
    metrics = Metrics(lease, 0, 9)
    for step in (0, 1, 2, 3):
        metrics.log(step, {"loss": 1.0})
    metrics.close()
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # Killed while writing.
    metrics = Metrics(lease, 2, 9)
    metrics.log(3, {"loss": 0.5})
    metrics.close()
    assert steps(tmp_path) == [0, 1, 2, 3]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_new_beginning_drops_all(tmp_path: Path, lease: Lease) -> None:
    for _ in range(2):
        metrics = Metrics(lease, 0, 9)
        metrics.log(0, {"dev_perplexity": 9.0})
        metrics.close()
    assert steps(tmp_path) == [0]


def test_what_a_frozen_run_still_writes_reaches_no_log(tmp_path: Path) -> None:
    """It has its files open, as far as they were written when it was stopped."""
    with Lease(tmp_path, ttl=0.4) as first:
        frozen = Metrics(first, 0, 9)
        frozen.log(1, {"loss": 1.0})
        (tmp_path / "_lease.00000001.json").unlink()  # Followed, without its knowing.
        with Lease(tmp_path) as second:
            metrics = Metrics(second, 1, 9)
            metrics.log(2, {"loss": 0.5})
            metrics.close()
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        frozen.log(2, {"loss": 0.7})
        frozen.close()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert steps(tmp_path) == [1, 2]
