"""Artifact folders: the marker that makes one, and what belongs to it.

A stage's result is a folder. `_SUCCESS.json` (the marker) is written last, atomically; without a valid one nothing
in the folder counts. Standard library only: jobgen and PID 1 use this before anything heavy is imported.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minima.errors import DataError, NotReadyError
from minima.workspace.files import file_digest

FORMAT = 1
MARKER = "_SUCCESS.json"
CHECKPOINTS = "checkpoints"
STEP = "step-"
STEPS = STEP + "[0-9]" * 8
"""Which folders in CHECKPOINTS are checkpoints; what a person copied beside them is none."""
SLICE = "slice-"
"""How the files in CHECKPOINTS begin that are parts of a large one, which is being fetched."""


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
    """The marker of a finished artifact.

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
    """Compare the files of an artifact with its marker: names and sizes, with `full` also SHA-256.

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


def artifact_files(folder: Path) -> Iterator[Path]:
    """The files that make up an artifact: all but those that start with `.` or `_` and the logs of its making."""
    for place in sorted(folder.rglob("*")):
        parts = place.relative_to(folder).parts
        log = parts[0] in {"metrics.jsonl", "tensorboard", CHECKPOINTS}
        if place.is_file() and not log and not any(part.startswith((".", "_")) for part in parts):
            yield place
