"""Mask gradients against explicit masks and finite differences; layer scores against models without the layer."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from minima.data.batch import IGNORE, Batch
from minima.models import importance
from tests.unit import families, tiny

LAYERS, HIDDEN, HEADS, NEURONS, VOCAB = 3, 24, 6, 20, 61


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm without its cast to fp32, which would hide everything below 1e-6."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for norm in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


def llama(kv_heads: int = 3, *, tied: bool = False, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    return tiny.llama(LAYERS, HIDDEN, HEADS, kv_heads, NEURONS, VOCAB, tied=tied, dtype=dtype)


def batches(count: int = 3, size: int = 2, tokens: int = 7, seed: int = 1, vocab: int = VOCAB) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(vocab, (size, tokens + 1), generator=generator)
        labels = ids[:, 1:].clone()
        labels[0, tokens - 2 :] = IGNORE
        made.append(batch(ids[:, :-1], labels))
    return made


def batch(ids: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch(ids, labels, int((labels != IGNORE).sum()), ids.numel())


class Masks:
    """Real masks of ones, with `shape` before the masked axis."""

    def __init__(self, model: Any, *shape: int) -> None:
        config = model.config
        layers, groups, inner = config.num_hidden_layers, config.num_key_value_heads, config.intermediate_size

        def ones(*sizes: int) -> torch.Tensor:
            return torch.ones(*sizes, dtype=torch.float64, requires_grad=True)

        self.heads, self.neurons = ones(layers, *shape, groups), ones(layers, *shape, inner)
        self.hidden = ones(*shape, config.hidden_size)

    def gradients(self) -> list[torch.Tensor]:
        return [mask.grad for mask in (self.heads, self.neurons, self.hidden) if mask.grad is not None]


def masked_loss(model: Any, masks: Masks, data: Batch, reduction: str = "mean") -> torch.Tensor:
    """The published masked LLaMA, spelled out from the weights alone (transformers gives only the rotation).

    Biases are where the weights have some; a window of w lets a token see itself and w - 1 before it.
    """
    ids, labels = data.input_ids, data.labels
    weight, config = dict(model.named_parameters()), model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = config.num_attention_heads // config.num_key_value_heads

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, weight[f"{name}.weight"], weight.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return weight[name] * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, name).unflatten(-1, (-1, width)).transpose(1, 2)

    tokens = ids.shape[1]
    future = torch.full((tokens, tokens), -math.inf, dtype=torch.float64).triu(1)
    if window := getattr(config, "sliding_window", None):
        future += torch.full((tokens, tokens), -math.inf, dtype=torch.float64).tril(-window)
    x = weight["model.embed_tokens.weight"][ids] * masks.hidden
    cos, sin = model.model.rotary_emb(x, torch.arange(tokens)[None])
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}."
        y = norm(x, f"{name}input_layernorm.weight")
        q, k = apply_rotary_pos_emb(heads(y, f"{name}self_attn.q_proj"), heads(y, f"{name}self_attn.k_proj"), cos, sin)
        v = heads(y, f"{name}self_attn.v_proj")
        k, v = k.repeat_interleave(queries, 1), v.repeat_interleave(queries, 1)
        mixed = ((q @ k.transpose(2, 3)) / width**0.5 + future).softmax(-1) @ v
        mixed = mixed.transpose(1, 2) * masks.heads[layer].repeat_interleave(queries, -1)[..., None]
        x = (x + linear(mixed.flatten(2), f"{name}self_attn.o_proj") * masks.hidden) * masks.hidden
        y = norm(x, f"{name}post_attention_layernorm.weight")
        inner = functional.silu(linear(y, f"{name}mlp.gate_proj")) * linear(y, f"{name}mlp.up_proj")
        inner = inner * masks.neurons[layer]
        x = (x + linear(inner, f"{name}mlp.down_proj") * masks.hidden) * masks.hidden
    head = weight["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
    logits = norm(x, "model.norm.weight") @ head.T
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction=reduction)


def normalised(heads: torch.Tensor, neurons: torch.Tensor, hidden: torch.Tensor) -> list[torch.Tensor]:
    return [x / x.norm(dim=-1, keepdim=True) for x in (heads, neurons, hidden)]


def listed(scores: importance.Scores) -> list[torch.Tensor]:
    return [scores.heads.double(), scores.neurons.double(), scores.hidden.double()]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("kv_heads", "tied"), [(3, False), (6, True), (1, False)])
@pytest.mark.parametrize("published", [True, False])
def test_scores_are_the_gradients_of_explicit_masks(kv_heads: int, tied: bool, published: bool) -> None:
    check_scores(llama(kv_heads, tied=tied), batches(), published)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_scores_of_all_families(family: str) -> None:
    check_scores(families.model(family, dtype=torch.float64), batches(vocab=families.VOCAB), published=False)


def check_scores(model: Any, data_of_batches: list[Batch], published: bool) -> None:
    totals: list[torch.Tensor] = []
    for data in data_of_batches:
        masks = Masks(model) if published else Masks(model, *data.input_ids.shape)
        masked_loss(model, masks, data, "mean" if published else "sum").backward()
        gradients = [g.abs() for g in masks.gradients()]
        if not published:
            gradients = [gradients[0].sum((1, 2)), gradients[1].sum((1, 2)), gradients[2].sum((0, 1))]
        totals = [a + b for a, b in zip(totals, gradients, strict=True)] if totals else gradients
    scores = importance.score(model, data_of_batches, published_rule=published)
    for found, expected in zip(listed(scores), normalised(*totals), strict=True):
        # Scores are handed out in fp32.
        torch.testing.assert_close(found, expected, rtol=3e-7, atol=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_gradients_of_explicit_masks_are_finite_differences(family: str) -> None:
    model, (data,) = families.model(family, dtype=torch.float64), batches(1, vocab=families.VOCAB)
    masks = Masks(model)
    masked_loss(model, masks, data).backward()
    step = 1e-5
    for name, place in (("heads", (1, 2)), ("neurons", (2, 7)), ("hidden", (5,)), ("hidden", (0,))):
        mask = getattr(masks, name)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                mask[place] += sign * step
                losses.append(masked_loss(model, masks, data).item())
                mask[place] -= sign * step
        assert mask.grad[place].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6, abs=1e-10)


def test_the_loss_is_that_of_the_model_without_padding() -> None:
    model = llama(dtype=torch.float32)
    scores = importance.score(model, batches())
    losses = [
        functional.cross_entropy(model(data.input_ids).logits.flatten(0, 1), data.labels.flatten(), reduction="sum").item()
        for data in batches()
    ]
    assert scores.tokens == 3 * (2 * 7 - 2)
    assert scores.loss == pytest.approx(sum(losses) / scores.tokens, rel=1e-6)


@pytest.mark.parametrize("published", [True, False])
def test_padding_changes_nothing(published: bool) -> None:
    model = llama()
    data = batches(1)[0]
    ids, labels = data.input_ids, data.labels.clone()
    labels[:, 5:] = IGNORE
    padded = ids.clone()
    padded[:, 5:] = 2
    short = importance.score(model, [batch(ids[:, :5], labels[:, :5])], published_rule=published)
    long = importance.score(model, [batch(padded, labels)], published_rule=published)
    for a, b in zip(listed(short), listed(long), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_batch_size_matters_only_for_the_published_rule() -> None:
    model = llama()
    whole = batches(1, size=4)[0]
    single = [batch(whole.input_ids[i : i + 1], whole.labels[i : i + 1]) for i in range(4)]
    for a, b in zip(listed(importance.score(model, [whole])), listed(importance.score(model, single)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    a, b = (importance.score(model, data, published_rule=True).hidden for data in ([whole], single))
    assert (a - b).abs().max() > 1e-3


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = llama(dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    importance.score(model, batches(1))
    importance.layer_rises(model, batches(1))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert len(model.model.layers) == LAYERS
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_layer_rises_are_those_of_models_without_the_layer(kernel: str) -> None:
    model = llama(dtype=torch.float32)
    model.set_attn_implementation(kernel)

    def loss(shorter: LlamaForCausalLM) -> float:
        sums = [importance.cross_entropy_sum(shorter(data.input_ids).logits, data.labels).item() for data in batches()]
        return sum(sums) / (3 * 12)

    rises = importance.layer_rises(model, batches())
    for layer in range(LAYERS):
        shorter = copy.deepcopy(model)
        shorter.model.layers = nn.ModuleList(m for n, m in enumerate(shorter.model.layers) if n != layer)
        assert rises[layer].item() == pytest.approx(loss(shorter) - loss(model), abs=2e-6)
    assert rises.abs().min() > 1e-3


def test_leaving_out_layers_computes_only_those_above(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(dtype=torch.float32)
    calls = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    importance.layer_rises(model, batches(1))
    assert len(calls) == LAYERS + LAYERS * (LAYERS - 1) // 2


def test_order_is_stable_and_int64() -> None:
    found = importance.order(torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]]))
    assert found.tolist() == [[1, 3, 4, 0, 2]]
    assert found.dtype == torch.int64


def test_sparsity_map() -> None:
    heads = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2]])
    neurons = torch.arange(200.0).reshape(2, 100).flip(0)
    found = importance.sparsity_map(importance.Scores(heads, neurons, torch.rand(4096), 0.0, 0))
    assert list(found) == ["0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "85", "95", "96", "97", "98", "99"]
    assert found["0"] == {"hidden": 0, "heads": [0, 0], "neurons": [0, 0]}
    # q = 100 - round(100 * sqrt(0.5)) = 29; 29 % of 4096, of 8 and of 200.
    assert found["50"] == {"hidden": 1188, "heads": [0, 2], "neurons": [0, 58]}
    # 85 gives q = 61, 99 gives 90, the most there is.
    assert found["85"] == {"hidden": 2499, "heads": [1, 4], "neurons": [22, 100]}
    assert found["99"] == {"hidden": 3686, "heads": [3, 4], "neurons": [80, 100]}
