"""Ways in which the folders of models come damaged: by a fetch that broke off, by an editor, by a disk."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 13476925163\n".format("4d7a" * 16)
ODD: tuple[Any, ...] = (None, True, False, 0, 1, -1, 3, 1 << 40, 0.5, 1e400, "", "x", "llama", [], [1], {}, {"x": 1})
"""What a value of a JSON file may turn into."""


def any_of(folder: Path, seed: int) -> str:
    """Damage a file of `folder` as `seed` says, and return what was done."""
    chance = random.Random(seed)
    place = chance.choice(sorted(p for p in folder.iterdir() if p.is_file()))
    ways: list[Callable[[Path, random.Random], str]] = [removed, shortened, pointed, flipped, emptied, made_a_folder]
    if place.suffix == ".json":
        ways += [retyped] * 12
    return f"{place.name}: {chance.choice(ways)(place, chance)}"


def removed(place: Path, chance: random.Random) -> str:
    place.unlink()
    return "removed"


def shortened(place: Path, chance: random.Random) -> str:
    content = place.read_bytes()
    end = chance.randrange(len(content))
    place.write_bytes(content[:end])
    return f"cut after {end} of {len(content)} bytes"


def pointed(place: Path, chance: random.Random) -> str:
    place.write_text(POINTER)
    return "a Git LFS pointer"


def emptied(place: Path, chance: random.Random) -> str:
    place.write_bytes(b"")
    return "empty"


def made_a_folder(place: Path, chance: random.Random) -> str:
    place.unlink()
    place.mkdir()
    return "a folder"


def flipped(place: Path, chance: random.Random) -> str:
    """Some bytes, of weights rather those of the header."""
    content = bytearray(place.read_bytes())
    for _ in range(chance.choice((1, 8))):
        content[chance.randrange(min(len(content), 4000))] = chance.randrange(256)
    place.write_bytes(content)
    return "bytes flipped"


def retyped(place: Path, chance: random.Random) -> str:
    """A value somewhere in a JSON file becomes another, or goes."""
    value = json.loads(place.read_text())
    path, here = [], value
    while isinstance(here, dict | list) and here:
        key: Any = chance.choice(sorted(here)) if isinstance(here, dict) else chance.randrange(len(here))
        path.append(key)
        if chance.random() < 0.3 or not isinstance(here[key], dict | list) or not here[key]:
            break
        here = here[key]
    if not path:
        return shortened(place, chance)
    odd = chance.choice((*ODD, "gone"))
    if odd == "gone":
        del here[path[-1]]
    else:
        here[path[-1]] = odd
    place.write_text(json.dumps(value))
    return f"{path} is {odd!r}"


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder that may be damaged."""
    return Path(shutil.copytree(folder, to))
