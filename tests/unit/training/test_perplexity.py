"""Perplexity: the mean over all tokens by full logits, whatever the batches and processes; what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from minima.errors import DataError, TerminatedError
from minima.training import perplexity
from minima.training.group import Alone
from minima.workspace.progress import Reporter
from tests.unit.training import runs


def measured(
    records: Any, group: Any = None, batch_size: int = 2, model: Any = None, document_mask: bool = False
) -> perplexity.Perplexity:
    return perplexity.measure(
        model or runs.model(),
        records,
        max_seq_length=16,
        batch_size=batch_size,
        chunk_size=7,
        document_mask=document_mask,
        group=group or Alone(),
        progress=Reporter(),
    )


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_it_is_of_all_tokens_by_full_logits(batch_size: int) -> None:
    """Defect 7: not 2^nats, and not a mean over batches or processes. Padding counts nowhere."""
    llama, records = runs.model(), runs.examples(5, seed=1)
    total, tokens = 0.0, 0
    for record in records:
        ids, mask = torch.from_numpy(record["indices"]), torch.from_numpy(record["mask"]).bool()
        with torch.no_grad():
            logits = llama(torch.cat([torch.tensor([1]), ids[:-1]])[None]).logits[0]
        total += functional.cross_entropy(logits[mask].double(), ids[mask], reduction="sum").item()
        tokens += int(mask.sum())
    found = measured(records, batch_size=batch_size)
    assert found.tokens == tokens
    assert found.value == pytest.approx(math.exp(total / tokens), rel=1e-5)


class Part(Alone):
    """One of three processes, that has no channel to the others: what it would have sent is kept."""

    world = 3

    def __init__(self, rank: int, told_at: int = 0) -> None:
        self.rank, self.told_at, self.looks, self.sent = rank, told_at, 0, [0.0, 0.0]

    def sum(self, *values: float) -> list[float]:
        self.sent = list(values)
        return [1.0, 1.0]

    def sum_or_stop(self, *values: float) -> list[float]:
        self.looks += 1
        if self.looks == self.told_at:
            raise TerminatedError("told")
        return list(values)


@pytest.mark.parametrize("count", [1, 5, 7, 12])
def test_processes_share_the_records_and_look_equally_often(count: int) -> None:
    """If one looked once more than the others, it would wait for them for ever."""
    records = runs.examples(count, seed=2)
    parts = [Part(rank) for rank in range(3)]
    for part in parts:
        measured(records, part)
    assert len({part.looks for part in parts}) == 1
    nll, tokens = (sum(part.sent[i] for part in parts) for i in (0, 1))
    whole = measured(records)
    assert tokens == whole.tokens
    assert math.exp(nll / tokens) == pytest.approx(whole.value, rel=1e-5)


def test_a_stop_ends_it_before_the_next_batch() -> None:
    with pytest.raises(TerminatedError):
        measured(runs.examples(12, seed=2), Part(0, told_at=2))


def test_what_it_refuses() -> None:
    outside = [{"indices": np.array([5, 6])}, {"indices": np.array([5, runs.VOCABULARY])}]
    with pytest.raises(DataError, match="of records 0 to 1 a record holds the id 64; the model's vocabulary ends at 63"):
        measured(outside)
    nothing = [{"indices": np.array([5, 6]), "mask": np.array([0, 0])}]
    with pytest.raises(DataError, match="no token counts in 1 records"):
        measured(nothing)


def test_a_broken_model_gives_no_number() -> None:
    llama = runs.model()
    with torch.no_grad():
        llama.lm_head.weight[0, 0] = math.nan
    assert not math.isfinite(measured(runs.examples(2), model=llama).value)
