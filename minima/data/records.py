"""TFRecord files of token ids, their index, and random access to them with both checksums verified on every read.

A record is a u64 little-endian length, the masked CRC32C of these 8 bytes, a `tf.train.Example`, and its masked CRC32C
(TensorFlow's `tfrecord` format). Beside each file `<file>.index` has one line for each record, "offset length": where the
record begins and how many bytes it takes with its framing, as the tfrecord package's `tfrecord2idx` writes it.

The message is defined and decoded by the tfrecord package's `example_pb2`. Ours are the framing, since that package verifies
nothing, and an encoder for token ids, since protobuf takes most of the writing time (`tests/benchmarks/records.py`).
"""

import contextlib
import glob
import hashlib
import io
import mmap
import os
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError
from tfrecord import example_pb2

from minima.errors import DataError, UsageError, listed
from minima.workspace.files import file_digest
from minima.workspace.inputs import input_files

SUFFIX = ".tfrecord"
INDEX_SUFFIX = ".index"
SMALL = 1 << 30
"""Bytes of training records up to which each is compared with the held-out ones."""
MAX_OPEN = 128
"""Files that a `Records` keeps mapped; the least recently used is closed first."""

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
_FRAMING = _HEADER.size + _CHECKSUM.size
_FAST = 1 << 28
"""Values below take at most 4 bytes as varints, which `_varints` counts on."""
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
    place = str(path_or_regex)
    if os.path.isfile(place):
        return [Path(place)]
    pattern = os.path.join(glob.escape(place), f"*{SUFFIX}") if os.path.isdir(place) else place
    found = [p for p in input_files(pattern) if not p.name.endswith(INDEX_SUFFIX)]
    held_out = [p for p in found if p.name.startswith("dev-")]
    if not found:
        folder = place if os.path.isdir(place) else os.path.dirname(place) or "."
        there = sorted(p.name for p in Path(folder).iterdir()) if os.path.isdir(folder) else None
        inside = "which does not exist" if there is None else f"which holds {listed(there)}"
        raise DataError(f"{place}: no record file; looked in {folder}, {inside}; name a folder, a file or a glob of *{SUFFIX}")
    if not held_out or len(held_out) == len(found) or not split:
        return found
    return held_out if split == "dev" else [p for p in found if p not in held_out]


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
    real = {os.path.realpath(p): p for p in dev}
    sizes = {p.stat().st_size for p in dev}
    same = [p for p in train if os.path.realpath(p) in real]
    if not same:
        alike = [p for p in train if p.stat().st_size in sizes]
        digests = {file_digest(p) for p in dev} if alike else set()
        same = [p for p in alike if file_digest(p) in digests]
    if same:
        raise UsageError(f"--dev_record_path_or_regex: {same[0]} is in --{option} too; {remedy}")
    if sum(p.stat().st_size for p in train) > SMALL:
        return
    held_out = {hashlib.sha256(record).digest() for record in Records(dev).raw()}
    for number, record in enumerate(Records(train).raw()):
        if hashlib.sha256(record).digest() in held_out:
            raise UsageError(f"--dev_record_path_or_regex: record {number} of --{option} is among its records; {remedy}")


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


def frame(message: bytes) -> bytes:
    """A message with its length and checksums, as it stands in a file."""
    length = _LENGTH.pack(len(message))
    return b"".join((length, _CHECKSUM.pack(_masked_crc(length)), message, _CHECKSUM.pack(_masked_crc(message))))


def unframe(record: bytes) -> bytes:
    """The message of exactly one framed record.

    Raises:
        ValueError: it is cut short, or one of its checksums is wrong.
    """
    if len(record) < _FRAMING:
        raise ValueError(f"the record is cut short, {len(record)} bytes where the framing alone takes {_FRAMING}")
    length, checksum = _HEADER.unpack_from(record)
    if checksum != _masked_crc(record[: _LENGTH.size]):
        raise ValueError("the checksum of its length is wrong")
    if length != len(record) - _FRAMING:
        raise ValueError(f"its length is {length} bytes, but the index leaves {len(record) - _FRAMING} for it")
    message = record[_HEADER.size : -_CHECKSUM.size]
    if record[-_CHECKSUM.size :] != _CHECKSUM.pack(_masked_crc(message)):
        raise ValueError("the checksum of its content is wrong")
    return message


def encode(example: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a `tf.train.Example` with int64 features: those of protobuf's deterministic serialisation.

    (Of names that begin with one another, such as `a` and `ab`, protobuf may put the longer first.)

    Raises:
        ValueError: a feature is not a vector of whole numbers that fit into int64.
    """
    features = {name: _int64(name, example[name]) for name in sorted(example)}
    if not features or not all(values.size == 0 or 0 <= values.min() <= values.max() < _FAST for values in features.values()):
        message = example_pb2.Example()
        for name, values in features.items():
            message.features.feature[name].int64_list.value.extend(values.tolist())
        return bytes(message.SerializeToString(deterministic=True))
    entries = []
    for name, values in features.items():
        int64_list = _field(1, _varints(values)) if values.size else b""
        entries.append(_field(1, _field(1, name.encode()) + _field(2, _field(3, int64_list))))
    return _field(1, b"".join(entries))


def decode(message: bytes) -> dict[str, np.ndarray]:
    """The int64 features of a `tf.train.Example`; features of other types are left out.

    Raises:
        ValueError: the bytes are not an example.
    """
    try:
        example = example_pb2.Example.FromString(message)
    except DecodeError:
        raise ValueError("its content is not a tf.train.Example") from None
    return {
        name: np.array(feature.int64_list.value, dtype=np.int64)
        for name, feature in example.features.feature.items()
        if feature.WhichOneof("kind") == "int64_list"
    }


def _int64(name: str, feature: np.ndarray) -> np.ndarray:
    values = np.asarray(feature)
    whole = np.issubdtype(values.dtype, np.integer) and values.dtype != np.uint64
    if values.ndim != 1 or not (whole or values.size == 0):
        raise ValueError(f"feature {name!r}: {values.dtype} of shape {values.shape}; a vector of int64 is valid")
    return values.astype(np.int64)


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
    wrong = np.flatnonzero((bounds[:-1] != table[:, 0]) | (table[:, 1] < _FRAMING))
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
            header = file.read(_HEADER.size)
            number, offset = len(bounds) - 1, bounds[-1]
            if len(header) < _HEADER.size:
                raise _broken(path, number, offset, f"cut short after {len(header)} bytes")
            length, checksum = _HEADER.unpack(header)
            if checksum != _masked_crc(header[: _LENGTH.size]):
                raise _broken(path, number, offset, "the checksum of its length is wrong")
            if offset + _FRAMING + length > size:
                raise _broken(path, number, offset, f"cut short, {length} bytes long in a file of {size} bytes")
            bounds.append(offset + _FRAMING + length)
            file.seek(bounds[-1])
    return np.array(bounds, dtype=np.int64)


def _masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf's wire format."""
    size = len(content)
    start = bytearray((number << 3 | 2,))
    while size > 0x7F:
        start.append(size & 0x7F | 0x80)
        size >>= 7
    start.append(size)
    return bytes(start) + content


def _varints(values: np.ndarray) -> bytes:
    """int64 values in [0, `_FAST`) one after the other as base-128 varints, the lowest 7 bits first.

    Each value is spread over the 4 bytes of a u32: 7 bits in each, above them whether another byte follows.
    """
    values_u32 = values.astype("<u4")
    spread = values_u32 & 0x7F
    used = np.ones_like(values_u32)
    for place in range(1, 4):
        more = (values_u32 >= 1 << 7 * place).astype("<u4")
        if not more.any():
            break
        spread |= (values_u32 & 0x7F << 7 * place) << place | more << 8 * place - 1
        used |= more << 8 * place
    return np.compress(used.view(np.bool_), spread.view(np.uint8)).tobytes()
