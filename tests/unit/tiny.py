"""Tiny random models for tests."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
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


def tokenizer(folder: Path, vocab: int = 128) -> None:
    """Write a tokenizer of single characters into a model folder, with `<s>` and `</s>` where `llama` has them."""
    pieces = ["<unk>", "<s>", "</s>", *(chr(33 + n) for n in range(vocab - 3))]
    made = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    made.add_special_tokens(pieces[:3])
    made.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
