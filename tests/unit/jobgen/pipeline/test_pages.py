"""docs/pipeline.md has every key that the readers know, and no other."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from jobgen.pipeline import fragment, level, pools, words
from jobgen.pipeline.pools import Pool

PAGE = Path(__file__).parents[4] / "docs" / "pipeline.md"
HEADER = "| name | what | default | example |"
TABLES = {
    **{place: words.KEYS[place] for place in ("file", "profile", "workspace", "input", "stage", "pool", "conductor")},
    "profile": tuple(key for key in words.KEYS["profile"] if key not in words.KEYS["file"]),
    "level": words.EVERY,
}
"""In the page's order."""


def tables() -> dict[str, dict[str, list[str]]]:
    """The cells of each row by its name, of each table."""
    _, *parts = PAGE.read_text(encoding="utf-8").split(f"{HEADER}\n|---|---|---|---|\n")
    found = []
    for part in parts:
        rows = [line for line in part.partition("\n\n")[0].splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        found.append({name.strip("`"): rest for name, *rest in cells})
    return dict(zip(TABLES, found, strict=True))


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_in_its_table(table: str) -> None:
    rows = tables()[table]
    assert sorted(rows) == sorted(TABLES[table])
    assert all(len(cells) == 3 and cells[0] for cells in rows.values())


def test_the_defaults_of_a_new_pool_are_those_of_the_table() -> None:
    rows = tables()["pool"]
    for one in fields(Pool):
        # Those that are said elsewhere, or follow from others, are in words.
        if one.name in rows and one.default and isinstance(one.default, str | int):
            assert rows[one.name][1] == f"`{one.default}`", one.name
    assert rows["gpus"][1] == f"`{Pool(name='x').gpus}`"


def test_other_words_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    forms = re.findall(r"^\| `\{(\w+): \w+(?:, (\w+): \w+)?\}` \|", text, re.MULTILINE)
    assert sorted(tuple(filter(None, form)) for form in forms) == sorted(level.FORMS.values())
    assert re.findall(r"^\| `\$patch: (\w+)` \|", text, re.MULTILINE) == list(fragment.DIRECTIVES)
    policy = tables()["level"][level.SCHEDULING][0]
    tolerations = tables()["pool"]["tolerations"][0]
    assert all(f"`{name}`" in policy for name in fragment.SCHEDULING_POLICY)
    known = json.loads(fragment.SCHEMA.read_text(encoding="utf-8"))["definitions"]["Toleration"]["properties"]
    assert all(f"`{name}`" in tolerations for name in known)
    named = tables()["file"]["pools"][0]
    assert all(f"`{name}`" in named for name in pools.BUILT_IN)
    assert all(f"`{unit}`" in text for unit in pools.UNITS if len(unit) == 2)
