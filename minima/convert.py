"""`minima convert`: cut a reordered model to a smaller shape, as a plain LLaMA."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from minima import model, weights
from minima.artifact import Output, split_digest
from minima.errors import DataError, UsageError
from minima.options import Convert
from minima.prune import SCORES


def run(options: Convert, output: Output) -> dict[str, Any]:
    """Cut the model in `model_name_or_path` to the shape that `options` say.

    Raises:
        DataError: it is not a folder that prune made.
        UsageError: the shape cannot be cut from it, or layers are chosen in a way that does not work.
    """
    folder = Path(split_digest(options.model_name_or_path)[0])
    teacher = model.config(folder)
    scores = _scores(folder)
    layers = keep_layers(options, teacher.num_hidden_layers, scores)
    shape = student_shape(options, teacher)
    groups = torch.arange(model.kv_heads(shape)).expand(teacher.num_hidden_layers, -1)
    neurons = torch.arange(shape.intermediate_size).expand(teacher.num_hidden_layers, -1)
    selection = weights.Selection(layers, torch.arange(shape.hidden_size), groups, neurons)
    scale = 1.0 if options.published_rule else math.sqrt(teacher.hidden_size / shape.hidden_size)
    tensors = weights.select(folder, teacher, selection, norm_scale=scale)

    with torch.device("meta"):
        student = LlamaForCausalLM(shape)
    if (folder / "generation_config.json").is_file():
        student.generation_config = GenerationConfig.from_pretrained(folder)
    model.save(
        student,
        folder,
        output.folder,
        verb=options.verb,
        made_of={"model_name_or_path": str(folder)},
        state_dict=tensors,
        dtype=tensors["model.embed_tokens.weight"].dtype,
    )
    return {
        "parameters": model.parameter_count(shape),
        "parameters_teacher": model.parameter_count(teacher),
        "layers": ",".join(map(str, layers)),
    }


def _scores(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / SCORES).is_file():
        raise DataError(f"--model_name_or_path: {folder} has no {SCORES}; valid: a folder that `minima prune` made")
    try:
        return load_file(folder / SCORES)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / SCORES}: cannot be read ({error}); run `minima prune` again") from None


def keep_layers(options: Convert, available: int, scores: dict[str, torch.Tensor]) -> list[int]:
    """The numbers of the layers that stay, rising.

    `measured` drops the layers without which the loss rises least. `middle`, also the published rule, drops as many below as
    above, and one more above if the number to drop is odd.

    Raises:
        DataError: the scores are not those of this model.
        UsageError: there are too few layers, or the list or the rule does not work.
    """
    rule, count = options.keep_layers, options.layer
    if count > available:
        raise UsageError(f"--layer: {count} of {available} layers; valid: 1 to {available}")
    if rule not in {"measured", "middle"}:
        if options.published_rule:
            raise UsageError(f"--keep_layers {rule} contradicts --published_rule, which keeps the middle layers; give only one")
        return _listed(rule, count, available)
    if options.published_rule or rule == "middle":
        below = (available - count) // 2
        return list(range(below, below + count))
    if "layers" not in scores:
        raise UsageError(
            "--keep_layers measured: prune left the layers out (--num_layer_examples 0); run it with more, or give "
            "`--keep_layers middle` or a list such as 0,1,4"
        )
    rises = scores["layers"]
    if len(rises) != available:
        raise DataError(f"{SCORES}: scores of {len(rises)} layers, config.json says {available}; run `minima prune` again")
    return sorted(torch.argsort(rises, descending=True, stable=True)[:count].tolist())


def _listed(rule: str, count: int, available: int) -> list[int]:
    try:
        numbers = [int(part) for part in rule.split(",")]
    except ValueError:
        raise UsageError(f"--keep_layers {rule!r}: valid: measured, middle, or numbers such as 0,1,4") from None
    if numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= available or len(numbers) != count:
        raise UsageError(f"--keep_layers {rule}: valid: {count} (--layer) rising numbers from 0 to {available - 1}")
    return numbers


def student_shape(options: Convert, teacher: LlamaConfig) -> LlamaConfig:
    """The student's configuration.

    The width of a head, and the number of queries of a key-value head, stay the teacher's. RMSNorm divides by the mean square
    of H channels; if only h of them are left, weights × √(H/h) and eps × H/h give what it gave when the others were 0.

    Raises:
        UsageError: the shape cannot be cut from the teacher's.
    """
    for option, wanted, there in (
        ("hidden", options.hidden, teacher.hidden_size),
        ("head", options.head, teacher.num_attention_heads),
        ("intermediate", options.intermediate, teacher.intermediate_size),
    ):
        if wanted > there:
            raise UsageError(f"--{option}: {wanted}, the model has {there}; valid: 1 to {there}")
    queries = teacher.num_attention_heads // model.kv_heads(teacher)
    kv_head = options.kv_head or options.head // queries
    if kv_head * queries != options.head:
        valid = ", ".join(f"{queries * k} with {k}" for k in range(1, model.kv_heads(teacher) + 1))
        raise UsageError(
            f"--head {options.head} --kv_head {options.kv_head}: each key-value head keeps its {queries} queries; "
            f"valid (head with kv_head): {valid}"
        )
    if options.hidden % options.head:
        lower = options.hidden // options.head * options.head
        near = [size for size in (lower, lower + options.head) if 0 < size <= teacher.hidden_size]
        raise UsageError(
            f"--hidden: {options.hidden} is not a multiple of --head {options.head}; "
            f"nearest valid: {' and '.join(map(str, near))}"
        )
    ratio = 1.0 if options.published_rule else teacher.hidden_size / options.hidden
    return LlamaConfig(
        **{
            **teacher.to_dict(),
            "hidden_size": options.hidden,
            "intermediate_size": options.intermediate,
            "num_hidden_layers": options.layer,
            "num_attention_heads": options.head,
            "num_key_value_heads": kv_head,
            "head_dim": model.head_dim(teacher),
            "rms_norm_eps": teacher.rms_norm_eps * ratio,
        }
    )
