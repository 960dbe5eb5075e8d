"""The table of benchmarks, and the reading of offline copies: true schema, clear refusals."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from minima import benchmarks
from minima.benchmarks import BENCHMARKS
from minima.errors import DataError, NotReadyError
from minima.evaluation import copies

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
PAPER = ("mmlu", "ceval", "drop", "humaneval", "bbh", "gsm8k")
SHOTS = {"mmlu": 5, "ceval": 5, "drop": 3, "humaneval": 0, "bbh": 3, "gsm8k": 8, "smoke_english": 0, "smoke_chinese": 0}


def test_table_is_that_of_the_paper() -> None:
    assert {name: b.shots for name, b in BENCHMARKS.items()} == SHOTS
    subjects = {name: len(b.subjects()) for name, b in BENCHMARKS.items()}
    assert subjects == dict.fromkeys(SHOTS, 1) | {"mmlu": 57, "ceval": 52, "bbh": 27}
    assert all(len(BENCHMARKS[name].published) == len(benchmarks.MODELS) for name in PAPER)
    assert BENCHMARKS["gsm8k"].published[benchmarks.MODELS.index("MiniChat-3B")] == 29.72
    described = benchmarks.describe()
    assert all(name in described for name in BENCHMARKS)


def test_what_is_said_of_an_unknown_name() -> None:
    assert not any(benchmarks.unknown(name) for name in BENCHMARKS)
    assert benchmarks.unknown("mmmlu").startswith("unknown benchmark 'mmmlu'; did you mean 'mmlu'?")
    for name in ("vicuna-bench", "belle-bench", "Vicuna-Bench"):
        assert benchmarks.unknown(name).startswith(f"{name} is not there yet")


@pytest.mark.parametrize("name", PAPER)
def test_three_items_of_the_true_schema(name: str) -> None:
    data = copies.find(BENCHMARKS[name], str(FIXTURES))
    assert data.items == 3
    assert data.partial == (name in {"mmlu", "ceval", "bbh"})
    assert len(data.subjects) + len(data.missing) == len(BENCHMARKS[name].subjects())


@pytest.mark.parametrize("name", ["smoke_english", "smoke_chinese"])
def test_own_items_do_not_give_the_answer_away(name: str) -> None:
    """Each word is right once and wrong three times, so its frequency or length helps nobody."""
    data = copies.find(BENCHMARKS[name], "")
    rows = data.subjects["data"]["test"]
    assert len(rows) == 40
    assert not data.partial
    assert len({row["context"] for row in rows}) == 40
    right = Counter(row["choices"][row["answer"]] for row in rows)
    shown = Counter(word for row in rows for word in row["choices"])
    assert set(right.values()) == {1}
    assert shown == dict.fromkeys(right, 4)
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert max(Counter(row["answer"] for row in rows).values()) < 20


def test_parquet_is_read_as_json_lines_are(tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    for place in sorted((FIXTURES / "drop").rglob("*.jsonl")):
        rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
        folder = tmp_path / "drop" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        for shard in range(2):  # as the hub splits long tables
            parquet.write_table(
                Table.from_pylist(rows[2 * shard : 2 * shard + 2]), folder / f"{place.stem}-0000{shard}-of-00002.parquet"
            )
    drop = BENCHMARKS["drop"]
    assert copies.find(drop, str(tmp_path)) == copies.find(drop, str(FIXTURES))


def test_limit_is_spread_over_subjects() -> None:
    mmlu = BENCHMARKS["mmlu"]
    two = copies.find(mmlu, str(FIXTURES), limit=2)
    assert {name: len(splits["test"]) for name, splits in two.subjects.items()} == {"anatomy": 1, "astronomy": 1}
    assert all(len(splits["dev"]) == 5 for splits in two.subjects.values())
    assert list(copies.find(mmlu, str(FIXTURES), limit=1).subjects) == ["anatomy"]
    drop = BENCHMARKS["drop"]
    assert copies.find(drop, str(FIXTURES), limit=2).partial
    assert not copies.find(drop, str(FIXTURES), limit=3).partial


def test_what_is_not_there(tmp_path: Path) -> None:
    mmlu = BENCHMARKS["mmlu"]
    with pytest.raises(
        NotReadyError, match=r"mmlu is no copy of mmlu: it is not there\n.*57 subjects.*\n.*hf download cais/mmlu"
    ):
        copies.find(mmlu, str(tmp_path))
    (tmp_path / "mmlu").mkdir()
    with pytest.raises(NotReadyError, match="it has none of abstract_algebra"):
        copies.find(mmlu, str(tmp_path))
    shutil.copytree(FIXTURES / "mmlu", tmp_path / "mmlu", dirs_exist_ok=True)
    (tmp_path / "mmlu/anatomy/dev.jsonl").unlink()
    with pytest.raises(NotReadyError, match=r"anatomy has neither dev\.jsonl nor dev-\*\.parquet"):
        copies.find(mmlu, str(tmp_path))


def _spoilt(name: str, file: str, tmp_path: Path, change: Any) -> None:
    shutil.copytree(FIXTURES / name, tmp_path / name)
    place = tmp_path / name / file
    lines = place.read_text(encoding="utf-8").splitlines()
    place.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    copies.find(BENCHMARKS[name], str(tmp_path))


def _with(number: int, **values: Any) -> Any:
    def change(lines: list[str]) -> list[str]:
        row = json.loads(lines[number]) | values
        lines[number] = json.dumps({key: value for key, value in row.items() if value is not None})
        return lines

    return change


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        (
            "mmlu",
            "anatomy/test.jsonl",
            _with(1, answer=None),
            r"test\.jsonl, line 2: no key 'answer' \(found question, subject",
        ),
        ("mmlu", "anatomy/test.jsonl", _with(0, answer=4), r"line 1: 'answer' is 4; valid: 0, 1, 2, 3"),
        ("mmlu", "anatomy/test.jsonl", _with(0, answer="B"), r"line 1: 'answer' is a str; valid: int"),
        ("mmlu", "anatomy/test.jsonl", _with(0, answer=True), r"line 1: 'answer' is a bool; valid: int"),
        ("mmlu", "anatomy/test.jsonl", _with(0, choices=["a", "b"]), r"'choices' is \['a', 'b'\]; valid: four texts"),
        ("mmlu", "anatomy/test.jsonl", lambda lines: ["", *lines, "{"], r"line 4: not JSON"),
        ("mmlu", "anatomy/test.jsonl", lambda lines: [], r"test\.jsonl: holds no row"),
        ("mmlu", "anatomy/test.jsonl", lambda lines: ["[1]"], r"line 1: a list; valid: an object with question \(str\)"),
        ("mmlu", "anatomy/dev.jsonl", lambda lines: lines[:4], r"anatomy: the split dev has 4 rows; 5 shots need 5"),
        ("ceval", "law/val.jsonl", _with(0, answer=""), r"'answer' is ''; valid: A, B, C, D"),
        ("drop", "data/train.jsonl", lambda lines: lines[:3], r"the split train has 3 rows; 3 shots need 4"),
        ("drop", "data/validation.jsonl", _with(0, answer={"spans": []}), r"'answer' has not the form \{number"),
        (
            "drop",
            "data/validation.jsonl",
            _with(0, validated_answers={"number": ["1"]}),
            r"'validated_answers' has not the form",
        ),
        ("gsm8k", "main/test.jsonl", _with(2, answer="24"), r"line 3: 'answer' does not end in '#### NUMBER'"),
    ],
)
def test_wrong_rows(name: str, file: str, change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        _spoilt(name, file, tmp_path, change)


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "gsm8k/main").mkdir(parents=True)
    (tmp_path / "gsm8k/main/test-00000-of-00001.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: not a Parquet file"):
        copies.find(BENCHMARKS["gsm8k"], str(tmp_path))
