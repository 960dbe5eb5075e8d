"""Tiny random models for tests."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def llama(
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 48,
    vocab: int = 128,
    seed: int = 0,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
) -> LlamaForCausalLM:
    """A LLaMA in evaluation mode whose norms, and everything else, are random: a lost or swapped weight shows."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    )
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.2 * drawn if "norm" in name else drawn / weight.shape[-1] ** 0.5)
    return model.to(dtype)
