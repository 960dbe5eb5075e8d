"""Packing of running text: the documents of a span, tokenised, shuffled, concatenated and cut into examples.

A document is its tokens, `</s>` and `<s>`. An example is exactly `max_seq_length` ids, and the next one begins where it
ends. What a span gives depends on nothing but itself. The ids at its end that fill no example are its rest, and the rests of
all spans together fill the last shard: less than one example of a corpus is dropped, however many files it is cut into.

Which documents are held out follows from a hash of the seed and their text alone: so it does not depend on files, shards,
processes or pods, and equal documents are never on both sides. They are those with a hash below `dev_proportion`; if these
fill no example, those with the lowest hashes that do. Each span therefore keeps its lowest ones in reserve.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from minima.data import corpus, documents, records, tokenization
from minima.data.documents import NAMED, Bad
from minima.options import BuildData, split_digest

BATCH = 1 << 18
"""Characters that are tokenised at once."""
PIECE = 1 << 26
"""Characters that are held, and shuffled, at once."""
SPLITS = ("train", "dev")


@dataclass(frozen=True)
class Counts:
    """What was made of some text; `tokens` are all ids, separators and dropped ones included."""

    documents: int = 0
    dev_documents: int = 0
    bad_documents: int = 0
    train_examples: int = 0
    dev_examples: int = 0
    tokens: int = 0
    dropped_tokens: int = 0
    characters: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


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


@dataclass(frozen=True)
class Advance:
    """Progress within a span since the last report: documents, tokens, and text in bytes of its files."""

    documents: int
    tokens: int
    size: float


@dataclass(frozen=True)
class Built:
    """A span whose shards lie in the staging folder.

    Attributes:
        files: by name, with their sizes.
        bad: the first bad documents.
        whole: whether all of it was tokenised, rather than read on to count what is bad.
    """

    job: Job
    counts: Counts
    files: dict[str, int]
    bad: list[Bad]
    whole: bool


class Document(NamedTuple):
    """A text and what decides on its place: `hash`, of the text alone, on its side, `order` on its place in a piece."""

    hash: int
    order: bytes
    text: str


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


def shard_name(index: int, spans: int) -> str:
    """What the names of the shards of a span hold; the last one, of number `spans`, is of what the spans left."""
    return f"{index:05d}-of-{spans + 1:05d}"


def rest_place(folder: str | Path, index: int, spans: int) -> Path:
    """Where the rest of a span lies."""
    return Path(folder) / f".rest-{shard_name(index, spans)}.npz"


def build(job: Job) -> Iterator[Advance | Built]:
    """Write the shards of one span and its rest into its staging folder; yields progress, and last what was built.

    No more than about PIECE characters are held at once. After a bad document, where none is allowed, nothing more is
    tokenised: the text is read on to count the others.

    Raises:
        DataError: as `corpus.read` says.
    """
    options, length = job.options, job.options.max_seq_length
    tokenizer = load_once(split_digest(options.tokenizer_name_or_path)[0])
    shards = {split: Shard(Path(job.staging) / f"{split}-{job.name}{records.SUFFIX}", length) for split in SPLITS}
    stop = Path(job.staging) / "stop"
    counts, bad, whole = Counts(), list[Bad](), True
    reserve: list[tuple[Document, np.ndarray]] = []
    lacking = length if options.dev_proportion else 0
    for texts, wrong, named, last in _pieces(job):
        characters = sum(map(len, texts))
        counts += Counts(documents=len(texts), bad_documents=wrong, characters=characters)
        bad += named[: NAMED - len(bad)]
        if wrong and not options.max_bad_fraction:
            stop.touch()
        whole = whole and not stop.exists()
        if not whole:
            continue
        share = job.size / max(1, characters) if last else 0.0  # How much follows is not known before.
        train, dev = divide(texts, options.seed, options.dev_proportion)
        counts += Counts(dev_documents=len(dev))
        for batch in _batches(dev):
            ids = joined(tokenizer, batch)
            shards["dev"].add(ids)
            lacking -= len(ids)
            yield Advance(len(batch), len(ids), share * sum(map(len, batch)))
        reserve, early, train = _lowest(tokenizer, reserve, train, lacking)
        for ids in early:
            shards["train"].add(ids)
        for batch in _batches(train):
            ids = joined(tokenizer, batch)
            shards["train"].add(ids)
            yield Advance(len(batch), len(ids), share * sum(map(len, batch)))
    rest = Rest({split: shard.rest for split, shard in shards.items()}, [i for _, i in reserve], [d.hash for d, _ in reserve])
    place = rest_place(job.staging, job.index, job.count)
    rest.write(place)
    made = [place, *(file for shard in shards.values() for file in shard.close())]
    counts += Counts(
        train_examples=shards["train"].examples,
        dev_examples=shards["dev"].examples,
        tokens=sum(shard.examples * length + len(shard.rest) for shard in shards.values()) + sum(map(len, rest.reserve)),
    )
    yield Built(job, counts, {file.name: file.stat().st_size for file in made}, bad, whole)


def build_rest(folder: Path, staging: Path, spans: int, options: BuildData, counts: Counts) -> Counts:
    """Write the last shard into the staging folder: what all spans left, in their order.

    Args:
        folder: where the rests of the spans lie.
        staging: where the shard is written.
        spans: how many there are.
        options: of the stage.
        counts: of all spans.

    Returns:
        the counts of this shard, with the dropped tokens.
    """
    length = options.max_seq_length
    places = [rest_place(folder, index, spans) for index in range(spans)]
    highest = _highest_held_out(places, length - counts.dev_examples * length) if options.dev_proportion else -1
    shards = {split: Shard(staging / f"{split}-{shard_name(spans, spans)}{records.SUFFIX}", length) for split in SPLITS}
    held_out = 0
    for place in places:
        rest = Rest.read(place)
        for split in SPLITS:
            shards[split].add(rest.ids[split])
        for hash_, ids in zip(rest.hashes, rest.reserve, strict=True):
            shards["dev" if hash_ <= highest else "train"].add(ids)
            held_out += hash_ <= highest
    # The end of the held-out text is measured too; training takes whole examples only.
    shards["train"].close()
    shards["dev"].close(short=True)
    dropped = sum(len(shard.rest) for shard in shards.values())
    return Counts(
        dev_documents=held_out,
        train_examples=shards["train"].examples,
        dev_examples=shards["dev"].examples,
        dropped_tokens=dropped,
    )


def _highest_held_out(places: list[Path], lacking: int) -> int:
    """The highest hash of the documents in reserve that must be held out, so that these fill one example; -1 for none."""
    waiting: list[tuple[int, int]] = []
    for place in places:
        rest = Rest.read(place)
        lacking -= len(rest.ids["dev"])
        waiting += zip(rest.hashes, map(len, rest.reserve), strict=True)
        if lacking <= 0:
            return -1
    highest = -1
    for hash_, size in sorted(waiting):
        if lacking <= 0 and hash_ != highest:
            break
        highest, lacking = hash_, lacking - size
    return highest


@functools.cache
def load_once(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; a process loads it for its first span only."""
    return tokenization.load(folder)


def divide(texts: Iterable[str], seed: int, dev_proportion: float) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents, each in a shuffled order; no version of a random generator changes it."""
    train: list[Document] = []
    dev: list[Document] = []
    seen: Counter[bytes] = Counter()
    for text in texts:
        digest = hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=16).digest()
        order, hash_ = digest[8:], int.from_bytes(digest[:8], "big")
        if seen[digest]:  # Equal documents shall not follow one another.
            order = hashlib.blake2b(b"%d " % seen[digest] + digest, digest_size=8).digest()
        seen[digest] += 1
        (dev if hash_ < dev_proportion * 2**64 else train).append(Document(hash_, order, text))
    return sorted(train, key=_order), sorted(dev, key=_order)


def _order(document: Document) -> bytes:
    return document.order


def joined(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> np.ndarray:
    """The ids of documents one after the other, each followed by the end and the beginning of a sequence: `[T]`, int32."""
    separators: list[Any] = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    return np.array([id_ for ids in tokenization.encode(tokenizer, texts) for id_ in (*ids, *separators)], dtype=np.int32)


def pack(ids_T: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ids `[T]` into examples `[T // length, length]`, and the ids at the end that fill none."""
    full = len(ids_T) // length * length
    return ids_T[:full].reshape(-1, length), ids_T[full:]


def _lowest(
    tokenizer: PreTrainedTokenizerBase, reserve: list[tuple[Document, np.ndarray]], train: list[Document], lacking: int
) -> tuple[list[tuple[Document, np.ndarray]], list[np.ndarray], list[Document]]:
    """Of a reserve and more documents those with the lowest hashes that fill `lacking` ids; the ids of what leaves the
    reserve; and the other documents."""
    if lacking <= 0:
        return [], [ids for _, ids in reserve], train
    waiting: list[tuple[Document, np.ndarray | None]] = [*reserve, *((document, None) for document in train)]
    waiting.sort(key=lambda entry: entry[0].hash)
    kept: list[tuple[Document, np.ndarray]] = []
    for document, ids in waiting:
        if lacking <= 0 and document.hash != kept[-1][0].hash:
            break
        found = joined(tokenizer, [document.text]) if ids is None else ids
        kept.append((document._replace(text=""), found))
        lacking -= len(found)
    left = waiting[len(kept) :]
    return kept, [ids for _, ids in left if ids is not None], sorted((d for d, ids in left if ids is None), key=_order)


def _pieces(job: Job) -> Iterator[tuple[list[str], int, list[Bad], bool]]:
    """The documents of a span, about PIECE characters at a time, how many are bad, the first NAMED of these, and
    whether it is the last piece."""
    options = job.options
    form = documents.Form(options.text_key, options.document, options.encoding)
    texts: list[str] = []
    named: list[Bad] = []
    bad = size = 0
    for document in corpus.read(job.folder, job.span, form):
        if isinstance(document, Bad):
            bad += 1
            if len(named) < NAMED:
                named.append(document)
            continue
        if size >= PIECE:
            yield texts, bad, named, False
            texts, bad, named, size = [], 0, [], 0
        texts.append(document)
        size += len(document)
    yield texts, bad, named, True


def _batches(chosen: list[Document]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for document in chosen:
        texts.append(document.text)
        size += len(document.text)
        if size >= BATCH:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts
