"""Stage `build-data`: tokenise, shuffle and pack running text into TFRecord shards with an index.

The text is cut into spans (corpus.py). Each becomes, on its own, a shard of training examples and one of held-out examples
(packing.py), so that the result is the same whichever process or pod makes it; pod 0 makes the last shard of what they leave.
A shard without examples is left out.

A finished span leaves `.span-….json`, from which a restart and other pods learn that its shards are there.
"""

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minima.data import corpus, duplicates, packing, records, tokenization
from minima.data.documents import Bad, check_bad
from minima.data.objects import Form
from minima.data.packing import Advance, Built, Counts
from minima.data.shards import SPLITS, Job, rest_place, shard_name
from minima.errors import DataError, listed
from minima.options import BuildData, split_digest
from minima.process import workers
from minima.workspace import artifact
from minima.workspace.artifact import Output
from minima.workspace.lease import Lease, names
from minima.workspace.marker import FORMAT
from minima.workspace.progress import WAITING

POLL = 2.0
"""Seconds between two looks for the shards of other pods."""
INTERVAL = 10.0
"""Seconds between two lines on what is waited for."""
MANY = 1000
"""Documents that are bad or left out after which the first look at the text ends."""
_SHARD = re.compile(r"(?:(?:train|dev)-\d+-of-(\d+)\.tfrecord(?:\.index)?|\.(?:span|rest)-\d+-of-(\d+)\.(?:json|npz))")


def run(options: BuildData, output: Output) -> dict[str, Any]:
    """Build the shards of this pod, and wait for those of the others.

    Returns:
        of all pods: the fields of `Counts` but for the characters, `characters_per_token`, and `tokenizer`, what the ids mean.

    Raises:
        UsageError: the pod's number is wrong.
        DataError: the text or the tokenizer cannot be used, too much of it is bad, or it is too little for one example.
    """
    pod, pods = workers.pod()
    text = split_digest(options.input_dir)[0]
    spans = corpus.spans(text, options.input_regex, options.shard_megabytes, options.document)
    _check_two(spans, options)
    packing.load_once(split_digest(options.tokenizer_name_or_path)[0])  # An error of it comes before any work.
    assert output.lease is not None
    jobs = [Job(index, len(spans), span, options, str(output.folder)) for index, span in enumerate(spans)]
    identities = _identities(jobs, output)
    if pod == 0:
        output.shut_out(_of_more_pods(names(output.place), pods))
    _remove_other_shards(output.lease, len(jobs))
    mine = [job for job in jobs[pod::pods] if _finished(output.place, job, identities[job.index]) is None]
    if options.deduplicate and mine:  # Else their hashes are there, or all is made.
        _find_duplicates(jobs, jobs[pod::pods], mine, identities, output)
    for job in mine:
        _unpublish(output.lease, job)
    if len(mine) < len(jobs[pod::pods]):
        print(f"{len(jobs[pod::pods]) - len(mine)} of {len(jobs[pod::pods])} shards are there already", file=sys.stderr)
    events = contextlib.closing(workers.stream(packing.build, mine, options.num_processors))
    output.progress.phase("tokenising", sum(job.size for job in mine), "bytes")
    done, tokens = 0.0, 0
    seen, bad = Counts(), list[Built]()
    with events as stream:
        for event in stream:
            if isinstance(event, Advance):
                done, tokens = done + event.size, tokens + event.tokens
                output.progress.at(round(done), tokens=tokens)
                continue
            seen += event.counts
            if event.bad:
                bad.append(event)
            if event.whole:
                _publish(output.lease, event, identities[event.job.index])
    if bad and not options.max_bad_fraction:
        bad.sort(key=lambda built: built.job.index)
        _check_bad(seen, [one for built in bad for one in built.bad], options)
    notes = _wait(jobs, identities, output)
    counts = sum((note.counts for note in notes), Counts())
    _check_bad(counts, [one for note in notes for one in note.bad], options)
    if pod == 0:
        output.promised = {name: size for note in notes for name, size in note.files.items()}
        counts += _build_rest(counts, len(jobs), options, output)
        for hashes in output.place.glob(".hashes-*"):
            output.lease.take(hashes.name)
        _check_counts(counts, options)
    ids = counts.tokens - 2 * counts.documents
    metrics = {name: value for name, value in asdict(counts).items() if name != "characters"}
    tokenizer = packing.load_once(split_digest(options.tokenizer_name_or_path)[0])
    metrics["tokenizer"] = tokenization.fingerprint(tokenizer)
    return {**metrics, "characters_per_token": round(counts.characters / max(1, ids), 4)}


def _of_more_pods(leases: set[str], pods: int) -> set[str]:
    """The leases that only pods of a run with more of them held: nobody else follows those, who may be frozen."""
    numbers = {lease: lease.removeprefix("lease-") for lease in leases}
    return {lease for lease, number in numbers.items() if number.isdecimal() and int(number) >= pods}


def _check_two(spans: list[corpus.Span], options: BuildData) -> None:
    """Check that there is a document to hold out and one to train on, which the first few tell.

    Where very many are bad or left out it is left to the pass over all, which has more processes.
    """
    folder = split_digest(options.input_dir)[0]
    first: str | None = None
    others = 0
    for one in (one for span in spans for one in corpus.read(folder, span, Form.of(options))):
        if not isinstance(one, str):
            others += 1
            if others == MANY:
                return
        elif first is None and options.dev_proportion:
            first = one
        elif one != first:
            return
    if first is not None:
        raise DataError(
            f"{folder}: all of its text is one document, so none can be held out; hold out nothing with --dev_proportion 0, or "
            "give more documents (of a text file, --document says what is one)"
        )


def _build_rest(counts: Counts, spans: int, options: BuildData, output: Output) -> Counts:
    """Make the last shard, of what the spans left; says what is dropped."""
    assert output.lease is not None
    _take_shards(output.lease, shard_name(spans, spans))
    found = packing.build_rest(output.place, output.folder, spans, options, counts)
    if found.dropped_tokens:
        _say(f"dropped {found.dropped_tokens} of {counts.tokens} tokens, which fill no example of {options.max_seq_length}")
    if counts.duplicate_documents:
        good = counts.documents + counts.duplicate_documents
        _say(f"dropped {counts.duplicate_documents} of {good} documents, since an earlier one has the same text")
    if counts.blank_documents:
        _say(f"left out {counts.blank_documents} documents whose text is blank")
    if counts.filtered_documents:
        _say(f"left out {counts.filtered_documents} documents, which are not what --filter asks for")
    if counts.bad_documents:
        _say(f"left out {counts.bad_documents} bad documents, beside {counts.documents} good ones")
    return found


def _say(what: str) -> None:
    print(f"build-data: {what}", file=sys.stderr)


def _identities(jobs: list[Job], output: Output) -> list[str]:
    """What the shards of each span are made of, as hashes: a shard that another run left is never taken for this one's."""
    # A fingerprint names every file of an input: once for all spans.
    inputs = _hash({name: [entry["key"], entry.get("fingerprint")] for name, entry in output.inputs.items()})
    shared = {"format": FORMAT, "options": artifact.identity(output.options), "inputs": inputs}
    found = []
    for job in jobs:
        stats = {part.file: (job.folder / part.file).stat() for part in job.span.parts}
        files = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
        found.append(_hash({**shared, "shard": job.name, "span": asdict(job.span), "files": files}))
    return found


def _hash(made_of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _note(job: Job) -> str:
    return f".span-{job.name}.json"


@dataclass(frozen=True)
class _Note:
    """What was made of a span: the sizes of its shards by name, and the first of its bad documents."""

    files: dict[str, int]
    counts: Counts
    bad: list[Bad]


def _finished(folder: Path, job: Job, identity: str) -> _Note | None:
    """The note of a span, if its shards are there and are this run's."""
    try:
        note = json.loads((folder / _note(job)).read_bytes())
        if note["identity"] == identity and all((folder / n).stat().st_size == size for n, size in note["files"].items()):
            return _Note(note["files"], Counts(**note["counts"]), [Bad(*one) for one in note["bad"]])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # Not there, not whole, or another version's: made again.
    return None


def _publish(lease: Lease, built: Built, identity: str) -> None:
    lease.put(*built.files)
    note = {"identity": identity, "files": built.files, "counts": asdict(built.counts), "bad": built.bad}
    lease.write(_note(built.job), json.dumps(note, indent=1) + "\n")


def _unpublish(lease: Lease, job: Job) -> None:
    """Remove what another run left under the names of a span, first what would call it finished."""
    lease.take(_note(job))
    _take_shards(lease, job.name)
    lease.take(rest_place(lease.folder, job.index, job.count).name)


def _take_shards(lease: Lease, name: str) -> None:
    for split in SPLITS:
        for suffix in (records.SUFFIX, records.SUFFIX + records.INDEX_SUFFIX):
            lease.take(f"{split}-{name}{suffix}")


def _remove_other_shards(lease: Lease, count: int) -> None:
    """Remove the shards of a run that cut the text into another number of them; no pod of this run writes such names."""
    for place in sorted(lease.folder.iterdir()):
        match = _SHARD.fullmatch(place.name)
        if match and int(match[1] or match[2]) != count + 1:
            lease.take(place.name)


def _find_duplicates(jobs: list[Job], own: list[Job], mine: list[Job], identities: list[str], output: Output) -> None:
    """Look through the spans of this pod, wait until all are looked through, and compare those that are to be made.

    Args:
        jobs: all spans.
        own: those of this pod.
        mine: those of them that are to be made.
        identities: of all.
        output: of the stage.
    """
    assert output.lease is not None
    places = [_hashes(output.place, job, identities) for job in jobs]
    lacking = [job for job in own if not places[job.index].is_file()]
    output.progress.phase("looking for duplicates", sum(job.size for job in lacking), "bytes")
    done = 0
    events = contextlib.closing(workers.stream(duplicates.look, lacking, jobs[0].options.num_processors))
    with events as stream:
        for job in stream:
            there = _hashes(output.folder, job, identities)
            duplicates.hashes_place(output.folder, job).rename(there)
            output.lease.put(there.name)
            done += job.size
            output.progress.at(done)
    output.progress.phase(WAITING)
    _wait_for(lambda: [job.name for job in jobs if not places[job.index].is_file()], len(jobs), "hashes of spans")
    duplicates.compare(places, mine)


def _hashes(folder: Path, job: Job, identities: list[str]) -> Path:
    """Where the hashes of a span lie until all is made: of this run's text."""
    place = duplicates.hashes_place(folder, job)
    return place.with_name(f"{place.stem}-{identities[job.index][:16]}{place.suffix}")


def _wait(jobs: list[Job], identities: list[str], output: Output) -> list[_Note]:
    """Wait until the shards of all pods are there; what was made of each span."""
    done: dict[int, _Note] = {}

    def lacking() -> list[str]:
        for job in jobs:
            if job.index not in done and (note := _finished(output.place, job, identities[job.index])) is not None:
                done[job.index] = note
        return [job.name for job in jobs if job.index not in done]

    output.progress.phase(WAITING)
    _wait_for(lacking, len(jobs), "shards")
    return [done[job.index] for job in jobs]


def _wait_for(lacking: Callable[[], list[str]], count: int, what: str) -> None:
    """Return when other pods have made what is lacking of `count`; says now and then what it is."""
    told = time.monotonic()
    while names := lacking():
        if time.monotonic() - told >= INTERVAL:
            told = time.monotonic()
            print(f"waiting for {len(names)} of {count} {what} of other pods: {listed(names, 3)}", file=sys.stderr)
        time.sleep(POLL)


def _check_bad(counts: Counts, bad: list[Bad], options: BuildData) -> None:
    total = counts.documents + counts.duplicate_documents + counts.blank_documents + counts.bad_documents
    where = split_digest(options.input_dir)[0]
    check_bad(where, "documents", counts.bad_documents, total, bad, options.max_bad_fraction)


def _check_counts(counts: Counts, options: BuildData) -> None:
    where, length = split_digest(options.input_dir)[0], options.max_seq_length
    if counts.documents == 0:
        asked = f", or not {' '.join(options.filter)} (--filter)" if counts.filtered_documents else ""
        raise DataError(
            f"{where}: every document that --input_regex {options.input_regex!r} finds is empty{asked}; is it the right folder?"
        )
    too_little = f"{where}: {counts.tokens} tokens in {counts.documents} documents"
    if counts.train_examples == 0:
        rest = ", beside what is held out (--dev_proportion)" if counts.dev_documents else ""
        raise DataError(f"{too_little} fill no training example of {length}{rest}; give more text, or lower --max_seq_length")
