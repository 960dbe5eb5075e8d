"""How much each part of a LLaMA matters, by gradients of the loss with respect to masks of ones, and by leaving it out.

Masks, as published: one multiplies a head's output before o_proj (with grouped queries: one for the heads of a key-value
group), one a neuron before down_proj, one the hidden channels wherever the residual stream is written: the embedding, and in
every layer the attention's output, the residual after it, the mlp's output and the residual after that. At a mask of ones the
gradient of the mask is activation × gradient of the activation, so no mask need exist: hooks on the unchanged model
multiply the two, with all weights frozen.

Axes: L layers, G key-value groups, F neurons, H hidden channels, B sequences, T tokens of a sequence.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from minima.data.batch import IGNORE, Batch
from minima.models import pretrained

SCORES = "importance.safetensors"
"""Tensors, all in the teacher's order: `heads` [L, G], `neurons` [L, F], `hidden` [H], and `layers` [L], by how many nats the
loss rises without each layer; and int64 `head_order`, `neuron_order`, `hidden_order`: place j of the reordered model holds
what the teacher has at place order[j]."""
SPARSITIES = (*range(0, 91, 10), 85, *range(95, 100))


@dataclass(frozen=True)
class Scores:
    """Importance, L2-normalised: in each layer for heads and neurons, once for hidden channels.

    Attributes:
        heads: [L, G].
        neurons: [L, F].
        hidden: [H].
        loss: mean cross entropy of the tokens scored on, in nats.
        tokens: their number.
    """

    heads: torch.Tensor
    neurons: torch.Tensor
    hidden: torch.Tensor
    loss: float
    tokens: int


def score(model: pretrained.Model, batches: Iterable[Batch], *, published_rule: bool = False) -> Scores:
    """Score heads, neurons and hidden channels of `model` on `batches`.

    By default each token has masks of its own ([B, T, ·], those of the hidden channels shared by all places), and the
    absolute values of their gradients are summed: signs cannot cancel, and the batch size does not matter. The published rule
    (arXiv 2311.07052) takes the absolute value of a batch's summed gradient, and the mean over batches.
    """
    config = model.config
    dtype = torch.promote_types(model.dtype, torch.float32)
    totals = {
        "heads": torch.zeros(config.num_hidden_layers, pretrained.kv_heads(config), dtype=dtype, device=model.device),
        "neurons": torch.zeros(config.num_hidden_layers, config.intermediate_size, dtype=dtype, device=model.device),
        "hidden": torch.zeros(config.hidden_size, dtype=dtype, device=model.device),
    }
    loss_sum, tokens = 0.0, 0
    model.requires_grad_(False)
    for batch in batches:
        found = {name: torch.zeros_like(total) for name, total in totals.items()}
        loss_sum += _backward(model, batch, found, summed=published_rule)
        for name, total in totals.items():
            # Published: the gradient of the batch's mean loss. Dividing by the number of batches would cancel below.
            total += found[name].abs() / max(batch.trained, 1) if published_rule else found[name]
        tokens += batch.trained
    normalised = {name: functional.normalize(total, dim=-1, eps=1e-17).float().cpu() for name, total in totals.items()}
    return Scores(**normalised, loss=loss_sum / max(tokens, 1), tokens=tokens)


def _backward(model: pretrained.Model, batch: Batch, totals: dict[str, torch.Tensor], *, summed: bool) -> float:
    """Add the masks' gradients of the summed loss (their absolute values unless `summed`) to `totals`; return the loss."""
    ids_BT = batch.input_ids
    dtype = totals["hidden"].dtype
    hidden_BTH = torch.zeros(*ids_BT.shape, model.config.hidden_size, dtype=dtype, device=model.device)

    def add(total: torch.Tensor, gradient_BTX: torch.Tensor) -> None:
        total += (gradient_BTX if summed else gradient_BTX.abs()).sum((0, 1))

    def add_heads(layer: int, value: torch.Tensor, gradient: torch.Tensor) -> None:
        product = value.to(dtype) * gradient.to(dtype)
        add(totals["heads"][layer], product.unflatten(-1, (totals["heads"].shape[1], -1)).sum(-1))

    def add_neurons(layer: int, value: torch.Tensor, gradient: torch.Tensor) -> None:
        add(totals["neurons"][layer], value.to(dtype) * gradient.to(dtype))

    def add_hidden(written: list[torch.Tensor], gradient: torch.Tensor) -> None:
        for value in written:
            hidden_BTH.add_(value.to(dtype) * gradient.to(dtype))

    handles = [*_watch_stream(model, add_hidden)]
    for number, layer in enumerate(model.model.layers):
        for projection, take in ((layer.self_attn.o_proj, add_heads), (layer.mlp.down_proj, add_neurons)):

            def watch(module: Any, args: tuple[torch.Tensor], take: Any = take, number: int = number) -> None:
                value = args[0].detach()
                args[0].register_hook(lambda gradient: take(number, value, gradient))

            handles.append(projection.register_forward_pre_hook(watch))
    try:
        with torch.enable_grad():
            logits_BTV = model(input_ids=ids_BT, use_cache=False, **batch.documents).logits
            loss = cross_entropy_sum(logits_BTV, batch.labels)
            loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    add(totals["hidden"], hidden_BTH)
    return loss.item()


def _watch_stream(model: pretrained.Model, add: Callable[[list[torch.Tensor], torch.Tensor], None]) -> list[Any]:
    """Hook every place where the residual stream is written; `add` gets what was written and its gradient.

    A sum and its last summand have the same gradient, so each residual is given together with what was added to it.
    """
    written: dict[str, torch.Tensor] = {}

    def embedding(module: Any, args: Any, output: torch.Tensor) -> None:
        value = output.detach()
        output.requires_grad_(True)
        output.register_hook(lambda gradient: add([value], gradient))

    def remember(module: Any, args: Any, output: torch.Tensor) -> None:
        written["last"] = output.detach()

    def residual(stream: torch.Tensor) -> None:
        values = [stream.detach(), written.pop("last")]
        stream.register_hook(lambda gradient: add(values, gradient))

    handles = [model.model.embed_tokens.register_forward_hook(embedding)]
    for layer in model.model.layers:
        handles += [
            layer.self_attn.o_proj.register_forward_hook(remember),
            layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: residual(args[0])),
            layer.mlp.down_proj.register_forward_hook(remember),
            layer.register_forward_hook(lambda module, args, output: residual(output)),
        ]
    return handles


def cross_entropy_sum(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Cross entropy summed over the tokens that count, in nats, in at least fp32."""
    wide = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    return functional.cross_entropy(wide.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORE, reduction="sum")


@torch.no_grad()
def layer_rises(model: pretrained.Model, batches: Iterable[Batch]) -> torch.Tensor:
    """By how much the mean loss rises when one layer is left out: float64 [L], in nats.

    What goes into each layer is kept, so leaving out layer i only computes the layers above it.
    """
    layers = model.model.layers
    inputs: list[torch.Tensor] = []

    def remember(module: Any, args: tuple[torch.Tensor]) -> None:
        inputs.append(args[0])

    losses = torch.zeros(len(layers) + 1, dtype=torch.float64)
    tokens = 0
    for batch in batches:
        inputs.clear()
        handles = [layer.register_forward_pre_hook(remember) for layer in layers]
        try:
            logits_BTV = model(input_ids=batch.input_ids, use_cache=False, **batch.documents).logits
            losses[-1] += cross_entropy_sum(logits_BTV, batch.labels).item()
        finally:
            for handle in handles:
                handle.remove()
        try:
            for number, before in enumerate(inputs):
                model.model.layers = layers[number + 1 :]
                logits_BTV = model(inputs_embeds=before, use_cache=False, **batch.documents).logits
                losses[number] += cross_entropy_sum(logits_BTV, batch.labels).item()
        finally:
            model.model.layers = layers
        tokens += batch.trained
    return (losses[:-1] - losses[-1]) / max(tokens, 1)


def order(scores: torch.Tensor) -> torch.Tensor:
    """Numbers of the parts by falling score along the last axis, the lower number first where scores are equal; int64."""
    return torch.argsort(scores, dim=-1, descending=True, stable=True)


def sparsity_map(scores: Scores) -> dict[str, dict[str, Any]]:
    """For each sparsity in percent, how many hidden channels, and heads and neurons of each layer, to leave out.

    With q = 100 − round(100·√(1 − s/100)): q % of the hidden channels, and the heads and neurons whose normalised scores are
    the lowest q % over all layers. (As published; q never exceeds 90, so the rule for more than 90 % has no use here.)
    """
    chosen = {}
    for sparsity in SPARSITIES:
        q = 100 - round(100 * math.sqrt(1 - sparsity / 100))
        chosen[str(sparsity)] = {
            "hidden": round(q / 100 * len(scores.hidden)),
            "heads": _lowest(scores.heads, q),
            "neurons": _lowest(scores.neurons, q),
        }
    return chosen


def _lowest(scores_LX: torch.Tensor, percent: int) -> list[int]:
    """How many of the lowest `percent` of all scores lie in each layer."""
    layers, width = scores_LX.shape
    lowest = torch.argsort(scores_LX.flatten(), stable=True)[: round(percent / 100 * layers * width)]
    return torch.bincount(lowest // width, minlength=layers).tolist()
