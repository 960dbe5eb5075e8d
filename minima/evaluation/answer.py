"""One answer to one question, drawn as a chat model answers."""

from typing import TYPE_CHECKING, Any

from minima.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from minima.models.pretrained import Model

MOST_TOKENS = 128
TEMPERATURE, TOP_P = 0.7, 0.9


def prompt(tokenizer: "PreTrainedTokenizerBase", question: str, positions: int) -> list[int]:
    """The ids of `question` by the chat template, or as plain text where the tokenizer has none.

    Raises:
        UsageError: they leave no position for an answer.
    """
    if tokenizer.chat_template:
        coded: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )
    else:
        coded = tokenizer(question)
    ids: list[int] = coded["input_ids"]
    if len(ids) >= positions:
        raise UsageError(f"--question: {len(ids)} tokens with its chat template; the model has {positions} positions")
    return ids


def sampled(model: "Model", tokenizer: "PreTrainedTokenizerBase", prompt: list[int], seed: int) -> str:
    """One answer to the ids of `prompt`, drawn with `seed`: at most MOST_TOKENS tokens, as many as positions allow."""
    import torch

    torch.manual_seed(seed)
    ids = torch.tensor([prompt], device=model.device)
    generate: Any = model.generate
    made = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
        max_new_tokens=min(MOST_TOKENS, model.config.max_position_embeddings - len(prompt)),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)).strip()
