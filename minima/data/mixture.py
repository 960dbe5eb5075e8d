"""Records of several sources, of which each gives its share of an epoch."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from minima.data import order
from minima.data.records import Records
from minima.errors import DataError, UsageError


def shares(weights: Sequence[float], total: int) -> list[int]:
    """How many of `total` examples each source gives: in proportion to its weight within one, by the largest remainders."""
    exact = [Fraction(repr(weight)) for weight in weights]  # As it is written: 0.1 is a tenth.
    wanted = [total * weight / sum(exact) for weight in exact]
    found = [int(number) for number in wanted]
    for source in sorted(range(len(found)), key=lambda n: found[n] - wanted[n])[: total - sum(found)]:
        found[source] += 1
    return found


class Mixture(Records):
    """The records of all sources; an epoch has as many examples as they are, of which each source gives its share.

    From epoch to epoch a source goes on in an order of its records that only the seed chooses, and begins again behind the
    last: after any epoch each of its records was seen as often as any other of them, or once more. In which order an epoch
    has its examples is not said here but in `order.batch`.

    Args:
        sources: by their paths, the files of each, as `find` gives them.
        weights: of each, in any unit.

    Attributes:
        sizes: records of each source.
        shares: examples of an epoch from each source.

    Raises:
        DataError: as `Records`, or a source holds no record.
        UsageError: the share of a source is less than an example.
    """

    def __init__(self, sources: Mapping[str, Sequence[Path]], weights: Sequence[float]) -> None:
        super().__init__(file for files in sources.values() for file in files)
        self._sources = list(sources)
        files_before = np.cumsum([0, *map(len, sources.values())])
        self._begins = np.array([0, *self._ends])[files_before]
        self.sizes: list[int] = np.diff(self._begins).tolist()
        for source, size in zip(self._sources, self.sizes, strict=True):
            if not size:
                raise DataError(f"{source}: holds no record, of which a share of the mixture could be; leave it out")
        self.shares = shares(weights, len(self))
        for source, share, weight in zip(self._sources, self.shares, weights, strict=True):
            if not share:
                raise UsageError(f"--mixture: of {len(self)} examples of an epoch {weight:g} is none of {source}; leave it out")

    def of(self, examples: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Which records the examples with these numbers (from 0, below the number of records) are in an epoch; same shape."""
        found = np.empty_like(examples)
        begin = 0
        for source, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
            mine = (examples >= begin) & (examples < begin + share)
            places = (examples[mine] - begin + epoch * share) % size
            records = order.permute(places.astype(np.uint64), size, f"{seed}/source {source}".encode())
            found[mine] = self._begins[source] + records.astype(np.int64)
            begin += share
        return found

    def account(self) -> list[dict[str, Any]]:
        """Of each source its path, its records, and the examples of an epoch that it gives."""
        of_each = zip(self._sources, self.sizes, self.shares, strict=True)
        return [{"source": source, "records": size, "examples_per_epoch": share} for source, size, share in of_each]
