"""Measure a model: benchmarks through lm-evaluation-harness, perplexity on held-out records, one sampled answer."""

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minima import benchmarks
from minima.benchmarks import BENCHMARKS, JUDGED, PAPER, STANDARD, Benchmark
from minima.errors import DataError, UsageError, listed
from minima.evaluation import answer, copies, judged, paper, sandbox, table
from minima.evaluation.copies import Data
from minima.evaluation.judge import Judge
from minima.evaluation.judged import Question
from minima.options import Evaluate, split_digest
from minima.process import stop
from minima.workspace import artifact
from minima.workspace.progress import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from minima.data.records import Records
    from minima.evaluation.harness import Score
    from minima.evaluation.model import LanguageModel
    from minima.evaluation.protocol import Protocol
    from minima.models.pretrained import Model

RESULTS, TABLE, SAMPLES, ANSWER = "results.json", "results.md", "samples.jsonl", "answer.txt"
LOGIT_TOKENS = 1024
"""Tokens whose logits exist at once in perplexity."""
JUDGED_TOKENS = 1024
"""Of an answer that is judged, at most."""
Asked = tuple[list[Question], int]
Scored = tuple[dict[str, Any], list[dict[str, Any]]]
"""A benchmark's part of the results, and its samples."""


def run(options: Evaluate, output: artifact.Output) -> dict[str, Any]:
    """Evaluate a model folder.

    Writes `results.json` (every number with its protocol), `results.md` (a table, beside the paper's where it is by the
    same protocol), `samples.jsonl` (every item with its benchmark, its prompt and what the model said) and, for a
    question, `answer.txt`.

    Returns:
        the headline metric of each benchmark (0 to 1) and its number of items, `dev_perplexity`, `answer`.

    Raises:
        UsageError: the sandbox for programs does not work, a model without a chat template, or a question that is too long;
            before the model is loaded.
        NotReadyError: a benchmark's data is not in `data_dir`.
        DataError: data, records, tokenizer or model cannot be read.
    """
    chosen = [BENCHMARKS[name] for name in dict.fromkeys(options.tasks) if name in BENCHMARKS]
    if any(benchmark.writes_programs for benchmark in chosen):
        sandbox.check()
    data_dir = split_digest(options.data_dir)[0] if options.data_dir else ""
    found = [_items(benchmark, data_dir, options) for benchmark in chosen]
    asked = {name: judged.questions(name, data_dir, options.limit) for name in options.tasks if name in JUDGED}
    if asked:
        _judge(options).check()
    with (
        tempfile.TemporaryDirectory(prefix="minima-evaluate-") as cache,
        stop.before_the_end(lambda: shutil.rmtree(cache)),
    ):
        _stay_offline(cache)
        return _run(options, output, found, asked)


def _items(benchmark: Benchmark, data_dir: str, options: Evaluate) -> Data:
    protocol = benchmarks.protocol(benchmark, options.protocol)
    shots = benchmarks.shots(options.num_fewshot, benchmark)
    data = copies.find(benchmark, data_dir, protocol, shots)
    if protocol == PAPER:
        data = paper.chosen(data, shots)
    return copies.limited(data, options.limit)


def _run(options: Evaluate, output: artifact.Output, found: list[Data], asked: dict[str, Asked]) -> dict[str, Any]:
    import torch

    from minima.data import chat, records, tokenization
    from minima.models import placement
    from minima.models import pretrained as models

    folder = Path(split_digest(options.model_name_or_path)[0])
    config = models.config(folder)
    tokenizer = tokenization.load(folder)
    if options.apply_chat_template and not tokenizer.chat_template:
        raise UsageError(f"--apply_chat_template: {folder} has no chat template; leave it out for a base model")
    asks = bool(options.apply_chat_template or options.question or asked)
    takes_system = not (asks and tokenizer.chat_template) or chat.takes_system(tokenizer)
    if asks and tokenizer.chat_template:
        _check_rows(tokenizer, folder, config.vocab_size)
    if options.apply_chat_template and not takes_system:
        _say("the chat template takes no system message, and none is sent: what a benchmark says first of all is left out")
    held_out = None
    if options.dev_record_path_or_regex:
        paths = records.find(split_digest(options.dev_record_path_or_regex)[0], "dev")
        tokenization.check_records(paths, "dev_record_path_or_regex", tokenizer)
        held_out = records.Records(paths)
        longest = max((len(held_out[number]["indices"]) for number in range(len(held_out))), default=0)
        if longest > config.max_position_embeddings:
            raise DataError(
                f"--dev_record_path_or_regex: a record holds {longest} tokens, the model has {config.max_position_embeddings} "
                "positions (max_position_embeddings); build records with a --max_seq_length of at most that"
            )
    prompt = answer.prompt(tokenizer, options.question, config.max_position_embeddings) if options.question else []
    output.progress.phase("loading")
    model = models.load(
        folder,
        dtype=torch.bfloat16 if options.use_bf16 else torch.float32,
        attn_implementation=options.attn_implementation,
        device=placement.device(),
    )

    results: dict[str, Any] = {
        "model": output.inputs.get("model_name_or_path", {}).get("key", str(folder)),
        "seed": options.seed,
        "limit": options.limit,
        "protocol": options.protocol,
        "apply_chat_template": options.apply_chat_template,
        "chat_template_takes_system": takes_system,
        "use_bf16": options.use_bf16,
        "versions": artifact.versions(),
        "benchmarks": {},
        "judged": {},
    }
    metrics: dict[str, Any] = {}
    if found or asked:
        from minima.evaluation import harness
        from minima.evaluation.model import LanguageModel
        from minima.evaluation.protocol import Protocol

        lm = LanguageModel(model, tokenizer, options.per_device_eval_batch_size, output.progress)
        samples: list[dict[str, Any]] = []
        for data in found:
            name = data.benchmark.name
            protocol = Protocol(
                benchmarks.protocol(data.benchmark, options.protocol),
                benchmarks.shots(options.num_fewshot, data.benchmark),
                options.apply_chat_template,
            )

            def score(data: Data = data, protocol: "Protocol" = protocol) -> Scored:
                lm.task = data.benchmark.name
                torch.manual_seed(options.seed)
                score = harness.score(lm, data, protocol, seed=options.seed, judge=_passes)
                return _described(data, protocol, score), [{"benchmark": lm.task, **sample} for sample in score.samples]

            part, lines = _once(name, score, output)
            results["benchmarks"][name] = part
            metrics |= {name: part["score"], f"{name}_items": part["items"]}
            samples += lines
            partial = " (partial)" if part["partial"] else ""
            error = "" if part["stderr"] is None else f" ± {100 * part['stderr']:.2f}"
            _say(f"{name}: {100 * part['score']:.2f}{error} % on {part['items']} items{partial}")
            if part["cut_prompts"]:
                metrics[f"{name}_cut_prompts"] = part["cut_prompts"]
                _say(f"{name}: {table.cut(part)}")
        for name, (questions, left_out) in asked.items():
            part, lines = _judged(lm, name, questions, left_out, options, output)
            results["judged"][name] = part
            metrics |= {name: part["score"], f"{name}_items": part["items"]}
            samples += [{"benchmark": name, **line} for line in lines]
            if part["cut_prompts"]:
                metrics[f"{name}_cut_prompts"] = part["cut_prompts"]
                _say(f"{name}: {table.cut(part)}")
        _write_lines(output.folder / SAMPLES, samples)
    if held_out is not None:
        results["perplexity"] = _perplexity(model, held_out, options, output.progress)
        metrics["dev_perplexity"] = results["perplexity"]["dev_perplexity"]
        _say(f"perplexity {metrics['dev_perplexity']:.4g} on {results['perplexity']['tokens']} tokens")
    if prompt:
        output.progress.phase("answering")
        metrics["answer"] = answer.sampled(model, tokenizer, prompt, options.seed)
        results["answer"] = {"question": options.question, "answer": metrics["answer"]}
        _write(output.folder / ANSWER, f"Question: {options.question}\n\nAnswer: {metrics['answer']}\n")
    metrics |= placement.of(model)
    _write(output.folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    _write(output.folder / TABLE, table.markdown(results))
    return metrics


def _once(name: str, score: Callable[[], Scored], output: artifact.Output) -> Scored:
    """What `score` gives; kept beside the artifact for an attempt that follows a stop, with the same inputs and options."""
    file = f"scored-{name}.json"
    made_of = json.loads(json.dumps({"inputs": output.inputs, "options": artifact.identity(output.options)}))
    if (output.place / file).is_file():
        kept = json.loads((output.place / file).read_text(encoding="utf-8"))
        if kept["made_of"] == made_of:
            _say(f"{name} was scored by an earlier attempt")
            return kept["part"], kept["samples"]
    # As it is read again, so that both ways give the same.
    part, samples = json.loads(json.dumps(score()))
    if output.lease is not None:
        kept = {"made_of": made_of, "part": part, "samples": samples}
        output.lease.write(file, json.dumps(kept, ensure_ascii=False))
    return part, samples


def _judge(options: Evaluate) -> Judge:
    return Judge(options.judge_base_url, options.judge_model, options.judge_key_variable)


def _judged(
    lm: "LanguageModel", name: str, questions: list[Question], left_out: int, options: Evaluate, output: artifact.Output
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is said of the answers to a judged benchmark, and the samples."""
    by = _judge(options)
    by.check()  # Also what the API takes.
    assert output.lease is not None, "who evaluates alone holds the folder"
    lease = output.lease
    parts = [place.read_text(encoding="utf-8") for place in sorted(output.place.glob(f"judged-{name}-*.jsonl"))]
    kept = judged.Kept(parts, lambda number, text: lease.write(f"judged-{name}-{number:04d}.jsonl", text))
    lm.task = name
    model = json.dumps([output.inputs.get("model_name_or_path"), artifact.identity(options)])
    most = min(JUDGED_TOKENS, lm.max_length // 2)
    said = judged.answers(questions, lambda texts: lm.answers(texts, most), model, kept)
    lm.prompts([question.text for question in questions], most)  # Also of answers that an earlier run wrote.
    output.progress.phase(f"judging {name}", 2 * len(questions), "judgements")
    lines = judged.judge(questions, said, by, kept, output.progress.at)
    part = judged.summary(lines, by, left_out)
    part |= {"requests": by.requests, "prompt_tokens": by.prompt_tokens, "answer_tokens": by.answer_tokens}
    part |= {"cut_prompts": len(lm.cut), "longest_cut_prompt": max(lm.cut.values(), default=0)}
    part["generated_tokens_lowered_to"] = most if most < JUDGED_TOKENS else None
    cost = ""
    if options.judge_prices:
        read, written = map(float, options.judge_prices)
        part["cost"] = (by.prompt_tokens * read + by.answer_tokens * written) / 1e6
        cost = f", which cost {part['cost']:.2f}"
    _say(
        f"{name}: {part['win']} won, {part['even']} even, {part['loss']} lost of {len(questions)}, judged by {by.model}: "
        f"{by.requests} requests, {by.prompt_tokens} tokens read and {by.answer_tokens} written{cost}"
    )
    for what, count in (("have no reference answer and are left out", left_out), ("the judge refused", part["unjudged"])):
        if count:
            _say(f"{name}: {count} questions {what}")
    return part, lines


def _passes(program: str) -> bool:
    return sandbox.run(program).passed


def _stay_offline(cache: str) -> None:
    """No library may ask the network, nor write outside /tmp; only what is set before their import counts."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": cache}
    os.environ["TQDM_DISABLE"] = "1"


def _check_rows(tokenizer: "PreTrainedTokenizerBase", folder: Path, rows: int) -> None:
    """Refuse a chat template with tokens that the model has no rows for; those of text have been looked at."""
    asked: Any = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], add_generation_prompt=True, return_dict=True)
    if beyond := sorted({row for row in asked["input_ids"] if row >= rows}):
        names = listed([repr(tokenizer.convert_ids_to_tokens(row)) for row in beyond], 3)
        raise DataError(
            f"--model_name_or_path: {folder}: its chat template has {names}, and the model {rows} rows, none for that; take "
            f"tokenizer and model from one place, or add rows: model.resize_token_embeddings({beyond[-1] + 1}) before "
            "save_pretrained"
        )


def _perplexity(model: "Model", held_out: "Records", options: Evaluate, progress: Reporter) -> dict[str, Any]:
    from minima.training import perplexity
    from minima.training.group import Alone

    found = perplexity.measure(
        model,
        held_out,
        max_seq_length=model.config.max_position_embeddings,
        batch_size=options.per_device_eval_batch_size,
        chunk_size=LOGIT_TOKENS,
        document_mask=options.document_mask,
        group=Alone(),
        progress=progress,
    )
    if not math.isfinite(found.value):
        raise DataError(f"--model_name_or_path: the loss on the held-out records is {found.value}; its weights are broken")
    return {
        "dev_perplexity": found.value,
        "tokens": found.tokens,
        "records": len(held_out),
        "document_mask": options.document_mask,
    }


def _described(data: Data, protocol: "Protocol", score: "Score") -> dict[str, Any]:
    benchmark = data.benchmark
    own_rule = (
        protocol.shots == benchmark.shots and not protocol.chat and score.generated_tokens is None and not score.cut_prompts
    )
    return {
        "score": score.value,
        "stderr": score.stderr,
        "metric": score.metric,
        "others": dict(score.others),
        "protocol": protocol.name,
        "task": benchmark.task if protocol.name == STANDARD else benchmark.script,
        "dataset": benchmark.dataset or "ships with minima",
        "split": benchmark.scored,
        "shots": protocol.shots,
        "chat_template": protocol.chat,
        "items": data.items,
        "partial": data.partial,
        "rows_of_the_copy": data.rows,
        "comparable": protocol.name == PAPER and own_rule and not data.partial,
        "missing_subjects": list(data.missing),
        "subjects": {name: dict(part) for name, part in score.subjects.items()},
        "generated_tokens_lowered_to": score.generated_tokens,
        "cut_prompts": score.cut_prompts,
        "longest_cut_prompt": score.longest_cut_prompt,
    }


def _write_lines(place: Path, rows: list[dict[str, Any]]) -> None:
    _write(place, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


def _write(place: Path, text: str) -> None:
    place.write_text(text, encoding="utf-8")


def _say(text: str) -> None:
    print(f"evaluate: {text}", file=sys.stderr, flush=True)
