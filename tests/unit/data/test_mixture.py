"""Mixtures: exact shares, and which record every example of every epoch is."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minima.data import order, records
from minima.data.mixture import Mixture, shares
from minima.errors import DataError, UsageError


def of_sizes(tmp_path: Path, sizes: list[int], weights: list[float]) -> Mixture:
    """Each record holds its source and its number there."""
    sources = {}
    for source, size in enumerate(sizes):
        files = [tmp_path / f"{source}-{part}.tfrecord" for part in range(2)]
        for part, file in enumerate(files):
            records.write(file, ({"indices": np.array([source, n])} for n in range(part, size, 2)))
        sources[str(tmp_path / str(source))] = files
    return Mixture(sources, weights)


def visited(mixture: Mixture, seed: int, epoch: int) -> list[int]:
    """The records of an epoch, in its order."""
    size = min(16, len(mixture))
    steps = order.steps_per_epoch(size, len(mixture))
    return [int(i) for n in range(steps) for i in mixture.of(order.batch(seed, epoch, n, size, len(mixture)), seed, epoch)]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), st.integers(0, 10**12))
def test_each_source_gives_its_share_within_one(weights: list[float], total: int) -> None:
    found = shares(weights, total)
    assert sum(found) == total
    whole = sum(Fraction(repr(weight)) for weight in weights)
    for weight, count in zip(weights, found, strict=True):
        assert abs(count - total * Fraction(repr(weight)) / whole) < 1
        # A larger weight never gives less, and of equal ones the first gives the one more.
        assert all(count >= other for w, other in zip(weights, found, strict=True) if w < weight)


@pytest.mark.parametrize(
    ("weights", "total", "expected"),
    [
        ([0.7, 0.3], 10, [7, 3]),  # As binary fractions the sum of these is not quite 1.
        ([0.1, 0.2, 0.7], 10, [1, 2, 7]),
        ([7, 3], 10, [7, 3]),
        ([1, 1, 1], 10, [4, 3, 3]),
        ([1, 1, 1], 11, [4, 4, 3]),
        ([0.75, 0.25], 35, [26, 9]),
        ([1e-9, 1], 100, [0, 100]),
        ([0.3], 5, [5]),
    ],
)
def test_shares(weights: list[float], total: int, expected: list[int]) -> None:
    assert shares(weights, total) == expected


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 40), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.01, 10), min_size=4, max_size=4),
    seed=st.integers(0, 9),
)
def test_no_record_is_seen_twice_before_all_of_its_source_were_seen_once(
    sizes: list[int], weights: list[float], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(all(shares(weights[: len(sizes)], sum(sizes))))
    mixture = of_sizes(tmp_path_factory.mktemp("mixture"), sizes, weights[: len(sizes)])
    assert mixture.sizes == sizes
    sources = [(int(source), int(n)) for source, n in (mixture[i]["indices"] for i in range(sum(sizes)))]
    so_far: Counter[tuple[int, int]] = Counter()
    for epoch in range(4):
        found = visited(mixture, seed, epoch)
        assert found == visited(mixture, seed, epoch), "a pure function"
        now = Counter(sources[i] for i in found)
        so_far += now
        for source, (size, share) in enumerate(zip(sizes, mixture.shares, strict=True)):
            for counts, examples in ((now, share), (so_far, (epoch + 1) * share)):
                each = [counts[source, n] for n in range(size)]
                assert sum(each) == examples
                assert set(each) <= {examples // size, -(-examples // size)}


def test_epochs_and_seeds_have_orders_of_their_own_and_batches_of_any_size_the_same(tmp_path: Path) -> None:
    mixture = of_sizes(tmp_path, [20, 15], [3, 1])
    assert mixture.shares == [26, 9]
    first = visited(mixture, 776, 0)
    assert first not in (visited(mixture, 776, 1), visited(mixture, 1, 0))
    all_at_once = mixture.of(order.batch(776, 0, 0, 35, 35), 776, 0)
    assert all_at_once.tolist() == first
    # What a share leaves out of a source is chosen at random, not its end.
    cut = [set(range(15)) - {i - 20 for i in visited(mixture, seed, 0)} for seed in range(3)]
    assert len({frozenset(each) for each in cut}) == 3


def test_is_the_same_in_every_version(tmp_path: Path) -> None:
    """Runs that were begun go on: the function may never change."""
    mixture = of_sizes(tmp_path, [20, 15], [3, 1])
    assert mixture.of(order.batch(776, 1, 0, 12, 35), 776, 1).tolist() == GOLDEN


GOLDEN = [9, 30, 11, 25, 6, 29, 33, 8, 7, 5, 2, 6]


def test_what_is_said_of_it(tmp_path: Path) -> None:
    assert of_sizes(tmp_path, [20, 15], [3, 1]).account() == [
        {"source": str(tmp_path / "0"), "records": 20, "examples_per_epoch": 26},
        {"source": str(tmp_path / "1"), "records": 15, "examples_per_epoch": 9},
    ]


def test_a_share_of_less_than_an_example(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--mixture: of 35 examples of an epoch 1e-09 is none of .*0; leave it out"):
        of_sizes(tmp_path, [20, 15], [1e-9, 1])


def test_a_source_without_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1: holds no record, of which a share"):
        of_sizes(tmp_path, [20, 0], [1, 1])
