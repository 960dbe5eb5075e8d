"""Packing of running text: the documents of a span, tokenised, shuffled, concatenated and cut into examples.

A document is its tokens, `</s>` and `<s>`. An example is exactly `max_seq_length` ids, and the next one begins where it
ends; the rest of a span that fills no example is dropped. What a span gives depends on nothing but itself.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from minima.data import corpus, records, tokenization
from minima.options import BuildData, split_digest

BATCH = 1 << 18
"""Characters that are tokenised at once."""


@dataclass(frozen=True)
class Counts:
    """What was made of some text; `tokens` are all ids, separators and dropped ones included."""

    documents: int = 0
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
        """What the names of all its files hold."""
        return f"{self.index:05d}-of-{self.count:05d}"

    @property
    def size(self) -> int:
        """Bytes of its text, as they stand in the file."""
        return self.span.end - self.span.begin

    @property
    def folder(self) -> Path:
        """The folder of the text."""
        return Path(split_digest(self.options.input_dir)[0])


@dataclass(frozen=True)
class Advance:
    """Progress within a span since the last report: documents, tokens, and text in bytes of its file."""

    documents: int
    tokens: int
    size: float


@dataclass(frozen=True)
class Built:
    """A span whose shards lie in the staging folder: the files by name, with their sizes."""

    job: Job
    counts: Counts
    files: dict[str, int]


def build(job: Job) -> Iterator[Advance | Built]:
    """Write the shards of one span into its staging folder; yields progress, and last what was built.

    Raises:
        DataError: as `corpus.documents` says.
    """
    options, length = job.options, job.options.max_seq_length
    tokenizer = load_once(split_digest(options.tokenizer_name_or_path)[0])
    documents = list(corpus.documents(job.folder, job.span, options.text_key))
    characters = sum(len(document.text) for document in documents)
    train, dev = divide(documents, job.span.file, options.seed, options.dev_proportion)
    counts, files = Counts(documents=len(documents), characters=characters), {}
    for split, chosen in (("train", train), ("dev", dev)):
        parts = [np.empty(0, np.int32)]
        for texts in _batches(chosen):
            parts.append(joined(tokenizer, texts))
            yield Advance(len(texts), len(parts[-1]), job.size * sum(map(len, texts)) / characters)
        examples, dropped = pack(np.concatenate(parts), length)
        if len(examples):
            place = Path(job.staging) / f"{split}-{job.name}{records.SUFFIX}"
            records.write(place, ({"indices": example} for example in examples))
            for made in (place, Path(f"{place}{records.INDEX_SUFFIX}")):
                files[made.name] = made.stat().st_size
        counts += Counts(
            train_examples=len(examples) if split == "train" else 0,
            dev_examples=len(examples) if split == "dev" else 0,
            tokens=examples.size + dropped,
            dropped_tokens=dropped,
        )
    yield Built(job, counts, files)


@functools.cache
def load_once(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; a process loads it for its first span only."""
    return tokenization.load(folder)


def divide(
    documents: Iterable[corpus.Document], file: str, seed: int, dev_proportion: float
) -> tuple[list[corpus.Document], list[corpus.Document]]:
    """Training and held-out documents of `file`, each in a shuffled order.

    Both follow from a hash of the seed and the document's place. So a document is held out or not whatever the size of a
    shard, and no version of a random generator changes the order.
    """
    ranked = []
    for document in documents:
        place = f"{seed}\0{file}\0{document.offset}".encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(place, digest_size=16).digest()
        held_out = int.from_bytes(digest[:8], "big") < dev_proportion * 2**64
        ranked.append((held_out, digest[8:], document))
    ranked.sort()
    return [d for held_out, _, d in ranked if not held_out], [d for held_out, _, d in ranked if held_out]


def joined(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> np.ndarray:
    """The ids of documents one after the other, each followed by the end and the beginning of a sequence: `[T]`, int32."""
    separators: list[Any] = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    return np.array([id_ for ids in tokenization.encode(tokenizer, texts) for id_ in (*ids, *separators)], dtype=np.int32)


def pack(ids_T: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """Cut ids `[T]` into examples `[T // length, length]`; also how many ids at the end fill none."""
    full = len(ids_T) // length * length
    return ids_T[:full].reshape(-1, length), len(ids_T) - full


def _batches(documents: list[corpus.Document]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for document in documents:
        texts.append(document.text)
        size += len(document.text)
        if size >= BATCH:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts
