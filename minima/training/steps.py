"""Optimizer steps: which records each one reads, and what it does with them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minima.data import order
from minima.data.batch import Batch, collate
from minima.data.mixture import Mixture
from minima.errors import DataError, StageError
from minima.options import Training
from minima.training import engine
from minima.training.group import Group
from minima.training.loss import BatchLoss
from minima.training.perplexity import Examples

_NONE = -1
"""Stands for no record."""


class Made(NamedTuple):
    """Of a step, over all processes: tokens with a label, and tokens that are not padding."""

    trained: int
    tokens: int


class Steps:
    """The optimizer steps of a run.

    The gradient of a step is that of the sum of `batch_loss` over the global batch, divided by the number of trained
    tokens in it, whatever the processes and micro-batches. That of an epoch's last step, which may have fewer records, too:
    each of its tokens weighs more, as in transformers' Trainer.

    Args:
        model: a LLaMA, or one with adapters, on its device; what requires a gradient is trained, in place.
        batch_loss: sums of the losses of a micro-batch.
        records: visited in the order of `order.batch`, of a `Mixture` those that it says.
        options: of the stage.
        group: its processes; all of them make each call.

    Attributes:
        engine: DeepSpeed's.
        per_epoch: steps of an epoch.
    """

    def __init__(self, model: Any, batch_loss: BatchLoss, records: Examples, options: Training, group: Group) -> None:
        self.per_epoch = order.steps_per_epoch(options.global_batch_size, len(records))
        self._records, self._options, self._group, self._config = records, options, group, model.config
        self._device = next(model.parameters()).device
        self._accumulation = options.accumulation_steps(group.world)
        self.engine = engine.start(_Loss(model, batch_loss), options, group)
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._device)

    def make(self, step: int, rate: float) -> Made:
        """Make step `step` (from 0); the only message between processes besides DeepSpeed's is one sum.

        Raises:
            DataError: a record, or the model's weights, cannot be used.
            StageError: the loss or its gradient is not finite.
            TerminatedError: a process was told to stop; nothing has changed.
        """
        options, group = self._options, self._group
        epoch, n = divmod(step, self.per_epoch)
        indices = order.batch(options.seed, epoch, n, options.global_batch_size, len(self._records))
        if isinstance(self._records, Mixture):
            indices = self._records.of(indices, options.seed, epoch)
        # All make the same number of micro-steps; in the last batch of an epoch some find no record there.
        places = np.full(options.global_batch_size, _NONE)
        places[: len(indices)] = indices
        mine = places.reshape(self._accumulation, group.world, -1)[:, group.rank]
        found = [[self._records[int(i)] for i in micro if i != _NONE] for micro in mine]
        length, masked = options.max_seq_length, options.document_mask
        batches = [collate(micro, self._config, length, document_mask=masked) for micro in found]
        trained, tokens = group.sum_or_stop(sum(b.trained for b in batches), sum(b.tokens for b in batches))
        for parameters in self.engine.basic_optimizer.param_groups:
            parameters["lr"] = rate
        # Dropout depends on nothing that would have to be saved.
        torch.manual_seed(int(np.random.SeedSequence([options.seed, step, group.rank]).generate_state(1)[0]))
        self.engine.train()
        # DeepSpeed averages over the processes; with scale_wrt_gas it would divide by the accumulation steps too.
        factor = group.world / max(trained, 1)
        for batch in batches:
            sums = self.engine(batch.to(self._device))
            self.engine.backward(sums[0] * factor, scale_wrt_gas=False)
            self._sums += torch.stack([s.detach() for s in sums])
            self.engine.step()
        if self.engine.skipped_steps and not step and not self.sound():
            raise DataError(
                "the loss or its gradient is not finite at step 1, before any weight was changed: the model's weights are "
                "broken; fetch them again"
            )
        if self.engine.skipped_steps:
            raise StageError(
                f"the loss or its gradient is not finite at step {step + 1} (learning rate {rate:g}); a lower "
                "--learning_rate or --max_grad_norm, or a look at the data or a teacher's weights, may help"
            )
        return Made(int(trained), int(tokens))

    def sound(self) -> bool:
        """Whether all weights of the model are finite."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.engine.module.parameters())

    def take_sums(self) -> list[float]:
        """Loss, cross entropy and distillation loss, summed over all processes and the steps since the last call."""
        totals = self._group.sum(*self._sums.tolist())
        self._sums.zero_()
        return totals


class _Loss(nn.Module):
    """Makes the loss part of what DeepSpeed's engine calls."""

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self.batch_loss = batch_loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        total, ce, kd = self.batch_loss(self.model, batch)
        return total, ce, kd
