"""Stage `build-data`: tokenise, shuffle and pack running text into TFRecord shards with an index.

The text is cut into spans (corpus.py). Each becomes, on its own, a shard of training examples and one of held-out examples
(packing.py), so that the result is the same whichever process or pod makes it. A shard without examples is left out.

A finished span leaves `.span-….json`, from which a restart and other pods learn that its shards are there.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minima.data import corpus, packing, records
from minima.data.packing import Advance, Built, Counts, Job
from minima.errors import DataError, listed
from minima.options import BuildData, split_digest
from minima.process import workers
from minima.workspace import artifact
from minima.workspace.artifact import Output
from minima.workspace.files import sync, write_atomically
from minima.workspace.marker import FORMAT
from minima.workspace.progress import WAITING

POLL = 2.0
"""Seconds between two looks for the shards of other pods."""
INTERVAL = 10.0
"""Seconds between two lines on what is waited for."""
_SHARD = re.compile(r"(?:(?:train|dev)-\d+-of-(\d+)\.tfrecord(?:\.index)?|\.span-\d+-of-(\d+)\.json)")


def run(options: BuildData, output: Output) -> dict[str, Any]:
    """Build the shards of this pod, and wait for those of the others.

    Returns:
        `documents`, `train_examples`, `dev_examples`, `tokens`, `dropped_tokens` and `characters_per_token` of all pods.

    Raises:
        UsageError: the pod's number is wrong.
        DataError: the text or the tokenizer cannot be used, or the text is too small for one example.
    """
    pod, pods = workers.pod()
    spans = corpus.spans(split_digest(options.input_dir)[0], options.input_regex, options.shard_megabytes)
    packing.load_once(split_digest(options.tokenizer_name_or_path)[0])  # An error of it comes before any work.
    staging = output.folder / f".pod-{pod}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    jobs = [Job(index, len(spans), span, options, str(staging)) for index, span in enumerate(spans)]
    identities = [_identity(job, output) for job in jobs]
    _remove_other_shards(output.folder, len(jobs))
    mine = [job for job in jobs[pod::pods] if _finished(output.folder, job, identities[job.index]) is None]
    for job in mine:
        _unpublish(output.folder, job)
    if len(mine) < len(jobs[pod::pods]):
        print(f"{len(jobs[pod::pods]) - len(mine)} of {len(jobs[pod::pods])} shards are there already", file=sys.stderr)
    events = contextlib.closing(workers.stream(packing.build, mine, options.num_processors))
    output.progress.phase("tokenising", sum(job.size for job in mine), "bytes")
    done, tokens = 0.0, 0
    with events as stream:
        for event in stream:
            if isinstance(event, Advance):
                done, tokens = done + event.size, tokens + event.tokens
                output.progress.at(round(done), tokens=tokens)
            else:
                output.check_lease()
                _publish(output.folder, event, identities[event.job.index])
    shutil.rmtree(staging, ignore_errors=True)
    output.progress.phase(WAITING)
    counts = _wait(output.folder, jobs, identities)
    if pod == 0:
        for left in output.folder.glob(".pod-*"):  # Of pods that a smaller count did not start again.
            shutil.rmtree(left, ignore_errors=True)
    _check_counts(counts, options)
    ids = counts.tokens - 2 * counts.documents
    metrics = {name: value for name, value in asdict(counts).items() if name != "characters"}
    return {**metrics, "characters_per_token": round(counts.characters / max(1, ids), 4)}


def _identity(job: Job, output: Output) -> str:
    """What the shards of a span are made of, as a hash: a shard that another run left is never taken for this one's."""
    stat = (job.folder / job.span.file).stat()
    made_of = {
        "format": FORMAT,
        "options": artifact.identity(job.options),
        "inputs": {name: [entry["key"], entry.get("fingerprint")] for name, entry in output.inputs.items()},
        "shard": job.name,
        "span": asdict(job.span),
        "file": [stat.st_size, stat.st_mtime_ns],
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _note(folder: Path, job: Job) -> Path:
    return folder / f".span-{job.name}.json"


def _finished(folder: Path, job: Job, identity: str) -> Counts | None:
    """What was made of a span, if its shards are there and are this run's."""
    try:
        note = json.loads(_note(folder, job).read_bytes())
        if note["identity"] == identity and all((folder / n).stat().st_size == size for n, size in note["files"].items()):
            return Counts(**note["counts"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # Not there, not whole, or another version's: made again.
    return None


def _publish(folder: Path, built: Built, identity: str) -> None:
    for name in built.files:
        os.replace(Path(built.job.staging) / name, folder / name)
    sync(folder)
    note = {"identity": identity, "files": built.files, "counts": asdict(built.counts)}
    write_atomically(_note(folder, built.job), json.dumps(note, indent=1) + "\n")


def _unpublish(folder: Path, job: Job) -> None:
    """Remove what another run left under the names of a span, first what would call it finished."""
    _note(folder, job).unlink(missing_ok=True)
    for split in ("train", "dev"):
        for suffix in (records.SUFFIX, records.SUFFIX + records.INDEX_SUFFIX):
            (folder / f"{split}-{job.name}{suffix}").unlink(missing_ok=True)


def _remove_other_shards(folder: Path, count: int) -> None:
    """Remove the shards of a run that cut the text into another number of them; no pod of this run writes such names."""
    for place in sorted(folder.iterdir()):
        match = _SHARD.fullmatch(place.name)
        if match and int(match[1] or match[2]) != count:
            place.unlink(missing_ok=True)


def _wait(folder: Path, jobs: list[Job], identities: list[str]) -> Counts:
    """Wait until the shards of all pods are there; what was made in all."""
    done: dict[int, Counts] = {}
    told = time.monotonic()
    while True:
        for job in jobs:
            if job.index not in done and (counts := _finished(folder, job, identities[job.index])) is not None:
                done[job.index] = counts
        if len(done) == len(jobs):
            return sum(done.values(), Counts())
        if time.monotonic() - told >= INTERVAL:
            told = time.monotonic()
            lacking = listed([job.name for job in jobs if job.index not in done], 3)
            print(f"waiting for {len(jobs) - len(done)} of {len(jobs)} shards of other pods: {lacking}", file=sys.stderr)
        time.sleep(POLL)


def _check_counts(counts: Counts, options: BuildData) -> None:
    where, length = split_digest(options.input_dir)[0], options.max_seq_length
    if counts.documents == 0:
        raise DataError(
            f"{where}: every document that --input_regex {options.input_regex!r} finds is empty; is it the right folder?"
        )
    if counts.train_examples == 0:
        raise DataError(
            f"{where}: no shard fills one training example of {length} tokens ({counts.tokens} tokens in all); "
            "give more text, lower --max_seq_length, or raise --shard_megabytes"
        )
    if options.dev_proportion > 0 and counts.dev_examples == 0:
        raise DataError(
            f"{where}: the documents held out of {counts.documents} fill no example of {length} tokens in any shard; raise "
            f"--dev_proportion ({options.dev_proportion}), lower --max_seq_length, or hold out nothing with --dev_proportion 0"
        )
