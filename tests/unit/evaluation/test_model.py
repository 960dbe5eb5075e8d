"""Generation in batches: what is padded, when a batch ends, and that batches change no answer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from minima.data import tokenization
from minima.evaluation.model import LanguageModel
from minima.workspace.progress import Reporter
from tests.unit import tiny

LENGTHS = [(17 * n) % 41 + 3 for n in range(41)]  # Each from 3 to 43 once, mixed.
TEXTS = [("abcdefghij" * 5)[n % 7 :][:n] for n in LENGTHS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny.llama()
    model.save_pretrained(tmp_path)
    tiny.tokenizer(tmp_path)
    return tmp_path


def language_model(folder: Path, batch: int) -> LanguageModel:
    return LanguageModel(tiny.llama(), tokenization.load(folder), batch, Reporter())


def said(lm: LanguageModel, texts: list[str], until: list[str]) -> list[str]:
    how = {"until": until, "max_gen_toks": 12, "do_sample": False}
    answers: list[str] = lm.generate_until([Instance("generate_until", {}, (text, how), n) for n, text in enumerate(texts)])
    return answers


def test_batches_waste_no_padding_and_change_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = said(language_model(folder, 1), TEXTS, [])
    assert len(set(alone)) > 10
    lm = language_model(folder, 4)
    pads: list[int] = []
    generate: Any = lm.model.generate

    def spy(*args: Any, **kwargs: Any) -> Any:
        pads.append(int((kwargs["attention_mask"] == 0).sum()))
        return generate(*args, **kwargs)

    monkeypatch.setattr(lm.model, "generate", spy)
    assert said(lm, TEXTS, []) == alone
    # Neighbours in length are one batch: 0 + 1 + 2 + 3 in each of ten, and one alone; as they come it would be hundreds.
    assert pads == [6] * 10 + [0]


def test_a_batch_ends_with_its_last_answer(folder: Path) -> None:
    lm = language_model(folder, 8)
    whole = said(lm, TEXTS[:8], [])
    passes: list[int] = []
    with torch.no_grad():
        handle = lm.model.register_forward_hook(lambda *_: passes.append(1))
        short = said(lm, TEXTS[:8], [text[1] for text in whole])
        handle.remove()
    assert all(long.startswith(cut) and len(cut) <= 1 for long, cut in zip(whole, short, strict=True))
    assert len(passes) <= 3  # Of twelve.
