"""Packed documents behind a mask against the same documents as sequences of their own, in plain transformers."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, LlamaForCausalLM

from minima.data.batch import IGNORE, collate
from minima.models import importance
from minima.training import loss
from tests.unit import tiny
from tests.unit.training import runs
from tests.unit.training.test_perplexity import measured

BOS, EOS = 1, 2
DOCUMENTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [15, 16, 17, 18], [19, 20, 21, 22, 23], [24, 25, 29], [26, 27, 28]]
LENGTH = 11


def packed(documents: list[list[int]], length: int = LENGTH) -> list[dict[str, np.ndarray]]:
    """As build-data packs: one record ends behind `<s>`, one between `</s>` and `<s>`, and some within a document."""
    ids = np.array([i for document in documents for i in (*document, EOS, BOS)])
    return [{"indices": ids[start : start + length]} for start in range(0, len(ids), length)]


def separate(records: list[dict[str, np.ndarray]]) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of each document, or of what a record has of it: what is before its end follows `<s>`."""
    found = []
    for record in records:
        rest: list[int] = []
        for i in [*record["indices"].tolist(), BOS]:
            if i == BOS:
                if rest:
                    found.append(([BOS, *rest[:-1]], rest))
                rest = []
            else:
                rest.append(i)
    return found


def test_the_records_hold_every_kind_of_border() -> None:
    records = packed(DOCUMENTS)
    assert [(int(r["indices"][0]), int(r["indices"][-1])) for r in records] == [(5, 13), (EOS, BOS), (19, EOS), (BOS, BOS)]
    assert len(separate(records)) == 8


def plain(model: LlamaForCausalLM, records: list[dict[str, np.ndarray]]) -> tuple[Tensor, int]:
    total, tokens = torch.zeros(()), 0
    for inputs, labels in separate(records):
        logits = model(torch.tensor([inputs])).logits[0]
        total = total + functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
        tokens += len(labels)
    return total, tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_gradients_and_perplexity_are_those_of_separate_sequences(attention: str) -> None:
    model, records = runs.model(), packed(DOCUMENTS)
    model.set_attn_implementation(attention)
    expected, tokens = plain(model, records)
    expected.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    for size in (1, 2, 4):  # Padded to a multiple of 8, with and without shorter rows beside.
        model.zero_grad()
        total, trained = 0.0, 0
        for start in range(0, len(records), size):
            batch = collate(records[start : start + size], model.config, LENGTH, document_mask=True)
            sums = loss.cross_entropy(7)(model, batch)
            sums.total.backward()
            total, trained = total + sums.total.detach().item(), trained + batch.trained
        assert trained == tokens
        assert total == pytest.approx(expected.detach().item(), rel=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-6)
    found = measured(records, model=model, batch_size=3, document_mask=True)
    assert found.tokens == tokens
    assert found.value == pytest.approx(float((expected.detach() / tokens).exp()), rel=1e-5)
    assert found.value != pytest.approx(measured(records, model=model).value, rel=1e-3), "the published form is another"


def test_training_is_that_on_separate_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights after four steps, with activation checkpointing, against one record for each sequence."""
    runs.alone(monkeypatch)
    records = packed(DOCUMENTS * 4, 16)
    changes: dict[str, Any] = {"max_steps": 4, "global_batch_size": len(records), "num_train_epochs": 4}
    chosen = runs.options(tmp_path / "packed", document_mask=True, use_act_ckpt=True, **changes)
    one, _ = runs.run(chosen, train_records=records, dev_records=records)
    alone = [{"indices": np.array(labels)} for _, labels in separate(records)]
    chosen = runs.options(tmp_path / "separate", **changes | {"global_batch_size": len(alone)})
    other, _ = runs.run(chosen, train_records=alone, dev_records=alone)
    found, expected = runs.weights(one), runs.weights(other)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)


def test_scores_of_pruning_are_those_of_separate_sequences() -> None:
    model, records = tiny.llama(vocab=64), packed(DOCUMENTS)
    model.config.bos_token_id, model.config.eos_token_id = BOS, EOS
    alone = [{"indices": np.array(labels)} for _, labels in separate(records)]
    together = [
        collate(records[:3], model.config, LENGTH, document_mask=True),
        collate(records[3:], model.config, LENGTH, document_mask=True),
    ]
    apart = [collate([record], model.config, LENGTH) for record in alone]
    found, expected = importance.score(model, together), importance.score(model, apart)
    assert (found.tokens, found.loss) == (expected.tokens, pytest.approx(expected.loss, rel=1e-6))
    for name in ("heads", "neurons", "hidden"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    rises = importance.layer_rises(model, together)
    torch.testing.assert_close(rises, importance.layer_rises(model, apart), rtol=1e-5, atol=1e-6)


def test_flash_attention_is_told_where_documents_begin() -> None:
    """A kernel that knows nothing but the numbers that flash attention takes gives what sdpa does."""
    model, records = runs.model(), packed(DOCUMENTS)
    batch = collate(records, model.config, LENGTH, document_mask=True)
    expected, _ = loss.hidden_and_head(model, batch)
    calls = 0

    def kernel(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **told: Any) -> tuple[Tensor, None]:
        nonlocal calls
        calls += 1
        assert attention_mask is None
        assert told["cu_seq_lens_q"].dtype == torch.int32
        groups = query.shape[1] // key.shape[1]
        q, k, v = (
            x.transpose(1, 2).flatten(0, 1)
            for x in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))
        )
        bounds = told["cu_seq_lens_q"].tolist()
        assert bounds == told["cu_seq_lens_k"].tolist()
        lengths = [end - begin for begin, end in itertools.pairwise(bounds)]
        assert max(lengths) == told["max_length_q"] == told["max_length_k"]
        parts = [x.split(lengths) for x in (q, k, v)]
        out = [
            functional.scaled_dot_product_attention(a, b, c, is_causal=True).transpose(0, 1)
            for a, b, c in ([x.transpose(0, 1) for x in part] for part in zip(*parts, strict=True))
        ]
        return torch.cat(out).view(query.shape[0], query.shape[2], *q.shape[1:]), None

    AttentionInterface.register("numbers_alone", kernel)
    model.set_attn_implementation("numbers_alone")
    found, _ = loss.hidden_and_head(model, batch)
    assert calls == model.config.num_hidden_layers
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_one_token_for_both_ends_and_chat_records() -> None:
    """Chat records have no border, but many ends of a sequence: they stay as they are, whichever token ends one."""
    model = runs.model()
    for bos in (BOS, EOS):
        model.config.bos_token_id = bos
        chat = {"indices": np.array([5, 6, EOS, 7, 8, EOS, 9, EOS]), "mask": np.array([0, 0, 0, 0, 1, 1, 1, 1])}
        masked, all_of_it = (collate([chat], model.config, 8, document_mask=wanted) for wanted in (True, False))
        assert masked.documents["position_ids"].tolist() == [list(range(8))]
        assert masked.labels.tolist() == all_of_it.labels.tolist()
    text = {"indices": np.array([5, 6, EOS, EOS, 7, EOS, EOS, 8])}
    batch = collate([text], model.config, 8, document_mask=True)
    assert batch.input_ids.tolist() == [[EOS, 5, 6, EOS, EOS, 7, EOS, EOS]]
    assert batch.documents["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert batch.labels.tolist() == [[5, 6, EOS, IGNORE, 7, EOS, IGNORE, 8]]
