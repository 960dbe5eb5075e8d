"""What a stage reads: an artifact of its pipeline, or something from outside, with or without a declared digest."""

import contextlib
import glob
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minima.errors import DataError, NotReadyError
from minima.options import Options, reads, split_digest
from minima.workspace.files import file_digest, matching, walk, write_atomically
from minima.workspace.marker import MARKER, artifact_folder, check_files, read_marker

WORKSPACE = "${workspace}"
"""Stands for the folder of all artifacts in a pipeline file and in keys: it is mounted here and there under other names."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
VERIFIED = "_VERIFIED.json"
"""In an artifact that its first reader has hashed."""


def input_key(value: str, output_dir: str) -> str:
    """What stands for the input `value` in a key: the key and the path in it of an artifact beside `output_dir`, otherwise
    its digest, or its path from the workspace, which is two folders above `output_dir`, or its path.

    What lies elsewhere goes by its path even where it is an artifact: jobgen names folders by their keys and cannot look at
    it. The path in an artifact is part of it, because one artifact may hold several things (a model and text).
    """
    path, digest = split_digest(value)
    if digest:
        return f"sha256:{digest}"
    folder = artifact_folder(path)
    if folder is None or not _beside(folder, output_dir):
        return outside_input_key(path, os.path.dirname(os.path.dirname(os.path.abspath(output_dir))))
    inside = os.path.relpath(path, folder)
    return artifact_input_key(read_marker(folder)["key"], "" if inside == "." else inside)


def artifact_input_key(artifact_key: str, inside: str) -> str:
    """The form of `input_key` for the path `inside` an artifact with this key."""
    return f"{artifact_key}/{inside}" if inside else artifact_key


def outside_input_key(path: str, workspace: str) -> str:
    """The form of `input_key` for a path that no stage makes: `${workspace}/inside` for what lies there."""
    root = os.path.abspath(workspace)
    whole = os.path.abspath(path)
    return f"{WORKSPACE}{whole.removeprefix(root)}" if whole.startswith(f"{root}/") else path


def _beside(folder: Path, output_dir: str) -> bool:
    return folder.parent == Path(os.path.abspath(output_dir)).parent


def check_input(option: str, value: str, output_dir: str, *, verify: bool = False) -> dict[str, Any]:
    """Check that the input `value` of the option named `option` can be read, and describe it for the lineage.

    An artifact is checked against its marker: names and sizes each time, hashes by its first reader or on `verify`.
    Anything else must be there, and agree with its digest if one is declared.

    Returns:
        `path` and `key`; for what does not lie beside `output_dir` also `fingerprint`, which `check_unchanged` compares.

    Raises:
        NotReadyError: nothing is there.
        DataError: it is not what its marker or its digest says.
    """
    path, digest = split_digest(value)
    folder = artifact_folder(path)
    if not (os.path.exists(path) or input_files(path)):
        made = f" (artifact {folder} has no such path)" if folder else ""
        hub = ""
        if _HUB_NAME.fullmatch(path) and not os.path.exists(os.path.dirname(path)):
            hub = f"; a name on the hub is fetched first: `minima digest hf://{path}` prints what `minima fetch --source` takes"
        raise NotReadyError(f"--{option}: nothing at {path}{made}; check the path, or run the stage that makes it{hub}")
    if folder is not None:
        marker = read_marker(folder)
        known = folder / VERIFIED
        whole = file_digest(folder / MARKER)  # Not the key: the folder may be set aside and made again.
        first = not known.is_file() or known.read_text(encoding="utf-8") != whole
        check_files(folder, marker, full=verify or first)
        if first and os.access(folder, os.W_OK):
            with contextlib.suppress(OSError):  # Only saves the next reader's time.
                write_atomically(known, whole)
        if _beside(folder, output_dir) and not digest:
            return {"path": path, "key": input_key(value, output_dir)}
    if digest and (found := outside_digest(path, output_dir, verify=verify)) != digest:
        raise DataError(
            f"--{option}: {path} has not the declared digest; found {path}@sha256:{found} (`minima digest PATH` prints it)"
        )
    return {"path": path, "key": input_key(value, output_dir), "fingerprint": fingerprint(path)}


def check_inputs(options: Options) -> dict[str, dict[str, Any]]:
    """`check_input` for every path that `options` say to read, by the name that `options.named` gives it."""
    return {name: check_input(name, path, options.output_dir, verify=options.verify) for name, path in reads(options).items()}


def input_files(path: str) -> list[Path]:
    """All files at `path` (a file, a folder or a glob), sorted; of a folder what `files.walk` finds."""
    if os.path.isfile(path):
        return [Path(path)]
    if os.path.isdir(path):
        return [place for name in walk(Path(path)) if (place := Path(path, name)).is_file()]
    root = glob_root(path)
    pattern = os.path.relpath(path, root)
    if "**" in pattern:
        found = matching(walk(root), pattern)
    else:
        found = []
        for name in glob.glob(pattern, root_dir=root):
            if not any(part.startswith((".", "_")) for part in Path(name).parts):
                inside = walk(root / name) if (root / name).is_dir() else []
                found += [f"{name}/{one}" for one in inside] or [name]
    return [place for name in sorted(set(found)) if (place := root / name).is_file()]


def glob_root(path: str) -> Path:
    """The folder before the first pattern of a glob."""
    parts = Path(path).parts
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    # `w[x]` may be a folder of that name, whose files a pattern names.
    while fixed < len(parts) - 1 and Path(*parts[: fixed + 1]).is_dir():
        fixed += 1
    return Path(*parts[:fixed])


def fingerprint(path: str) -> dict[str, list[int]]:
    """Size and modification time (ns) of each file of an input from outside."""
    stats = {str(p): p.stat() for p in input_files(path)}
    return {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()}


def check_unchanged(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the inputs from outside are still those that the finished artifact in `folder` was made of.

    Args:
        folder: the artifact.
        entries: what its marker says of them.

    Raises:
        DataError: a file under the same path has another size or time, and the content's digest is another too.
    """
    for option, entry in entries.items():
        if "fingerprint" not in entry or not input_files(entry["path"]):
            continue  # An input that is gone does not make its result wrong.
        if fingerprint(entry["path"]) != entry["fingerprint"] and outside_digest(entry["path"], str(folder)) != entry["digest"]:
            raise DataError(
                f"--{option}: {entry['path']} changed since {folder} was made of it; "
                "`jobgen run … --from STAGE` makes it again, another path or a digest (PATH@sha256:…) keeps both"
            )


def path_digest(path: str) -> str:
    """SHA-256 of an input: of the file, or of the sorted relative names and digests of a folder's or a glob's files."""
    if os.path.isfile(path):
        return file_digest(Path(path))
    root = path
    while not os.path.isdir(root):  # Of a glob, the folder before its first pattern.
        root = os.path.dirname(root) or "."
    lines = [f"{file_digest(p)}  {os.path.relpath(p, root)}\n" for p in input_files(path)]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def outside_digest(path: str, output_dir: str, *, verify: bool = False) -> str:
    """`path_digest` of an input from outside; hashed once for all that read it, unless files of it changed, or on `verify`.

    What was found is noted beside the artifact, with the size and the time of each file.
    """
    note = Path(output_dir).parent / f"_digest-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    now = fingerprint(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # Not there, not whole, or of another version.
        known = json.loads(note.read_text(encoding="utf-8"))
        if not verify and known["path"] == path and known["fingerprint"] == now:
            return str(known["digest"])
    digest = path_digest(path)
    if fingerprint(path) == now and note.parent.is_dir():
        with contextlib.suppress(OSError):  # Only saves the next reader's time.
            write_atomically(note, json.dumps({"path": path, "fingerprint": now, "digest": digest}))
    return digest


def hash_once(options: Options) -> None:
    """Check all inputs of a stage and hash what nobody has hashed yet, so that its pods need not.

    Raises:
        NotReadyError: nothing is there.
        DataError: an input is not what its marker or its digest says.
    """
    Path(options.output_dir).parent.mkdir(parents=True, exist_ok=True)
    for entry in check_inputs(options).values():
        if "fingerprint" in entry:
            outside_digest(entry["path"], options.output_dir)
