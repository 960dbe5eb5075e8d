"""`minima prune`: score the parts of a teacher, and write it with its heads, neurons and hidden channels in order of score.

Besides the reordered model, which computes what the teacher does, the folder holds `importance.safetensors` (SCORES)
and `sparsity_map.json`. Cutting the model is `minima convert`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from minima.data import tokenization
from minima.data.batch import Batch, collate
from minima.data.records import Records, find
from minima.errors import DataError, UsageError
from minima.models import importance, placement, pretrained, weights
from minima.options import Prune, split_digest
from minima.workspace.artifact import Output

SPARSITY_MAP = "sparsity_map.json"
HIGHEST = 700.0
"""Nats per token; more has no perplexity, and no language model has it."""


def run(options: Prune, output: Output) -> dict[str, Any]:
    """Score and reorder the teacher.

    Raises:
        DataError: the model or the records cannot be read, or do not fit each other.
        UsageError: a record is shorter than two tokens.
    """
    teacher_folder, _ = split_digest(options.teacher_model_name_or_path)
    record_path, _ = split_digest(options.record_path_or_regex)
    paths = find(record_path, "train")
    tokenization.check_records(paths, "record_path_or_regex", tokenization.load(teacher_folder))
    records = Records(paths)
    if len(records) == 0:
        raise DataError(f"--record_path_or_regex: {record_path} holds no record")
    pretrained.check_positions(pretrained.config(teacher_folder), options.max_seq_length)
    numbers = choose(len(records), options.num_examples, options.seed)
    for number in numbers:  # Before hours of scoring.
        cut(records[number], number, options.max_seq_length)
    output.progress.phase("loading")
    teacher = pretrained.load(
        teacher_folder,
        dtype=torch.bfloat16 if options.use_bf16 else torch.float32,
        attn_implementation=options.attn_implementation,
        device=placement.device(),
    )

    def batches(numbers: Sequence[int], what: str) -> Iterator[Batch]:
        size = options.per_device_eval_batch_size
        starts = range(0, len(numbers), size)
        for start in output.progress.track(starts, what, len(starts), "batches"):
            examples = [cut(records[n], n, options.max_seq_length) for n in numbers[start : start + size]]
            made = collate(examples, teacher.config, options.max_seq_length, document_mask=options.document_mask)
            yield made.to(teacher.device)

    scores = importance.score(teacher, batches(numbers, "scoring parts"), published_rule=options.published_rule)
    if scores.tokens == 0:
        raise DataError(f"--record_path_or_regex: no label counts in the first {options.max_seq_length} tokens of any record")
    if not scores.loss < HIGHEST:
        raise DataError(f"--teacher_model_name_or_path: the loss of {teacher_folder} is {scores.loss}; are its weights sound?")
    selection = weights.Selection(
        layers=list(range(teacher.config.num_hidden_layers)),
        hidden=importance.order(scores.hidden),
        groups=importance.order(scores.heads),
        neurons=importance.order(scores.neurons),
    )
    tensors = {
        "heads": scores.heads,
        "neurons": scores.neurons,
        "hidden": scores.hidden,
        "head_order": selection.groups,
        "neuron_order": selection.neurons,
        "hidden_order": selection.hidden,
    }
    metrics: dict[str, Any] = {
        "loss": scores.loss,
        "perplexity": math.exp(scores.loss),
        "examples": len(numbers),
        "tokens": scores.tokens,
    }
    if options.num_layer_examples:
        rises = importance.layer_rises(teacher, batches(numbers[: options.num_layer_examples], "scoring layers"))
        tensors["layers"] = rises
        for name, layer in (("least", int(rises.argmin())), ("most", int(rises.argmax()))):
            metrics |= {f"{name}_needed_layer": layer, f"{name}_needed_layer_rise": rises[layer].item()}
    metrics |= placement.of(teacher)

    output.progress.phase("writing")
    # The weights are permuted as the folder holds them, not as they were computed with.
    reordered = weights.select(teacher_folder, teacher.config, selection)
    pretrained.save(
        teacher,
        teacher_folder,
        output.folder,
        verb=options.verb,
        made_of={"teacher_model_name_or_path": teacher_folder, "record_path_or_regex": record_path},
        state_dict=reordered,
        dtype=reordered["model.embed_tokens.weight"].dtype,
    )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, output.folder / importance.SCORES)
    text = json.dumps(importance.sparsity_map(scores), indent=1) + "\n"
    (output.folder / SPARSITY_MAP).write_text(text, encoding="utf-8")
    return metrics


def choose(available: int, wanted: int, seed: int) -> list[int]:
    """Numbers of the records to score on: a pure function of its arguments."""
    return np.random.default_rng(seed).permutation(available)[:wanted].tolist()


def cut(record: dict[str, np.ndarray], number: int, max_seq_length: int) -> dict[str, np.ndarray]:
    """The first `max_seq_length` tokens of a record.

    Raises:
        UsageError: it has less than two.
    """
    if len(record["indices"]) < 2:
        raise UsageError(f"--record_path_or_regex: record {number} has {len(record['indices'])} tokens; at least 2 are valid")
    return {name: feature[:max_seq_length] for name, feature in record.items()}
