"""lm-evaluation-harness at work: its tasks on offline data, scored with any of its language models.

The tasks are loaded from its own files (`benchmarks.task_folder`); only the data, the number of shots and, for HumanEval,
the judge are given from here.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.group import Group
from lm_eval.api.model import LM, CacheHook
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.group import AggMetricConfig
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from pyarrow import ArrowException
from transformers import PreTrainedTokenizerBase

from minima.benchmarks import Benchmark, Row
from minima.errors import DataError
from minima.evaluation.copies import Data
from minima.workspace.progress import Reporter

DEFAULT_GENERATED_TOKENS = 256
"""What lm-evaluation-harness generates at most where a task does not say."""


@dataclass(frozen=True)
class Score:
    """What a benchmark gave.

    Attributes:
        value: the headline metric, 0 to 1, over all items.
        stderr: its standard error; None where a subject has a single item.
        others: further metrics by their names in lm-evaluation-harness.
        subjects: for each subject its headline metric and number of items.
        generated_tokens: most tokens of an answer, where that was lowered to fit the model; else None.
        samples: each item with what the model said.
    """

    value: float
    stderr: float | None
    others: Mapping[str, float]
    subjects: Mapping[str, Mapping[str, float]]
    generated_tokens: int | None
    samples: list[dict[str, Any]]


class Model(HFLM):
    """A loaded model, as lm-evaluation-harness sees it."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int, progress: Reporter) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.keeps_spaces = False
        self.task = ""
        """The benchmark at hand, for who watches."""
        self.progress = progress
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, with our progress instead of a bar."""
        self._begin(len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, with our progress instead of a bar."""
        self._begin(len(requests))
        return super().generate_until(requests, disable_tqdm=True)

    def _begin(self, requests: int) -> None:
        self.progress.phase(self.task, requests, "answers")
        self.set_cache_hook(_Count(self.progress))

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """The text of `tokens`; with `keeps_spaces` also the space that LLaMA's decoder takes away at the beginning.

        Without that space the first line of a function body has three spaces and the next ones four, and no program runs.
        """
        text: str = super().tok_decode(tokens, skip_special_tokens)
        if not self.keeps_spaces or isinstance(tokens, int):
            return text
        before: str = super().tok_decode(self._anchor, skip_special_tokens)
        whole: str = super().tok_decode([*self._anchor, *tokens], skip_special_tokens)
        return whole.removeprefix(before)


class _Count(CacheHook):
    """lm-evaluation-harness offers each answer to a cache as soon as it has it."""

    def __init__(self, progress: Reporter) -> None:
        super().__init__(None)
        self.progress = progress

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """One more answer is there."""
        self.progress.at(self.progress.now.step + 1)


def score(lm: LM, data: Data, *, seed: int, judge: Callable[[str], bool] | None = None) -> Score:
    """Score `lm` on `data`.

    Args:
        lm: any model of lm-evaluation-harness.
        data: an offline copy of a benchmark.
        seed: of drawn shots (DROP).
        judge: runs a program and says whether it passed; for a benchmark that writes programs.

    Raises:
        DataError: the rows of a split have different types.
    """
    benchmark = data.benchmark
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    files = benchmark.subjects()
    wanted = dict.fromkeys(metric.split(",")[0] for metric in (benchmark.metric, *benchmark.also))
    whole = Group(
        name=f"{benchmark.name} whole",
        aggregate_metric_list=[AggMetricConfig(metric=metric, weight_by_size=True) for metric in wanted],
    )
    made: dict[str, ConfigurableTask] = {}
    for subject, splits in data.subjects.items():
        made[subject] = _task(benchmark, subject, files[subject], splits, judge)
        whole.add(made[subject])
    tasks: Any = {task.task_name: task for task in made.values()}
    lowered = _fit_generation(lm, tasks.values())
    for task in tasks.values():
        task.set_fewshot_seed(seed=seed)
    if isinstance(lm, Model):
        lm.keeps_spaces = benchmark.writes_programs
    loaded: Any = {"tasks": tasks, "groups": {whole.name: whole}}
    results: Any = evaluate(lm, loaded, bootstrap_iters=1)  # Means have a closed form: nothing is bootstrapped.
    all_items, by_task = results["groups"][whole.name], results["results"]
    stderr = all_items[f"{benchmark.metric.replace(',', '_stderr,')}"]
    return Score(
        value=float(all_items[benchmark.metric]),
        stderr=None if stderr == "N/A" else float(stderr),
        others={metric: float(all_items[metric]) for metric in benchmark.also},
        subjects={
            subject: {
                "score": float(by_task[task.task_name][benchmark.metric]),
                "items": by_task[task.task_name]["sample_len"],
            }
            for subject, task in made.items()
        },
        generated_tokens=lowered,
        samples=[
            _sample(benchmark.name, subject, raw)
            for subject, task in made.items()
            for raw in results["samples"][task.task_name]
        ],
    )


def _task(
    benchmark: Benchmark,
    subject: str,
    file: Path,
    splits: Mapping[str, list[Row]],
    judge: Callable[[str], bool] | None,
) -> ConfigurableTask:
    config = load_yaml(file)
    config = {key: value for key, value in config.items() if key not in ("tag", "group")}
    config["num_fewshot"] = benchmark.shots
    config["custom_dataset"] = functools.partial(_dataset, f"{benchmark.name}/{subject}", splits)
    if benchmark.writes_programs:
        assert judge is not None, "the caller has a sandbox for a benchmark that writes programs"
        config["process_results"] = functools.partial(_passes, judge)
    return ConfigurableTask(config=config)


def _dataset(name: str, splits: Mapping[str, list[Row]], **_: Any) -> datasets.DatasetDict:
    try:
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
    except (ArrowException, TypeError) as error:
        raise DataError(f"{name}: its rows do not have the same types ({error})") from None


def _passes(judge: Callable[[str], bool], doc: Row, results: list[str]) -> dict[str, float]:
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(judge(program))}


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


def _sample(benchmark: str, subject: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    line = {
        "benchmark": benchmark,
        "subject": subject,
        "item": raw["doc_id"],
        "filter": raw["filter"],
        "target": raw["target"],
        "responses": raw["resps"],
        "filtered": raw["filtered_resps"],
        "metrics": {name: raw[name] for name in raw["metrics"]},
    }
    if raw["doc_id"] == 0:  # One whole prompt of each subject shows the protocol; all of them would be gigabytes.
        line["prompt"] = raw["arguments"][0][0]
    return line
