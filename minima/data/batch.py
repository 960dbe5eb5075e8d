"""Micro-batches: records become padded arrays of input ids and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        documents: where documents begin, in the words of transformers' forward; empty where attention crosses them:
            `position_ids` [B, S], by which sdpa and eager tell them, and for flash attention, which would have to ask the
            device else, `cu_seq_lens_q` and `cu_seq_lens_k` over all B·S positions, `max_length_q` and `max_length_k`.
    """

    input_ids: Tensor
    labels: Tensor
    trained: int
    tokens: int
    documents: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""

        def there(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        documents = {name: there(value) for name, value in self.documents.items()}
        return Batch(there(self.input_ids), there(self.labels), self.trained, self.tokens, documents)


def collate(
    records: Sequence[Mapping[str, np.ndarray]], config: PreTrainedConfig, max_seq_length: int, *, document_mask: bool = False
) -> Batch:
    """Make a batch of records: input is `<s>` and all ids but the last, labels are the ids (where `mask` is 1, if it is there).

    With `document_mask` each document of a record is as a sequence of its own: nothing before it is attended to, positions
    restart, and its `<s>`, which no document foretells, is no label. Of a document that the record before began, what is
    here is one.

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
    begins = np.zeros(input_ids.shape, bool)
    begins[:, 0] = True
    for row, (record, one) in enumerate(zip(records, ids, strict=True)):
        input_ids[row, 0] = bos
        input_ids[row, 1 : len(one)] = one[:-1]
        labels[row, : len(one)] = np.where(record["mask"] == 1, one, IGNORE) if "mask" in record else one
        if document_mask:
            # `<s>` behind `</s>`, for some tokenizers have one token for both.
            first = (one == bos) & np.concatenate([[True], one[:-1] == eos])
            labels[row, : len(one)][first] = IGNORE
            begins[row, 1 : len(one)] = first[:-1]
    trained = int((labels != IGNORE).sum())
    documents = _documents(begins) if document_mask else {}
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), trained, sum(map(len, ids)), documents)


def _documents(begins: np.ndarray) -> dict[str, Any]:
    """`Batch.documents`, by which positions `[B, S]` begin one; padding goes with the last one of its row."""
    places = np.arange(begins.shape[1])
    positions = places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    ends = np.append(np.flatnonzero(begins), begins.size)
    lengths, longest = torch.from_numpy(ends.astype(np.int32)), int(np.diff(ends).max())
    return {
        "position_ids": torch.from_numpy(positions),
        "cu_seq_lens_q": lengths,
        "cu_seq_lens_k": lengths,
        "max_length_q": longest,
        "max_length_k": longest,
    }


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
