"""The learning rate of each step."""

from pathlib import Path

import pytest

from minima.training import schedule
from tests.unit.training import runs


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_learning_rate(kind: str) -> None:
    chosen = runs.options(Path("unused"), lr_scheduler_type=kind, learning_rate=2.0, warmup_proportion=0.1)
    rates = [schedule.learning_rate(step, 100, chosen) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(rates) == rates[10] == 2.0
    assert rates[55] == pytest.approx(2.0 if kind == "constant" else 1.0)
    assert all(rate > 0 for rate in rates)
    assert schedule.learning_rate(0, 1, runs.options(Path("unused"), warmup_proportion=1.0)) > 0
