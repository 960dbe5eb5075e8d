"""The table of benchmarks: protocols, published numbers, and where an offline copy of each comes from.

The standard protocol is lm-evaluation-harness's: prompts, metrics, filters and fixed shots are its own, and this module
only says which of its tasks a benchmark is. `evaluation/copies.py` reads the copies, `evaluation/paper.py` is the other
protocol, `evaluation/harness.py` scores.
"""

import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minima.errors import UsageError, did_you_mean

OWN_TASKS = Path(__file__).parent / "evaluation" / "tasks"
MODELS = ("LLaMA-2-7B", "ShearedLLaMA-2.7B", "MiniMA-3B", "MiniMA-2-3B", "MiniChat-3B", "MiniChat-2-3B")
STANDARD, PAPER = "standard", "paper"
PROTOCOLS = (STANDARD, PAPER)
JUDGED = {
    "vicuna": "the questions of Vicuna-Bench (FastChat's question.jsonl) and one file of reference answers to them",
    "belle": "eval_set.json of BELLE, with its reference answers, or question_zh.jsonl of BiLLa and one file of answers to it",
}
"""Benchmarks whose answers another model judges, and what is in their folder."""
_FOLDERS = {
    "mmlu": {"mmlu", "hendryckstest", "mmlunotrain"},
    "ceval": {"ceval", "cevalexam"},
    "drop": {"drop"},
    "humaneval": {"humaneval"},
    "bbh": {"bbh", "bigbenchhard"},
    "gsm8k": {"gsm8k", "gradeschoolmath", "gsm8keval"},
    "vicuna": {"vicuna", "vicunabench"},
    "belle": {"belle", "bellebench"},
}
"""What folders of benchmarks are called, in small letters alone."""
_ANY = {"main", "master", "data", "dataset", "datasets"}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as in `--tasks`.
        task: the task or group of lm-evaluation-harness whose protocol is the standard one.
        shots: solved examples in the prompt; `most_shots` at most may be asked for.
        files: its task files, a glob below `lm_eval/tasks`, or below `minima/evaluation/tasks` if it has no `dataset`.
        metric: the headline, as lm-evaluation-harness names it: "metric,filter"; `also` are others that are reported.
        dataset: its name on the hub; empty for tasks of this package.
        tutorial: the files of the repository that the MiniMA tutorial links.
        whole: rows of the split that is scored, in a whole copy.
        splits: for each split the names that copies give it, empty for none; the first one is scored.
        shots_from: the split that gives the shots, by protocol; empty where the protocol has its own.
        script: the paper's script, in a few words.
        published: the paper's numbers in percent, in the order of MODELS.
        writes_programs: whether the model's output is run.
    """

    name: str
    task: str
    shots: int
    most_shots: int = 0
    files: str
    metric: str
    also: tuple[str, ...] = ()
    dataset: str = ""
    tutorial: str = ""
    whole: int = 0
    splits: tuple[tuple[str, tuple[str, ...]], ...] = (("test", ("test",)),)
    shots_from: tuple[str, str] = ("", "")
    script: str = ""
    published: tuple[float, ...] = ()
    writes_programs: bool = False

    @property
    def scored(self) -> str:
        """The split that is scored."""
        return self.splits[0][0]

    def shot_split(self, protocol: str) -> str:
        """The split that gives the shots; empty where the protocol has its own, or none."""
        return self.shots_from[PROTOCOLS.index(protocol)]

    def reads(self, protocol: str) -> list[str]:
        """The splits that are read of each subject."""
        return [split for split in dict.fromkeys((self.scored, self.shot_split(protocol))) if split]

    def split_of(self, word: str) -> str:
        """The split that a part of a file's path names, by itself or at its end; else empty."""
        for split, names in self.splits:
            if any(name and re.search(rf"(^|[_-]){name}$", word) for name in names):
                return split
        return ""

    @property
    def unnamed_split(self) -> str:
        """The split of a file whose path names none; empty if it must name one."""
        return next((split for split, names in self.splits if "" in names), "")

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
        """The name of each subject in an offline copy, with its task file."""
        found = {}
        for place in sorted(self.task_folder.glob(Path(self.files).name)):
            config = task_file(place)
            if isinstance(config, dict) and "task" in config and "group" not in config:
                found[str(config.get("dataset_name", "data"))] = place
        return found


@functools.cache
def task_file(place: Path) -> Any:
    """What a task file of lm-evaluation-harness says; the functions that it names stay names."""
    import yaml  # options.py reads this module's table in every PID 1, which needs no YAML.

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    return yaml.load(place.read_text(encoding="utf-8"), Loader=Loader)


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="mmlu",
            task="mmlu",
            shots=5,
            most_shots=5,
            files="mmlu/default/mmlu_*.yaml",
            metric="acc,none",
            dataset="cais/mmlu",
            tutorial="data.tar of hendrycks/test, unpacked (dev/anatomy_dev.csv, test/anatomy_test.csv)",
            whole=14042,
            splits=(("test", ("test",)), ("dev", ("dev",))),
            shots_from=("dev", "dev"),
            script="evaluate_hf.py of hendrycks/test",
            published=(46.00, 26.97, 28.51, 40.14, 38.40, 46.17),
        ),
        Benchmark(
            name="ceval",
            task="ceval-valid",
            shots=5,
            most_shots=5,
            files="ceval/ceval-valid_*.yaml",
            metric="acc,none",
            dataset="ceval/ceval-exam",
            tutorial="ceval-exam.zip of hkust-nlp/ceval, unpacked (dev/law_dev.csv, val/law_val.csv)",
            whole=1346,
            splits=(("val", ("val", "validation")), ("dev", ("dev",))),
            shots_from=("dev", "dev"),
            script="eval_llama.py of hkust-nlp/ceval, the validation questions, the mean over subjects",
            published=(34.40, 22.88, 28.23, 44.65, 36.48, 43.91),
        ),
        Benchmark(
            name="drop",
            task="drop",
            shots=3,
            most_shots=16,
            files="drop/default.yaml",
            metric="em,none",
            also=("f1,none",),
            dataset="EleutherAI/drop",
            tutorial="drop_dataset.zip of DROP, unpacked (drop_dataset_dev.json, drop_dataset_train.json)",
            whole=9535,
            splits=(("validation", ("validation", "dev")), ("train", ("train",))),
            shots_from=("train", "validation"),
            script="drop.py of instruct-eval, questions with one distinct answer, 3 of them drawn as shots, greedy",
            published=(31.57, 19.98, 22.50, 23.10, 22.58, 30.26),
        ),
        Benchmark(
            name="humaneval",
            task="humaneval",
            shots=0,
            files="humaneval.yaml",
            metric="pass@1,none",
            dataset="openai/openai_humaneval",
            tutorial="HumanEval.jsonl.gz of openai/human-eval",
            whole=164,
            splits=(("test", ("test", "")),),
            script="human_eval of instruct-eval, one program drawn at temperature 0.1",
            published=(12.80, 4.88, 10.98, 14.63, 18.29, 22.56),
            writes_programs=True,
        ),
        Benchmark(
            name="bbh",
            task="bbh_fewshot",
            shots=3,
            most_shots=3,
            files="bbh/fewshot/[a-z]*.yaml",
            metric="exact_match,none",
            dataset="SaylorTwift/bbh",
            tutorial="the folder bbh of suzgunmirac/BIG-Bench-Hard (navigate.json)",
            whole=6511,
            splits=(("test", ("test", "train", "")),),
            shots_from=("", "test"),
            script="bbh.py of instruct-eval, the first 3 items of each subject as shots, greedy, the mean over subjects",
            published=(32.02, 30.48, 31.61, 31.43, 31.36, 34.95),
        ),
        Benchmark(
            name="gsm8k",
            task="gsm8k_cot",
            shots=8,
            most_shots=8,
            files="gsm8k/gsm8k-cot.yaml",
            metric="exact_match,strict-match",
            also=("exact_match,flexible-extract",),
            dataset="openai/gsm8k",
            tutorial="test.jsonl of openai/grade-school-math (GSM8K-eval calls it gsm8k_test.jsonl)",
            whole=1319,
            script="main.py of GSM8K-eval, greedy",
            published=(14.10, 3.56, 8.11, 8.87, 29.72, 38.13),
        ),
        Benchmark(name="smoke_english", task="smoke_english", shots=0, files="smoke_english.yaml", metric="acc,none"),
        Benchmark(name="smoke_chinese", task="smoke_chinese", shots=0, files="smoke_chinese.yaml", metric="acc,none"),
    )
}


def known_as(folder: str) -> str:
    """The benchmark that a folder is called after (`BIG-Bench-Hard-main`, `datasets--cais--mmlu`); empty for none."""
    words = [word for word in re.split(r"[^a-z0-9]+", folder.lower()) if word]
    while words and (words[-1] in _ANY or words[-1].isdecimal()):
        words.pop()
    ends = {"".join(words[i:]) for i in range(len(words))}
    return next((name for name, called in _FOLDERS.items() if ends & called), "")


def protocol(benchmark: Benchmark, asked: str) -> str:
    """The protocol that a benchmark is scored by where `asked` is asked for: only what the paper has has two."""
    return asked if benchmark.script else STANDARD


def unknown(name: str) -> str:
    """What to say of a benchmark that is not there; empty for one that is."""
    known = [*BENCHMARKS, *JUDGED]
    return "" if name in known else f"unknown benchmark {name!r}; {did_you_mean(name, known)}"


def shots(words: Iterable[str], benchmark: Benchmark) -> int:
    """How many solved examples a prompt of `benchmark` has, by the words of `--num_fewshot`."""
    given = dict(word.split("=") for word in words)
    return int(given.get(benchmark.name, benchmark.shots))


def wrong_shots(words: Iterable[str], tasks: Iterable[str]) -> Iterator[str]:
    """What is wrong with the words of `--num_fewshot`, each BENCHMARK=NUMBER."""
    seen = set()
    for word in words:
        name, _, number = word.partition("=")
        if name not in tasks:
            yield f"{word!r} is for none of the tasks; valid: BENCHMARK=NUMBER, such as mmlu=0, for one of {', '.join(tasks)}"
        elif not number.isdecimal():
            yield f"{word!r}: a whole number follows the `=`, such as {name}=0"
        elif int(number) > (most := BENCHMARKS[name].most_shots if name in BENCHMARKS else 0):
            yield f"{word!r}: {name} has {most} solved examples at most"
        elif name in seen:
            yield f"{name} is given twice"
        seen.add(name)


def instructions(benchmark: Benchmark, data_dir: str = "DATA_DIR") -> str:
    """What an offline copy of `benchmark` may be, and how to make one where there is a network."""
    root = f"{data_dir}/{benchmark.name}"
    return (
        f"What may be there, at any depth: {benchmark.tutorial}; or a copy of {benchmark.dataset} as on the hub "
        f"(Parquet, Arrow or JSON lines).\nWhere there is a network: "
        f"`hf download {benchmark.dataset} --repo-type dataset --local-dir {root}`; or a stage of fetch brings it, as "
        "`benchmarks` of minima-3b does"
    )


def describe() -> str:
    """The table for `minima evaluate --help`."""
    lines = ["Benchmarks (--tasks):"]
    for b in BENCHMARKS.values():
        source = f"DATA_DIR/{b.name}: {b.tutorial}, or {b.dataset}" if b.dataset else "ships with minima"
        lines.append(f"  {b.name:<14} {b.shots}-shot {b.metric.split(',')[0]:<12} {source}")
    lines.append(
        "A copy may be that of the repository or of the hub, at any depth of its folder; unpack archives. The folder may be"
    )
    lines.append("called as the repository is (BIG-Bench-Hard-main), and DATA_DIR may be the only copy itself.")
    lines.append("Protocols (--protocol): `standard` is lm-evaluation-harness's; `paper` the scripts that the paper used:")
    lines += [f"  {b.name:<14} {b.script}" for b in BENCHMARKS.values() if b.script]
    lines.append("Judged by another model (--judge_base_url, --judge_model), against the reference answers of their files:")
    lines += [f"  {name:<14} DATA_DIR/{name}: {what}" for name, what in JUDGED.items()]
    return "\n".join(lines)
