"""The tasks of lm-evaluation-harness that a protocol asks of a benchmark, on offline data.

By the standard protocol they are its own, loaded from its files (`benchmarks.task_folder`); only the data, the number of
shots and, for HumanEval, the judge are given from here. By the paper's they are made of `paper.SCRIPTS`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from pyarrow import ArrowException

from minima.benchmarks import OWN_TASKS, PAPER, STANDARD, Benchmark, Row
from minima.errors import DataError
from minima.evaluation import paper
from minima.evaluation.copies import Data

Judge = Callable[[str], bool]


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is asked.

    Attributes:
        name: one of `benchmarks.PROTOCOLS`.
        shots: solved examples in a prompt.
        chat: whether prompts go through the tokenizer's chat template.
    """

    name: str
    shots: int
    chat: bool = False

    def metrics(self, benchmark: Benchmark) -> tuple[str, ...]:
        """What is reported, the headline first, as lm-evaluation-harness names it: "metric,filter"."""
        if self.name == STANDARD:
            return benchmark.metric, *benchmark.also
        if benchmark.writes_programs:
            return (benchmark.metric,)
        return ("acc,none",) if paper.SCRIPTS[benchmark.name].right is None else ("correct,none",)

    def by_subject(self, benchmark: Benchmark) -> bool:
        """Whether the score is the mean over subjects, rather than over items."""
        return self.name == PAPER and paper.SCRIPTS[benchmark.name].by_subject


def tasks(data: Data, protocol: Protocol, fits: Callable[[str, int], bool], judge: Judge | None) -> dict[str, ConfigurableTask]:
    """The task of each subject.

    Args:
        data: the items, for the paper's protocol those of `paper.chosen`.
        protocol: how they are asked.
        fits: whether a text has so many tokens at most.
        judge: runs a program and says whether it passed; for a benchmark that writes programs.

    Raises:
        DataError: the rows of a split have different types.
    """
    benchmark = data.benchmark
    judged = None
    if benchmark.writes_programs:
        assert judge is not None, "the caller has a sandbox for a benchmark that writes programs"
        judged = functools.partial(_passes, judge, paper.function if protocol.name == PAPER else str)
    made = {}
    for subject, splits in data.subjects.items():
        if protocol.name == PAPER:
            config = _of_the_paper(benchmark, subject, splits, fits)
        else:
            file = benchmark.subjects()[subject]
            if benchmark.writes_programs and protocol.chat:
                file = OWN_TASKS / "humaneval_chat.yaml"
            config = {key: value for key, value in load_yaml(file).items() if key not in ("tag", "group")}
            config["num_fewshot"] = protocol.shots
            config["custom_dataset"] = functools.partial(_dataset, f"{benchmark.name}/{subject}", splits)
        if judged:
            config["process_results"] = judged
        made[subject] = ConfigurableTask(config=config)
    return made


def _of_the_paper(
    benchmark: Benchmark, subject: str, splits: Mapping[str, list[Row]], fits: Callable[[str, int], bool]
) -> dict[str, Any]:
    script = paper.SCRIPTS[benchmark.name]
    rows = [
        {**row, "asked": paper.prompt(script, subject, row, splits[paper.SHOTS], fits), "target": script.target(row)}
        for row in splits[benchmark.scored]
    ]
    config: dict[str, Any] = {
        "task": f"paper_{benchmark.name}_{subject}",
        "custom_dataset": functools.partial(_dataset, f"{benchmark.name}/{subject}", {"test": rows}),
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": lambda row: row["asked"],
        "doc_to_target": lambda row: row["target"],
    }
    if script.right is None and not benchmark.writes_programs:
        metric = "acc"
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": list(paper.CHOICES),
            "doc_to_target": lambda row: paper.CHOICES.index(row["target"]),
        }
    else:
        metric = "pass@1" if benchmark.writes_programs else "correct"
        config |= {
            "output_type": "generate_until",
            "generation_kwargs": {"until": [], "do_sample": False, **script.generation},
            "process_results": functools.partial(_right, script),
        }
    return config | {"metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]}


def _dataset(name: str, splits: Mapping[str, list[Row]], **_: Any) -> datasets.DatasetDict:
    try:
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
    except (ArrowException, TypeError) as error:
        raise DataError(f"{name}: its rows do not have the same types ({error})") from None


def _passes(judge: Judge, body: Callable[[str], str], doc: Row, results: list[str]) -> dict[str, float]:
    program = f"{doc['prompt']}{body(results[0])}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(judge(program))}


def _right(script: paper.Script, doc: Row, results: list[str]) -> dict[str, float]:
    assert script.right is not None
    return {"correct": float(script.right(doc, results[0]))}
