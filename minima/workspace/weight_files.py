"""What lies in safetensors files, by their headers: no torch, and of the weights themselves nothing is read but to compare."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minima.errors import DataError, listed

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # As in safetensors.
_PIECE = 1 << 20


class Tensor(NamedTuple):
    """Where a tensor lies, its type in safetensors' words, and its shape.

    Attributes:
        begin: its first byte in the file.
        end: the byte behind its last one.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors in the weights of a folder, by the headers of its safetensors.

    Raises:
        DataError: a file is missing, is not whole, or the index does not say what is in it.
    """
    if (folder / WEIGHTS).exists():
        return dict(_header(folder / WEIGHTS))
    index = folder / INDEX
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise DataError(f"{index}: no weight_map of tensors to files; fetch the file again")
    files = sorted(set(places.values()))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise DataError(f"{folder}: {listed(missing, 3)} of {len(files)} shards are missing; fetch them")
    headers = {file: dict(_header(folder / file)) for file in files}
    wrong = [name for name, file in places.items() if name not in headers[file]]
    if wrong:
        raise DataError(f"{index}: {listed(wrong, 3)}: not in the file that it names; fetch the folder again")
    return {name: headers[file][name] for name, file in places.items()}


def _header(place: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and kinds of the tensors in a safetensors file: u64 length, JSON, and all bytes that it speaks of."""
    again = "not whole, or no safetensors file; fetch it again"
    try:
        size = place.stat().st_size
        with place.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise DataError(f"{place}: {size} bytes cannot be all of it; {again}")
            header = json.loads(file.read(length))
        end = 0
        made = []
        for name, entry in header.items():
            if name != "__metadata__":
                shape = tuple(int(n) for n in entry["shape"])
                first, last = (int(n) for n in entry["data_offsets"])
                made.append((name, Tensor(place.name, str(entry["dtype"]), shape, 8 + length + first, 8 + length + last)))
                end = max(end, last)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError) as error:
        raise DataError(f"{place}: its header cannot be read ({error}); {again}") from None
    if size - 8 - length != end:
        raise DataError(f"{place}: {size} bytes, its header speaks of {8 + length + end}; {again}")
    yield from made


def equal(folder: Path, one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with (folder / one.file).open("rb") as ours, (folder / other.file).open("rb") as theirs:
        ours.seek(one.begin)
        theirs.seek(other.begin)
        left = one.end - one.begin
        while left > 0:
            piece = ours.read(min(_PIECE, left))
            if not piece or piece != theirs.read(len(piece)):
                return False
            left -= len(piece)
    return True


def read_object(place: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        raw = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}); fetch the file again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); fetch the file again") from None
    if not isinstance(raw, dict):
        raise DataError(f"{place}: holds a {type(raw).__name__}, not an object; fetch the file again")
    return raw
