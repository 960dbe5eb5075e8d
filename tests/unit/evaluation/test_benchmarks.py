"""The table of benchmarks, and what is said of names and numbers that are not in it."""

from minima import benchmarks
from minima.benchmarks import BENCHMARKS

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
    assert not any(benchmarks.unknown(name) for name in ("vicuna", "belle"))


def test_shots_of_each_benchmark() -> None:
    assert [benchmarks.shots(("mmlu=0", "gsm8k=4"), BENCHMARKS[name]) for name in PAPER] == [0, 5, 3, 0, 3, 4]
    wrong = {
        "mmlu=6": "mmlu has 5 solved examples at most",
        "humaneval=1": "humaneval has 0",
        "mmlu": "a whole number follows the `=`, such as mmlu=0",
        "mmlu=-1": "a whole number",
        "bbh=1": "for none of the tasks",
        "mmmlu=1": "for none of the tasks; valid: BENCHMARK=NUMBER",
    }
    for word, message in wrong.items():
        (said,) = benchmarks.wrong_shots((word,), ("mmlu", "humaneval"))
        assert message in said
    assert list(benchmarks.wrong_shots(("mmlu=1", "mmlu=2"), ("mmlu",))) == ["mmlu is given twice"]
    assert not list(benchmarks.wrong_shots(("mmlu=5",), ("mmlu",)))
