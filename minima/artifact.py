"""Artefact folders: keys, markers, lineage, and the check of a stage's inputs.

A stage's result is a folder. `_SUCCESS.json` (the marker) is written last, atomically; without a valid one nothing
in the folder counts. Standard library only: jobgen and PID 1 use this before anything heavy is imported.
"""

import contextlib
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from minima.errors import DataError, NotReadyError, UsageError
from minima.options import Options, fields, inputs

FORMAT = 1
MARKER = "_SUCCESS.json"
VERIFIED = "_VERIFIED.json"
CHECKPOINTS = "checkpoints"
PACKAGES = ("torch", "transformers", "deepspeed", "flash-attn", "peft", "lm-eval", "sentencepiece", "tfrecord", "numpy")
_DIGEST = re.compile(r"^(?P<path>.+)@sha256:(?P<digest>[0-9a-f]{64})$")


def split_digest(value: str) -> tuple[str, str | None]:
    """The path of an input and its declared SHA-256, if it has one (`PATH@sha256:HEX`).

    Raises:
        UsageError: what follows `@sha256:` is not 64 lower-case hex digits.
    """
    match = _DIGEST.match(value)
    if match:
        return match["path"], match["digest"]
    if "@sha256:" in value:
        raise UsageError(f"{value!r}: a digest is PATH@sha256: and 64 hex digits; `minima digest PATH` prints it")
    return value, None


def key(options: Options, input_keys: Mapping[str, str]) -> str:
    """The artefact's key: 8 hex digits of a hash of the identity, the inputs' keys and the format version.

    Args:
        options: the stage's options.
        input_keys: for each input option that is not empty, what `input_key` says of it.
    """
    text = json.dumps([FORMAT, options.verb, identity(options), dict(input_keys)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def identity(options: Options) -> dict[str, Any]:
    """The options that say what the result means, without the inputs."""
    return {
        f.name: getattr(options, f.name)
        for f in fields(type(options))
        if not f.metadata["execution"] and not f.metadata["input"]
    }


def input_key(value: str) -> str:
    """What stands for the input `value` in a key: its artefact's key and the path in it, its digest, or its path.

    The path in an artefact is part of it, because one artefact may hold several things (a model and text).
    """
    path, digest = split_digest(value)
    if digest:
        return f"sha256:{digest}"
    folder = artifact_folder(path)
    if folder is None:
        return path
    inside = os.path.relpath(path, folder)
    return artifact_input_key(read_marker(folder)["key"], "" if inside == "." else inside)


def artifact_input_key(artifact_key: str, inside: str) -> str:
    """The form of `input_key` for the path `inside` an artefact with this key."""
    return f"{artifact_key}/{inside}" if inside else artifact_key


def artifact_folder(path: str) -> Path | None:
    """The nearest folder at or above `path` (which may be a glob) that holds a marker, or None.

    Raises:
        NotReadyError: a stage began to write there and has not finished.
    """
    place = Path(os.path.abspath(path))
    for folder in (place, *place.parents):
        if (folder / MARKER).is_file():
            return folder
        if any(folder.glob("_lease*.json")):
            raise NotReadyError(f"{folder}: not finished, it has no {MARKER}; run the stage that makes it to its end first")
    return None


def read_marker(folder: Path) -> dict[str, Any]:
    """The marker of a finished artefact.

    Raises:
        NotReadyError: there is none.
        DataError: it is not what this version writes.
    """
    place = Path(folder) / MARKER
    try:
        marker = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotReadyError(f"{folder}: not finished, it has no {MARKER}; run the stage that makes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{place}: not a marker ({error}); set the folder aside and run its stage again") from None
    if not isinstance(marker, dict) or marker.get("format") != FORMAT or not _whole(marker):
        found = marker.get("format") if isinstance(marker, dict) else type(marker).__name__
        raise DataError(f"{place}: format {found!r}, this version reads {FORMAT}; set the folder aside and run its stage again")
    return marker


def _whole(marker: dict[str, Any]) -> bool:
    """Whether a marker has all that is read of it."""
    kinds = {"verb": str, "key": str, "identity": dict, "inputs": dict, "files": dict, "metrics": dict}
    entries = marker.get("files")
    return (
        all(isinstance(marker.get(name), kind) for name, kind in kinds.items())
        and isinstance(entries, dict)
        and all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in entries.values())
    )


def check_files(folder: Path, marker: Mapping[str, Any], *, full: bool) -> None:
    """Compare the files of an artefact with its marker: names and sizes, with `full` also SHA-256.

    Raises:
        DataError: a file is missing, or its size or content changed.
    """
    remedy = "set the folder aside (`jobgen run … --from STAGE`) and run its stage again"
    for name, entry in marker["files"].items():
        place = Path(folder) / name
        if not place.is_file():
            raise DataError(f"{place}: missing, {MARKER} lists it; {remedy}")
        size = place.stat().st_size
        if size != entry["size"]:
            raise DataError(f"{place}: {size} bytes, {MARKER} says {entry['size']}; {remedy}")
        if full and file_digest(place) != entry["sha256"]:
            raise DataError(f"{place}: its content changed since it was made (SHA-256 differs from {MARKER}); {remedy}")


def check_input(option: str, value: str, *, verify: bool = False) -> dict[str, Any]:
    """Check that the input `value` of the option named `option` can be read, and describe it for the lineage.

    An artefact is checked against its marker: names and sizes each time, hashes by its first reader or on `verify`.
    Anything else must be there, and agree with its digest if one is declared.

    Returns:
        `path` and `key`; for what no stage made also `fingerprint`, which `check_unchanged` compares later.

    Raises:
        NotReadyError: nothing is there.
        DataError: it is not what its marker or its digest says.
    """
    path, digest = split_digest(value)
    folder = artifact_folder(path)
    if not (os.path.exists(path) or glob.glob(path)):
        made = f" (artefact {folder} has no such path)" if folder else ""
        raise NotReadyError(f"--{option}: nothing at {path}{made}; check the path, or run the stage that makes it")
    if folder is not None:
        marker = read_marker(folder)
        known = folder / VERIFIED
        first = not known.is_file() or known.read_text(encoding="utf-8") != marker["key"]
        check_files(folder, marker, full=verify or first)
        if first and os.access(folder, os.W_OK):
            with contextlib.suppress(OSError):  # Only saves the next reader's time.
                write_atomically(known, marker["key"])
        return {"path": path, "key": input_key(value)}
    if digest and path_digest(path) != digest:
        raise DataError(
            f"--{option}: {path} has not the declared digest; found {path}@sha256:{path_digest(path)} "
            "(`minima digest PATH` prints it)"
        )
    return {"path": path, "key": input_key(value), "fingerprint": fingerprint(path)}


def check_inputs(options: Options) -> dict[str, dict[str, Any]]:
    """`check_input` for every input of `options` that is not empty."""
    return {
        name: check_input(name, getattr(options, name), verify=options.verify)
        for name in inputs(type(options))
        if getattr(options, name)
    }


def input_files(path: str) -> list[Path]:
    """All files at `path` (a file, a folder or a glob), sorted, without hidden ones and markers."""
    roots = [path] if os.path.exists(path) else sorted(glob.glob(path))
    found: list[Path] = []
    for root in map(Path, roots):
        found += [root] if root.is_file() else [p for p in sorted(root.rglob("*")) if p.is_file()]
    return [p for p in found if not p.name.startswith((".", "_"))]


def fingerprint(path: str) -> dict[str, list[int]]:
    """Size and modification time (ns) of each file of an input from outside."""
    stats = {str(p): p.stat() for p in input_files(path)}
    return {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()}


def check_unchanged(folder: Path, marker: Mapping[str, Any]) -> None:
    """Check that the inputs from outside are still those that the finished artefact in `folder` was made of.

    Raises:
        DataError: a file under the same path has another size or time, and the content's digest is another too.
    """
    for option, entry in marker["inputs"].items():
        if "fingerprint" not in entry or not input_files(entry["path"]):
            continue  # An input that is gone does not make its result wrong.
        if fingerprint(entry["path"]) != entry["fingerprint"] and path_digest(entry["path"]) != entry["digest"]:
            raise DataError(
                f"--{option}: {entry['path']} changed since {folder} was made of it; "
                "`jobgen run … --from STAGE` makes it again, another path or a digest (PATH@sha256:…) keeps both"
            )


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
    for name in inputs(type(options)):
        value = getattr(options, name)
        made_of = marker["inputs"].get(name, {}).get("key", "")
        if made_of != (now := input_key(value) if value else ""):
            raise UsageError(
                f"--output_dir: {folder} was made of {name} {made_of!r}, not {now!r}; choose another folder or set it aside"
            )
    check_files(folder, marker, full=options.verify)
    check_unchanged(folder, marker)
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
    """The artefact that a running stage makes.

    Attributes:
        folder: where it writes.
        options: what it was called with.
        inputs: what `check_inputs` said.
        check_lease: raises if this process may no longer write here; call it before every rename.
        started: when the program began, in seconds since the epoch.
    """

    folder: Path
    options: Options
    inputs: dict[str, dict[str, Any]]
    check_lease: Callable[[], None]
    started: float = field(default_factory=time.time)

    def commit(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Sync all files and write the marker; from then on the artefact exists. Returns the marker."""
        for name, entry in self.inputs.items():
            if "fingerprint" in entry:
                if fingerprint(entry["path"]) != entry["fingerprint"]:
                    raise DataError(f"--{name}: {entry['path']} changed while this stage read it; set {self.folder} aside")
                entry["digest"] = path_digest(entry["path"])
        files = {}
        for place in artifact_files(self.folder):
            sync(place)
            files[place.relative_to(self.folder).as_posix()] = {"size": place.stat().st_size, "sha256": file_digest(place)}
        marker = {
            "format": FORMAT,
            "verb": self.options.verb,
            "key": key(self.options, {name: entry["key"] for name, entry in self.inputs.items()}),
            "identity": identity(self.options),
            "execution": {f.name: getattr(self.options, f.name) for f in fields(type(self.options)) if f.metadata["execution"]},
            "inputs": self.inputs,
            "files": files,
            "seconds": round(time.time() - self.started, 1),
            "versions": versions(),
            "commit": commit_of_this_code(),
            "metrics": dict(metrics),
        }
        self.check_lease()
        write_atomically(self.folder / MARKER, json.dumps(marker, indent=1, ensure_ascii=False) + "\n")
        # Not before: whatever ends this process until here, the next one goes on from them.
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        return marker


def artifact_files(folder: Path) -> Iterator[Path]:
    """The files that make up an artefact: all but those that start with `.` or `_` and the logs of its making."""
    for place in sorted(folder.rglob("*")):
        parts = place.relative_to(folder).parts
        log = parts[0] in {"metrics.jsonl", "tensorboard", CHECKPOINTS}
        if place.is_file() and not log and not any(part.startswith((".", "_")) for part in parts):
            yield place


def clear_unfinished(folder: Path) -> None:
    """Remove what an earlier, unfinished attempt of a stage that cannot resume left in `folder`."""
    for place in folder.iterdir():
        if place.name.startswith("_"):
            continue
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def write_atomically(place: Path, text: str) -> None:
    """Write `text` to a file that is there either whole or not at all, also after a crash of the machine."""
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")  # Process ids are the same in every pod.
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, place)
    sync(place.parent)


def sync(place: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(place: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: str) -> str:
    """SHA-256 of an input: of the file, or of the sorted relative names and digests of a folder's or a glob's files."""
    if os.path.isfile(path):
        return file_digest(Path(path))
    root = path
    while not os.path.isdir(root):  # Of a glob, the folder before its first pattern.
        root = os.path.dirname(root) or "."
    lines = [f"{file_digest(p)}  {os.path.relpath(p, root)}\n" for p in input_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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


def summary(marker: Mapping[str, Any]) -> str:
    """One line about a finished artefact."""
    size = sum(entry["size"] for entry in marker["files"].values())
    return f"{marker['verb']} {marker['key']}: {len(marker['files'])} files, {size / 2**20:.1f} MiB"
