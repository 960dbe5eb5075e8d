"""What the training stages share besides the loop: where a model and records come from, and where the result goes."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from minima.data.records import Records, find
from minima.models import pretrained
from minima.options import Training, split_digest
from minima.workspace.artifact import Output


def place(value: str) -> Path:
    """The path of an input option, without its digest."""
    return Path(split_digest(value)[0])


def records(value: str) -> Records | None:
    """The records that an input option names; None for an empty one."""
    return Records(find(place(value))) if value else None


def dtype(options: Training) -> torch.dtype:
    """The type that weights are computed with, and written in."""
    return torch.bfloat16 if options.use_bf16 else torch.float32


def load(value: str, options: Training) -> LlamaForCausalLM:
    """The model that an input option names, on this process's device."""
    return pretrained.load(
        place(value), dtype=dtype(options), attn_implementation=options.attn_implementation, device=pretrained.device()
    )


def write(trained: Any, value: str, options: Training, output: Output, made_of: dict[str, str]) -> None:
    """Write a trained LLaMA as the artifact's model folder, with the tokenizer of the model that `value` names."""
    output.check_lease()
    output.progress.phase("writing")
    pretrained.save(trained, place(value), output.folder, verb=options.verb, made_of=made_of, dtype=dtype(options))
