"""Starts without progress are limited; being stopped from outside, or what a person must mend, is no failure."""

import os
from pathlib import Path

import pytest

from minima.errors import (
    AttemptsError,
    DataError,
    DiskFullError,
    LostPeerError,
    NoPeerError,
    NotReadyError,
    StageError,
    TerminatedError,
    UsageError,
)
from minima.workspace import attempts
from minima.workspace.lease import Lease
from minima.workspace.marker import MARKER


def fail(folder: Path, limit: int, error: type[StageError] = LostPeerError) -> None:
    """One start that ends with an error."""
    with pytest.raises(error), Lease(folder) as lease, attempts.counted(lease, limit):
        raise error("why")


def test_starts_without_progress_are_limited(tmp_path: Path) -> None:
    for _ in range(3):
        fail(tmp_path, 3)
    with pytest.raises(AttemptsError, match="3 starts without progress"), Lease(tmp_path) as lease, attempts.counted(lease, 3):
        pass


@pytest.mark.parametrize("made", ["checkpoints/step-00000010", "train-00000-of-00002.tfrecord"])
def test_progress_begins_the_count_again(tmp_path: Path, made: str) -> None:
    for _ in range(3):
        fail(tmp_path, 3)
    (tmp_path / made).mkdir(parents=True)
    for _ in range(3):
        fail(tmp_path, 3)
    with pytest.raises(AttemptsError, match=r"beyond (step 10|shard 1)"), Lease(tmp_path) as lease, attempts.counted(lease, 3):
        pass


def test_what_a_person_put_beside_the_checkpoints_is_no_progress(tmp_path: Path) -> None:
    for name in ("step-00000010", "step-00000100.bak", "step-old"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert attempts.progress(tmp_path) == 10
    os.utime(tmp_path / "checkpoints/step-00000010", (5, 5))
    assert attempts.progressed(tmp_path) == 5


@pytest.mark.parametrize("error", [TerminatedError, UsageError, DataError, DiskFullError])
def test_what_is_for_a_person_to_mend_is_not_counted(tmp_path: Path, error: type[StageError]) -> None:
    for _ in range(5):
        fail(tmp_path, 1, error)


def begin(folder: Path, limit: int, error: type[StageError] = LostPeerError, counted: int = 0) -> None:
    """One start of a group, whose first process counts so many times, that ends with an error."""

    def group() -> None:
        with attempts.begun(folder, limit):
            for _ in range(counted):
                fail(folder, limit, error)
            raise error("why")

    with pytest.raises(error):
        group()


@pytest.mark.parametrize("counted", [[0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 1, 0], [2, 0], [3]])
def test_each_start_of_a_group_counts_once_wherever_it_dies(tmp_path: Path, counted: list[int]) -> None:
    """Twice or more where torch started it again inside its pods."""
    for times in counted:
        begin(tmp_path, 3, counted=times)
    with pytest.raises(AttemptsError, match="3 starts without progress"), attempts.begun(tmp_path, 3):
        pass


@pytest.mark.parametrize("error", [TerminatedError, UsageError, DataError, DiskFullError, NotReadyError, NoPeerError])
def test_a_group_that_waits_for_its_pods_or_for_a_person_is_not_counted(tmp_path: Path, error: type[StageError]) -> None:
    for _ in range(5):
        begin(tmp_path, 1, error)


@pytest.mark.parametrize("error", [TerminatedError, UsageError, DataError, DiskFullError])
def test_nor_is_one_whose_first_process_was_killed_with_it(tmp_path: Path, error: type[StageError]) -> None:
    """It counted, and had no time to take that back: a drain while the model loads."""

    def group() -> None:
        with attempts.begun(tmp_path, 1):
            with Lease(tmp_path) as lease:
                attempts.counted(lease, 1).__enter__()
            raise error("why")

    for _ in range(5):
        with pytest.raises(error):
            group()


def test_another_groups_start_takes_nothing_from_the_one_at_work(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease, attempts.counted(lease, 1):
        begin(tmp_path, 5, NotReadyError)
    with pytest.raises(AttemptsError), Lease(tmp_path) as lease, attempts.counted(lease, 1):
        pass


def test_a_finished_artifact_is_not_written(tmp_path: Path) -> None:
    """Its group was followed by another, which finished, and ends only now."""

    def group() -> None:
        with attempts.begun(tmp_path, 3):
            (tmp_path / MARKER).touch()
            (tmp_path / attempts.FILE).unlink()
            raise NotReadyError("lost the lease")

    with pytest.raises(NotReadyError):
        group()
    assert not (tmp_path / attempts.FILE).exists()


@pytest.mark.parametrize("made", ["checkpoints/step-00000003", "train-00003.tfrecord"])
def test_when_a_stage_last_came_further(tmp_path: Path, made: str) -> None:
    assert attempts.progressed(tmp_path) == 0
    (tmp_path / "_attempts.json").write_text("{}")
    assert attempts.progressed(tmp_path) == 0  # A start is no progress.
    place = tmp_path / made
    place.mkdir(parents=True)
    os.utime(place, (5, 5))
    assert attempts.progressed(tmp_path) == 5
    later = place.with_name(place.name.replace("3", "4"))
    later.mkdir()
    os.utime(later, (9, 9))
    assert attempts.progressed(tmp_path) == 9
