"""Perplexity on held-out records: the one definition, of the training loop and of `evaluate`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from minima.data.batch import collate
from minima.data.records import Records
from minima.errors import DataError
from minima.training.group import Alone, Group
from minima.training.loss import cross_entropy
from minima.workspace.progress import Reporter

Examples = Sequence[Mapping[str, np.ndarray]] | Records


class Perplexity(NamedTuple):
    """exp(total negative log likelihood / total tokens), not finite if the likelihood is not, and the number of tokens."""

    value: float
    tokens: int


def measure(
    model: Any,
    records: Examples,
    *,
    max_seq_length: int,
    batch_size: int,
    chunk_size: int,
    document_mask: bool,
    group: Group | Alone,
    progress: Reporter,
) -> Perplexity:
    """The perplexity of a LLaMA, with or without adapters, on all records, which the processes of `group` share.

    A token counts where its record's mask is 1, or has none. Padding counts nowhere, so neither the batch size, nor the
    order of records, nor the number of processes matters. Before each batch the processes look whether one must stop.

    Args:
        model: on its device; left in evaluation mode.
        records: held out.
        max_seq_length: tokens of a record at most.
        batch_size: records of one process at a time.
        chunk_size: tokens whose logits exist at once.
        document_mask: each document of a record is as a record of its own.
        group: all its processes take part.
        progress: told of each batch.

    Raises:
        DataError: there is no token to count, or a record is longer or has an id outside the vocabulary.
        TerminatedError: a process of `group` was told to stop.
    """
    device = next(model.parameters()).device
    batch_loss = cross_entropy(chunk_size)
    nll = torch.zeros((), dtype=torch.float64, device=device)
    tokens = 0
    model.eval()
    starts = range(0, len(records), batch_size * group.world)
    with torch.no_grad():
        for start in progress.track(starts, "evaluating", len(starts), "batches"):
            group.sum_or_stop()
            mine = range(start + group.rank, min(start + batch_size * group.world, len(records)), group.world)
            if not mine:
                continue  # The others share the last few records.
            try:
                batch = collate([records[i] for i in mine], model.config, max_seq_length, document_mask=document_mask)
            except DataError as error:
                raise DataError(f"--dev_record_path_or_regex: of records {mine[0]} to {mine[-1]} {error}") from None
            nll += batch_loss(model, batch.to(device)).ce
            tokens += batch.trained
    total, count = group.sum(nll.item(), tokens)
    if not count:
        raise DataError(f"--dev_record_path_or_regex: no token counts in {len(records)} records; build the data again")
    # A loss above 700 nats is no language model; the bound keeps JSON free of infinities.
    return Perplexity(math.exp(min(total / count, 700.0)) if math.isfinite(total) else total, int(count))
