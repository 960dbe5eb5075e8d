"""The one training loop: a stage contributes model, data and loss."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from minima.data import order
from minima.data.batch import Batch, collate, special
from minima.data.records import Records
from minima.errors import DataError, StageError, TerminatedError, UsageError
from minima.models import pretrained
from minima.options import Training
from minima.training import checkpoint, engine, loss
from minima.training.metrics import Metrics
from minima.workspace import artifact
from minima.workspace.artifact import Output
from minima.workspace.marker import CHECKPOINTS

Examples = Sequence[Mapping[str, np.ndarray]] | Records
BatchLoss = Callable[[Any, Batch], loss.Sums]


@dataclass
class State:
    """All that the loop must know to go on, besides weights and moments; kept in each checkpoint.

    Attributes:
        step: optimizer steps done.
        tokens: tokens read, padding left out.
        seconds: spent in training steps.
        sums: loss, cross entropy, distillation loss and number of trained tokens since the last row of the log.
        loss: mean of the last row.
        dev_perplexity_start: before the first step.
        dev_perplexity: the last one.
        best_dev_perplexity: of the ends of epochs.
        best_step: when that was.
        bad_epochs: epochs since then.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    loss: float = 0.0
    dev_perplexity_start: float | None = None
    dev_perplexity: float | None = None
    best_dev_perplexity: float | None = None
    best_step: int = 0
    bad_epochs: int = 0


class _Loss(nn.Module):
    """Makes the loss part of what DeepSpeed's engine calls."""

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self.batch_loss = batch_loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        total, ce, kd = self.batch_loss(self.model, batch)
        return total, ce, kd


def hidden_and_head(model: Any, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states [B·S, H] of a LLaMA, with or without adapters, and the weight [V, H] of its output layer."""
    llama = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = llama.model(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), llama.get_output_embeddings().weight


def cross_entropy(chunk_size: int) -> BatchLoss:
    """The loss of pretraining and finetuning, and of every evaluation."""

    def batch_loss(model: Any, batch: Batch) -> loss.Sums:
        hidden, head = hidden_and_head(model, batch.input_ids)
        return loss.chunked(hidden, head, batch.labels.flatten(), chunk_size=chunk_size)

    return batch_loss


def learning_rate(step: int, total: int, options: Training) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up that starts above 0, then the schedule towards 0."""
    warmup = math.ceil(options.warmup_proportion * total)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return options.learning_rate * factor[options.lr_scheduler_type]


def planned_steps(options: Training, num_examples: int) -> int:
    """Optimizer steps of all epochs, or `max_steps` if that is fewer."""
    steps = options.num_train_epochs * order.steps_per_epoch(options.global_batch_size, num_examples)
    return min(steps, options.max_steps or steps)


def check_shape(config: LlamaConfig, options: Training) -> None:
    """Check what training needs of the model's configuration.

    Raises:
        DataError: sequences are longer than the model's positions, or it names no `<s>` or `</s>`.
    """
    if options.max_seq_length > config.max_position_embeddings:
        raise DataError(
            f"--max_seq_length: {options.max_seq_length} tokens, the model has {config.max_position_embeddings} positions "
            f"(max_position_embeddings); valid: up to {config.max_position_embeddings}"
        )
    special(config, "bos"), special(config, "eos")


def train(
    model: Any,
    *,
    batch_loss: BatchLoss,
    train_records: Examples,
    dev_records: Examples | None,
    options: Training,
    output: Output,
    group: engine.Group,
    num_patience_epochs: int = 0,
) -> dict[str, Any]:
    """Train the parameters of `model` that require gradients, in place, and go on from a checkpoint if there is one.

    The gradient of an optimizer step is that of the sum of `batch_loss` over the global batch, divided by the number of
    trained tokens in it, whatever the processes and micro-batches.

    Args:
        model: a LLaMA, or one with adapters, on its device.
        batch_loss: sums of the losses of a micro-batch.
        train_records: visited in the order of `order.batch`.
        dev_records: for perplexity, at the start, at each epoch's end, each `eval_interval`, at the end.
        options: of the stage.
        output: its artifact.
        group: its processes.
        num_patience_epochs: stop after so many epochs without a better dev perplexity, and end with the best weights.

    Returns:
        The metrics of the run.

    Raises:
        UsageError: options that cannot work together.
        DataError: records or checkpoints that cannot be used.
        StageError: the loss or its gradient is not finite.
        TerminatedError: SIGTERM, after a checkpoint was saved.
    """
    check_shape(model.config, options)
    total = planned_steps(options, len(train_records))
    if options.use_act_ckpt:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    with engine.catch_sigterm() as caught:
        run = _Run(model, batch_loss, train_records, dev_records or [], options, output, group, num_patience_epochs, total)
        with closing(run.metrics) if run.metrics else nullcontext():
            run.all_steps(caught)
        return run.results()


def _content(entry: Mapping[str, Any]) -> str:
    """An input's key; for one from outside also its files, sizes and times, since a path says nothing of the content."""
    files = json.dumps(entry.get("fingerprint", {}), sort_keys=True)
    return f"{entry['key']} {hashlib.sha256(files.encode()).hexdigest()[:8]}"


class _Run:
    """The state of one run of the loop."""

    def __init__(
        self,
        model: Any,
        batch_loss: BatchLoss,
        train_records: Examples,
        dev_records: Examples,
        options: Training,
        output: Output,
        group: engine.Group,
        num_patience_epochs: int,
        total: int,
    ) -> None:
        self.model, self.train_records, self.dev_records = model, train_records, dev_records
        self.options, self.output, self.group, self.patience, self.total = options, output, group, num_patience_epochs, total
        self.device = next(model.parameters()).device
        self.accumulation = options.accumulation_steps(group.world)
        self.per_epoch = order.steps_per_epoch(options.global_batch_size, len(train_records))
        self.evaluation_loss = cross_entropy(options.loss_chunk_size)
        self.engine = engine.start(_Loss(model, batch_loss), options, group)
        self.meaning = {
            "identity": artifact.identity(options),
            "inputs": {name: _content(entry) for name, entry in output.inputs.items()},
        }
        self.state = State()
        self.resume()
        self.saved = self.state.step
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.metrics = Metrics(output.folder, self.state.step, total) if group.rank == 0 else None
        self.interval = [0.0, 0.0]
        """Tokens and seconds of this process's own time since the last row."""
        self.attempt = [0.0, 0.0]
        """The same since this process began."""

    def resume(self) -> None:
        """Go on from the newest valid checkpoint, if there is one."""
        found = checkpoint.latest(self.output.folder, self.group)
        if found is None:
            return
        folder, state = found
        for what, there in state.pop("meaning").items():
            now = json.loads(json.dumps(self.meaning[what]))
            differ = [f"{n} {there.get(n)!r} there, {now.get(n)!r} now" for n in {*there, *now} if there.get(n) != now.get(n)]
            if differ:
                raise UsageError(
                    f"--output_dir: {folder} belongs to another run ({', '.join(sorted(differ))}); "
                    "choose another folder or set it aside"
                )
        checkpoint.load(self.engine, folder)
        self.state = State(**state)

    def all_steps(self, caught: list[int]) -> None:
        """Run the steps that are left, with their evaluations and checkpoints."""
        state, options = self.state, self.options
        if state.step == 0 and self.dev_records:
            state.dev_perplexity_start = state.dev_perplexity = self.evaluate()
            self.log({"dev_perplexity": state.dev_perplexity})
        while state.step < self.total and not self.out_of_patience():
            self.one_step(caught)
            epoch_ends = state.step % self.per_epoch == 0 or state.step == self.total
            interval_ends = options.eval_interval and state.step % options.eval_interval == 0
            better = False
            if self.dev_records and (epoch_ends or interval_ends):
                state.dev_perplexity = self.evaluate()
                self.log({"dev_perplexity": state.dev_perplexity})
                if epoch_ends:
                    better = self.count_epoch(state.dev_perplexity)
            due = state.step % options.save_interval == 0
            if (due and state.step < self.total) or (better and self.patience):
                self.save()
        if self.patience and state.best_step != state.step:
            best = self.output.folder / CHECKPOINTS / f"step-{state.best_step:08d}"
            wrong = next((w for w in self.group.gather(checkpoint.faults(best)) if w), None)
            if wrong:
                raise DataError(f"{best}: the best weights are lost ({wrong}); set the folder aside and run the stage again")
            checkpoint.load(self.engine, best)
            state.dev_perplexity = state.best_dev_perplexity

    def one_step(self, caught: list[int]) -> None:
        """One optimizer step; the only message between processes besides DeepSpeed's is a sum of four numbers."""
        state, options = self.state, self.options
        if self.output.progress.now.phase != "training":
            self.output.progress.phase("training", self.total, "steps", step=state.step)
        began = time.monotonic()
        epoch, n = divmod(state.step, self.per_epoch)
        indices = order.batch(options.seed, epoch, n, options.global_batch_size, len(self.train_records))
        mine = indices.reshape(self.accumulation, self.group.world, -1)[:, self.group.rank]
        batches = [
            collate([self.train_records[int(i)] for i in micro], self.model.config, options.max_seq_length) for micro in mine
        ]
        trained, tokens, stop = self.group.sum(sum(b.trained for b in batches), sum(b.tokens for b in batches), bool(caught))
        if stop:
            if state.step > self.saved:
                self.save()
            raise TerminatedError(f"stopped by SIGTERM at step {state.step}, saved; the same command goes on from there")
        rate = learning_rate(state.step, self.total, options)
        for parameters in self.engine.basic_optimizer.param_groups:
            parameters["lr"] = rate
        # Dropout depends on nothing that would have to be saved.
        torch.manual_seed(int(np.random.SeedSequence([options.seed, state.step, self.group.rank]).generate_state(1)[0]))
        self.engine.train()
        # DeepSpeed averages over the processes; with scale_wrt_gas it would divide by the accumulation steps too.
        factor = self.group.world / max(trained, 1)
        for batch in batches:
            sums = self.engine(batch.to(self.device))
            self.engine.backward(sums[0] * factor, scale_wrt_gas=False)
            self.sums += torch.stack([s.detach() for s in sums])
            self.engine.step()
        if self.engine.skipped_steps:
            raise StageError(
                f"the loss or its gradient is not finite at step {state.step + 1} (learning rate {rate:g}); a lower "
                f"--learning_rate or --max_grad_norm, or a look at the data, may help; last checkpoint: step {self.saved}"
            )
        state.step += 1
        state.tokens += int(tokens)
        state.sums[3] += trained
        seconds = time.monotonic() - began
        state.seconds += seconds
        self.interval = [self.interval[0] + tokens, self.interval[1] + seconds]
        self.attempt = [self.attempt[0] + tokens, self.attempt[1] + seconds]
        if state.step % options.log_interval == 0 or state.step == self.total:
            self.log_training(rate)
        pace = self.attempt[0] / self.attempt[1]
        self.output.progress.at(state.step, tokens=state.tokens, tokens_per_second=pace, loss=state.loss or None)

    def settle(self) -> None:
        """Add what the device has summed up to `state.sums`, over all processes."""
        totals = self.group.sum(*self.sums.tolist())
        self.state.sums[:3] = [a + b for a, b in zip(self.state.sums[:3], totals, strict=True)]
        self.sums.zero_()

    def log_training(self, rate: float) -> None:
        """Write the row of the interval that ends here."""
        self.settle()
        *sums, trained = self.state.sums
        total, ce, kd = (value / max(trained, 1) for value in sums)
        self.state.loss, self.state.sums = total, [0.0] * 4
        tokens, seconds = self.interval
        self.interval = [0.0, 0.0]
        norm = float(self.engine.get_global_grad_norm())
        parts = {"ce": ce, "kd": kd} if kd else {"ce": ce}
        self.log({"loss": total, **parts, "lr": rate, "grad_norm": norm, "tokens_per_second": tokens / seconds})

    def log(self, values: dict[str, float]) -> None:
        """Write a row, on rank 0."""
        if self.metrics:
            self.metrics.log(self.state.step, values)

    def evaluate(self) -> float:
        """Perplexity on the held-out records: exp(total nll / total tokens) over all processes."""
        nll = torch.zeros((), dtype=torch.float64, device=self.device)
        tokens = 0
        size = self.options.per_device_eval_batch_size
        mine = range(self.group.rank, len(self.dev_records), self.group.world)
        self.model.eval()
        starts = range(0, len(mine), size)
        with torch.no_grad():
            for first in self.output.progress.track(starts, "evaluating", len(starts), "batches"):
                records = [self.dev_records[i] for i in mine[first : first + size]]
                batch = collate(records, self.model.config, self.options.max_seq_length)
                nll += self.evaluation_loss(self.model, batch.to(self.device)).ce
                tokens += batch.trained
        total, count = self.group.sum(nll.item(), tokens)
        if not count:
            raise DataError("--dev_record_path_or_regex: not one token in it has a label; build the data again")
        if not math.isfinite(total):
            raise StageError(f"the held-out loss is not finite at step {self.state.step}; a lower --learning_rate may help")
        return math.exp(min(total / count, 700.0))

    def count_epoch(self, perplexity: float) -> bool:
        """Keep the account of early stopping; whether this epoch is the best so far."""
        state = self.state
        if state.best_dev_perplexity is None or perplexity < state.best_dev_perplexity:
            state.best_dev_perplexity, state.best_step, state.bad_epochs = perplexity, state.step, 0
            return True
        state.bad_epochs += 1
        return False

    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run here."""
        return bool(self.patience) and self.state.bad_epochs >= self.patience

    def save(self) -> None:
        """Write a checkpoint of this step."""
        self.output.progress.phase("saving")
        self.settle()
        state, keep = self.state, {self.state.best_step} if self.patience else set()
        everything = {**asdict(state), "meaning": self.meaning}
        checkpoint.save(self.engine, everything, state.step, self.output, self.group, keep, self.options.keep_checkpoints)
        self.saved = state.step

    def results(self) -> dict[str, Any]:
        """The metrics for the marker."""
        state = self.state
        parameters = list(self.model.parameters())
        found: dict[str, Any] = {
            "steps": state.step,
            "tokens": state.tokens,
            "loss": state.loss,
            "tokens_per_second": state.tokens / state.seconds if state.seconds else 0.0,
            "seconds": state.seconds,
            "processes": self.group.world,
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            **pretrained.placement(self.model),
        }
        if self.dev_records:
            found |= {"dev_perplexity_start": state.dev_perplexity_start, "dev_perplexity": state.dev_perplexity}
        if self.patience:
            found |= {"best_step": state.best_step, "stopped_early": int(state.step < self.total)}
        return found
