"""The table of benchmarks: protocol, published numbers, and what an offline copy of each looks like.

Prompts, metrics, filters and fixed shots are lm-evaluation-harness's own; this module only says which of its tasks a
benchmark is. `benchmark_data` reads the copies, `harness` scores.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minima.errors import UsageError, did_you_mean

OWN_TASKS = Path(__file__).parent / "evaluation" / "tasks"
MODELS = ("LLaMA-2-7B", "ShearedLLaMA-2.7B", "MiniMA-3B", "MiniMA-2-3B", "MiniChat-3B", "MiniChat-2-3B")
NOT_THERE_YET = ("vicuna-bench", "belle-bench")
Row = dict[str, Any]


def _choice_in_range(row: Row) -> str:
    options = row["choices"]
    if len(options) != 4 or not all(isinstance(text, str) for text in options):
        return f"'choices' is {options!r}; valid: four texts"
    return "" if 0 <= row["answer"] < 4 else f"'answer' is {row['answer']}; valid: 0, 1, 2, 3"


def _letter(row: Row) -> str:
    return "" if row["answer"] in ("A", "B", "C", "D") else f"'answer' is {row['answer']!r}; valid: A, B, C, D"


def _number_or_date_or_spans(row: Row) -> str:
    answer, others = row["answer"], row["validated_answers"]
    date = answer.get("date")
    if not isinstance(answer.get("number"), str) or not isinstance(answer.get("spans"), list) or not isinstance(date, dict):
        return "'answer' has not the form {number: text, date: {day, month, year}, spans: [texts]}"
    parts = [others.get(name) for name in ("number", "date", "spans")]
    if any(not isinstance(part, list) or len(part) != len(parts[0] or []) for part in parts):
        return "'validated_answers' has not the form {number: [...], date: [...], spans: [...]}, all of one length"
    dates = [date, *others["date"]]
    if any(not isinstance(d, dict) or {"day", "month", "year"} - d.keys() for d in dates):
        return "a 'date' has not the keys day, month, year"
    return ""


def _gold(row: Row) -> str:
    return "" if "####" in row["answer"] else "'answer' does not end in '#### NUMBER'"


def _any(row: Row) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as in `--tasks`.
        task: the task or group of lm-evaluation-harness whose protocol it is.
        shots: solved examples in the prompt.
        files: its task files, a glob below `lm_eval/tasks`, or below `minima/evaluation/tasks` if it has no `dataset`.
        metric: the headline, as lm-evaluation-harness names it: "metric,filter"; `also` are others that are reported.
        dataset: its name on the hub; empty for tasks of this package.
        splits: what an offline copy holds of each subject; the first is scored, the second gives the shots.
        shot_rows: rows that the second split must have at least.
        columns: what a row holds, with the type of each.
        check: what is wrong with a row whose columns have the right types; empty for nothing.
        published: the paper's numbers in percent, in the order of MODELS.
        note: how the paper's protocol differs, if it does.
        writes_programs: whether the model's output is run.
    """

    name: str
    task: str
    shots: int
    files: str
    metric: str
    also: tuple[str, ...] = ()
    dataset: str = ""
    splits: tuple[str, ...] = ("test",)
    shot_rows: int = 0
    columns: Mapping[str, type]
    check: Callable[[Row], str] = _any
    published: tuple[float, ...] = ()
    note: str = ""
    writes_programs: bool = False

    @property
    def task_folder(self) -> Path:
        """Where its task files are."""
        if not self.dataset or self.writes_programs:
            return OWN_TASKS
        spec = importlib.util.find_spec("lm_eval")
        if spec is None or spec.origin is None:
            raise UsageError("lm-eval is not installed; it comes with the extra `train`: pip install 'minima[train]'")
        return Path(spec.origin).parent / "tasks" / Path(self.files).parent

    def subjects(self) -> dict[str, Path]:
        """The name of each subject's folder in an offline copy, with its task file."""
        found = {}
        for place in sorted(self.task_folder.glob(Path(self.files).name)):
            config = _task(place)
            if isinstance(config, dict) and "task" in config and "group" not in config:
                found[str(config.get("dataset_name", "data"))] = place
        return found


@functools.cache
def _task(place: Path) -> Any:
    """What a task file of lm-evaluation-harness says; the functions that it names stay names."""
    import yaml  # options.py reads this module's table in every PID 1, which needs no YAML.

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    return yaml.load(place.read_text(encoding="utf-8"), Loader=Loader)


_OTHER_SCRIPT = "The paper used another script: "
_SMOKE_COLUMNS = {"context": str, "choices": list, "answer": int}

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="mmlu",
            task="mmlu",
            shots=5,
            files="mmlu/default/mmlu_*.yaml",
            metric="acc,none",
            dataset="cais/mmlu",
            splits=("test", "dev"),
            shot_rows=5,
            columns={"question": str, "choices": list, "answer": int},
            check=_choice_in_range,
            published=(46.00, 26.97, 28.51, 40.14, 38.40, 46.17),
        ),
        Benchmark(
            name="ceval",
            task="ceval-valid",
            shots=5,
            files="ceval/ceval-valid_*.yaml",
            metric="acc,none",
            dataset="ceval/ceval-exam",
            splits=("val", "dev"),
            shot_rows=5,
            columns={"question": str, "A": str, "B": str, "C": str, "D": str, "answer": str},
            check=_letter,
            published=(34.40, 22.88, 28.23, 44.65, 36.48, 43.91),
            note="On the validation questions, whose answers are public.",
        ),
        Benchmark(
            name="drop",
            task="drop",
            shots=3,
            files="drop/default.yaml",
            metric="em,none",
            also=("f1,none",),
            dataset="EleutherAI/drop",
            splits=("validation", "train"),
            shot_rows=4,  # lm-evaluation-harness draws one more than it shows.
            columns={"query_id": str, "passage": str, "question": str, "answer": dict, "validated_answers": dict},
            check=_number_or_date_or_spans,
            published=(31.57, 19.98, 22.50, 23.10, 22.58, 30.26),
            note=_OTHER_SCRIPT + "questions with one distinct answer, prefix match.",
        ),
        Benchmark(
            name="humaneval",
            task="humaneval",
            shots=0,
            files="humaneval.yaml",
            metric="pass@1,none",
            dataset="openai/openai_humaneval",
            columns={"task_id": str, "prompt": str, "test": str, "entry_point": str},
            published=(12.80, 4.88, 10.98, 14.63, 18.29, 22.56),
            note=_OTHER_SCRIPT + "that of instruct-eval.",
            writes_programs=True,
        ),
        Benchmark(
            name="bbh",
            task="bbh_fewshot",
            shots=3,
            files="bbh/fewshot/[a-z]*.yaml",
            metric="exact_match,none",
            dataset="SaylorTwift/bbh",
            columns={"input": str, "target": str},
            published=(32.02, 30.48, 31.61, 31.43, 31.36, 34.95),
            note=_OTHER_SCRIPT + "the first 3 test items of each subject as shots.",
        ),
        Benchmark(
            name="gsm8k",
            task="gsm8k_cot",
            shots=8,
            files="gsm8k/gsm8k-cot.yaml",
            metric="exact_match,strict-match",
            also=("exact_match,flexible-extract",),
            dataset="openai/gsm8k",
            columns={"question": str, "answer": str},
            check=_gold,
            published=(14.10, 3.56, 8.11, 8.87, 29.72, 38.13),
            note=_OTHER_SCRIPT + "GSM8K-eval, also with 8 chain-of-thought shots.",
        ),
        Benchmark(
            name="smoke_english",
            task="smoke_english",
            shots=0,
            files="smoke_english.yaml",
            metric="acc,none",
            columns=_SMOKE_COLUMNS,
            check=_choice_in_range,
        ),
        Benchmark(
            name="smoke_chinese",
            task="smoke_chinese",
            shots=0,
            files="smoke_chinese.yaml",
            metric="acc,none",
            columns=_SMOKE_COLUMNS,
            check=_choice_in_range,
        ),
    )
}


def unknown(name: str) -> str:
    """What to say of a benchmark that is not there; empty for one that is."""
    if name.lower() in NOT_THERE_YET:
        return f"{name} is not there yet: its answers are judged by another model; {_valid()}"
    return "" if name in BENCHMARKS else f"unknown benchmark {name!r}; {did_you_mean(name, BENCHMARKS)}"


def _valid() -> str:
    return "valid: " + ", ".join(BENCHMARKS)


def instructions(benchmark: Benchmark, data_dir: str = "DATA_DIR") -> str:
    """What an offline copy of `benchmark` looks like, and how to make one where there is a network."""
    names = list(benchmark.subjects())
    one = names[0] if len(names) == 1 else f"each of {len(names)} subjects ({', '.join(names[:3])} …)"
    root = f"{data_dir}/{benchmark.name}"
    splits = " and ".join(f"{root}/SUBJECT/{split}.jsonl (or {split}-*.parquet)" for split in benchmark.splits)
    expected = splits.replace("SUBJECT", names[0]) if len(names) == 1 else splits
    return (
        f"Expected for {one}: {expected}, in the schema of {benchmark.dataset}: {', '.join(benchmark.columns)}.\n"
        f"Where there is a network: `hf download {benchmark.dataset} --repo-type dataset --local-dir {root}`; "
        f"if its folders come out otherwise, export each split with "
        f"`datasets.load_dataset({benchmark.dataset!r}, SUBJECT, split=SPLIT).to_json(FILE)`."
    )


def describe() -> str:
    """The table for `minima evaluate --help`."""
    lines = ["Benchmarks (--tasks):"]
    for b in BENCHMARKS.values():
        source = f"offline copy of {b.dataset} in DATA_DIR/{b.name}" if b.dataset else "ships with minima"
        sandbox = "; needs --run_programs_in bubblewrap" if b.writes_programs else ""
        lines.append(f"  {b.name:<14} {b.shots}-shot {b.metric.split(',')[0]:<12} {source}{sandbox}")
    lines.append("An offline copy has a folder for each subject, with SPLIT.jsonl or SPLIT-*.parquet as on the hub.")
    return "\n".join(lines)
