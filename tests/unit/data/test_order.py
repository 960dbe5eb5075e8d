"""The order of the data."""

import tracemalloc

import numpy as np
import pytest

from minima.data import order
from minima.errors import UsageError


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 100, 1023])
def test_a_permutation_of_any_size(count: int) -> None:
    image = order.permute(np.arange(count, dtype=np.uint64), count, b"key")
    assert sorted(image.tolist()) == list(range(count))


def test_each_example_once_in_an_epoch_and_what_is_left_in_the_last_batch() -> None:
    steps = order.steps_per_epoch(8, 101)
    batches = [order.batch(776, 3, n, 8, 101) for n in range(steps)]
    assert [len(batch) for batch in batches] == [8] * 12 + [5]
    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    assert (order.steps_per_epoch(8, 104), order.steps_per_epoch(8, 8)) == (13, 1)


def test_depends_on_seed_and_epoch_and_nothing_else() -> None:
    first = order.batch(1, 0, 2, 16, 1000)
    assert (first == order.batch(1, 0, 2, 16, 1000)).all()
    others = [order.batch(2, 0, 2, 16, 1000), order.batch(1, 1, 2, 16, 1000), order.batch(1, 0, 3, 16, 1000)]
    assert all((first != other).any() for other in others)


def test_is_the_same_in_every_version() -> None:
    """Runs that were begun go on: the function may never change."""
    assert order.batch(776, 0, 0, 8, 1000).tolist() == GOLDEN


GOLDEN = [468, 248, 57, 803, 206, 496, 9, 996]


def test_the_same_examples_for_any_size_of_batch() -> None:
    """A batch is a slice of the epoch's permutation: larger ones hold what the smaller ones did."""
    small = [order.batch(5, 0, n, 4, 50) for n in range(2)]
    assert np.concatenate(small).tolist() == order.batch(5, 0, 0, 8, 50).tolist()


@pytest.mark.parametrize("count", [5, 30])
def test_every_place_is_equally_likely(count: int) -> None:
    """Chi-square of example × position, and of which example follows which, over 600 keys."""
    keys = 600
    images = np.stack([order.permute(np.arange(count, dtype=np.uint64), count, b"%d" % k) for k in range(keys)])
    table = np.stack([np.bincount(images[:, i].astype(int), minlength=count) for i in range(count)])
    freedom = (count - 1) ** 2
    assert abs(((table - keys / count) ** 2 / (keys / count)).sum() - freedom) < 5 * (2 * freedom) ** 0.5
    follows = (images[:, 1:].astype(int) - images[:, :-1].astype(int)) % count
    counts = np.bincount(follows.ravel(), minlength=count)[1:]
    assert abs(((counts - keys) ** 2 / keys).sum() - (count - 2)) < 6 * (2 * count) ** 0.5 + 3


def test_memory_does_not_grow_with_the_data() -> None:
    tracemalloc.start()
    found = order.batch(1, 0, 10**6, 1024, 3 * 10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(found.tolist())) == 1024
    assert peak < 1 << 20


def test_too_few_examples() -> None:
    with pytest.raises(UsageError, match=r"--global_batch_size: 8 sequences, .* hold 7; valid: 1 to 7"):
        order.batch(1, 0, 0, 8, 7)
