"""Evaluation: known scores by a scripted language model, the same pipeline on a real tiny one, perplexity, refusals."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import sentencepiece
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks._yaml_loader import load_yaml

from minima import flags
from minima.benchmarks import BENCHMARKS, OWN_TASKS, PAPER, STANDARD
from minima.data import records, tokenization
from minima.errors import DataError, NotReadyError, UsageError
from minima.evaluation import answer, copies, harness, judge, judged, paper, sandbox
from minima.evaluation.model import LanguageModel
from minima.evaluation.protocol import Protocol
from minima.models import placement, pretrained
from minima.options import Evaluate
from minima.stages import evaluate
from minima.workspace import artifact
from minima.workspace.lease import Lease
from minima.workspace.progress import Reporter
from tests.unit import tiny
from tests.unit.evaluation.test_copies import find
from tests.unit.evaluation.test_judge import KEY, Server, by_answer, fail, served
from tests.unit.workspace.test_progress import Told

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
VOCAB = 900


class Scripted(LM):
    """Answers by a script: the text to say for each question that contains a key."""

    def __init__(self, script: Mapping[str, str]) -> None:
        super().__init__()
        self.script = script
        self.contexts: list[str] = []

    def _said(self, context: str) -> str:
        self.contexts.append(context)
        # The question is the last; what stands before it are the shots.
        return max((context.rfind(key), said) for key, said in self.script.items() if key in context)[1]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        answers = [(self._said(r.args[0]), r.args[1]) for r in requests]
        return [(0.0, True) if said == continuation.strip() else (-1.0, False) for said, continuation in answers]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [self._said(r.args[0]) for r in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


# For each benchmark: a script with two right answers and a wrong one.
SCRIPTS: dict[str, dict[str, str]] = {
    # Both of anatomy, not the one of astronomy: 2/3 over items, and not the mean of 1 and 0 over subjects.
    "mmlu": {"pumps blood": "B", "chambers": "C", "closest to the Sun": "A"},
    "ceval": {"签订买卖合同": "B", "代表被告": "C", "小花是一只猫": "D"},
    "drop": {"longest goal": " 34", "lost the match": " Herons", "bridge opened": " 3 May 1871"},
    "bbh": {"Turn around. Take 2 steps.": "Yes", "Take 1 step.\nOptions": "Yes", "pear fig apple": "apple fig pear"},
    "gsm8k": {
        "7 loaves": " 7 * 6 = 42. The answer is 42.",
        "1,500 stamps": " The answer is 1250.",
        "3 tickets": " It is 24 dollars.",
    },
    "humaneval": {"twice": "    return x + x\n", "largest": "    return max(values)\n", "is_even": "    return n % 2\n"},
}
# What stands once before each question and each shot.
TURNS = {"mmlu": "Answer:", "ceval": "答案：", "drop": None, "bbh": "Q:", "gsm8k": "Q:", "humaneval": "def "}


def data_of(name: str) -> copies.Data:
    return find(name, FIXTURES)


def usual(name: str) -> Protocol:
    return Protocol(STANDARD, BENCHMARKS[name].shots)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "humaneval"])
def test_known_scores(name: str) -> None:
    lm = Scripted(SCRIPTS[name])
    data = data_of(name)
    score = harness.score(lm, data, usual(name), seed=1)
    assert score.value == pytest.approx(2 / 3)
    assert sum(part["items"] for part in score.subjects.values()) == 3
    benchmark = BENCHMARKS[name]
    if turn := TURNS[name]:
        assert {context.count(turn) for context in lm.contexts} == {benchmark.shots + 1}
    scored = [json.dumps(row, ensure_ascii=False) for s in data.subjects.values() for row in s[benchmark.scored]]
    assert len(score.samples) == len(scored) * (2 if name == "gsm8k" else 1)


def test_each_benchmark_by_its_details() -> None:
    mmlu = harness.score(Scripted(SCRIPTS["mmlu"]), data_of("mmlu"), usual("mmlu"), seed=1)
    assert mmlu.subjects == {"anatomy": {"score": 1.0, "items": 2}, "astronomy": {"score": 0.0, "items": 1}}
    drop = harness.score(
        Scripted(SCRIPTS["drop"] | {"lost the match": " the Otters side"}), data_of("drop"), usual("drop"), seed=1
    )
    assert drop.value == pytest.approx(2 / 3)
    assert drop.others["f1,none"] == pytest.approx((1 + 1 + 0.67) / 3)
    gsm8k = harness.score(Scripted(SCRIPTS["gsm8k"]), data_of("gsm8k"), usual("gsm8k"), seed=1)
    assert gsm8k.others["exact_match,flexible-extract"] == 1.0  # "It is 24 dollars." has the number, not the words.


@pytest.mark.parametrize(
    ("name", "script", "score", "stderr"),
    [
        ("mmlu", SCRIPTS["mmlu"], 2 / 3, False),
        # Both of law, not the one of logic: the mean of 1 and 0 over subjects, as C-Eval has it.
        ("ceval", SCRIPTS["ceval"], 1 / 2, False),
        (
            "bbh",
            {"Turn around. Take 2 steps.": " Yes.", "Take 1 step.\nOptions": "Yes", "pear fig": "apple fig pear!"},
            3 / 4,
            False,
        ),
        ("gsm8k", SCRIPTS["gsm8k"] | {"1,500 stamps": "It is 1250, no, 9"}, 2 / 3, True),
        ("drop", {"lost the match": " the Otters, I think"}, 1, False),
    ],
)
def test_known_scores_by_the_paper(name: str, script: dict[str, str], score: float, stderr: bool) -> None:
    shots = {"bbh": 0, "drop": 1}.get(name, BENCHMARKS[name].shots)
    data = paper.chosen(find(name, FIXTURES, PAPER), shots)
    lm = Scripted(script)
    found = harness.score(lm, data, Protocol(PAPER, shots), seed=1)
    assert found.value == pytest.approx(score)
    assert (found.stderr is not None) is stderr
    assert {sample["prompt"] for sample in found.samples} == set(lm.contexts)


def test_programs_by_the_paper() -> None:
    programs: list[str] = []
    data = paper.chosen(find("humaneval", FIXTURES, PAPER), 0)
    script = SCRIPTS["humaneval"] | {"twice": "\n\n   y = x\n   return x + y\n\n\ndef other(): ..."}
    found = harness.score(Scripted(script), data, Protocol(PAPER, 0), seed=1, judge=lambda p: not programs.append(p))  # type: ignore[func-returns-value]
    assert found.value == 1
    assert programs[0].startswith("def twice(x: int) -> int:\n")
    assert '"""\n    y = x\n    return x + y\ndef check(candidate):\n' in programs[0]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "humaneval"])
def test_the_harness_by_itself_asks_the_same(name: str, chat: bool, tmp_path: Path) -> None:
    """Its own task files on the hub's rows: every prompt, target and metric is ours, to the letter."""

    class Asked(Scripted):
        tokenizer_name = "asked"

        def apply_chat_template(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            said = "".join(f"<{message['role']}>{message['content']}" for message in history)
            return said + "<assistant>" * add_generation_prompt

    datasets.disable_progress_bars()
    data, configs = data_of(name), []
    for subject in data.subjects:
        files = {p.stem: str(p) for p in (FIXTURES / name).rglob("*.jsonl") if p.parent.name in (subject, "data", "main")}
        config = {
            key: value for key, value in load_yaml(data.benchmark.subjects()[subject]).items() if key not in ("tag", "group")
        }
        config |= {"dataset_path": "json", "dataset_name": None, "num_fewshot": data.benchmark.shots}
        configs.append(config | {"dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path)}})
    tasks = {config["task"]: ConfigurableTask(config=config) for config in configs}
    for task in tasks.values():
        task.set_fewshot_seed(seed=3)
    loaded: Any = {"tasks": tasks, "groups": {}}
    theirs: Any = lm_evaluate(
        Asked(SCRIPTS[name]), loaded, bootstrap_iters=1, apply_chat_template=chat, fewshot_as_multiturn=chat
    )
    ours = harness.score(Asked(SCRIPTS[name]), data, Protocol(STANDARD, data.benchmark.shots, chat), seed=3)
    asked = [
        (
            sample["arguments"][0][0],
            str(sample["target"]),
            str(sample["filtered_resps"]),
            {n: sample[n] for n in sample["metrics"]},
        )
        for samples in theirs["samples"].values()
        for sample in samples
    ]
    mine = [(sample["prompt"], str(sample["target"]), str(sample["filtered"]), sample["metrics"]) for sample in ours.samples]
    assert sorted(mine, key=str) == sorted(asked, key=str)
    metric = data.benchmark.metric
    assert sorted(part["score"] for part in ours.subjects.values()) == sorted(
        found[metric] for found in theirs["results"].values()
    )
    if len(configs) == 1:
        (found,) = theirs["results"].values()
        assert ours.stderr == found[metric.replace(",", "_stderr,")]


def test_shots_come_from_their_own_split() -> None:
    for name, shot, item in (("mmlu", "Which bone is in the thigh?", "chambers"), ("ceval", "负责审理案件的机关", "代表被告")):
        lm = Scripted(SCRIPTS[name])
        harness.score(lm, data_of(name), usual(name), seed=1)
        context = next(c for c in lm.contexts if item in c)
        assert context.count(shot) == 1
        assert context.count(item) == 1
        assert context.rstrip().endswith({"mmlu": "Answer:", "ceval": "答案："}[name])


def test_the_seed_draws_the_shots_of_drop() -> None:
    def contexts(seed: int) -> list[str]:
        lm = Scripted(SCRIPTS["drop"])
        harness.score(lm, data_of("drop"), usual("drop"), seed=seed)
        return lm.contexts

    assert contexts(1) == contexts(1)
    assert len({tuple(contexts(seed)) for seed in range(3)}) > 1
    held = ("How many hens", "Who bought", "How many birds", "When did the mill")
    assert all(sum(c.count(h) for h in held) == 3 for c in contexts(1))


def test_pass_at_1_with_a_scripted_judge() -> None:
    programs: list[str] = []

    def judge(program: str) -> bool:
        programs.append(program)
        return len(programs) < 3

    lm = Scripted(SCRIPTS["humaneval"])
    score = harness.score(lm, data_of("humaneval"), usual("humaneval"), seed=1, judge=judge)
    assert score.value == pytest.approx(2 / 3)
    assert lm.contexts == [row["prompt"] for row in data_of("humaneval").subjects["openai_humaneval"]["test"]]
    assert programs[0].startswith("def twice(x: int) -> int:\n")
    assert "\n    return x + x\n\ndef check(candidate):\n" in programs[0]
    assert programs[0].endswith("\ncheck(twice)\n")


def test_pass_at_1_in_the_jail() -> None:
    lm, data = Scripted(SCRIPTS["humaneval"]), data_of("humaneval")
    score = harness.score(lm, data, usual("humaneval"), seed=1, judge=lambda program: sandbox.run(program).passed)
    assert score.value == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of 64 positions with a SentencePiece tokenizer."""
    place = tmp_path_factory.mktemp("model")
    lines = [line for file in sorted(FIXTURES.rglob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    with open(place / "sp.model", "wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*lines, *["        return x", "    return x"] * 20]),
            model_writer=out,
            vocab_size=VOCAB,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    model = place / "model"
    llama = tiny.llama(vocab=VOCAB)
    llama.config.max_position_embeddings = 64  # Short prompts and answers: a fast test.
    llama.save_pretrained(model)
    tokenization.write(place / "sp.model", model)
    return model


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of different lengths; of the last one only some tokens count."""
    place = tmp_path_factory.mktemp("dev") / "dev.tfrecord"
    random = np.random.default_rng(0)
    rows = [{"indices": random.integers(3, VOCAB, n)} for n in (24, 24, 9)]
    rows.append({"indices": random.integers(3, VOCAB, 16), "mask": np.array([0] * 10 + [1] * 5 + [0])})
    records.write(place, [{"mask": np.ones_like(row["indices"]), **row} for row in rows])
    return place


def evaluated(tmp_path: Path, folder: Path, progress: Reporter, **options: Any) -> dict[str, Any]:
    tmp_path.mkdir(exist_ok=True)
    settings = Evaluate(output_dir=str(tmp_path), **{"model_name_or_path": str(folder), "tasks": (), **options})
    return evaluate.run(settings, artifact.Output(tmp_path, settings, {}, None, 0.0, progress))


def by_benchmark(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The samples of an evaluation, those of each benchmark for themselves."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        samples.setdefault(json.loads(line)["benchmark"], []).append(json.loads(line))
    return samples


def test_a_real_model_end_to_end(
    tmp_path: Path, folder: Path, dev: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandbox, "check", lambda: None)
    monkeypatch.setattr(sandbox, "run", lambda program: sandbox.Verdict(False, "not run"))
    everything: dict[str, Any] = {
        "tasks": tuple(BENCHMARKS),
        "data_dir": str(FIXTURES),
        "dev_record_path_or_regex": str(dev),
        "question": "Which organ pumps blood?",
    }
    told = Told()
    metrics = evaluated(tmp_path / "a", folder, told, **everything)
    cut = {name for name in metrics if name.endswith("_cut_prompts")}
    assert {"mmlu_cut_prompts", "gsm8k_cut_prompts"} <= cut
    assert set(metrics) - cut == {
        *BENCHMARKS,
        *(f"{name}_items" for name in BENCHMARKS),
        "dev_perplexity",
        "answer",
        *placement.of(tiny.llama()),
    }
    assert all(isinstance(value, (int, float, str)) for value in metrics.values())
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["answer.txt", "results.json", "results.md", "samples.jsonl"]
    results = json.loads((tmp_path / "a/results.json").read_text(encoding="utf-8"))
    mmlu = results["benchmarks"]["mmlu"]
    assert (mmlu["items"], mmlu["partial"], mmlu["shots"], len(mmlu["missing_subjects"])) == (3, True, 5, 55)
    assert results["benchmarks"]["smoke_english"]["partial"] is False
    assert results["benchmarks"]["humaneval"]["score"] == 0
    assert results["benchmarks"]["gsm8k"]["generated_tokens_lowered_to"] == 32
    words = tokenization.load(folder)
    for name, room in (("mmlu", 64), ("gsm8k", 32)):  # An answer of a letter and, of gsm8k, of 32 tokens.
        long = {
            prompt: len(words(prompt)["input_ids"])
            for prompt in {line["prompt"] for line in by_benchmark(tmp_path / "a")[name]}
        }
        part = results["benchmarks"][name]
        assert part["cut_prompts"] == metrics[f"{name}_cut_prompts"] == sum(tokens > room for tokens in long.values()) == 3
        assert abs(part["longest_cut_prompt"] - max(long.values())) <= 3
    assert results["versions"]["lm-eval"].startswith("0.4.")
    table = (tmp_path / "a/results.md").read_text(encoding="utf-8")
    assert "| mmlu (partial) | standard | 5 | 3 |" in table
    assert (
        f"- mmlu: 3 prompts are longer than this model's positions allow (the longest has {mmlu['longest_cut_prompt']}" in table
    )
    assert "46.00" not in table  # The paper's numbers are by another protocol.
    samples = by_benchmark(tmp_path / "a")
    counts = {"smoke_english": 40, "smoke_chinese": 40, "gsm8k": 6}  # gsm8k has two filters
    assert {name: len(lines) for name, lines in samples.items()} == dict.fromkeys(BENCHMARKS, 3) | counts
    assert all(line["prompt"].strip() or name == "smoke_chinese" for name, lines in samples.items() for line in lines)
    said = capsys.readouterr().err
    assert "evaluate: mmlu: " in said
    assert "evaluate: mmlu: 3 prompts are longer than this model's positions" in said
    assert "requests" not in said  # lm-evaluation-harness's progress bars do not belong in a log
    assert set(told.most) == {"loading", *BENCHMARKS, "evaluating", "answering"}
    for name in BENCHMARKS:
        assert told.most[name].step == told.most[name].total >= metrics[f"{name}_items"]

    again = evaluated(tmp_path / "b", folder, Reporter(), **everything)
    assert again == metrics
    for name in ("results.json", "samples.jsonl", "answer.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_real_model_by_the_paper_as_a_chat_model(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minima.data import chat

    monkeypatch.setattr(sandbox, "check", lambda: None)
    monkeypatch.setattr(sandbox, "run", lambda program: sandbox.Verdict(True))
    monkeypatch.setitem(BENCHMARKS, "humaneval", dataclasses.replace(BENCHMARKS["humaneval"], whole=3))
    monkeypatch.setitem(
        paper.SCRIPTS, "humaneval", dataclasses.replace(paper.SCRIPTS["humaneval"], generation={"max_gen_toks": 8})
    )
    tasks = ("mmlu", "bbh", "drop", "humaneval", "smoke_english")
    settings: dict[str, Any] = {"tasks": tasks, "data_dir": str(FIXTURES), "protocol": "paper"}
    settings["num_fewshot"] = ("bbh=0", "drop=1")
    with pytest.raises(UsageError, match=r"--apply_chat_template: .* has no chat template; leave it out for a base model"):
        evaluated(tmp_path / "base", folder, Reporter(), apply_chat_template=True, **settings)
    talking = tmp_path / "talking"
    shutil.copytree(folder, talking)
    settled = json.loads((talking / "config.json").read_text())
    (talking / "config.json").write_text(
        json.dumps(settled | {"max_position_embeddings": 1024})
    )  # A cut prompt compares to none.
    words = tokenization.load(talking)
    chat.install(words)
    words.save_pretrained(talking)
    evaluated(tmp_path / "plain", talking, Reporter(), **settings)
    evaluated(tmp_path / "chat", talking, Reporter(), apply_chat_template=True, **settings)
    plain, asked = (json.loads((tmp_path / way / "results.json").read_text(encoding="utf-8")) for way in ("plain", "chat"))
    protocols = {name: part["protocol"] for name, part in plain["benchmarks"].items()}
    assert protocols == dict.fromkeys(tasks, "paper") | {"smoke_english": "standard"}
    assert not any(
        part["comparable"] for results in (plain, asked) for name, part in results["benchmarks"].items() if name != "humaneval"
    )
    assert (plain["benchmarks"]["humaneval"]["comparable"], asked["benchmarks"]["humaneval"]["comparable"]) == (True, False)
    assert "| humaneval | paper | 0 | 3 | 100.00 ± 0.00 | 12.80 | 4.88 |" in (tmp_path / "plain/results.md").read_text(
        encoding="utf-8"
    )
    assert "| humaneval | paper, chat template | 0 | 3 | 100.00 ± 0.00 | – |" in (tmp_path / "chat/results.md").read_text(
        encoding="utf-8"
    )
    for name in tasks:
        for way, ends in (("plain", False), ("chat", True)):
            prompts = [line["prompt"] for line in by_benchmark(tmp_path / way)[name]]
            assert {prompt.endswith(chat.ASSISTANT) for prompt in prompts} == {ends}
            assert {prompt.count(words.bos_token) for prompt in prompts} == {int(ends)}


def test_a_choice_in_a_chat_follows_as_an_answer_does(folder: Path) -> None:
    """MiniChat was trained on a space between `[|Assistant|]` and the answer, and other templates have a line break."""
    from minima.data import chat

    words = tokenization.load(folder)
    chat.install(words)
    lm = LanguageModel(tiny.llama(vocab=VOCAB), words, 1, Reporter())
    lm.answers_in_chat = True
    context = lm.apply_chat_template([{"role": "user", "content": "Which?"}])
    (request,) = lm._placed([Instance("loglikelihood", {}, (context, "B"), 0)])
    assert request.args == (context, " B")
    ids = [*lm._encode_pair(*request.args)[0], *lm._encode_pair(*request.args)[1]]
    said = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "B"}]
    trained: Any = words.apply_chat_template(said, return_dict=True)
    assert ids == trained["input_ids"][: len(ids)]
    words.chat_template = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}"
    words.chat_template += "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    (request,) = lm._placed([Instance("loglikelihood", {}, ("<user>\nWhich?\n<assistant>\n", "B"), 0)])
    assert request.args[1] == "B"


def test_programs_of_a_chat_model_are_asked_for_as_such() -> None:
    class Talking(Scripted):
        tokenizer_name = "talking"

        def apply_chat_template(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            assert [message["role"] for message in history] == ["user", "assistant"]
            assert not add_generation_prompt
            return "".join(message["content"] for message in history)

    lm = Talking(SCRIPTS["humaneval"])
    programs: list[str] = []
    found = harness.score(
        lm,
        data_of("humaneval"),
        Protocol(STANDARD, 0, chat=True),
        seed=1,
        judge=lambda program: not programs.append(program),  # type: ignore[func-returns-value]
    )
    assert found.value == 1
    assert lm.contexts[0].startswith("Write a solution to the following problem")
    assert lm.contexts[0].rstrip().endswith('"""')
    assert programs[0].startswith("def twice(x: int) -> int:\n")


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as made:
        yield made


def test_answers_are_judged(
    tmp_path: Path, folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a judge that goes away, and gone on with: the model answers once, and no judgement is asked for twice."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr(judge, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(judged, "AT_ONCE", 1)
    output = tmp_path / "out"
    for name in ("vicuna", "belle"):
        shutil.copytree(FIXTURES / name, tmp_path / "data" / f"{name}-bench")
    place = tmp_path / "data/belle-bench/eval_set.json"
    first, *rest = place.read_text(encoding="utf-8").splitlines()
    long = json.loads(first)["question"] * 20  # The model has 64 positions, of which an answer takes half.
    place.write_text("\n".join([json.dumps(json.loads(first) | {"question": long}), *rest]) + "\n", encoding="utf-8")
    settings = Evaluate(
        output_dir=str(output),
        model_name_or_path=str(folder),
        tasks=("vicuna", "belle"),
        data_dir=str(tmp_path / "data"),
        judge_base_url=server.url,
        judge_model="stern",
        judge_key_variable="JUDGE_KEY",
        judge_prices=("2.5", "10"),
    )

    def attempt(**options: Any) -> dict[str, Any]:
        with Lease(output) as lease:
            chosen = dataclasses.replace(settings, **options)
            made = artifact.Output(lease.making, chosen, {}, lease)
            metrics = evaluate.run(chosen, made)
            made.commit(metrics)
        return metrics

    server.script = [by_answer] * 5  # Two checks, and three judgements.
    server.usual = fail(500)
    with pytest.raises(NotReadyError, match="run again, what it judged is kept"):
        attempt()
    server.script = [by_answer] * 2
    anew: list[list[str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "answers", lambda self, texts, most: anew.append(texts) or ["?"] * len(texts))  # type: ignore[func-returns-value]
        with pytest.raises(NotReadyError):
            attempt(use_bf16=True)
    assert [len(texts) for texts in anew] == [2]  # Answers in another precision are other answers.
    server.usual = by_answer
    server.seen.clear()
    monkeypatch.setattr(LanguageModel, "answers", lambda self, texts, most: ["worth 9"] * len(texts))  # Only of belle now.
    metrics = attempt()
    asked = [request["messages"][-1]["content"] for request in server.seen]
    assert len([text for text in asked if text != "Say yes."]) == 1 + 4
    assert (metrics["vicuna"], metrics["vicuna_items"], metrics["belle"]) == (0.5, 2, 1.0)
    assert not list(output.glob("judged-*"))
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))["judged"]
    assert (results["belle"]["win"], results["belle"]["without_reference"], results["vicuna"]["even"]) == (2, 1, 2)
    assert results["belle"]["cost"] == pytest.approx((500 * 2.5 + 50 * 10) / 1e6)
    assert results["vicuna"]["requests"] == 2 + 4  # What both runs paid: those of the first that were kept, a check, the rest.
    longest = len(tokenization.load(folder)(long)["input_ids"])
    assert (metrics["belle_cut_prompts"], results["belle"]["longest_cut_prompt"]) == (1, longest)
    assert "vicuna_cut_prompts" not in metrics
    told = f"belle: 1 prompts are longer than this model's positions allow (the longest has {longest} tokens)"
    assert f"- {told}, and their beginnings were cut off.\n" in (output / "results.md").read_text(encoding="utf-8")
    assert results["belle"]["generated_tokens_lowered_to"] == 32
    assert "| belle | stern | 2 | 100.00 ± 0.00 | 2 | 0 | 0 | 9.00 | 5.00 |" in (output / "results.md").read_text(
        encoding="utf-8"
    )
    lines = by_benchmark(output)["vicuna"]
    assert [part["prompt"][1]["content"] for line in lines for part in line["rounds"]][-1] in asked
    said = capsys.readouterr().err
    assert (
        "belle: 2 won, 0 even, 0 lost of 2, judged by stern: 5 requests, 500 tokens read and 50 written, which cost 0.00"
        in said
    )
    assert "belle: 1 questions have no reference answer and are left out" in said
    for place in output.rglob("*"):
        assert not place.is_file() or KEY not in place.read_text(encoding="utf-8")


def test_a_benchmark_is_scored_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of one are not lost to a stop in the next; unless an input from outside or an option has changed."""
    settings = Evaluate(
        output_dir=str(tmp_path / "out"),
        model_name_or_path=str(folder),
        tasks=("smoke_english", "mmlu"),
        data_dir=str(FIXTURES),
    )
    whole = evaluated(tmp_path / "whole", folder, Reporter(), tasks=settings.tasks, data_dir=str(FIXTURES))
    asked: list[str] = []
    score: Any = harness.score

    def attempt(ends: str, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        asked.clear()

        def stopped(lm: Any, data: copies.Data, *args: Any, **kwargs: Any) -> Any:
            asked.append(data.benchmark.name)
            if data.benchmark.name == ends:
                raise NotReadyError("stopped")
            return score(lm, data, *args, **kwargs)

        monkeypatch.setattr(harness, "score", stopped)
        with Lease(tmp_path / "out") as lease:
            chosen = dataclasses.replace(settings, **options)
            made = artifact.Output(lease.making, chosen, inputs, lease)
            metrics = evaluate.run(chosen, made)
            made.commit(metrics)
        return metrics

    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"data_dir": {"path": "1"}}, {}),
        ({}, {"limit": 2}),
        ({}, {"limit": 2, "use_bf16": True}),
        ({}, {"num_fewshot": ("smoke_english=1",)}),
        ({}, {}),
    ]
    for inputs, options in changes:
        with pytest.raises(NotReadyError, match="stopped"):
            attempt("mmlu", inputs, **options)
        assert asked == ["smoke_english", "mmlu"]
    with pytest.raises(NotReadyError, match="stopped"):
        attempt("mmlu", {}, per_device_eval_batch_size=4)
    assert asked == ["mmlu"]
    assert attempt("", {}) == whole
    assert asked == ["mmlu"]
    assert "evaluate: smoke_english was scored by an earlier attempt" in capsys.readouterr().err
    for name in ("results.json", "samples.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob("scored-*"))


def test_the_judge_is_asked_before_the_model_is_loaded(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "wrong")
    server.usual = fail(401)
    options = {"judge_base_url": server.url, "judge_model": "m", "judge_key_variable": "JUDGE_KEY"}
    with pytest.raises(UsageError, match="refuses the key"):
        evaluated(tmp_path / "o", tmp_path / "no-model", Reporter(), tasks=("vicuna",), data_dir=str(FIXTURES), **options)


def test_the_seed_draws_the_answer(tmp_path: Path, folder: Path) -> None:
    answers = {evaluated(tmp_path, folder, Reporter(), question="blood?", seed=seed)["answer"] for seed in (1, 2, 3)}
    assert len(answers) > 1


def test_broken_weights_have_no_perplexity(tmp_path: Path, folder: Path) -> None:
    model = tiny.llama(vocab=VOCAB)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    broken = tmp_path / "broken"
    pretrained.save(model, folder, broken, verb="test", made_of={})
    records.write(tmp_path / "dev.tfrecord", [{"indices": np.array([5, 6])}])
    with pytest.raises(DataError, match="its weights are broken"):
        evaluated(tmp_path, broken, Reporter(), dev_record_path_or_regex=str(tmp_path / "dev.tfrecord"))


def test_a_tokenizer_with_more_pieces_than_the_model_has_rows(tmp_path: Path, folder: Path) -> None:
    """A `<pad>` that somebody added: what pads is `</s>` then; a chat template that has it is refused."""
    padded = tmp_path / "padded"
    shutil.copytree(folder, padded)
    words = tokenization.load(padded)
    words.add_special_tokens({"pad_token": "<pad>"})
    words.save_pretrained(padded)
    shutil.copy(folder / "config.json", padded)
    found, plain = (evaluated(tmp_path, one, Reporter(), tasks=("smoke_english",), limit=4) for one in (padded, folder))
    assert found["smoke_english"] == plain["smoke_english"]
    (padded / "chat_template.jinja").write_text("<pad>{{ messages[0].content }}", encoding="utf-8")
    message = rf"its chat template has '<pad>', and the model {VOCAB} rows.*resize_token_embeddings\({VOCAB + 1}\)"
    with pytest.raises(DataError, match=message):
        evaluated(tmp_path, padded, Reporter(), question="Who?")


REFUSES_SYSTEM = (
    "{% for m in messages %}{{ raise_exception('only users') if m.role == 'system' }}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def test_templates_of_others(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that refuses system messages loses what MMLU says there, and it is said; one that is broken is refused at once."""
    talking = tmp_path / "talking"
    shutil.copytree(folder, talking)
    place = talking / "chat_template.jinja"
    settings: dict[str, Any] = {"tasks": ("mmlu",), "data_dir": str(FIXTURES), "apply_chat_template": True, "limit": 1}
    place.write_text(REFUSES_SYSTEM, encoding="utf-8")
    evaluated(tmp_path, talking, Reporter(), **settings)
    assert "evaluate: the chat template takes no system message, and none is sent" in capsys.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["chat_template_takes_system"] is False
    for broken in ("{% for m in messages %}", REFUSES_SYSTEM.replace("'system'", "'user'"), "{{ messages[0].content + 1 }}"):
        place.write_text(broken, encoding="utf-8")
        with pytest.raises(DataError, match="the chat template of the tokenizer cannot be used: "):
            evaluated(tmp_path, talking, Reporter(), **settings)


def test_records_longer_than_the_positions_are_refused_before_the_model_is_loaded(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    records.write(tmp_path / "dev.tfrecord", [{"indices": np.full(n, 5)} for n in (64, 65)])
    with pytest.raises(DataError, match="--dev_record_path_or_regex: a record holds 65 tokens, the model has 64 positions"):
        evaluated(tmp_path, folder, Reporter(), dev_record_path_or_regex=str(tmp_path / "dev.tfrecord"))


def test_a_generated_body_keeps_its_first_space(folder: Path) -> None:
    """LLaMA's decoder drops the first space: four of an indent become three, and Python refuses the body."""
    words = tokenization.load(folder)
    lm = LanguageModel(tiny.llama(vocab=VOCAB), words, 1, Reporter())
    body = "    return x\n        return x"
    ids = words("\n" + body, add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(ids)) if str(words.decode(ids[:i])).endswith("\n"))
    assert lm.tok_decode(ids[start:]) == body[1:]
    lm.keeps_spaces = True
    assert lm.tok_decode(ids[start:]) == body
    assert lm.tok_decode(words.eos_token_id, skip_special_tokens=False) == "</s>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "nothing to do"),
        ({"tasks": ["mlmu"]}, r"did you mean 'mmlu'\?"),
        ({"tasks": ["belle-bench"]}, "unknown benchmark 'belle-bench'; did you mean 'belle'"),
        ({"tasks": ["belle"]}, "belle needs data_dir, a folder with eval_set.json of BELLE"),
        ({"tasks": ["vicuna"], "data_dir": "/d"}, "vicuna is judged by another model; give judge_base_url"),
        ({"tasks": ["vicuna"], "data_dir": "/d", "judge_base_url": "http://h"}, "give judge_model"),
        ({"tasks": ["vicuna"], "data_dir": "/d", "judge_base_url": "h/v1"}, "valid: http:// or https://, a host"),
        ({"tasks": ["vicuna"], "data_dir": "/d", "judge_base_url": "https://u:p@h/v1"}, "without a login"),
        ({"tasks": ["vicuna"], "data_dir": "/d", "judge_base_url": "https://h:x/v1"}, "valid: http:// or https://"),
        ({"judge_key_variable": "sk-123"}, "not the name of an environment variable"),
        ({"judge_prices": ["1", "free"]}, "'1 free'; valid: two prices"),
        ({"tasks": ["vicuna"], "num_fewshot": ["vicuna=1"]}, "vicuna has 0 solved examples at most"),
        ({"tasks": ["mmlu"]}, "mmlu needs data_dir, a folder with an offline copy of cais/mmlu"),
        ({"tasks": ["mmlu"], "data_dir": "/d", "num_fewshot": ["bbh=1"]}, "'bbh=1' is for none of the tasks"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(
        UsageError, match=f"(?m)^(tasks|num_fewshot|judge_base_url|judge_key_variable|judge_prices): .*{message}"
    ):
        flags.build(Evaluate, {"output_dir": "o", "model_name_or_path": "m", **options}, str)


@pytest.mark.parametrize(
    ("tasks", "url", "ports"),
    [
        (("vicuna", "mmlu"), "https://api.openai.com/v1", {443}),
        (("belle",), "http://judge.svc:8000/v1", {8000}),
        (("belle",), "http://judge/v1", {80}),
        (("mmlu",), "https://api.openai.com/v1", set()),
    ],
)
def test_the_network_is_opened_to_the_judge_alone(tasks: tuple[str, ...], url: str, ports: set[int]) -> None:
    assert Evaluate(output_dir="o", model_name_or_path="m", tasks=tasks, judge_base_url=url).asks() == ports


def test_refuses_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotReadyError, match="hf download openai/gsm8k"):
        evaluated(tmp_path / "out", tmp_path / "no-model", Reporter(), tasks=("smoke_english", "gsm8k"), data_dir=".")
    assert list((tmp_path / "out").iterdir()) == []


def test_humaneval_refuses_where_programs_cannot_be_jailed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    with pytest.raises(UsageError, match="humaneval: its programs run in a jail of Linux on x86-64"):
        evaluated(tmp_path, tmp_path / "no-model", Reporter(), tasks=("humaneval",), data_dir=str(FIXTURES))


def test_a_question_that_does_not_fit(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--question: \d+ tokens with its chat template; the model has 64 positions"):
        evaluated(tmp_path, folder, Reporter(), question="Why? " * 300)


def test_the_chat_template_is_used(folder: Path) -> None:
    from minima.data import chat

    words = tokenization.load(folder)
    plain = answer.prompt(words, "Who?", 256)
    chat.install(words)
    templated = answer.prompt(words, "Who?", 256)
    assert chat.ASSISTANT not in str(words.decode(plain))
    assert str(words.decode(templated)).endswith(chat.ASSISTANT)
    assert templated.count(words.bos_token_id) == 1


@pytest.mark.long  # It starts a Python with all of lm-evaluation-harness, which here takes most of a minute.
def test_lm_eval_by_itself_gives_the_same_numbers(tmp_path: Path, folder: Path) -> None:
    """`python -m lm_eval` on the model folder, with our task files and the data named in them: no code of ours."""
    names = ("smoke_english", "smoke_chinese")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in names:
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(OWN_TASKS / f"{name}.jsonl")}}}
        whole = yaml.safe_load((OWN_TASKS / f"{name}.yaml").read_text(encoding="utf-8")) | data
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32"]
    command += ["--tasks", ",".join(names), "--include_path", str(tasks), "--device", "cpu", "--batch_size", "1"]
    command += ["--output_path", str(tmp_path / "theirs"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(found.read_text(encoding="utf-8"))["results"]
    ours = evaluated(tmp_path / "ours", folder, Reporter(), tasks=names, per_device_eval_batch_size=1)
    for name in names:
        assert theirs[name]["acc,none"] == ours[name]
        (file,) = (tmp_path / "theirs").rglob(f"samples_{name}_*.jsonl")
        said = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        mine = {line["item"]: line["filtered"] for line in by_benchmark(tmp_path / "ours")[name]}
        assert len(said) == len(mine) == 40
        for line in said:
            likelihoods = ([float(one) for one, _ in choices] for choices in (mine[line["doc_id"]], line["filtered_resps"]))
            assert next(likelihoods) == pytest.approx(next(likelihoods), rel=1e-5)
    assert len({tuple(map(str, line["filtered_resps"])) for line in said}) > 30
