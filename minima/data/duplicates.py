"""Exact duplicates in running text: which documents of a span are the first of their text in the whole corpus.

All spans are read once before any is tokenised. Each leaves a file of the hashes of its distinct documents, 16 bytes for
each. The first span that has a hash keeps that document, so it does not matter which process or pod looks. Hashes are
compared a range at a time: in memory are about 32 bytes for each of RANGE documents, and one byte for each document of the
spans that are still to be made; while a span is read, 8 to 32 bytes for each of its own.

A hash has 64 bits: among a billion different documents one is taken for another's duplicate with a probability of 3 %.
"""

import hashlib
import itertools
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from minima.data import corpus
from minima.data.objects import Form
from minima.data.shards import Job
from minima.workspace.files import sync

RANGE = 1 << 23
"""Documents whose hashes are compared at once."""


def hashes_place(folder: str | Path, job: Job) -> Path:
    """Where `look` leaves the hashes of a span."""
    return Path(folder) / f".hashes-{job.name}.npy"


def _first_place(job: Job) -> Path:
    return Path(job.staging) / f".first-{job.name}.npy"


def look(job: Job) -> Iterator[Job]:
    """Write the hashes of a span's documents into its staging folder: `[2, distinct documents]`, hashes and numbers.

    Yields the job, once.

    Raises:
        DataError: as `corpus.read` says.
    """
    found = array("Q")
    for document in corpus.read(job.folder, job.span, Form.of(job.options)):
        if isinstance(document, str):
            found.append(int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "little"))
    hashes, numbers = np.unique(np.frombuffer(found, np.uint64), return_index=True)
    place = hashes_place(job.staging, job)
    np.save(place, np.stack([hashes, numbers.astype(np.uint64)]))
    sync(place)
    yield job


def compare(places: Sequence[Path], mine: Sequence[Job]) -> None:
    """Leave with each of the jobs `mine` which of its documents no earlier span, nor itself, has before; `first` reads that.

    Args:
        places: where the hashes of all spans lie, by their number.
        mine: the spans that are to be made.
    """
    spans = [np.load(place, mmap_mode="r") for place in places]
    first = {job.index: np.zeros(spans[job.index].shape[1], bool) for job in mine}
    ranges = sum(span.shape[1] for span in spans) // RANGE + 1
    bounds = [turn * 2**64 // ranges for turn in range(1, ranges)]
    begins = [0] * len(spans)
    for bound in [*bounds, None]:
        ends = [s.shape[1] if bound is None else int(np.searchsorted(s[0], np.uint64(bound))) for s in spans]
        parts = [np.asarray(s[0, begin:end]) for s, begin, end in zip(spans, begins, ends, strict=True)]
        # Of equal ones `unique` gives the place of the first: of the earliest span.
        chosen = np.sort(np.unique(np.concatenate(parts), return_index=True)[1])
        starts = np.searchsorted(chosen, list(itertools.accumulate(map(len, parts), initial=0)))
        offset = 0
        for index, part in enumerate(parts):
            if index in first:
                first[index][begins[index] + chosen[starts[index] : starts[index + 1]] - offset] = True
            offset += len(part)
        begins = ends
    for job in mine:
        numbers = np.asarray(spans[job.index][1])
        kept = np.zeros(int(numbers.max(initial=0)) + 1, bool)
        kept[numbers[first[job.index]].astype(np.int64)] = True
        np.save(_first_place(job), kept)


def first(job: Job) -> Iterator[bool]:
    """Of each document of a span, in order, whether it is the first of its text in the corpus, as `compare` found."""
    yield from np.load(_first_place(job)).tolist()
    yield from itertools.repeat(False)  # What follows the last distinct one.
