"""The folders at both ends of a training: where its models and records come from, and where the result goes."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from minima.data.records import Records, find
from minima.models import pretrained
from minima.options import Training, inputs, split_digest
from minima.workspace.artifact import Output


def place(value: str) -> Path:
    """The path of an input option, without its digest."""
    return Path(split_digest(value)[0])


def records(value: str) -> Records:
    """The records that an input option names."""
    return Records(find(place(value)))


def held_out(options: Training) -> Records | None:
    """The records for perplexity, if the options name any."""
    return records(options.dev_record_path_or_regex) if options.dev_record_path_or_regex else None


def model(value: str, options: Training) -> LlamaForCausalLM:
    """The model that an input option names, on this process's device."""
    return pretrained.load(
        place(value), dtype=_dtype(options), attn_implementation=options.attn_implementation, device=pretrained.device()
    )


def write(trained: Any, value: str, options: Training, output: Output) -> None:
    """Write a trained LLaMA as the artifact's model folder, with the tokenizer of the model that `value` names."""
    output.check_lease()
    output.progress.phase("writing")
    made_of = {name: getattr(options, name) for name in inputs(type(options)) if name != "dev_record_path_or_regex"}
    pretrained.save(trained, place(value), output.folder, verb=options.verb, made_of=made_of, dtype=_dtype(options))


def _dtype(options: Training) -> torch.dtype:
    """The type that weights are computed with, and written in."""
    return torch.bfloat16 if options.use_bf16 else torch.float32
