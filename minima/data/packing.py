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
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from minima.data import corpus, duplicates, records, tokenization
from minima.data.documents import NAMED, Bad
from minima.data.objects import Form, Left
from minima.data.shards import SPLITS, Job, Rest, Shard, rest_place, shard_name
from minima.options import BuildData, split_digest

BATCH = 1 << 18
"""Characters that are tokenised at once."""
PORTION = 1 << 26
"""Characters that are held, and shuffled, at once."""


@dataclass(frozen=True)
class Counts:
    """What was made of some text: `documents` without bad, duplicate, blank and filtered ones, `tokens` are all ids,
    separators and dropped ones included."""

    documents: int = 0
    dev_documents: int = 0
    bad_documents: int = 0
    duplicate_documents: int = 0
    blank_documents: int = 0
    filtered_documents: int = 0
    train_examples: int = 0
    dev_examples: int = 0
    tokens: int = 0
    dropped_tokens: int = 0
    characters: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


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


@dataclass
class Portion:
    """Documents of a span that are held at once.

    Attributes:
        texts: theirs.
        bad: how many more are bad.
        named: the first NAMED of the bad ones.
        duplicates: how many more are dropped since an earlier one is equal.
        left: how many more are left out, by why.
        last: whether nothing follows.
    """

    texts: list[str] = field(default_factory=list)
    bad: int = 0
    named: list[Bad] = field(default_factory=list)
    duplicates: int = 0
    left: Counter[Left] = field(default_factory=Counter)
    last: bool = False


class Document(NamedTuple):
    """A text and what decides on its place: `hash`, of the text alone, on its side, `order` on its place in a portion."""

    hash: int
    order: bytes
    text: str


def build(job: Job) -> Iterator[Advance | Built]:
    """Write the shards of one span and its rest into its staging folder; yields progress, and last what was built.

    No more than about PORTION characters are held at once. After a bad document, where none is allowed, nothing more is
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
    for portion in _portions(job):
        texts = portion.texts
        characters = sum(map(len, texts))
        counts += Counts(
            len(texts),
            bad_documents=portion.bad,
            duplicate_documents=portion.duplicates,
            blank_documents=portion.left[Left.BLANK],
            filtered_documents=portion.left[Left.FILTERED],
            characters=characters,
        )
        bad += portion.named[: NAMED - len(bad)]
        if portion.bad and not options.max_bad_fraction:
            stop.touch()
        whole = whole and not stop.exists()
        if not whole:
            continue
        share = job.size / max(1, characters) if portion.last else 0.0  # How much follows is not known before.
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
    """The ids of documents one after the other, each followed by the end and the beginning of a sequence: `[T]`, int32.

    Where one token is both, as in Qwen2 and SmolLM2, it is there twice: once would not tell a document from an answer.
    """
    separators: list[Any] = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    return np.array([id_ for ids in tokenization.encode(tokenizer, texts) for id_ in (*ids, *separators)], dtype=np.int32)


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


def _portions(job: Job) -> Iterator[Portion]:
    """The documents of a span, about PORTION characters at a time; of equal ones the first, if only that is wanted."""
    first = duplicates.first(job) if job.options.deduplicate else itertools.repeat(True)
    portion, size = Portion(), 0
    for document in corpus.read(job.folder, job.span, Form.of(job.options)):
        if isinstance(document, Bad):
            portion.bad += 1
            if len(portion.named) < NAMED:
                portion.named.append(document)
            continue
        if isinstance(document, Left):
            portion.left[document] += 1
            continue
        if not next(first):
            portion.duplicates += 1
            continue
        if size >= PORTION:
            yield portion
            portion, size = Portion(), 0
        portion.texts.append(document)
        size += len(document)
    portion.last = True
    yield portion


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
