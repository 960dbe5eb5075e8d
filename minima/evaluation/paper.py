"""The paper's protocol: what the scripts that it used ask, and which answers they call right.

The MiniMA tutorial links hendrycks/test (MMLU), hkust-nlp/ceval, declare-lab/instruct-eval (DROP, BIG-Bench-Hard,
HumanEval) and Guangxuan-Xiao/GSM8K-eval. Their seeds are fixed: the drawn shots are the very ones of those scripts. HumanEval
is sampled at temperature 0.1, as there; where they leave decoding to the model's generation config, it is greedy here.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minima.benchmarks import Row, task_file
from minima.errors import DataError
from minima.evaluation.copies import Data

CHOICES = "ABCD"


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a script asks, and how it scores.

    Attributes:
        items: from the rows of each split and the number of shots, the rows that are scored and those that are shown.
        head: what a prompt begins with, by subject.
        example: a row as text, with its answer or without.
        target: the right answer of a row.
        right: whether what the model said is right, by row; None where it chooses one of `CHOICES`.
        generation: how an answer is written, as lm-evaluation-harness takes it.
        most_tokens: of a prompt; shots are left out, the last first, until it fits. 0 for no limit of the script.
        by_subject: whether the score is the mean over subjects, rather than over items.
    """

    items: Callable[[Mapping[str, list[Row]], int], tuple[list[Row], list[Row]]]
    head: Callable[[str], str] = lambda subject: ""
    example: Callable[[Row, bool], str]
    target: Callable[[Row], str]
    right: Callable[[Row, str], bool] | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    most_tokens: int = 0
    by_subject: bool = False


def _first_of(scored: str, shown: str) -> Callable[[Mapping[str, list[Row]], int], tuple[list[Row], list[Row]]]:
    return lambda splits, shots: (splits[scored], splits[shown][:shots])


def _mmlu(row: Row, answered: bool) -> str:
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip(CHOICES, row["choices"], strict=True))
    return f"{row['question']}{choices}\nAnswer:" + (f" {CHOICES[row['answer']]}\n\n" if answered else "")


def _ceval(row: Row, answered: bool) -> str:
    choices = "".join(f"\n{letter}. {row[letter]}" for letter in CHOICES)
    return f"{row['question']}{choices}\n答案：" + (f"{row['answer']}\n\n" if answered else "")


def _one_answer(splits: Mapping[str, list[Row]], shots: int) -> tuple[list[Row], list[Row]]:
    """Questions with one distinct answer; of their passages none is scored that gives a shot."""
    rows = [row for row in splits["validation"] if len({span.strip() for span in row["spans"]}) == 1]
    if len(rows) <= shots:
        raise DataError(f"{len(rows)} questions have one distinct answer; {shots} shots need more")
    shown = random.Random(0).sample(rows, k=shots)
    passages = {row["passage"] for row in shown}
    scored = [row for row in rows if row["passage"] not in passages]
    if not scored:
        raise DataError(
            f"no question is left beside the shots' passages: each passage of the {len(rows)} questions with one "
            f"distinct answer gives one of the {shots} shots; take a copy with more passages, or fewer shots "
            "(--num_fewshot drop=0)"
        )
    return scored, shown


def _drop(row: Row, answered: bool) -> str:
    return f"{row['passage'].strip()} {row['question'].strip()}\nAnswer:" + (f" {_span(row)}\n\n" if answered else "")


def _span(row: Row) -> str:
    span: str = row["spans"][0]
    return span.strip()


def _bbh(row: Row, answered: bool) -> str:
    return f"{row['input']}\nAnswer:" + (f" {row['target']}\n\n" if answered else "")


def _gsm8k(row: Row, answered: bool) -> str:
    # The shots are those of lm-evaluation-harness's gsm8k_cot, which are the same.
    return f"Q: {row['question']}\nA:" + (f" {row['target']}\n\n" if answered else "")


def _stated(row: Row) -> str:
    found = re.search(r"#### (-?[0-9.,]+)", row["answer"])
    return found[1].replace(",", "") if found else ""


def _number(said: str) -> str:
    """The first number after “the answer is”, or the last of all where that is not said."""
    _, flag, after = said.lower().partition("the answer is")
    if flag:
        after = after.split("the answer is")[0]
    numbers = re.findall(r"-?\d+\.?\d*", (after if flag else said).replace(",", ""))
    return numbers[0 if flag else -1].removesuffix(".") if numbers else ""


def function(said: str) -> str:
    """The first paragraph of an answer, with every line's indent made even: the body of one function."""
    lines = [" " * ((len(line) - len(line.lstrip(" "))) % 2) + line for line in said.split("\n")]
    return "\n".join(lines).lstrip("\n").split("\n\n")[0]


_ONLY_CODE = (
    "Please complete the following Python code without providing any additional tasks such as testing or explanations\n"
)

SCRIPTS = {
    "mmlu": Script(
        items=_first_of("test", "dev"),
        head=lambda subject: (
            f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"  # Two spaces.
        ),
        example=_mmlu,
        target=lambda row: CHOICES[row["answer"]],
        most_tokens=2048,
    ),
    "ceval": Script(
        items=_first_of("val", "dev"),
        head=lambda subject: f"以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n",
        example=_ceval,
        target=lambda row: str(row["answer"]),
        by_subject=True,
    ),
    "drop": Script(
        items=_one_answer,
        example=_drop,
        target=_span,
        right=lambda row, said: said.strip().startswith(_span(row)),
        generation={"max_gen_toks": 8},
        most_tokens=2048,
    ),
    "bbh": Script(
        items=lambda splits, shots: (splits["test"][shots:], splits["test"][:shots]),
        example=_bbh,
        target=lambda row: str(row["target"]),
        right=lambda row, said: said.strip().startswith(row["target"]),
        generation={"max_gen_toks": 32},
        most_tokens=2048,
        by_subject=True,
    ),
    "gsm8k": Script(
        items=lambda splits, shots: (splits["test"], []),
        example=_gsm8k,
        target=_stated,
        right=lambda row, said: _number(said) == _stated(row),
        # To the end: where no answer is stated, the last number of all that is written counts.
        generation={"max_gen_toks": 256},
    ),
    "humaneval": Script(
        items=lambda splits, shots: (splits["test"], []),
        example=lambda row, answered: _ONLY_CODE + row["prompt"],
        target=lambda row: str(row["entry_point"]),
        generation={"max_gen_toks": 512, "do_sample": True, "temperature": 0.1},
    ),
}
"""By benchmark."""


SHOTS = "shots"
"""The split in which `chosen` leaves the solved examples, in the order of the prompt unless a row has an `order`."""


def chosen(data: Data, shots: int) -> Data:
    """What the script scores of a copy, as rows of the scored split, and what it shows, as those of `SHOTS`.

    Args:
        data: the copy.
        shots: solved examples in a prompt.

    Raises:
        DataError: too few rows have what the script asks for.
    """
    script, scored = SCRIPTS[data.benchmark.name], data.benchmark.scored
    subjects = {}
    for name, splits in data.subjects.items():
        try:
            items, shown = script.items(splits, shots)
        except DataError as error:
            raise DataError(f"--data_dir: the copy of {data.benchmark.name} in {data.folder}: {error}") from None
        if data.benchmark.name == "gsm8k":
            shown = task_file(data.benchmark.subjects()[name])["fewshot_config"]["samples"]
            items = [{**row, "order": order} for row, order in zip(items, _orders(len(items), shots), strict=True)]
        subjects[name] = {scored: items, SHOTS: shown}
    return dataclasses.replace(data, subjects=subjects)


def prompt(script: Script, subject: str, row: Row, shown: list[Row], fits: Callable[[str, int], bool]) -> str:
    """What is asked: the shots and the question, with as many shots as fit.

    Args:
        script: of the benchmark.
        subject: the row's.
        row: the item.
        shown: the solved examples.
        fits: whether a text has so many tokens at most.
    """
    ordered = [shown[i] for i in row["order"]] if "order" in row else shown
    while True:
        text = script.head(subject) + "".join(script.example(shot, True) for shot in ordered) + script.example(row, False)
        if not ordered or not script.most_tokens or fits(text, script.most_tokens):
            return text
        ordered = ordered[:-1]


def _orders(items: int, shots: int) -> list[list[int]]:
    """The order of the shots for each item: GSM8K-eval shuffles all eight anew for each, from seed 42."""
    generator = random.Random(42)
    found = []
    for _ in range(items):
        order = list(range(8))
        generator.shuffle(order)
        found.append(order[:shots])
    return found
