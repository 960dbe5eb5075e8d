"""The paper's protocol: what its scripts ask and call right, on rows of our own."""

import random
from pathlib import Path
from typing import Any

import pytest

from minima.benchmarks import BENCHMARKS, PAPER, Row
from minima.errors import DataError
from minima.evaluation import copies, paper
from tests.unit.evaluation.test_copies import FIXTURES, find


def asked(name: str, subject: str, shots: int, item: int = 0, fits: Any = lambda text, tokens: True) -> str:
    data = paper.chosen(find(name, FIXTURES, PAPER), shots)
    splits = data.subjects[subject]
    return paper.prompt(paper.SCRIPTS[name], subject, splits[data.benchmark.scored][item], splits[paper.SHOTS], fits)


def test_what_the_scripts_ask() -> None:
    assert asked("mmlu", "anatomy", 1) == (
        "The following are multiple choice questions (with answers) about  anatomy.\n\n"
        "Which bone is in the thigh?\nA. Femur\nB. Ulna\nC. Tibia\nD. Radius\nAnswer: A\n\n"
        "Which organ pumps blood through the body?\nA. Liver\nB. Heart\nC. Spleen\nD. Lung\nAnswer:"
    )
    assert paper.SCRIPTS["mmlu"].head("high_school_physics").endswith("about  high school physics.\n\n")
    assert asked("ceval", "law", 1) == (
        "以下是中国关于law考试的单项选择题，请选出其中的正确答案。\n\n"
        "负责审理案件的机关是____。\nA. 法院\nB. 医院\nC. 学校\nD. 银行\n答案：A\n\n"
        "签订买卖合同时，交付货物的一方称为____。\nA. 买方\nB. 卖方\nC. 证人\nD. 法官\n答案："
    )
    first = "If you follow these instructions, do you return to the starting point? Take "
    assert asked("bbh", "navigate", 1) == (
        f"{first}2 steps. Turn around. Take 2 steps.\nOptions:\n- Yes\n- No\nAnswer: Yes\n\n"
        f"{first}5 steps. Turn left. Take 1 step.\nOptions:\n- Yes\n- No\nAnswer:"
    )
    assert asked("humaneval", "openai_humaneval", 0).startswith(
        "Please complete the following Python code without providing any additional tasks such as testing or explanations\n"
        "def twice(x: int) -> int:\n"
    )
    text = asked("gsm8k", "main", 8)
    assert text.count("Q: ") == 9
    assert text.count(" The answer is ") == 8
    assert text.endswith(".\n\nQ: A baker bakes 7 loaves an hour. How many loaves does she bake in 6 hours?\nA:")


def test_shots_are_left_out_until_the_prompt_fits() -> None:
    whole = asked("mmlu", "anatomy", 5)
    told = []

    def fits(text: str, tokens: int) -> bool:
        told.append(tokens)
        return text.count("Answer:") <= 3

    short = asked("mmlu", "anatomy", 5, fits=fits)
    assert set(told) == {2048}
    assert whole.count("Answer: ") == 5
    assert short.count("Answer: ") == 2
    assert whole.startswith(short[: short.index("Which organ pumps")])  # The last ones are left out.
    assert asked("mmlu", "anatomy", 5, fits=lambda text, tokens: False).count("Answer:") == 1


def _question(number: int, *spans: str, passage: str = "") -> Row:
    return {"query_id": f"q{number}", "passage": passage or f"p{number}", "question": "?", "spans": list(spans)}


def test_drop_is_drawn_as_by_the_script() -> None:
    rows = [_question(i, "x", "x ") for i in range(40)]
    rows += [_question(40, "x", "y"), _question(41), _question(42, "x", passage="p7"), _question(43, "x", passage="p3")]
    data = copies.Data(BENCHMARKS["drop"], {"data": {"validation": rows}}, (), len(rows))
    splits = paper.chosen(data, 3).subjects["data"]
    random.seed(0)
    single = [*rows[:40], *rows[42:]]
    shown = random.sample(single, 3)
    assert splits[paper.SHOTS] == shown
    passages = {row["passage"] for row in shown}
    assert splits["validation"] == [row for row in single if row["passage"] not in passages]
    few = copies.Data(BENCHMARKS["drop"], {"data": {"validation": rows[:3]}}, (), 3, folder=Path("b/drop"))
    with pytest.raises(DataError, match="the copy of drop in b/drop: 3 questions have one distinct answer; 3 shots need more"):
        paper.chosen(few, 3)


def test_drop_needs_a_passage_that_gives_no_shot() -> None:
    rows = [_question(number, "x", passage="one") for number in range(9)]
    data = copies.Data(BENCHMARKS["drop"], {"data": {"validation": rows}}, (), len(rows), folder=Path("b/drop"))
    message = r"drop in b/drop: no question is left beside the shots' passages: each passage of the 9 .*drop=0"
    with pytest.raises(DataError, match=message):
        paper.chosen(data, 3)
    assert len(paper.chosen(data, 0).subjects["data"]["validation"]) == 9


def test_gsm8k_is_shuffled_as_by_the_script() -> None:
    items = paper.chosen(find("gsm8k", FIXTURES, PAPER), 8).subjects["main"]["test"]
    random.seed(42)
    for item in items:
        order = list(range(8))
        random.shuffle(order)
        assert item["order"] == order
    assert asked("gsm8k", "main", 8, 0).split("\n\n")[:8] != asked("gsm8k", "main", 8, 1).split("\n\n")[:8]


@pytest.mark.parametrize(
    ("name", "row", "said", "right"),
    [
        ("drop", _question(0, "3 May 1871"), " 3 May 1871.", True),
        ("drop", _question(0, " 34 "), "\n34 yards", True),
        ("drop", _question(0, "34"), "about 34", False),
        ("bbh", {"target": "(A)"}, " (A) is", True),
        ("bbh", {"target": "Yes"}, "yes", False),
        ("gsm8k", {"answer": "#### 1,250"}, "So. The answer is 1250.", True),
        ("gsm8k", {"answer": "#### 1,250"}, "The ANSWER IS $1,250 now", True),
        ("gsm8k", {"answer": "#### 7"}, "The answer is 7. Q: 9? The answer is 9.", True),
        ("gsm8k", {"answer": "#### 9"}, "4 and 5 are 9.", True),
        ("gsm8k", {"answer": "#### 9"}, "9 of 12", False),
        ("gsm8k", {"answer": "#### 9"}, "The answer is none, or 8 and 9", False),
        ("gsm8k", {"answer": "#### -2"}, "The answer is -2", True),
        ("gsm8k", {"answer": "#### 2"}, "The answer is 2.0", False),
        ("gsm8k", {"answer": "#### 2"}, "no number", False),
    ],
)
def test_what_is_right(name: str, row: Row, said: str, right: bool) -> None:
    script = paper.SCRIPTS[name]
    assert script.right is not None
    assert script.right(row, said) is right


def test_the_body_of_one_function() -> None:
    assert paper.function("   a = 1\n\tb\n    return a\n\n\nprint(a)") == "    a = 1\n\tb\n    return a"
    assert paper.function("\n\n    return 1\n") == "    return 1\n"
