"""A stage's result: its key, whether it is finished, and how it comes to be."""

import functools
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from minima import addresses
from minima.errors import DataError, LostPeerError, NotReadyError, UsageError
from minima.options import Options, decides, fields, reads
from minima.workspace import attempts
from minima.workspace.files import file_digest, sync
from minima.workspace.inputs import check_unchanged, fingerprint, input_key, outside_digest
from minima.workspace.lease import Lease, names
from minima.workspace.marker import CHECKPOINTS, FORMAT, MARKER, artifact_files, check_files, read_marker
from minima.workspace.progress import Reporter

PACKAGES = ("torch", "transformers", "deepspeed", "flash-attn", "peft", "lm-eval", "sentencepiece", "tfrecord", "numpy")


def key(options: Options, input_keys: Mapping[str, str]) -> str:
    """The artifact's key: 8 hex digits of a hash of the verb, the identity, and the keys of the inputs that belong to it.

    Args:
        options: the stage's options.
        input_keys: for each path that the options say to read, by its name, what `input_key` says of it.
    """
    made_of = {name: input_keys[name] for name in input_keys if decides(options, name)}
    text = json.dumps([options.verb, identity(options), made_of], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def identity(options: Options) -> dict[str, Any]:
    """What says what the result means, without the inputs: options, and the revision of what the verb makes of them."""
    own = [f for f in fields(type(options)) if decides(options, f.name) and not f.metadata["input"]]
    values = {f.name: getattr(options, f.name) for f in own}
    pins = {f.name: [addresses.parse(text).identity for text in values[f.name]] for f in own if f.metadata["pinned"]}
    return {"revision": options.revision, **values, **pins}


def finished(options: Options) -> dict[str, Any] | None:
    """The marker in `output_dir` if the stage with exactly this identity is finished there, else None.

    Raises:
        UsageError: the folder holds the result of other options or inputs.
        DataError: the result or an input from outside is not what it was.
    """
    folder = Path(options.output_dir)
    if not (folder / MARKER).exists():
        return None
    marker = read_marker(folder)
    if marker["verb"] != options.verb or marker["identity"] != json.loads(json.dumps(identity(options))):
        differ = _difference(marker, options)
        raise UsageError(f"--output_dir: {folder} holds another result ({differ}); choose another folder or set it aside")
    paths = reads(options)
    for name in {**paths, **marker["inputs"]}:
        if not decides(options, name):
            continue
        value = paths.get(name, "")
        made_of = marker["inputs"].get(name, {}).get("key", "")
        if made_of != (now := input_key(value, options.output_dir) if value else ""):
            raise UsageError(
                f"--output_dir: {folder} was made of {name} {made_of!r}, not {now!r}; choose another folder or set it aside"
            )
    check_files(folder, marker, full=options.verify)
    check_unchanged(folder, {name: entry for name, entry in marker["inputs"].items() if decides(options, name)})
    return marker


def _difference(marker: Mapping[str, Any], options: Options) -> str:
    if marker["verb"] != options.verb:
        return f"made by {marker['verb']}"
    then, now = marker["identity"], json.loads(json.dumps(identity(options)))
    return ", ".join(
        f"{n} {then.get(n)!r} there, {now.get(n)!r} now" for n in sorted({*then, *now}) if then.get(n) != now.get(n)
    )


@dataclass
class Output:
    """The artifact that a running stage makes.

    Attributes:
        folder: where it writes; it comes into place with `commit`.
        options: what it was called with.
        inputs: what `check_inputs` said.
        lease: on the artifact's folder; None in those processes of a group that publish nothing.
        started: when the program began, in seconds since the epoch.
        progress: to be told what the stage does.
        promised: the sizes of files that are in place before `commit`, by name.
    """

    folder: Path
    options: Options
    inputs: dict[str, dict[str, Any]]
    lease: Lease | None = None
    started: float = field(default_factory=time.time)
    progress: Reporter = field(default_factory=Reporter)
    promised: dict[str, int] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """The artifact's folder, to be read, and changed by the lease alone."""
        return Path(self.options.output_dir)

    def shut_out(self, others: Iterable[str]) -> None:
        """Wait until nobody holds any of these leases, and fence who did: it may be frozen."""
        assert self.lease is not None
        for name in sorted(others):
            with Lease(self.place, name, self.lease.ttl, patient=True):
                pass

    def commit(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Bring all files into place, the marker last; from then on the artifact exists. Returns the marker.

        Raises:
            DataError: an input from outside changed meanwhile.
            LostPeerError: a promised file is not there: a pod of another run removed it before it was shut out.
            NotReadyError: the lease was lost.
        """
        assert self.lease is not None
        self.progress.phase("finishing")
        for name, entry in self.inputs.items():
            if "fingerprint" in entry:
                if fingerprint(entry["path"]) != entry["fingerprint"]:
                    raise DataError(f"--{name}: {entry['path']} changed while this stage read it; set {self.place} aside")
                entry["digest"] = outside_digest(entry["path"], self.options.output_dir)
        # A pod of another run may be frozen; those of this one have nothing left to write.
        self.shut_out(names(self.place) - {self.lease.name})
        for name, size in self.promised.items():
            if not (self.place / name).is_file() or (self.place / name).stat().st_size != size:
                raise LostPeerError(
                    f"{self.place / name}: it was there with {size} bytes, and another run removed it; run again"
                )
        if not self.options.independent:  # Such a one's shards are in place already.
            for left in sorted({file.relative_to(self.place).parts[0] for file in artifact_files(self.place)}):
                self.lease.take(left)  # Of an attempt that ended among the renames below.
        files = {}
        for root in (self.place, self.folder):
            for file in artifact_files(root):
                sync(file)
                files[file.relative_to(root).as_posix()] = {"size": file.stat().st_size, "sha256": file_digest(file)}
        marker = {
            "format": FORMAT,
            "verb": self.options.verb,
            "key": key(self.options, {name: entry["key"] for name, entry in self.inputs.items()}),
            "identity": identity(self.options),
            "execution": {
                f.name: getattr(self.options, f.name)
                for f in fields(type(self.options))
                if f.metadata["execution"] and not decides(self.options, f.name) and not f.metadata["input"]
            },
            "inputs": self.inputs,
            "files": files,
            "seconds": round(time.time() - self.started, 1),
            "versions": versions(),
            "commit": commit_of_this_code(),
            "metrics": dict(metrics),
        }
        self.lease.put(*sorted({file.relative_to(self.folder).parts[0] for file in artifact_files(self.folder)}))
        self.lease.write(MARKER, json.dumps(marker, indent=1, ensure_ascii=False) + "\n")
        # Not before: whatever ends this process until here, the next one goes on from them.
        tidy(self.lease)
        return marker


def tidy(lease: Lease) -> None:
    """Remove what a finished artifact needs no more: checkpoints, and counts of attempts."""
    for left in (CHECKPOINTS, *(place.name for place in lease.folder.glob(f"{attempts.PREFIX}*"))):
        lease.take(left)


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # flash-attn is not on a CPU.
    return found


@functools.cache
def commit_of_this_code() -> str:
    """The Git commit of the running code: from MINIMA_COMMIT (set in images), else from Git, else `unknown`."""
    if os.environ.get("MINIMA_COMMIT"):
        return os.environ["MINIMA_COMMIT"]
    here = Path(__file__).parent
    try:
        run = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return run.stdout.strip() or "unknown"


def summary(marker: Mapping[str, Any], options: Options) -> str:
    """One line about a finished artifact."""
    size = sum(entry["size"] for entry in marker["files"].values())
    others = "".join(f"; {words}" for words in measured_otherwise(marker, options))
    return f"{marker['verb']} {marker['key']}: {len(marker['files'])} files, {size / 2**20:.1f} MiB{others}"


def measured_otherwise(marker: Mapping[str, Any], options: Options) -> list[str]:
    """What to say of inputs that were only measured, where `options` now name others: the result stays what it is."""
    told = []
    for name, path in reads(options).items():
        then = marker["inputs"].get(name, {}).get("key", "")
        if not decides(options, name) and _key_now(options, path) != then:
            told.append(f"{name} was {then or 'empty'}, `minima evaluate` measures on another")
    return told


def _key_now(options: Options, path: str) -> str | None:
    """The key of an input; None while nothing can have been made of it."""
    try:
        return input_key(path, options.output_dir)
    except NotReadyError:
        return None
