"""The stage `build-chat-data`: conversations → train and dev TFRecords, and the chat template that they were made by."""

import functools
import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from minima.data import chat, conversations, corpus, records, tokenization
from minima.data.dialects import Conversation
from minima.data.documents import Bad, check_bad
from minima.data.shards import SPLITS
from minima.errors import DataError, listed
from minima.options import BuildChatData, split_digest
from minima.process import workers
from minima.workspace.artifact import Output

FILE = "{split}-00000-of-00001.tfrecord"
SAMPLE, ANY_LENGTH = 1000, 1 << 40
"""Conversations by which a length is suggested that would do, and one that always does."""
CHUNK = 256
"""Conversations that a process works on at a time."""

Encode = Callable[[Conversation], chat.Example | None]


def run(options: BuildChatData, output: Output) -> dict[str, Any]:
    """Write `train-00000-of-00001.tfrecord`, the same for dev if any is held out, their indexes, and the chat template.

    Records have features `indices` and `mask` (`chat.Example`), each as long as its conversation. Conversations that begin
    alike, with the same system sentence and first question, are never on both sides of the split.

    Raises:
        DataError: no file matches, a conversation is malformed, or none fits into `max_seq_length`.
    """
    output.progress.phase("reading")
    folder = Path(split_digest(options.input_dir)[0])
    names = corpus.files(folder, options.input_regex, conversations.KINDS)
    read, bad, ignored = _read(folder, names, options)
    good = len(read)
    if options.deduplicate:
        read = list({_whole(conversation): conversation for conversation in read}.values())
        if len(read) < good:
            _say(f"dropped {good - len(read)} of {good} conversations, which an earlier one equals")
    held_out = dev(read, options.dev_proportion, options.seed)
    sides: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for conversation in read:
        sides["dev" if _beginning(conversation) in held_out else "train"].append(conversation)
    up_to = partial(
        _encode,
        folder=split_digest(options.tokenizer_name_or_path)[0],
        published_rule=options.published_rule,
    )
    encode: Encode = partial(up_to, max_seq_length=options.max_seq_length)
    counts = dict.fromkeys(("tokens", "trained_tokens", "dropped_turns", "cut_answers", "dropped_conversations"), 0)
    written = {}
    encoded = output.progress.track(
        _encoded(encode, [*sides["train"], *sides["dev"]], options.num_processors),
        "encoding",
        len(read),
        "conversations",
    )
    any_length: Encode = partial(up_to, max_seq_length=ANY_LENGTH)
    for split in SPLITS:
        examples = _counted(itertools.islice(encoded, len(sides[split])), counts)
        first = next(examples, None)
        if first is not None:
            place = output.folder / FILE.format(split=split)
            written[split] = records.write(place, itertools.chain([first], examples))
        elif split == "train":
            raise DataError(
                f"--max_seq_length: none of {len(read)} conversations in {options.input_dir} fits into "
                f"{options.max_seq_length} tokens with its first question; {_lengths(any_length, sides['train'])}"
            )
    tokenizer = _tokenizer(split_digest(options.tokenizer_name_or_path)[0])
    template = chat.template(options.system, chat.control(tokenizer))
    (output.folder / chat.TEMPLATE_FILE).write_text(template, encoding="utf-8")
    for what in ("dropped_turns", "cut_answers", "dropped_conversations"):
        if counts[what]:
            _say(f"{counts[what]} {what.replace('_', ' ')}, which are more than --max_seq_length {options.max_seq_length}")
    if ignored:
        _say("keys that were left out: " + listed([f"{key} ({count})" for key, count in ignored.most_common()]))
    return {
        "conversations": len(read),
        "bad_conversations": bad,
        "duplicate_conversations": good - len(read),
        "train_examples": written["train"],
        "dev_examples": written.get("dev", 0),
        **counts,
        "left_out_keys": sum(ignored.values()),
        "tokenizer": tokenization.fingerprint(tokenizer),
    }


def _read(folder: Path, names: list[str], options: BuildChatData) -> tuple[list[Conversation], int, Counter[str]]:
    """The conversations of all files, how many are bad, and how many have each key that means nothing; says their formats.

    Each has the system sentence that it is written with, so that what is equal in the records is equal here.
    """
    found: list[Conversation] = []
    bad: list[Bad] = []
    forms: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    flat: list[str] = []
    for name in names:
        for one in conversations.read(folder / name, options.format):
            if isinstance(one, Bad):
                bad.append(one)
                continue
            said = one.conversation
            found.append(said._replace(system=said.system or options.system or chat.SYSTEM))
            forms[one.form] += 1
            if one.flat:
                flat.append(f"{name} ({len(said.turns)} turns)")
            ignored.update(one.ignored)
    total = len(found) + len(bad)
    check_bad(str(folder), "conversations", len(bad), total, bad, options.max_bad_fraction)
    if not found:
        raise DataError(f"{folder}: no conversation in {listed(names)}")
    _say("read " + ", ".join(f"{count} conversations in the format {form}" for form, count in forms.most_common()))
    if flat:
        _say(f"one conversation each: {listed(flat)}; if each turn is a conversation of its own: {conversations.APART}")
    if bad:
        _say(f"left out {len(bad)} bad ones of {total}")
    return found, len(bad), ignored


def _say(what: str) -> None:
    print(f"build-chat-data: {what}", file=sys.stderr)


def _lengths(encode: Encode, conversations: list[Conversation]) -> str:
    """Which `max_seq_length` would do, by some of the conversations; `encode` takes any length."""
    some = conversations[:SAMPLE]
    whole = [example for c in some if (example := encode(c))]
    least = min(int(example.mask.argmax()) + 1 for example in whole)
    lengths = sorted(len(example.indices) for example in whole)
    of = f"{len(some)} of them" if len(some) < len(conversations) else "them"
    half, every = lengths[len(lengths) // 2], lengths[-1]
    return f"{least:,} is the least that takes one, {half:,} takes half of {of} whole, {every:,} all"


def dev(read: Sequence[Conversation], proportion: float, seed: int) -> set[bytes]:
    """The distinct beginnings, as `_beginning` names them, whose conversations are held out: those with the smallest seeded
    hashes.

    They are `proportion` of all distinct ones, but at least one if that is above 0 and one is left to train on.
    """
    distinct = {_beginning(c) for c in read}
    if proportion == 0 or len(distinct) < 2:
        return set()
    count = min(max(1, round(proportion * len(distinct))), len(distinct) - 1)
    return set(sorted(distinct, key=lambda beginning: hashlib.sha256(b"%d " % seed + beginning).digest())[:count])


def _beginning(conversation: Conversation) -> bytes:
    """A hash of how it begins: one conversation may be the beginning of another, and the same question have two answers."""
    return hashlib.sha256(json.dumps([conversation.system, conversation.turns[0]["User"]]).encode()).digest()


def _whole(conversation: Conversation) -> bytes:
    return hashlib.sha256(json.dumps(conversation).encode()).digest()


def _encoded(encode: Encode, conversations: list[Conversation], processes: int) -> Iterator[chat.Example | None]:
    """`encode` of each conversation, in order, whatever the number of processes."""
    chunks = [(start, conversations[start : start + CHUNK]) for start in range(0, len(conversations), CHUNK)]
    early: dict[int, list[chat.Example | None]] = {}
    due = 0
    for start, examples in workers.stream(partial(_encode_chunk, encode), chunks, processes):
        early[start] = examples
        while due in early:
            yield from early.pop(due)
            due += CHUNK


def _encode_chunk(encode: Encode, chunk: tuple[int, list[Conversation]]) -> Iterator[tuple[int, list[chat.Example | None]]]:
    start, conversations = chunk
    yield start, [encode(conversation) for conversation in conversations]


@functools.cache
def _tokenizer(folder: str) -> PreTrainedTokenizerBase:
    return tokenization.load(folder)  # Each process has its own.


def _encode(conversation: Conversation, *, folder: str, max_seq_length: int, published_rule: bool) -> chat.Example | None:
    turns, system, untrained = conversation
    return chat.encode(_tokenizer(folder), turns, system, max_seq_length, published_rule, untrained)


def _counted(examples: Iterator[chat.Example | None], counts: dict[str, int]) -> Iterator[dict[str, np.ndarray]]:
    """The examples as records; what is met on the way is added to `counts`."""
    for example in examples:
        if example is None:
            counts["dropped_conversations"] += 1
            continue
        counts["tokens"] += len(example.indices)
        counts["trained_tokens"] += int(example.mask.sum())
        counts["dropped_turns"] += example.dropped_turns
        counts["cut_answers"] += example.cut
        yield {"indices": example.indices, "mask": example.mask}
