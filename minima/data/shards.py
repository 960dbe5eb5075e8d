"""What is made of a span of text: its shards, whose names tell which span it is, and the rest that fills no example."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minima.data import corpus, records
from minima.options import BuildData, split_digest

SPLITS = ("train", "dev")


@dataclass(frozen=True)
class Job:
    """One span to work on: number `index` of `count`, and where its shards are written before they are published."""

    index: int
    count: int
    span: corpus.Span
    options: BuildData
    staging: str

    @property
    def name(self) -> str:
        """What the names of all its files hold; one more shard is made of what the spans leave."""
        return shard_name(self.index, self.count)

    @property
    def size(self) -> int:
        """Bytes of its text, as they stand in the files."""
        return self.span.size

    @property
    def folder(self) -> Path:
        """The folder of the text."""
        return Path(split_digest(self.options.input_dir)[0])


@dataclass
class Rest:
    """What a span leaves: ids that fill no example, and the documents that may yet be held out.

    Attributes:
        ids: of each split, fewer than an example has.
        reserve: of documents not held out so far the ids of each, by rising hash.
        hashes: theirs.
    """

    ids: dict[str, np.ndarray] = field(default_factory=lambda: dict.fromkeys(SPLITS, np.empty(0, np.int32)))
    reserve: list[np.ndarray] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)

    def write(self, place: Path) -> None:
        """Write it to a file."""
        lengths = [len(ids) for ids in self.reserve]
        reserve = np.concatenate([np.empty(0, np.int32), *self.reserve])
        with open(place, "wb") as out:
            hashes = np.array(self.hashes, np.uint64)
            np.savez(out, train=self.ids["train"], dev=self.ids["dev"], reserve=reserve, lengths=lengths, hashes=hashes)

    @classmethod
    def read(cls, place: Path) -> "Rest":
        """What `write` wrote."""
        with np.load(place) as found:
            ends = np.cumsum(found["lengths"], dtype=np.int64)[:-1]
            reserve = np.split(found["reserve"], ends) if len(found["lengths"]) else []
            return cls({split: found[split] for split in SPLITS}, reserve, found["hashes"].tolist())


class Shard:
    """The examples of one split in a file, which is there if it has any, and the ids that fill none yet."""

    def __init__(self, place: Path, length: int) -> None:
        self.place, self.length, self.examples = place, length, 0
        self.rest = np.empty(0, np.int32)
        self._writer: records.Writer | None = None

    def add(self, ids: np.ndarray) -> None:
        """Append ids `[T]`."""
        examples, self.rest = pack(np.concatenate([self.rest, ids]), self.length)
        for example in examples:
            self._write(example)

    def close(self, *, short: bool = False) -> list[Path]:
        """Finish the file, with `short` also with the rest as a shorter example; which files there are."""
        if short and len(self.rest) > 1:  # Of one id nothing is predicted that has anything to do with the text.
            self._write(self.rest)
            self.rest = self.rest[:0]
        if self._writer is None:
            return []
        self._writer.close()
        return [self.place, records.index_of(self.place)]

    def _write(self, example: np.ndarray) -> None:
        if self._writer is None:
            self._writer = records.Writer(self.place)
        self._writer.add({"indices": example})
        self.examples += 1


def pack(ids_T: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ids `[T]` into examples `[T // length, length]`, and the ids at the end that fill none."""
    full = len(ids_T) // length * length
    return ids_T[:full].reshape(-1, length), ids_T[full:]


def shard_name(index: int, spans: int) -> str:
    """What the names of the shards of a span hold; the last one, of number `spans`, is of what the spans left."""
    return f"{index:05d}-of-{spans + 1:05d}"


def rest_place(folder: str | Path, index: int, spans: int) -> Path:
    """Where the rest of a span lies."""
    return Path(folder) / f".rest-{shard_name(index, spans)}.npz"
