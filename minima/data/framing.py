"""TFRecord's framing with both checksums, and `tf.train.Example` of token ids to bytes and back.

A record is a u64 little-endian length, the masked CRC32C of these 8 bytes, a `tf.train.Example`, and its masked CRC32C
(TensorFlow's `tfrecord` format).

The message is defined and decoded by the tfrecord package's `example_pb2`. Ours are the framing, since that package verifies
nothing, and an encoder for token ids, since protobuf takes most of the writing time (`tests/benchmarks/records.py`).
"""

import struct
from collections.abc import Mapping

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError
from tfrecord import example_pb2

LENGTH = struct.Struct("<Q")
HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
FRAMING = HEADER.size + _CHECKSUM.size
"""Bytes that a record takes beside its message."""
_FAST = 1 << 28
"""Values below take at most 4 bytes as varints, which `_varints` counts on."""


def frame(message: bytes) -> bytes:
    """A message with its length and checksums, as it stands in a file."""
    length = LENGTH.pack(len(message))
    return b"".join((length, _CHECKSUM.pack(masked_crc(length)), message, _CHECKSUM.pack(masked_crc(message))))


def unframe(record: bytes) -> bytes:
    """The message of exactly one framed record.

    Raises:
        ValueError: it is cut short, or one of its checksums is wrong.
    """
    if len(record) < FRAMING:
        raise ValueError(f"the record is cut short, {len(record)} bytes where the framing alone takes {FRAMING}")
    length, checksum = HEADER.unpack_from(record)
    if checksum != masked_crc(record[: LENGTH.size]):
        raise ValueError("the checksum of its length is wrong")
    if length != len(record) - FRAMING:
        raise ValueError(f"its length is {length} bytes, but the index leaves {len(record) - FRAMING} for it")
    message = record[HEADER.size : -_CHECKSUM.size]
    if record[-_CHECKSUM.size :] != _CHECKSUM.pack(masked_crc(message)):
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


def masked_crc(data: bytes) -> int:
    """The checksum of some bytes as it stands in a file."""
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
