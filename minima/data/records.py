"""TFRecord files of token ids, their index, and random access to them with both checksums verified on every read.

Beside each file of framed examples (framing.py) `<file>.index` has one line for each record, "offset length": where the
record begins and how many bytes it takes with its framing, as the tfrecord package's `tfrecord2idx` writes it.
"""

import contextlib
import glob
import hashlib
import io
import mmap
import os
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from minima.data.framing import FRAMING, HEADER, LENGTH, decode, encode, frame, masked_crc, unframe
from minima.errors import DataError, UsageError, listed
from minima.workspace.files import file_digest
from minima.workspace.inputs import input_files

SUFFIX = ".tfrecord"
INDEX_SUFFIX = ".index"
SMALL = 1 << 30
"""Bytes of training records up to which each is compared with the held-out ones."""
MAX_OPEN = 128
"""Files that a `Records` keeps mapped; the least recently used is closed first."""

_REMEDY = "make the file again (`jobgen run … --from STAGE`), or copy it again"


def index_of(path: Path) -> Path:
    """Where the index of a record file lies."""
    return path.with_name(path.name + INDEX_SUFFIX)


class Writer:
    """Writes the TFRecord file `path` with its index, record by record; both are there, and synced, after `close`.

    Args:
        path: the file, in a folder that nobody reads before it is whole; one that is there already is replaced.
    """

    def __init__(self, path: str | Path) -> None:
        self.count = self._offset = 0
        self._out, self._index = open(path, "wb"), open(index_of(Path(path)), "w", encoding="ascii")  # noqa: SIM115

    def add(self, example: Mapping[str, np.ndarray]) -> None:
        """Write one record of int64 features by name, each `[N]`.

        Raises:
            ValueError: a feature is not a vector of whole numbers that fit into int64.
        """
        record = frame(encode(example))
        self._out.write(record)
        self._index.write(f"{self._offset} {len(record)}\n")
        self._offset += len(record)
        self.count += 1

    def close(self) -> None:
        """Write what is buffered."""
        with self._out, self._index:
            for file in (self._out, self._index):
                file.flush()
                os.fsync(file.fileno())


def write(path: str | Path, examples: Iterable[Mapping[str, np.ndarray]]) -> int:
    """Write `examples` with a `Writer`; returns the number of records.

    Raises:
        ValueError: as `Writer.add` says.
    """
    writer = Writer(path)
    with contextlib.closing(writer):
        for example in examples:
            writer.add(example)
    return writer.count


def find(path_or_regex: str | Path, split: str = "") -> list[Path]:
    """The TFRecord files of a path, sorted: the file itself, all `*.tfrecord` in a folder, or what a glob matches.

    Args:
        path_or_regex: where.
        split: `train` leaves the held-out shards (`dev-*`) out of a folder or a glob that holds others too, `dev` all others.

    Raises:
        DataError: there is none.
    """
    found = _found(str(path_or_regex))
    held_out = [p for p in found if p.name.startswith("dev-")]
    if split == "dev" and all(p.name.startswith("train-") for p in found):
        _say(
            f"{path_or_regex}: {listed([p.name for p in found], 3)}: made to be trained on, and no dev-* is there to measure by"
        )
    if not held_out or len(held_out) == len(found) or not split:
        return found
    if split == "dev":
        return held_out
    _say(f"{path_or_regex}: {listed([p.name for p in held_out], 3)}: held out, so left out here")
    return [p for p in found if p not in held_out]


def _found(place: str) -> list[Path]:
    if os.path.isfile(place):
        return [Path(place)]
    pattern = os.path.join(glob.escape(place), f"*{SUFFIX}") if os.path.isdir(place) else place
    found = [p for p in input_files(pattern) if not p.name.endswith(INDEX_SUFFIX)]
    if not found:
        folder = place if os.path.isdir(place) else os.path.dirname(place) or "."
        there = sorted(p.name for p in Path(folder).iterdir()) if os.path.isdir(folder) else None
        inside = "which does not exist" if there is None else f"which holds {listed(there)}"
        raise DataError(f"{place}: no record file; looked in {folder}, {inside}; name a folder, a file or a glob of *{SUFFIX}")
    return found


def _say(what: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(what, file=sys.stderr, flush=True)


def check_apart(train: list[Path], dev: list[Path], option: str) -> None:
    """Check that no held-out record is trained on.

    Files are told apart by path and, of equal sizes, by content; where the training files are small, each record is.

    Args:
        train: files of the option named `option`.
        dev: files of --dev_record_path_or_regex.
        option: in errors.

    Raises:
        UsageError: a file or a record is on both sides.
    """
    remedy = "a perplexity on what was trained tells nothing; name train-*.tfrecord there, and dev-*.tfrecord here"
    if same := _in_both(train, dev):
        raise UsageError(f"--dev_record_path_or_regex: {same[0]} is in --{option} too; {remedy}")
    if sum(p.stat().st_size for p in train) > SMALL:
        return
    held_out = {hashlib.sha256(record).digest() for record in Records(dev).raw()}
    for number, record in enumerate(Records(train).raw()):
        if hashlib.sha256(record).digest() in held_out:
            raise UsageError(f"--dev_record_path_or_regex: record {number} of --{option} is among its records; {remedy}")


def check_distinct(sources: list[list[Path]], option: str) -> None:
    """Check that no file is in two of the sources that the option named `option` holds, by path or by content.

    Raises:
        UsageError: one is.
    """
    before: list[Path] = []
    for files in sources:
        if same := _in_both(files, before):
            raise UsageError(f"--{option}: {same[0]} is in two of its sources; name each file once")
        before += files


def _in_both(files: list[Path], others: list[Path]) -> list[Path]:
    """Those of `files` that are among `others`: by path or, of equal sizes, by content."""
    real = {os.path.realpath(p) for p in others}
    if same := [p for p in files if os.path.realpath(p) in real]:
        return same
    sizes = ({p.stat().st_size for p in files} & {p.stat().st_size for p in others}) - {0}
    digests = {file_digest(p) for p in others if p.stat().st_size in sizes}
    return [p for p in files if p.stat().st_size in sizes and file_digest(p) in digests]


class Records:
    """Random access to the records of several files, one file after the other.

    Files are mapped when first read, at most `MAX_OPEN` at a time. Reading moves no position that processes could share,
    so an instance may be used on after a fork, and it may be pickled.

    Args:
        paths: TFRecord files, as `find` gives them. A file without an index is walked through once to make one in memory.

    Raises:
        DataError: a file or its index is incomplete, or they do not match.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = [Path(p) for p in paths]
        self._bounds = [_bounds(path) for path in self.paths]
        self._ends = list(accumulate(len(bounds) - 1 for bounds in self._bounds))
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Record `number` over all files: its int64 features, `indices [S]` and, in chat data, `mask [S]`.

        Raises:
            DataError: a checksum is wrong, or the record is not an example with such features.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        which, inside, begin, raw = self._raw(number)
        try:
            features = decode(unframe(raw))
            _check_features(features)
        except ValueError as error:
            raise _broken(self.paths[which], inside, begin, str(error)) from None
        return features

    def raw(self) -> Iterator[bytes]:
        """Every record as it stands in its file, in order."""
        return (self._raw(number)[3] for number in range(len(self)))

    def _raw(self, number: int) -> tuple[int, int, int, bytes]:
        """In which file a record is, its number there, where it begins, and its bytes."""
        which = bisect_right(self._ends, number)
        inside = int(number) - (self._ends[which - 1] if which else 0)
        begin, end = (int(b) for b in self._bounds[which][inside : inside + 2])
        return which, inside, begin, self._map(which)[begin:end]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def _map(self, which: int) -> mmap.mmap:
        if which in self._maps:
            self._maps.move_to_end(which)
            return self._maps[which]
        while len(self._maps) >= MAX_OPEN:
            self._maps.popitem(last=False)[1].close()
        path, size = self.paths[which], int(self._bounds[which][-1])
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise DataError(
                    f"{path}: {found} bytes now, {size} when it was opened; do not change records while they are read"
                )
            self._maps[which] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[which]


def _check_features(features: Mapping[str, np.ndarray]) -> None:
    if "indices" not in features:
        raise ValueError(f"no int64 feature 'indices', only {listed(sorted(features))}; it was not written for this program")
    if "mask" in features and len(features["mask"]) != len(features["indices"]):
        raise ValueError(f"'mask' has {len(features['mask'])} values, 'indices' {len(features['indices'])}")


def _broken(path: Path, number: int, offset: int, what: str) -> DataError:
    return DataError(f"{path}: record {number} at byte {offset}: {what}; {_REMEDY}")


def _bounds(path: Path) -> np.ndarray:
    """Where each record of a file begins, and where the last one ends: `[records + 1]`."""
    index = path.with_name(path.name + INDEX_SUFFIX)
    try:
        size = path.stat().st_size
        text = index.read_bytes() if index.is_file() else None
    except FileNotFoundError:
        raise DataError(f"{path}: no such record file") from None
    if text is None:
        return _walk(path, size)
    try:
        table = (
            np.loadtxt(io.BytesIO(text), dtype=np.int64, comments=None, ndmin=2) if text.strip() else np.empty((0, 2), np.int64)
        )
        if table.shape[1] != 2:
            raise ValueError(f"{table.shape[1]} columns")
    except ValueError as error:
        what = f'not lines of "offset length" ({error})'
        raise DataError(f"{index}: {what}; delete the index (it is then made in memory), or {_REMEDY}") from None
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(table[:, 1])])
    wrong = np.flatnonzero((bounds[:-1] != table[:, 0]) | (table[:, 1] < FRAMING))
    if wrong.size:
        number = int(wrong[0])
        what = f"the index ({index.name}) says it begins at {table[number, 0]} and takes {table[number, 1]} bytes"
        raise _broken(path, number, int(bounds[number]), what)
    if bounds[-1] != size:
        number = max(0, int(np.searchsorted(bounds, size, side="right")) - 1)
        what = f"the file has {size} bytes, its index ({index.name}) {bounds[-1]} in {len(table)} records"
        raise _broken(path, number, int(bounds[number]), what)
    return bounds


def _walk(path: Path, size: int) -> np.ndarray:
    bounds = [0]
    with open(path, "rb") as file:
        while bounds[-1] < size:
            header = file.read(HEADER.size)
            number, offset = len(bounds) - 1, bounds[-1]
            if len(header) < HEADER.size:
                raise _broken(path, number, offset, f"cut short after {len(header)} bytes")
            length, checksum = HEADER.unpack(header)
            if checksum != masked_crc(header[: LENGTH.size]):
                raise _broken(path, number, offset, "the checksum of its length is wrong")
            if offset + FRAMING + length > size:
                raise _broken(path, number, offset, f"cut short, {length} bytes long in a file of {size} bytes")
            bounds.append(offset + FRAMING + length)
            file.seek(bounds[-1])
    return np.array(bounds, dtype=np.int64)
