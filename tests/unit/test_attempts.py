"""Starts without progress are limited, and being stopped from outside is not a failure."""

from pathlib import Path

import pytest

from minima import attempts
from minima.errors import AttemptsError


def test_starts_without_progress_are_limited(tmp_path: Path) -> None:
    for _ in range(3):
        attempts.count(tmp_path, 3)
    with pytest.raises(AttemptsError, match="3 starts without progress"):
        attempts.count(tmp_path, 3)


@pytest.mark.parametrize("made", ["checkpoints/step-00000010", "train-00000-of-00002.tfrecord"])
def test_progress_begins_the_count_again(tmp_path: Path, made: str) -> None:
    for _ in range(3):
        attempts.count(tmp_path, 3)
    (tmp_path / made).mkdir(parents=True)
    for _ in range(3):
        attempts.count(tmp_path, 3)
    with pytest.raises(AttemptsError, match=r"beyond (step 10|shard 1)"):
        attempts.count(tmp_path, 3)


def test_a_start_that_was_stopped_from_outside_is_not_counted(tmp_path: Path) -> None:
    for _ in range(5):
        attempts.count(tmp_path, 1)
        attempts.forgive(tmp_path)
