"""lm-evaluation-harness at work: a benchmark by a protocol, scored with any of its language models."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from lm_eval.api.group import Group
from lm_eval.api.model import LM
from lm_eval.config.group import AggMetricConfig
from lm_eval.evaluator import evaluate

from minima.evaluation.copies import Data
from minima.evaluation.model import LanguageModel
from minima.evaluation.protocol import Judge, Protocol, tasks

DEFAULT_GENERATED_TOKENS = 256
"""What lm-evaluation-harness generates at most where a task does not say."""


@dataclass(frozen=True)
class Score:
    """What a benchmark gave.

    Attributes:
        value: the headline metric, 0 to 1, over all items, or the mean over subjects where the protocol says so.
        metric: its name in lm-evaluation-harness.
        stderr: its standard error; None where a subject has a single item.
        others: further metrics by their names in lm-evaluation-harness.
        subjects: for each subject its headline metric and number of items.
        generated_tokens: most tokens of an answer, where that was lowered to fit the model; else None.
        cut_prompts: how many were longer than the model's positions, so that it did not see their beginning.
        longest_cut_prompt: its tokens; 0 where none was cut.
        samples: each item with its whole prompt and what the model said.
    """

    value: float
    metric: str
    stderr: float | None
    others: Mapping[str, float]
    subjects: Mapping[str, Mapping[str, float]]
    generated_tokens: int | None
    cut_prompts: int
    longest_cut_prompt: int
    samples: list[dict[str, Any]]


def score(lm: LM, data: Data, protocol: Protocol, *, seed: int, judge: Judge | None = None) -> Score:
    """Score `lm` on `data`.

    Args:
        lm: any model of lm-evaluation-harness.
        data: the items, for the paper's protocol those of `paper.chosen`.
        protocol: how they are asked.
        seed: of drawn shots (DROP by the standard protocol).
        judge: runs a program and says whether it passed; for a benchmark that writes programs.

    Raises:
        DataError: the rows of a split have different types.
    """
    benchmark = data.benchmark
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    fits = lm.fits if isinstance(lm, LanguageModel) else _fits
    made = tasks(data, protocol, fits, judge)
    headline, *also = protocol.metrics(benchmark)
    whole = Group(
        name=f"{benchmark.name} whole",
        aggregate_metric_list=[
            AggMetricConfig(metric=metric, weight_by_size=True)
            for metric in dict.fromkeys(name.split(",")[0] for name in (headline, *also))
        ],
    )
    for task in made.values():
        whole.add(task)
    by_name: Any = {task.task_name: task for task in made.values()}
    lowered = _fit_generation(lm, by_name.values())
    for task in by_name.values():
        task.set_fewshot_seed(seed=seed)
    if isinstance(lm, LanguageModel):
        lm.cut.clear()
        lm.keeps_spaces, lm.answers_in_chat = benchmark.writes_programs, protocol.chat
    loaded: Any = {"tasks": by_name, "groups": {whole.name: whole}}
    results: Any = evaluate(
        lm,
        loaded,
        bootstrap_iters=1,  # Means have a closed form: nothing is bootstrapped.
        apply_chat_template=protocol.chat,
        fewshot_as_multiturn=protocol.chat,
    )
    cut = lm.cut if isinstance(lm, LanguageModel) else {}
    all_items, by_task = results["groups"][whole.name], results["results"]
    value, stderr = float(all_items[headline]), _error(all_items, headline)
    if protocol.by_subject(benchmark):
        parts = [by_task[task.task_name] for task in made.values()]
        value = math.fsum(float(part[headline]) for part in parts) / len(parts)
        errors = [_error(part, headline) for part in parts]
        known = [error for error in errors if error is not None]
        stderr = math.hypot(*known) / len(parts) if len(known) == len(parts) else None
    return Score(
        value=value,
        stderr=stderr,
        metric=headline,
        others={metric: float(all_items[metric]) for metric in also},
        subjects={
            subject: {
                "score": float(by_task[task.task_name][headline]),
                "items": by_task[task.task_name]["sample_len"],
            }
            for subject, task in made.items()
        },
        generated_tokens=lowered,
        cut_prompts=len(cut),
        longest_cut_prompt=max(cut.values(), default=0),
        samples=[_sample(subject, raw) for subject, task in made.items() for raw in results["samples"][task.task_name]],
    )


def _fits(text: str, tokens: int) -> bool:
    """For a language model without tokens: everything fits."""
    return True


def _error(found: Mapping[str, Any], metric: str) -> float | None:
    error = found[metric.replace(",", "_stderr,")]
    return None if error == "N/A" else float(error)


def _fit_generation(lm: LM, tasks: Any) -> int | None:
    """Leave half of a short model's positions to the prompt; lm-evaluation-harness refuses otherwise."""
    lowered = None
    for task in tasks:
        if task.get_config("output_type") != "generate_until":
            continue
        most = task.get_config("generation_kwargs").get("max_gen_toks", DEFAULT_GENERATED_TOKENS)
        room = getattr(lm, "max_length", 2 * most) // 2
        if most > room:
            lowered = room
            task.set_config("generation_kwargs", {"max_gen_toks": room}, update=True)
    return lowered


def _sample(subject: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "subject": subject,
        "item": raw["doc_id"],
        "filter": raw["filter"],
        "prompt": raw["arguments"][0][0],
        "target": raw["target"],
        "responses": raw["resps"],
        "filtered": raw["filtered_resps"],
        "metrics": {name: raw[name] for name in raw["metrics"]},
    }
