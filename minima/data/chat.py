"""Conversations as tokens: the chat template, and the token ids that it gives, with a mask on what the assistant says.

The format is MiniChat's: a system sentence and `</s>`, then for each turn `[|User|] … </s>[|Assistant|] … </s>`. It is
written once, as a Jinja template that also goes into the chat model's folder, so that training and inference cannot
differ.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from minima.data import tokenization
from minima.data.dialects import KEYS, Turn
from minima.errors import DataError

TEMPLATE_FILE = "chat_template.jinja"
"""Where `build-chat-data` leaves the template beside its records, and where a model folder has it."""
USER, ASSISTANT = "[|User|]", "[|Assistant|]"
SYSTEM = "下面是用户与智能助手 MiniChat 的对话。MiniChat 懂中文和英文，回答真实、清楚、有礼貌，不知道的事情就说不知道。"
"""The system sentence where none is given."""


# Qwen2 has no `<s>`: there a text begins with `</s>`, as in `tokenization.load`.
# `</s>` in what somebody says is text (HTML has such a tag): a space keeps it from ending the sequence.
_TEMPLATE = """\
{%- macro plain(content) -%}
{%- set text = namespace(value=content) -%}
{%- for token in [bos_token, eos_token, unk_token] + @CONTROL@ if token -%}
{%- set text.value = text.value | replace(token, token[:1] + ' ' + token[1:]) -%}
{%- endfor -%}
{{- text.value -}}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set system, turns = messages[0]['content'], messages[1:] -%}
{%- else -%}
{%- set system, turns = @SYSTEM@, messages -%}
{%- endif -%}
{{- (bos_token or eos_token) + plain(system) + eos_token -}}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{{- '@USER@ ' + plain(message['content']) + eos_token -}}
{%- elif message['role'] == 'assistant' -%}
{{- '@ASSISTANT@' -}}
{%- generation -%}{{- ' ' + plain(message['content']) + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- raise_exception('roles are user and assistant, and system in the first message; found ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '@ASSISTANT@' -}}{%- endif -%}
"""


class Example(NamedTuple):
    """A conversation as token ids, without the `<s>` that the training loop puts in front."""

    indices: np.ndarray
    """int64 [S], S ≤ max_seq_length."""
    mask: np.ndarray
    """int64 [S]: 1 on what the assistant says and on its `</s>`, 0 elsewhere."""
    dropped_turns: int
    """Whole turns that were too much."""
    cut: bool
    """Whether the first answer was too long, and is cut; then no `</s>` follows it."""


def template(system: str = "", control: Sequence[str] = ()) -> str:
    """The Jinja chat template.

    Args:
        system: the sentence of conversations that bring none; empty for `SYSTEM`.
        control: tokens of the tokenizer that are text where somebody says them, beside those for the ends of a sequence.
    """
    literal = json.dumps(system or SYSTEM, ensure_ascii=False)
    tokens = json.dumps(list(control), ensure_ascii=False)
    # The sentence goes in last: it may contain the other marks.
    marks = {"@CONTROL@": tokens, "@USER@": USER, "@ASSISTANT@": ASSISTANT, "@SYSTEM@": literal}
    made = _TEMPLATE
    for mark, text in marks.items():
        made = made.replace(mark, text)
    return made


def control(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The control tokens of a tokenizer, but for those that the template knows by name; the longest first.

    Words that were added to it are none: they stay as they are typed.
    """
    known = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    found = {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    found -= known | tokenization.words(tokenizer).keys()
    return sorted((token for token in found if len(token) > 1), key=lambda token: (-len(token), token))


def install(tokenizer: PreTrainedTokenizerBase, system: str = "") -> None:
    """Give `tokenizer` the chat template; `save_pretrained` then writes it."""
    tokenizer.chat_template = template(system, control(tokenizer))


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's own chat template, of anybody's making, takes a system message; some refuse one.

    Raises:
        DataError: it cannot be used at all.
    """
    turns = [{"role": role, "content": "?"} for role in ("user", "assistant", "user")]
    try:
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
        raise DataError(f"the chat template of the tokenizer cannot be used: {error}; mend {TEMPLATE_FILE}") from None
    try:
        tokenizer.apply_chat_template([{"role": "system", "content": "?"}, *turns], tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError:
        return False
    return True


def messages(conversation: Sequence[Turn]) -> list[dict[str, str]]:
    """`conversation` in the form that `apply_chat_template` and chat servers take."""
    return [{"role": key.lower(), "content": turn[key]} for turn in conversation for key in KEYS]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Turn],
    system: str,
    max_seq_length: int,
    published_rule: bool = False,
    untrained: Sequence[int] = (),
) -> Example | None:
    """The training example of a conversation, or None where no answer that is trained fits.

    `<s>` and the indices are exactly what `apply_chat_template` gives for the conversation; what it gives for a question
    with the generation prompt is a prefix of them. Trailing turns beyond `max_seq_length` are dropped whole; a first
    turn that alone is too long has its answer cut, and no end of sequence is trained there.

    Args:
        tokenizer: any; its own chat template is not used.
        conversation: turns as `conversations.read` gives them.
        system: the system sentence; empty for `SYSTEM`.
        max_seq_length: most token ids.
        published_rule: tokenise each segment on its own, as the paper does, instead of by the template.
        untrained: numbers of the turns whose answer is not trained.

    Raises:
        DataError: the tokenizer merges the end of `[|Assistant|]` with what follows, so that a model could not be asked.
    """
    segments = _by_segment if published_rule else _by_template
    ids, mask, ends = segments(tokenizer, conversation, system)
    for number in untrained:
        begin = ends[number - 1] if number else 0
        mask[begin : ends[number]] = [0] * (ends[number] - begin)
    kept = sum(end <= max_seq_length for end in ends)
    length = ends[kept - 1] if kept else max_seq_length
    if not any(mask[:length]):
        return None
    return Example(
        np.asarray(ids[:length], dtype=np.int64),
        np.asarray(mask[:length], dtype=np.int64),
        dropped_turns=len(ends) - max(kept, 1),
        cut=not kept,
    )


def _by_template(
    tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Turn], system: str
) -> tuple[list[int], list[int], list[int]]:
    """Ids, mask and where each turn ends. The template ends every segment, and nothing else, with `</s>`."""
    coded: Any = tokenizer.apply_chat_template(
        messages(conversation),
        chat_template=template(system, control(tokenizer)),
        return_dict=True,
        tokenizer_kwargs={"verbose": False},
    )
    ids: list[int] = coded["input_ids"][1:]
    eos = tokenizer.eos_token_id
    marker = tokenizer(f"{tokenizer.eos_token}{ASSISTANT}", add_special_tokens=False)["input_ids"][1:]
    stops = [i + 1 for i, token in enumerate(ids) if token == eos]
    assert len(stops) == 1 + 2 * len(conversation), "the template keeps </s> out of what is said"
    mask = [0] * len(ids)
    for start, end in zip(stops[1::2], stops[2::2], strict=True):
        if ids[start : start + len(marker)] != marker:
            raise DataError(
                f"{tokenizer.name_or_path}: its tokenizer merges the end of {ASSISTANT} with the answer; "
                "`--published_rule` tokenises them apart, but a served model would then see other ids"
            )
        mask[start + len(marker) : end] = [1] * (end - start - len(marker))
    return ids, mask, stops[2::2]


def _by_segment(
    tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Turn], system: str
) -> tuple[list[int], list[int], list[int]]:
    """Ids, mask and where each turn ends, with the system sentence, marks and what is said each tokenised on its own."""
    texts = [system or SYSTEM, USER, ASSISTANT, *(turn[key] for turn in conversation for key in KEYS)]
    coded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    eos = [tokenizer.eos_token_id]
    ids = [*coded[0], *eos]
    mask, ends = [0] * len(ids), []
    for user, assistant in zip(coded[3::2], coded[4::2], strict=True):
        question, answer = [*coded[1], *user, *eos, *coded[2]], [*assistant, *eos]
        ids += question + answer
        mask += [0] * len(question) + [1] * len(answer)
        ends.append(len(ids))
    return ids, mask, ends
