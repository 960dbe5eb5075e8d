"""`minima convert`: cut a reordered model to a smaller shape, as a plain model of its family."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import LlamaConfig, Qwen2Config

from minima.errors import DataError, UsageError
from minima.models import pretrained, shape, weights
from minima.models.importance import SCORES
from minima.options import Convert, split_digest
from minima.workspace.artifact import Output


def run(options: Convert, output: Output) -> dict[str, Any]:
    """Cut the model in `model_name_or_path` to the shape that `options` say.

    Raises:
        DataError: it is not a folder that prune made.
        UsageError: the shape cannot be cut from it, or layers are chosen in a way that does not work.
    """
    output.progress.phase("cutting")
    folder = Path(split_digest(options.model_name_or_path)[0])
    teacher = pretrained.align(pretrained.config(folder), folder)
    scores = _scores(folder)
    smaller = student(options, teacher)
    layers = keep_layers(options, teacher.num_hidden_layers, scores)
    groups = torch.arange(pretrained.kv_heads(smaller)).expand(teacher.num_hidden_layers, -1)
    neurons = torch.arange(smaller.intermediate_size).expand(teacher.num_hidden_layers, -1)
    selection = weights.Selection(layers, torch.arange(smaller.hidden_size), groups, neurons)
    scale = 1.0 if options.published_rule else math.sqrt(teacher.hidden_size / smaller.hidden_size)
    tensors = weights.select(folder, teacher, selection, norm_scale=scale)
    if pretrained.shape(smaller).output_bias and not pretrained.shape(teacher).output_bias:
        like = tensors["model.norm.weight"]
        tensors |= {f"model.layers.{n}.self_attn.o_proj.bias": torch.zeros_like(like) for n in range(options.layer)}

    output.progress.phase("writing")
    with torch.device("meta"):
        cut = pretrained.FAMILIES[smaller.model_type][1](smaller)
    cut.generation_config = pretrained.generation(folder, teacher)
    pretrained.save(
        cut,
        folder,
        output.folder,
        verb=options.verb,
        made_of={"model_name_or_path": str(folder)},
        state_dict=tensors,
        dtype=tensors["model.embed_tokens.weight"].dtype,
    )
    return {
        "parameters": pretrained.shape(smaller).parameters,
        "parameters_teacher": pretrained.shape(teacher).parameters,
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
        UsageError: the layers were not measured.
    """
    if options.listed_layers:
        return options.listed_layers
    if options.published_rule or options.keep_layers == "middle":
        below = (available - options.layer) // 2
        return list(range(below, below + options.layer))
    if "layers" not in scores:
        raise UsageError(
            "--keep_layers measured: prune left the layers out (--num_layer_examples 0); run it with more, or give "
            "`--keep_layers middle` or a list such as 0,1,4"
        )
    rises = scores["layers"]
    if len(rises) != available:
        raise DataError(f"{SCORES}: scores of {len(rises)} layers, config.json says {available}; run `minima prune` again")
    return sorted(torch.argsort(rises, descending=True, stable=True)[: options.layer].tolist())


def student(options: Convert, teacher: pretrained.Config) -> pretrained.Config:
    """The student's configuration.

    RMSNorm divides by the mean square of H channels; if only h of them are left, weights × √(H/h) and eps × H/h give what it
    gave when the others were 0.

    A Qwen2 whose heads are not hidden / heads wide goes on as a LLaMA with biases, those behind the heads 0, which computes
    the same: vLLM has no other width for Qwen2.

    Raises:
        UsageError: the shape cannot be cut from the teacher's.
    """
    whole = pretrained.shape(teacher)
    for option, what in shape.problems(whole, options):
        raise UsageError(f"--{option}: {what}")
    made = shape.cut(whole, options)
    ratio = 1.0 if options.published_rule else whole.hidden / made.hidden
    raw = {
        **teacher.to_dict(),
        "hidden_size": made.hidden,
        "intermediate_size": made.intermediate,
        "num_hidden_layers": made.layer,
        "num_attention_heads": made.head,
        "num_key_value_heads": made.kv_head,
        "head_dim": made.head_dim,
        "rms_norm_eps": teacher.rms_norm_eps * ratio,
    }
    raw.pop("layer_types", None)  # Of as many layers as the teacher has; all are alike.
    if not isinstance(teacher, Qwen2Config):
        return type(teacher)(**raw)
    if made.head * made.head_dim == made.hidden:
        return Qwen2Config(**{name: value for name, value in raw.items() if name != "head_dim"})
    windows = ("sliding_window", "use_sliding_window", "max_window_layers", "model_type")
    return LlamaConfig(**{name: value for name, value in raw.items() if name not in windows}, attention_bias=True)
