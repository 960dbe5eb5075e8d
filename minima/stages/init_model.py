"""The stage `init-model`: a small random LLaMA with a tokenizer, a Chinese SentencePiece model, text and conversations."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from minima.data import sample, tokenization
from minima.errors import UsageError
from minima.models import pretrained
from minima.options import InitModel
from minima.workspace.artifact import Output

TEXT, CONVERSATIONS, MODEL, CHINESE_MODEL = "text", "conversations", "model", "chinese_sp.model"
"""What the artifact holds: folders with `<language>.jsonl`, the model's folder, and the Chinese SentencePiece model."""
_BYTES = 256
_SPECIAL = 3


def run(options: InitModel, output: Output) -> dict[str, Any]:
    """Write everything that the smoke pipeline starts from; equal options give equal bytes.

    Raises:
        UsageError: too little text for the options, or a package that is not installed.
    """
    config = _config(options)
    output.progress.phase("reading text")
    texts = {language: sample.documents(language, getattr(options, f"{language}_characters")) for language in sample.LANGUAGES}
    spoken = {language: sample.conversations(language) for language in sample.LANGUAGES}
    for language in sample.LANGUAGES:
        _write_lines(output.folder / TEXT / f"{language}.jsonl", [{"text": text} for text in texts[language]])
        _write_lines(output.folder / CONVERSATIONS / f"{language}.jsonl", spoken[language])

    output.progress.phase("training tokenizers")
    english = train_sentencepiece(texts["english"], options.vocab_size, "vocab_size", byte_fallback=True)
    chinese = train_sentencepiece(texts["chinese"], options.chinese_vocab_size, "chinese_vocab_size", byte_fallback=False)
    (output.folder / CHINESE_MODEL).write_bytes(chinese)

    output.progress.phase("writing")
    llama = random_llama(config, options.seed)
    pretrained.save(llama, None, output.folder / MODEL, verb=options.verb, made_of={})
    tokenization.write(english, output.folder / MODEL)
    return {
        "parameters": pretrained.shape(config).parameters,
        **{f"{language}_documents": len(texts[language]) for language in sample.LANGUAGES},
        **{f"{language}_characters": sum(map(len, texts[language])) for language in sample.LANGUAGES},
        **{f"{language}_conversations": len(spoken[language]) for language in sample.LANGUAGES},
    }


def train_sentencepiece(texts: list[str], size: int, option: str, *, byte_fallback: bool) -> bytes:
    """A SentencePiece BPE model of `size` pieces, which changes nothing but spaces; deterministic.

    At most half of the pieces that are not special are single characters, the most frequent ones.

    Raises:
        UsageError: `texts` do not have so many pieces; `option` names the size in the error.
    """
    free = size - _SPECIAL - (_BYTES if byte_fallback else 0)
    count = Counter("".join(texts))
    frequent = {c for c, _ in sorted(count.items(), key=lambda item: (-item[1], item[0]))[: free // 2]}
    # The trainer must give each character that it sees a piece; where a rare one was, the line is split.
    rare = {ord(c): "\n" for c in count if c not in frequent}
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter("\n".join(texts).translate(rare).split("\n")),
            model_writer=written,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=byte_fallback,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=byte_fallback,  # A Chinese line does not begin with a space.
            split_digits=True,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UsageError(
            f"--{option}: {size} pieces cannot be made of the text ({error}); ask for fewer or more text"
        ) from None
    return written.getvalue()


def random_llama(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A LLaMA with float32 weights drawn from `seed`, those that write into the residual stream scaled down by depth.

    The scaling by 1/√(2 · layers) is GPT-2's (Radford et al. 2019, section 2.3).
    """
    llama = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in llama.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1)
                continue
            deviation = config.initializer_range
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                deviation /= (2 * config.num_hidden_layers) ** 0.5
            weight.normal_(0, deviation, generator=generator)
    llama.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.eos_token_id
    )
    return llama


def _config(options: InitModel) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=options.vocab_size,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layer,
        num_attention_heads=options.head,
        num_key_value_heads=options.kv_head or options.head,
        max_position_embeddings=options.max_seq_length,
        initializer_range=0.5 / options.hidden**0.5,  # 0.02 is made for widths of several hundred.
        dtype="float32",
    )


def _write_lines(place: Path, values: list[Any]) -> None:
    place.parent.mkdir(exist_ok=True)
    with open(place, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
