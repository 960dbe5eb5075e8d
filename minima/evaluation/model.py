"""A loaded model as lm-evaluation-harness sees it."""

import logging
from collections.abc import Iterator
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from minima.workspace.progress import Reporter


class LanguageModel(HFLM):
    """A loaded model: sorted by length, in batches that end with their last answer, as HFLM does it."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int, progress: Reporter) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.keeps_spaces = False
        self.answers_in_chat = False
        """Whether prompts end as the chat template says: a choice then follows as an answer does there."""
        self.cut: dict[str, int] = {}
        """Prompts whose beginning the model did not see, as they are longer than its positions, and how long they are."""
        self.task = ""
        """The benchmark at hand, for who watches."""
        self.progress = progress
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"]

    def fits(self, text: str, tokens: int) -> bool:
        """Whether a prompt has so many tokens at most."""
        return len(self.tok_encode(text)) <= tokens

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, with our progress instead of a bar."""
        self._begin(len(requests))
        return super().loglikelihood(list(self._placed(requests)), disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, with our progress instead of a bar."""
        self._begin(len(requests))
        for request in requests:
            prompt, how = request.args
            self._note_prompt(prompt, normalize_gen_kwargs(dict(how), self.max_gen_toks)["max_gen_toks"])
        return super().generate_until(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        for (prompt, _), asked, answer in requests:
            self._note(prompt, len(asked) + len(answer), self.max_length + 1)  # Of the last one only the logits are wanted.
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _note(self, prompt: str, tokens: int, most: int) -> None:
        if tokens > most:
            self.cut[prompt] = max(tokens, self.cut.get(prompt, 0))

    def _note_prompt(self, prompt: str, answer: int) -> None:
        """Note a prompt if an answer of so many tokens leaves too few positions for it."""
        self._note(prompt, len(self.tok_encode(prompt)), self.max_length - answer)

    def prompts(self, texts: list[str], answer: int) -> list[str]:
        """How each text is asked alone, through the chat template if there is one; those that are too long are in `cut`."""
        if self.tokenizer.chat_template:
            texts = [self.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
        self.cut.clear()
        for text in texts:
            self._note_prompt(text, answer)
        return texts

    def answers(self, texts: list[str], most: int) -> list[str]:
        """What the model says to each text alone, greedily, in so many tokens at most."""
        how = {"until": [], "max_gen_toks": most, "do_sample": False}
        asked = self.prompts(texts, most)
        requests = [Instance("generate_until", {}, (text, how), number) for number, text in enumerate(asked)]
        self.keeps_spaces = False
        return [said.strip() for said in self.generate_until(requests)]

    def _begin(self, requests: int) -> None:
        self.progress.phase(self.task, requests, "answers")
        self.set_cache_hook(_Count(self.progress))

    def _placed(self, requests: list[Instance]) -> Iterator[Instance]:
        """Choices with what the chat template puts before an answer: MiniChat's has a space, ChatML's nothing."""
        space = before_an_answer(self.tokenizer) if self.answers_in_chat else ""
        for request in requests:
            context, choice = request.args
            yield Instance(request.request_type, request.doc, (context, space + choice), request.idx) if space else request

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """The text of `tokens`; with `keeps_spaces` also the space that LLaMA's decoder takes away at the beginning.

        Without that space the first line of a function body has three spaces and the next ones four, and no program runs.
        """
        text: str = super().tok_decode(tokens, skip_special_tokens)
        if not self.keeps_spaces or isinstance(tokens, int):
            return text
        before: str = super().tok_decode(self._anchor, skip_special_tokens)
        whole: str = super().tok_decode([*self._anchor, *tokens], skip_special_tokens)
        return whole.removeprefix(before)


def before_an_answer(tokenizer: Any) -> str:
    """What stands between the end of a prompt for an answer and the answer, by the tokenizer's chat template."""
    asked = [{"role": "user", "content": "?"}]
    prompt: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole: str = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "A"}], tokenize=False)
    if not whole.startswith(prompt):
        return ""
    between = whole[len(prompt) :].partition("A")[0]
    return between if between.isspace() else ""


class _Count(CacheHook):
    """lm-evaluation-harness offers each answer to a cache as soon as it has it."""

    def __init__(self, progress: Reporter) -> None:
        super().__init__(None)
        self.progress = progress

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """One more answer is there."""
        self.progress.at(self.progress.now.step + 1)
