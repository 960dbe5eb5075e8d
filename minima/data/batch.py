"""Micro-batches: records become padded arrays of input ids and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from minima.errors import DataError

IGNORE = -100
"""Label of a position that no loss counts."""
_MULTIPLE = 8


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right.

    Causal attention lets no position see a later one, so padding on the right changes nothing before it: no attention
    mask is needed, and none is passed (it would cost flash attention a device synchronisation in each layer).

    Attributes:
        input_ids: [B, S].
        labels: [B, S], shifted already, IGNORE where nothing is trained.
        trained: tokens with a label.
        tokens: tokens that are not padding.
    """

    input_ids: Tensor
    labels: Tensor
    trained: int
    tokens: int

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""
        return Batch(
            self.input_ids.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), self.trained, self.tokens
        )


def collate(records: Sequence[Mapping[str, np.ndarray]], config: PreTrainedConfig, max_seq_length: int) -> Batch:
    """Make a batch of records: input is `<s>` and all ids but the last, labels are the ids (where `mask` is 1, if it is there).

    Of no records it has one row without a label, so that a process without a share computes as the others do, and adds 0.

    Raises:
        DataError: a record is empty, longer than `max_seq_length`, or holds an id that the model has not.
    """
    ids = [record["indices"] for record in records]
    for one in ids:
        if not 0 < len(one) <= max_seq_length:
            raise DataError(
                f"a record holds {len(one)} ids; valid: 1 to --max_seq_length {max_seq_length}, as the data was built"
            )
        if one.min() < 0 or one.max() >= config.vocab_size:
            found = int(one.min() if one.min() < 0 else one.max())
            raise DataError(
                f"a record holds the id {found}; the model's vocabulary ends at {config.vocab_size - 1}; "
                "build the records with this model's tokenizer"
            )
    bos, eos = special(config, "bos"), special(config, "eos")
    length = -(-max(map(len, ids), default=1) // _MULTIPLE) * _MULTIPLE
    input_ids = np.full((max(1, len(ids)), length), eos, dtype=np.int64)
    labels = np.full(input_ids.shape, IGNORE, dtype=np.int64)
    for row, (record, one) in enumerate(zip(records, ids, strict=True)):
        input_ids[row, 0] = bos
        input_ids[row, 1 : len(one)] = one[:-1]
        labels[row, : len(one)] = np.where(record["mask"] == 1, one, IGNORE) if "mask" in record else one
    trained = int((labels != IGNORE).sum())
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), trained, sum(map(len, ids)))


def special(config: PreTrainedConfig, name: str) -> int:
    """The id of `<s>` (`bos`) or `</s>` (`eos`).

    Raises:
        DataError: the configuration does not say.
    """
    value = getattr(config, f"{name}_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, int):
        raise DataError(
            f"config.json of the model: {name}_token_id is {value!r}; valid: the id of the tokenizer's {name} token"
        )
    return value
