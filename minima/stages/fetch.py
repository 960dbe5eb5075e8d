"""The stage `fetch`: content from elsewhere, pinned and checked, as an artifact.

A file is put in place when it is whole and what its source says; a large one comes in slices, each put beside it when it is
whole. A start after any end goes on from them. The files of all sources are shared out among the pods.
"""

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from minima import addresses
from minima.addresses import Address
from minima.errors import DataError, DiskFullError, NotReadyError, UsageError, listed
from minima.options import Fetch
from minima.process import workers
from minima.sources import archive, source, transfer
from minima.sources.opened import opened
from minima.sources.source import File, Source
from minima.workspace.artifact import Output
from minima.workspace.files import matching, sync
from minima.workspace.lease import Lease
from minima.workspace.marker import CHECKPOINTS, SLICE, artifact_files
from minima.workspace.model_folder import is_pointer
from minima.workspace.progress import WAITING

SLICE_BYTES = 256 << 20
"""Of a file that is larger, what is kept at a time: a stop costs at most so much of each connection."""
POLL = 2.0
"""Seconds between two looks for the files of other pods."""
RESERVED = (CHECKPOINTS, "tensorboard", "metrics.jsonl")
CONFIGURATION = "config.json"
SIZES = {
    "layer": "num_hidden_layers",
    "hidden": "hidden_size",
    "head": "num_attention_heads",
    "kv_head": "num_key_value_heads",
    "intermediate": "intermediate_size",
    "vocab_size": "vocab_size",
}
"""What the options of a shape are called in a model's configuration."""


@dataclass(frozen=True)
class Wanted:
    """One file to fetch.

    Attributes:
        name: in the artifact.
        file: of the source.
        origin: the source.
        unpack: whether it is an archive, and the files in it are what is wanted.
    """

    name: str
    file: File
    origin: Source
    unpack: bool = False

    @property
    def kept(self) -> str:
        """Where it is put, in the artifact's folder: an archive goes with the checkpoints when the artifact is finished."""
        return f"{CHECKPOINTS}/{self.name}" if self.unpack else self.name


def run(options: Fetch, output: Output) -> dict[str, Any]:
    """Fetch the files of all sources, those of this pod first, then wait for the others'.

    Raises:
        NotReadyError: nothing is there, or who asks has no right to it.
        DataError: what came is not what its pin says.
        DiskFullError: there is less room than it needs.
        LostPeerError: a source does not answer.
        UsageError: files of two sources have one name, or a pattern matches none.
    """
    with contextlib.ExitStack() as connections:
        return _fetch(options, output, connections)


def _fetch(options: Fetch, output: Output, connections: contextlib.ExitStack) -> dict[str, Any]:
    assert output.lease is not None
    pod, pods = workers.pod()
    output.progress.phase("listing")
    by_address = [(address, *_listed(address, options, connections)) for address in map(addresses.parse, options.source)]
    wanted = [one for _, _, files in by_address for one in files]
    _check_patterns(wanted, options)
    if options.unpack and not any(one.unpack for one in wanted):
        raise UsageError(f"--unpack: no archive among {listed([one.name for one in wanted])}; take it out ({archive.VALID})")
    transfer.check_names([one.name for one in wanted], RESERVED)
    wanted.sort(key=lambda one: (one.name != CONFIGURATION, one.name))
    if options.shape and not options.unpack and not any(one.name == CONFIGURATION for one in wanted):
        raise DataError(f"--layer: a model's shape is stated, and {listed(list(options.source))} has no {CONFIGURATION}")
    if pod == 0:
        there = {place.relative_to(output.place).as_posix() for place in artifact_files(output.place)}
        for stranger in there - {one.name for one in wanted}:
            output.lease.take(stranger)
    told = _Told(output, threading.Lock())
    mine = told.begin(wanted[pod::pods], options.num_connections)
    if options.shape and mine and mine[0].name == CONFIGURATION:  # A wrong one is said before the weights come.
        _bring(mine.pop(0), output, told, options)
    _share(partial(_bring, output=output, told=told, options=options), mine, options.num_connections, told.failed)
    output.progress.phase(WAITING)
    if pod:
        return {}
    while missing := [one.name for one in wanted if not _in_place(output.place, one)]:
        output.progress.phase(WAITING, len(wanted), "files", step=len(wanted) - len(missing))
        time.sleep(POLL)
    output.progress.phase("verifying")
    for address, origin, files in by_address:
        _check_digest(address, origin, files, output)
    names = [one.name for one in wanted if not one.unpack]
    for one in wanted:
        if one.unpack:
            names += _unpack(one, names, told)
    if options.shape and options.unpack:
        _check_shape(output.place / CONFIGURATION, options)
    output.promised = {name: (output.place / name).stat().st_size for name in names}
    return {
        "sources": [f"{address.into}={address}" if address.into else str(address) for address, _, _ in by_address],
        "files": len(names),
        "bytes": sum(output.promised.values()),
    }


def _listed(address: Address, options: Fetch, connections: contextlib.ExitStack) -> tuple[Source, list[Wanted]]:
    origin = transfer.patiently(lambda: opened(address))
    connections.callback(origin.close)
    files = transfer.patiently(origin.files)
    if not files:
        raise NotReadyError(f"--source: no file at {address}; correct the address")
    into = f"{address.into}/" if address.into else ""
    found = transfer.chosen(files, options.include, options.exclude, address.into)
    if not found:
        names = listed(sorted(into + file.name for file in files))
        raise UsageError(f"--include: no file of {address} is asked for; it has {names}")
    unpack = [options.unpack and archive.is_one(file.name) for file in found]
    return origin, [Wanted(into + file.name, file, origin, is_one) for file, is_one in zip(found, unpack, strict=True)]


def _check_patterns(wanted: list[Wanted], options: Fetch) -> None:
    names = [one.name for one in wanted]
    for pattern in options.include:
        if not matching(names, pattern):
            raise UsageError(f"--include: {pattern!r} matches no file; there are {listed(names)} ('**/*' is of all folders)")


@dataclass
class _Told:
    """What several threads tell the progress, and change in the artifact."""

    output: Output
    lock: threading.Lock
    done: int = 0
    total: int = 0
    failed: threading.Event = field(default_factory=threading.Event)
    """That another thread met what nobody here can mend."""

    def begin(self, wanted: list[Wanted], connections: int) -> list[Wanted]:
        """Those that are not there yet, whole and right; checks that there is room for them."""
        place = self.output.place
        there = [one for one in wanted if _in_place(place, one)]
        for one in self.output.progress.track(there, "verifying", len(there), "files"):
            if what := source.wrong(one.file, place / one.kept):
                print(f"fetch: {one.name}: {what}; it comes again", file=sys.stderr)
                self.take(one.kept)
        rest = [one for one in wanted if not _in_place(place, one)]
        if len(rest) < len(wanted):
            print(f"fetch: {len(wanted) - len(rest)} of {len(wanted)} files are there already", file=sys.stderr)
        sizes = [one.file.size for one in rest]
        needed = sum(size or 0 for size in sizes)
        sliced = sorted((one.file.size or 0 for one in rest if _slices(one)), reverse=True)
        beside = sum(sliced[:connections])  # A large file is put together while its slices still lie there.
        free = shutil.disk_usage(place).free + sum(part.stat().st_size for part in (place / CHECKPOINTS).glob(f"{SLICE}*"))
        if needed + beside > free:
            slices = f" and {beside / 1e6:,.1f} of slices for a while" if beside else ""
            raise DiskFullError(
                f"{place}: {needed / 1e6:,.1f} MB are to come{slices}, {free / 1e6:,.1f} are free; make room, the same command "
                "goes on"
            )
        self.total = 0 if None in sizes else needed
        self.output.progress.phase("fetching", self.total, "bytes")
        return rest

    def came(self, size: int) -> None:
        """So many bytes more are there."""
        if self.failed.is_set():
            raise CancelledError
        with self.lock:
            self.done += size
            self.output.progress.at(self.done)

    def put(self, *names: str) -> None:
        """Bring files of the own folder into place."""
        with self.lock:
            self._lease.put(*names)

    def take(self, name: str) -> None:
        with self.lock:
            self._lease.take(name)

    @property
    def _lease(self) -> Lease:
        assert self.output.lease is not None
        return self.output.lease


def _in_place(folder: Path, one: Wanted) -> bool:
    place = folder / one.kept
    return place.is_file() and one.file.size in (None, place.stat().st_size)


def _share(bring: Callable[[Wanted], None], wanted: list[Wanted], connections: int, failed: threading.Event) -> None:
    """Bring all files, several at a time, until one fails."""
    with ThreadPoolExecutor(connections, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(bring, one) for one in wanted]
        for future in as_completed(futures):
            if error := future.exception():
                failed.set()
                for other in futures:
                    other.cancel()
                raise error


def _bring(one: Wanted, output: Output, told: _Told, options: Fetch) -> None:
    """Fetch one file and put it in place.

    Raises:
        DataError: what comes, twice, is not what the source says of it.
    """
    place = output.folder / one.kept
    place.parent.mkdir(parents=True, exist_ok=True)
    for again in (False, True):
        _receive(one, place, output, told)
        what = source.wrong(one.file, place)
        if not what:
            break
        for name, _, _ in _slices(one):
            told.take(name)
        if again:
            raise DataError(f"--source: {one.name}: {what}, also a second time; the source is damaged, or a proxy changes it")
        print(f"fetch: {one.name}: {what}; it comes again", file=sys.stderr)
        told.came(-(one.file.size or place.stat().st_size))
    if is_pointer(place):
        raise DataError(
            f"--source: {one.name} is a Git LFS pointer, not the file; `git lfs pull` where it lies, or take an address of the "
            "file itself"
        )
    if one.name == CONFIGURATION and options.shape:
        _check_shape(place, options)
    sync(place)
    told.put(one.kept)
    for name, _, _ in _slices(one):
        told.take(name)


def _slices(one: Wanted) -> list[tuple[str, int, int]]:
    """The names of the slices of a large file in the artifact's folder, each with its first byte and the one after its last."""
    size = one.file.size
    if size is None or size <= SLICE_BYTES or not one.file.ranges:
        return []
    # Of another content nothing may be used.
    name = sha256(json.dumps([one.name, one.file.version, size, SLICE_BYTES]).encode()).hexdigest()[:16]
    starts = range(0, size, SLICE_BYTES)
    return [(f"{CHECKPOINTS}/{SLICE}{name}-{start // SLICE_BYTES}", start, min(start + SLICE_BYTES, size)) for start in starts]


def _receive(one: Wanted, place: Path, output: Output, told: _Told) -> None:
    """Write a file to `place`, from its slices if it is large."""
    slices = _slices(one)
    if not slices:
        with open(place, "wb") as out:
            transfer.read(one.origin, one.file, 0, one.file.size, out, told.came)
        return
    for name, start, stop in slices:
        there = output.place / name
        if there.is_file() and there.stat().st_size == stop - start:
            told.came(stop - start)
            continue
        mine = output.folder / name
        mine.parent.mkdir(exist_ok=True)
        with open(mine, "wb") as out:
            transfer.read(one.origin, one.file, start, stop, out, told.came)
        sync(mine)
        told.put(name)
    with open(place, "wb") as out:
        for name, _, _ in slices:
            with open(output.place / name, "rb") as part:
                shutil.copyfileobj(part, out, source.CHUNK)


def _check_shape(place: Path, options: Fetch) -> None:
    try:
        config: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        found = {name: config.get(key) for name, key in SIZES.items()}
    except FileNotFoundError:
        raise DataError(f"--layer: a model's shape is stated, and the archive has no {CONFIGURATION}") from None
    except (ValueError, AttributeError) as error:
        raise DataError(f"{CONFIGURATION}: is no configuration of a model ({error})") from None
    found["kv_head"] = found["kv_head"] or found["head"]
    if differ := [f"{name} {found[name]}, stated {size}" for name, size in options.shape.items() if found[name] != size]:
        raise DataError(
            f"--{differ[0].split()[0]}: {CONFIGURATION} says {', '.join(differ)}; state the shape that the model has"
        )


def _unpack(one: Wanted, names: list[str], told: _Told) -> list[str]:
    """Put the files of an archive in place, beside those of these names.

    Raises:
        DataError: it cannot be unpacked.
        UsageError: a name of it is taken.
    """
    output, below = told.output, Path(one.name).parent
    output.progress.phase("unpacking", unit="files")
    found: list[str] = []
    for inside in archive.unpack(output.place / one.kept, one.name, output.folder / below):
        found.append((below / inside).as_posix())
        output.progress.at(len(found))
    transfer.check_names([*names, *found], RESERVED)
    for name in found:
        sync(output.folder / name)
        told.put(name)
    return found


def _check_digest(address: Address, origin: Source, files: list[Wanted], output: Output) -> None:
    """Check the content of a source against its digest, in the form of `minima digest`.

    Raises:
        DataError: it is another; then nothing of it is kept.
    """
    if not address.digest:
        return
    found = source.folder_digest({one.file.name: source.digest(output.place / one.kept) for one in files}, one=origin.one)
    if found == address.digest:
        return
    assert output.lease is not None
    for one in files:
        output.lease.take(one.kept)
    raise DataError(
        f"--source: {address} has not the declared digest; found {address}@sha256:{found}, of {len(files)} files. If that is "
        "what it should be, declare it; else find out who changed it"
    )
