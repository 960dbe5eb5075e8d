"""Choosing parts of a LLaMA's weights along its axes: a permutation reorders them, a prefix cuts them.

Axes: `hidden` (the residual stream), per layer `queries` and `keys` (rows of head_dim for each head, by key-value
group) and `neurons` (the feed-forward layer). The vocabulary is never cut.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import LlamaConfig

from minima.errors import DataError
from minima.models import pretrained

_AXES = {
    "self_attn.q_proj": ("queries", "hidden"),
    "self_attn.k_proj": ("keys", "hidden"),
    "self_attn.v_proj": ("keys", "hidden"),
    "self_attn.o_proj": ("hidden", "queries"),
    "mlp.gate_proj": ("neurons", "hidden"),
    "mlp.up_proj": ("neurons", "hidden"),
    "mlp.down_proj": ("hidden", "neurons"),
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
}


@dataclass(frozen=True)
class Selection:
    """Which parts of a model to take, and in which order. All tensors are int64.

    Attributes:
        layers: numbers of the layers.
        hidden: hidden channels, [h].
        groups: key-value groups of each layer of the model, also of those not taken, [L, g].
        neurons: feed-forward neurons of each layer of the model, [L, f].
    """

    layers: list[int]
    hidden: torch.Tensor
    groups: torch.Tensor
    neurons: torch.Tensor

    def indices(self, config: LlamaConfig, layer: int) -> dict[str, torch.Tensor]:
        """Indices along each axis in `layer` of a model with this `config`."""
        width = pretrained.head_dim(config)
        return {
            "hidden": self.hidden,
            "queries": _rows(self.groups[layer], width * config.num_attention_heads // pretrained.kv_heads(config)),
            "keys": _rows(self.groups[layer], width),
            "neurons": self.neurons[layer],
        }


def _rows(blocks: torch.Tensor, width: int) -> torch.Tensor:
    return (blocks[:, None] * width + torch.arange(width)).flatten()


def select(
    folder: str | Path, config: LlamaConfig, selection: Selection, *, norm_scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """The chosen part of the weights in `folder`, with layers numbered anew; read one tensor at a time.

    Args:
        folder: a model folder.
        config: its configuration.
        selection: what to take.
        norm_scale: factor on the weights of all norms.

    Raises:
        DataError: a tensor is missing, or has another shape than the configuration says.
    """
    sizes = {
        "hidden": config.hidden_size,
        "queries": config.num_attention_heads * pretrained.head_dim(config),
        "keys": pretrained.kv_heads(config) * pretrained.head_dim(config),
        "neurons": config.intermediate_size,
        "vocabulary": config.vocab_size,
    }
    files = _files(Path(folder))
    chosen = {}
    for target, source, layer, axes in _names(config, selection.layers):
        tensor = _read(Path(folder), files, source)
        expected = tuple(sizes[axis] for axis in axes)
        if tuple(tensor.shape) != expected:
            raise DataError(f"{folder}: {source} has shape {list(tensor.shape)}, config.json implies {list(expected)}")
        indices = selection.indices(config, layer)
        for dimension, axis in enumerate(axes):
            if axis != "vocabulary":
                tensor = tensor.index_select(dimension, indices[axis])
        if "norm" in target and norm_scale != 1.0:
            tensor = (tensor.float() * norm_scale).to(tensor.dtype)
        chosen[target] = tensor
    return chosen


def _names(config: LlamaConfig, layers: list[int]) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Name there, name here, number of the layer here (0 outside of layers), axes."""
    outside = {"model.embed_tokens.weight": ("vocabulary", "hidden"), "model.norm.weight": ("hidden",)}
    if not config.tie_word_embeddings:
        outside["lm_head.weight"] = ("vocabulary", "hidden")
    for name, axes in outside.items():
        yield name, name, 0, axes
    for there, here in enumerate(layers):
        for part, axes in _AXES.items():
            yield f"model.layers.{there}.{part}.weight", f"model.layers.{here}.{part}.weight", here, axes
            if (part.startswith("self_attn") and config.attention_bias) or (part.startswith("mlp") and config.mlp_bias):
                yield f"model.layers.{there}.{part}.bias", f"model.layers.{here}.{part}.bias", here, axes[:1]


def _files(folder: Path) -> dict[str, str]:
    """The file of each tensor."""
    index = folder / pretrained.WEIGHTS_INDEX
    if (folder / pretrained.WEIGHTS).is_file():
        with _opened(folder / pretrained.WEIGHTS) as file:
            return dict.fromkeys(file.keys(), pretrained.WEIGHTS)
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{index}: not an index of weights ({error!r})") from None


def _read(folder: Path, files: dict[str, str], name: str) -> torch.Tensor:
    if name not in files:
        raise DataError(f"{folder}: its weights lack {name}")
    with _opened(folder / files[name]) as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[Any]:
    try:
        with safe_open(place, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise DataError(f"{place}: cannot be read ({error})") from None
