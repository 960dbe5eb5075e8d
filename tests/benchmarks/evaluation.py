"""Speed of `minima evaluate`'s model beside lm-evaluation-harness's own: `python -m tests.benchmarks.evaluation`.

The same requests to the same model, in turn, the best of three in seconds of one core: HFLM as `lm_eval --model hf` has it,
ours in the same batches, and ours one request at a time, as the paper's scripts ask. Prints a Markdown table; the answers must
be equal.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from minima.data import tokenization
from minima.evaluation.model import LanguageModel
from minima.workspace.progress import Reporter
from tests.unit import tiny

BATCH = 8
REPEATS = 3
TEXTS = [("abcdefghij" * 20)[n % 7 :][: (37 * n) % 151 + 20] for n in range(64)]
"""Prompts of 20 to 170 tokens, mixed."""


def choices() -> list[Instance]:
    """Each prompt with four choices, as MMLU asks."""
    return [Instance("loglikelihood", {}, (text, letter), i) for text in TEXTS for i, letter in enumerate("ABCD")]


def answers() -> list[Instance]:
    """Each prompt to be answered in 32 tokens."""
    how = {"until": [], "max_gen_toks": 32, "do_sample": False}
    return [Instance("generate_until", {}, (text, dict(how)), i) for i, text in enumerate(TEXTS)]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny.llama().save_pretrained(folder)
        tiny.tokenizer(Path(folder))
        words: Any = tokenization.load(folder)
    model = tiny.llama(layers=4, hidden=256, heads=8, kv_heads=8, intermediate=768)
    models: dict[str, Any] = {
        "lm-evaluation-harness": HFLM(pretrained=model, tokenizer=words, batch_size=BATCH),
        "minima": LanguageModel(model, words, BATCH, Reporter()),
        "minima, one at a time": LanguageModel(model, words, 1, Reporter()),
    }
    best: dict[tuple[str, str], float] = {}
    for kind, made in (("loglikelihood", choices), ("generate_until", answers)):
        said = {}
        for _ in range(REPEATS):
            for name, lm in models.items():
                requests = made()
                began = time.process_time()
                said[name] = getattr(lm, kind)(requests, disable_tqdm=True)
                best[name, kind] = min(time.process_time() - began, best.get((name, kind), float("inf")))
        first, *others = said.values()
        for other in others:
            if kind == "generate_until":
                assert other == first
            else:
                assert all(abs(a[0] - b[0]) < 1e-3 and a[1] == b[1] for a, b in zip(first, other, strict=True))
    print("| | choices/s | minima is faster by | answers/s | minima is faster by |\n|---|---|---|---|---|")
    for name in models:
        cells = []
        for kind, made in (("loglikelihood", choices), ("generate_until", answers)):
            cells += [f"{len(made()) / best[name, kind]:.0f}", f"{best[name, kind] / best['minima', kind]:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
