"""Starts without progress are limited; being stopped from outside, or what a person must mend, is no failure."""

from pathlib import Path

import pytest

from minima import attempts
from minima.errors import (
    AttemptsError,
    DataError,
    DiskFullError,
    LostPeerError,
    NotReadyError,
    StageError,
    TerminatedError,
    UsageError,
)


def fail(folder: Path, limit: int, error: type[StageError] = LostPeerError) -> None:
    """One start that ends with an error."""
    with pytest.raises(error), attempts.counted(folder, limit):
        raise error("why")


def test_starts_without_progress_are_limited(tmp_path: Path) -> None:
    for _ in range(3):
        fail(tmp_path, 3)
    with pytest.raises(AttemptsError, match="3 starts without progress"), attempts.counted(tmp_path, 3):
        pass


@pytest.mark.parametrize("made", ["checkpoints/step-00000010", "train-00000-of-00002.tfrecord"])
def test_progress_begins_the_count_again(tmp_path: Path, made: str) -> None:
    for _ in range(3):
        fail(tmp_path, 3)
    (tmp_path / made).mkdir(parents=True)
    for _ in range(3):
        fail(tmp_path, 3)
    with pytest.raises(AttemptsError, match=r"beyond (step 10|shard 1)"), attempts.counted(tmp_path, 3):
        pass


@pytest.mark.parametrize("error", [TerminatedError, UsageError, DataError, DiskFullError, NotReadyError])
def test_what_is_for_a_person_to_mend_is_not_counted(tmp_path: Path, error: type[StageError]) -> None:
    for _ in range(5):
        fail(tmp_path, 1, error)
