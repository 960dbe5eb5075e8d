"""Files of conversations."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minima.data import containers
from minima.data.containers import ARROW, CONVERT, JSON, JSON_LINES, PARQUET, TEXT
from minima.data.dialects import KEYS, MESSAGES, TUTORIAL, VALID, Found, understood
from minima.data.documents import Bad
from minima.errors import DataError

KINDS = (JSON_LINES, JSON, PARQUET, ARROW)
"""Of files."""
MOST = 100
"""Turns of a file that is one conversation; more are taken for conversations of one turn."""
APART = "`jq -c '.[] | [.]' FILE >NEW.jsonl`"
"""Makes a conversation of each turn."""


def read(place: str | Path, form: str = "auto") -> Iterator[Found | Bad]:
    """The conversations of a file: a JSON array of them, one on each line, or one in each row of a Parquet file.

    Args:
        place: the file.
        form: one of FORMATS, or `auto` to tell each by its content.

    Raises:
        DataError: the file is damaged, an array is not JSON, or it has more turns than MOST and no conversations in it.
    """
    place = Path(place)
    kind = containers.kind(place)
    if kind == TEXT:
        raise DataError(f"{place}: running text, which is for `minima build-data`; {VALID}")
    row = kind in {PARQUET, ARROW}
    with containers.damage(place):
        numbered: Iterator[tuple[int, Any]]
        if row:
            numbered = enumerate(containers.rows(place, kind))
        else:
            numbered = containers.lines(place) if kind == JSON_LINES else _values(place)
        for number, raw in numbered:
            if isinstance(raw, bytes) and not raw.strip():
                continue
            try:
                found = understood(_parsed(raw) if isinstance(raw, bytes) else raw, form)
                turns = len(found.conversation.turns)
                flat = isinstance(raw, _Alone) and found.form == TUTORIAL and turns > 1
                if flat and turns > MOST:
                    raise DataError(
                        f"{place}: {turns} turns that are not in conversations; if each is a conversation of its own: {APART}; "
                        "if they are one conversation: `jq -c '[.]' FILE >NEW.jsonl`"
                    )
                yield found._replace(flat=flat)
            except ValueError as error:
                yield Bad(f"{place}, row {number}" if row else f"{place}:{number}", str(error))


class _Alone(list[Any]):
    """The only array of a file, of turns or messages."""


def _values(place: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file; of one that holds messages or turns its arrays, each of which is one conversation."""
    _, first = next(containers.values(place), (0, None))
    keys = first.keys() if isinstance(first, dict) else set()
    if not (keys & set(KEYS) or any(keys >= set(pair) for pair in MESSAGES.values())):
        yield from containers.values(place)
        return
    arrays = containers.values(place, arrays=True)
    (number, one), second = next(arrays), next(arrays, None)
    yield number, _Alone(one) if second is None and isinstance(one, list) else one
    yield from (second, *arrays) if second else ()


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start}); {CONVERT}") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); valid: one array of conversations, or a conversation a line") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply for a conversation") from None
