"""Choosing parts of a model's weights along its axes: a permutation reorders them, a prefix cuts them.

Axes: `hidden` (the residual stream), per layer `queries` and `keys` (rows of head_dim for each head, by key-value
group) and `neurons` (the feed-forward layer). The vocabulary is never cut.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from minima.errors import DataError
from minima.models import pretrained
from minima.workspace import weight_files
from minima.workspace.model_folder import EMBEDDINGS, HEAD

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

    def indices(self, config: pretrained.Config, layer: int) -> dict[str, torch.Tensor]:
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
    folder: str | Path, config: pretrained.Config, selection: Selection, *, norm_scale: float = 1.0
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
    files = {name: tensor.file for name, tensor in weight_files.tensors(Path(folder)).items()}
    chosen = {}
    for target, source, layer, axes in _names(config, selection.layers):
        tied = config.tie_word_embeddings and source == EMBEDDINGS and source not in files
        tensor = _read(Path(folder), files, HEAD if tied else source)
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


def _names(config: pretrained.Config, layers: list[int]) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Name there, name here, number of the layer here (0 outside of layers), axes."""
    outside = {EMBEDDINGS: ("vocabulary", "hidden"), "model.norm.weight": ("hidden",)}
    if not config.tie_word_embeddings:
        outside[HEAD] = ("vocabulary", "hidden")
    for name, axes in outside.items():
        yield name, name, 0, axes
    shape = pretrained.shape(config)
    biases = {"q": shape.qkv_bias, "k": shape.qkv_bias, "v": shape.qkv_bias, "o": shape.output_bias}
    for there, here in enumerate(layers):
        for part, axes in _AXES.items():
            yield f"model.layers.{there}.{part}.weight", f"model.layers.{here}.{part}.weight", here, axes
            if "proj" in part and (shape.mlp_bias if part.startswith("mlp") else biases[part.split(".")[1][0]]):
                yield f"model.layers.{there}.{part}.bias", f"model.layers.{here}.{part}.bias", here, axes[:1]


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
