"""Tiny random models of the families that people have, with the quirks of their real configurations and tokenizers."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from minima.models import pretrained
from tests.unit import tiny

VOCAB = 288
"""Rows of the embeddings; for some more than the tokenizer has pieces."""
LLAMA_3_SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "LLaMA-2": {"model_type": "llama", "num_key_value_heads": 6},
    "LLaMA-3.2": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_scaling": LLAMA_3_SCALING,
        "rope_theta": 5e5,
        "head_dim": 8,
    },
    "TinyLlama": {"model_type": "llama"},
    "SmolLM2": {"model_type": "llama", "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_theta": 100000.0},
    "biased LLaMA": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "Mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 16},
    "windowed Mistral": {"model_type": "mistral", "sliding_window": 5},
    "Qwen2.5": {"model_type": "qwen2", "rope_theta": 1000000.0, "use_sliding_window": False, "max_window_layers": 2},
    "small Qwen2.5": {"model_type": "qwen2", "tie_word_embeddings": True, "use_sliding_window": False},
}
BYTE_LEVEL = {"LLaMA-3.2": "llama3", "SmolLM2": "smollm2", "Qwen2.5": "qwen2", "small Qwen2.5": "qwen2"}
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
}
TEXTS = [
    "It's the year 2026: I've 1234567 cats.\n\n  Two  spaces\tand 中文，",
    " def f(x):\n    return x**2",
    "naïve ﬁ ½ e\u0301",
]


def model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model in evaluation mode whose weights, norms and biases too, are random: a lost or swapped one shows."""
    raw = copy.deepcopy({**SHAPE, **FAMILIES[family], **changes})  # A configuration adds to the dicts that it gets.
    config, made = pretrained.FAMILIES[raw["model_type"]]
    found = made(config(**raw)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            scale = 0.3 if weight.dim() == 1 else weight.shape[-1] ** -0.5
            weight.copy_(scale * drawn + ("norm" in name))
    return found.to(dtype)


def write(folder: Path, family: str, **changes: Any) -> Path:
    """A model folder with the family's sort of tokenizer."""
    model(family, **changes).save_pretrained(folder)
    if family in BYTE_LEVEL:
        byte_level(folder, BYTE_LEVEL[family])
    else:
        tiny.tokenizer(folder, VOCAB)
    return folder


def byte_level(folder: Path, kind: str) -> None:
    """A byte-level BPE of a few pieces as LLaMA-3, SmolLM2 or Qwen2 have it, in tokenizer.json alone."""
    made = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    digits = {"llama3": r"\p{N}{1,3}", "qwen2": r"\p{N}"}.get(kind)
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        rf"{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    first: Any = pre_tokenizers.Split(Regex(split), "isolated") if digits else pre_tokenizers.Digits(individual_digits=True)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not digits)
    made.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    made.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        made.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 2, trainer)
    begin, end = {
        "llama3": ("<|begin_of_text|>", "<|end_of_text|>"),
        "smollm2": ("<|endoftext|>", "<|endoftext|>"),
        "qwen2": (None, "<|endoftext|>"),
    }[kind]
    control = {"llama3": "<|eot_id|>", "smollm2": "<|im_end|>", "qwen2": "<|im_end|>"}[kind]
    made.add_special_tokens([AddedToken(t, special=True) for t in dict.fromkeys([begin, end, control]) if t])
    if begin and kind == "llama3":
        made.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, made.token_to_id(begin))]
        )
    made.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": {"llama3": "PreTrainedTokenizerFast", "smollm2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer"}[kind],
        "bos_token": begin,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
