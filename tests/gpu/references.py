"""bf16 and fp32 on the device against fp64 on the CPU, by ‖out − ref‖ / ‖ref‖."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from minima.data.batch import IGNORE, Batch, collate
from minima.models import importance, pretrained, weights
from minima.options import Convert, Finetune
from minima.stages import convert, finetune
from minima.training import loss
from tests.gpu.part import Place, Row

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Where a mistake begins: fp32 arithmetic lands far under 1e-3, bf16 operands between 1e-3 and 1e-2."""
MASK_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""Of products of activations and gradients, each of them through all layers."""
VOCABULARY = 512


def run(place: Place) -> Iterator[Row]:
    torch.manual_seed(0)
    for name, compared in (
        ("chunked loss", chunked_loss),
        ("mask gradients", mask_gradients),
        ("attention with padding", padding),
        ("LoRA merge", lora_merge),
        ("converted model", converted),
    ):
        for dtype in BOUNDS:
            bound = (MASK_BOUNDS if compared is mask_gradients else BOUNDS)[dtype]
            for what, error in compared(place, dtype):
                yield Row(f"{name}: {what}", error, f"{str(dtype).removeprefix('torch.')}, bound {bound:g}", error < bound)


def difference(out: Tensor, ref: Tensor) -> float:
    """‖out − ref‖ / ‖ref‖; infinite where it is not a number."""
    found = ((out.double().cpu() - ref).norm() / ref.norm()).item()
    return found if math.isfinite(found) else math.inf


def chunked_loss(place: Place, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Against all logits at once."""
    tokens, width, vocabulary = (1024, 256, 8192) if place.gpu else (96, 32, 200)
    # Rounded once, so that both sides are given the same numbers.
    hidden, head = torch.randn(tokens, width).to(dtype), (torch.randn(vocabulary, width) / width**0.5).to(dtype)
    known = torch.randn(tokens, width).to(dtype), (torch.randn(vocabulary, width) / width**0.5).to(dtype)
    labels = torch.randint(vocabulary, (tokens,)).where(torch.rand(tokens) < 0.8, IGNORE)

    exact = [t.double().requires_grad_() for t in (hidden, head)]
    counted = labels != IGNORE
    logits = (exact[0] @ exact[1].T)[counted]
    soft = (known[0].double() @ known[1].double().T)[counted].softmax(-1)
    expected = 0.5 * functional.cross_entropy(logits, labels[counted], reduction="sum")
    expected = expected + 0.5 * functional.cross_entropy(logits, soft, reduction="sum")
    expected.backward()

    given = [t.to(place.device).requires_grad_() for t in (hidden, head)]
    teacher = loss.Teacher(*(t.to(place.device) for t in known))
    sums = loss.chunked(given[0], given[1], labels.to(place.device), chunk_size=100, teacher=teacher, ce_weight=0.5)
    sums.total.backward()
    yield "value", difference(sums.total.detach(), expected.detach())
    for name, out, ref in zip(("gradient of hidden", "gradient of head"), given, exact, strict=True):
        assert out.grad is not None
        assert ref.grad is not None
        yield name, difference(out.grad, ref.grad)


def llama(dtype: torch.dtype, layers: int = 3, hidden: int = 256, heads: int = 4, kv_heads: int = 2) -> LlamaForCausalLM:
    """A random LLaMA on the CPU in fp64, whose weights are exact in `dtype`; its norms are computed in fp64 too."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = LlamaForCausalLM(config).eval()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape)
            weight.copy_((1 + 0.2 * drawn if "norm" in name else drawn / weight.shape[-1] ** 0.5).to(dtype))
    return exactly(model)


def exactly(model: Any) -> Any:
    """The model in fp64, also where transformers' RMSNorm computes in fp32."""
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = _norm.__get__(module)  # type: ignore[method-assign]
    return model.double()


def _norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def placed(exact: Any, dtype: torch.dtype, device: str) -> Any:
    """A copy as the stages have it: transformers' own norms, weights in `dtype`, the frequencies of positions in fp32."""
    model = copy.deepcopy(exact)
    frequencies = [m.inv_freq.float() for m in model.modules() if hasattr(m, "inv_freq")]
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.__dict__.pop("forward", None)
    model.to(dtype)
    for module, kept in zip((m for m in model.modules() if hasattr(m, "inv_freq")), frequencies, strict=True):
        module.inv_freq = kept
    return model.to(device)


def batch(lengths: tuple[int, ...]) -> Batch:
    """Random sequences of these lengths, padded."""
    rng = np.random.default_rng(0)
    config = LlamaConfig(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)
    return collate([{"indices": rng.integers(3, VOCABULARY, length)} for length in lengths], config, 512)


def mask_gradients(place: Place, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Scores of the stage prune, which tests compare with explicit masks on the CPU."""
    exact, data = llama(dtype), batch((60, 41))
    ref = importance.score(exact, [data])
    out = importance.score(placed(exact, dtype, place.device), [data.to(torch.device(place.device))])
    for name in ("heads", "neurons", "hidden"):
        yield name, difference(getattr(out, name), getattr(ref, name).double())


def padding(place: Place, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Sequences padded to one length, without a mask as in training, against each alone."""
    exact, data, lengths = llama(dtype, heads=2, kv_heads=1), batch((70, 33, 8)), (70, 33, 8)
    with torch.no_grad():
        alone = [
            exact.model(input_ids=row[None, :n]).last_hidden_state[0] for row, n in zip(data.input_ids, lengths, strict=True)
        ]
    kernels = ["eager", "sdpa"]
    if dtype == torch.bfloat16 and pretrained.attention("auto", dtype) == "flash_attention_2":
        kernels.append("flash_attention_2")
    for kernel in kernels:
        model = placed(exact, dtype, place.device)
        model.set_attn_implementation(kernel)
        with torch.no_grad():
            hidden = model.model(input_ids=data.input_ids.to(place.device), use_cache=False).last_hidden_state
        out = torch.cat([row[:n] for row, n in zip(hidden, lengths, strict=True)])
        yield kernel, difference(out, torch.cat(alone))


def lora_merge(place: Place, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """The merged model against weights + alpha / r · B · A."""
    exact, data = llama(dtype), batch((40, 40))
    options = Finetune(output_dir="", model_name_or_path="", train_record_path_or_regex=("",), lora_r=4, lora_dropout=0.0)
    adapted: Any = finetune.with_adapters(placed(exact, dtype, place.device), options)
    by_name = dict(exact.named_parameters())
    with torch.no_grad():
        for name, module in adapted.get_base_model().named_modules():
            if hasattr(module, "lora_A"):
                a, b = (getattr(module, f"lora_{which}")["default"].weight for which in "AB")
                b.normal_(std=0.02)
                delta = b.double().cpu() @ a.double().cpu() * options.lora_alpha / options.lora_r
                by_name[f"{name}.weight"].add_(delta)
        expected = exact(input_ids=data.input_ids, use_cache=False).logits
        merged: Any = finetune.merged(adapted)
        merged.to(dtype)
        for module in merged.modules():
            if hasattr(module, "inv_freq"):
                module.inv_freq = module.inv_freq.float()
        out = merged(input_ids=data.input_ids.to(place.device), use_cache=False).logits
    yield "logits", difference(out, expected)


def converted(place: Place, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """The student that `convert` cuts, on the device, against the teacher with zeros in place of what is cut off."""
    exact, data = llama(dtype, layers=2, hidden=256, heads=4, kv_heads=4), batch((40, 40))
    options = Convert(output_dir="", model_name_or_path="", layer=2, hidden=192, head=3, intermediate=384, keep_layers="0,1")
    folder = Path(place.work) / f"teacher-{dtype}"
    pretrained.save(placed(exact, dtype, "cpu"), None, folder, verb="prune", made_of={}, dtype=dtype)
    smaller = convert.student(options, exact.config)
    groups, neurons = torch.arange(3).expand(2, -1), torch.arange(384).expand(2, -1)
    selection = weights.Selection([0, 1], torch.arange(192), groups, neurons)
    cut = weights.select(folder, exact.config, selection, norm_scale=math.sqrt(256 / 192))
    student: Any = pretrained.FAMILIES["llama"][1](smaller).eval()
    student.load_state_dict(cut)

    with torch.no_grad():
        exact.model.embed_tokens.weight[:, 192:] = 0
        for layer in exact.model.layers:
            layer.self_attn.o_proj.weight[:, 192:] = layer.self_attn.o_proj.weight[192:] = 0
            layer.mlp.down_proj.weight[:, 384:] = layer.mlp.down_proj.weight[192:] = 0
        expected = exact(input_ids=data.input_ids, use_cache=False).logits
        out = placed(student.double(), dtype, place.device)(input_ids=data.input_ids.to(place.device), use_cache=False).logits
    yield "logits", difference(out, expected)
