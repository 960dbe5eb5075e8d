"""The one training loop: a stage contributes model, data and loss."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from minima.data.batch import special
from minima.data.mixture import Mixture
from minima.errors import DataError, StageError, TerminatedError
from minima.models import placement, pretrained
from minima.options import Training
from minima.process import stop
from minima.training import perplexity
from minima.training.group import Group
from minima.training.loss import BatchLoss
from minima.training.metrics import Metrics
from minima.training.perplexity import Examples, Perplexity
from minima.training.recovery import Recovery
from minima.training.schedule import learning_rate, planned_steps
from minima.training.state import State
from minima.training.steps import Steps
from minima.workspace.artifact import Output
from minima.workspace.progress import Reporter


def check_shape(config: pretrained.Config, options: Training) -> None:
    """Check what training needs of the model's configuration.

    Raises:
        DataError: sequences are longer than the model's positions, or it names no `<s>` or `</s>`.
    """
    pretrained.check_positions(config, options.max_seq_length)
    special(config, "bos"), special(config, "eos")


def train(
    model: Any,
    *,
    batch_loss: BatchLoss,
    train_records: Examples,
    dev_records: Examples | None,
    options: Training,
    output: Output,
    group: Group,
    num_patience_epochs: int = 0,
) -> dict[str, Any]:
    """Train the parameters of `model` that require gradients, in place, and go on from a checkpoint if there is one.

    From the first step on a stop is only remembered: the processes agree on it before a step or a batch of an evaluation,
    and write a checkpoint. After the last step it is not looked at: the model is made and is written first.

    Args:
        model: a LLaMA, or one with adapters, on its device.
        batch_loss: sums of the losses of a micro-batch.
        train_records: visited in the order of `order.batch`, of a `Mixture` those that it says.
        dev_records: for perplexity, at the start, at each epoch's end, each `eval_interval`, at the end.
        options: of the stage.
        output: its artifact.
        group: its processes.
        num_patience_epochs: stop after so many epochs without a better dev perplexity, and end with the best weights.

    Returns:
        The metrics of the run.

    Raises:
        UsageError: options that cannot work together.
        DataError: records, weights or checkpoints that cannot be used.
        StageError: the loss or its gradient is not finite.
        TerminatedError: a process was told to stop, after a checkpoint was saved.
    """
    check_shape(model.config, options)
    if options.use_act_ckpt:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    steps = Steps(model, batch_loss, train_records, options, group)
    evaluate = partial(
        perplexity.measure,
        model,
        dev_records or [],
        max_seq_length=options.max_seq_length,
        batch_size=options.per_device_eval_batch_size,
        chunk_size=options.loss_chunk_size,
        document_mask=options.document_mask,
        group=group,
        progress=output.progress,
    )
    recovery = Recovery(steps.engine, options, output, group, keeps_best=num_patience_epochs > 0)
    state = recovery.resume()
    total = planned_steps(options, len(train_records))
    metrics = Metrics(output.lease, state.step, total) if output.lease else None
    if left := len(train_records) % options.global_batch_size:
        _say(
            group, f"the last step of each epoch has {left} records, the others --global_batch_size {options.global_batch_size}"
        )
    sources = train_records.account() if isinstance(train_records, Mixture) else []
    for one in sources:
        often = f"{one['examples_per_epoch'] / one['records']:.3g} times each"
        _say(group, f"{one['source']}: {one['examples_per_epoch']} examples of an epoch, of {one['records']} records ({often})")
    run = _Run(
        options=options,
        steps=steps,
        evaluate=evaluate if dev_records else None,
        recovery=recovery,
        state=state,
        metrics=metrics,
        progress=output.progress,
        total=total,
        patience=num_patience_epochs,
    )
    stop.remember()
    with closing(metrics) if metrics else nullcontext():
        run.all_steps()
    what = "examples" if sources else "records"
    left_out = max(0, len(train_records) - state.step * options.global_batch_size)
    if left_out:
        _say(group, f"{left_out} of {len(train_records)} {what} were not trained on: --max_steps ended the first epoch")
    return {**run.results(model, group), f"left_out_{what}": left_out, **({"mixture": sources} if sources else {})}


def _say(group: Group, what: str) -> None:
    if group.rank == 0:
        print(what, file=sys.stderr)


@dataclass(kw_only=True)
class _Run:
    """The parts of a run, and when each of them acts.

    Attributes:
        evaluate: perplexity on the held-out records, if there are any.
        metrics: the logs, on rank 0.
        total: steps that are planned.
        patience: epochs without a better perplexity after which the run ends; 0 for any number.
        interval: tokens and seconds of this process's own time since the last row of the log.
        attempt: the same since this process began.
    """

    options: Training
    steps: Steps
    evaluate: Callable[[], Perplexity] | None
    recovery: Recovery
    state: State
    metrics: Metrics | None
    progress: Reporter
    total: int
    patience: int
    interval: list[float] = field(default_factory=lambda: [0.0, 0.0])
    attempt: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def all_steps(self) -> None:
        """Make the steps that are left, with their evaluations and checkpoints."""
        state, options = self.state, self.options
        try:
            while True:
                better = self.evaluate_if_due()
                due = 0 < state.step < self.total and state.step % options.save_interval == 0
                if due or (better and self.patience):
                    self.save()
                if state.step == self.total or (self.patience and state.bad_epochs >= self.patience):
                    break
                self.one_step()
            if self.patience and state.best_step != state.step:
                self.recovery.load_best(state)
                state.dev_perplexity = state.best_dev_perplexity
        except TerminatedError:
            self.save()
            raise TerminatedError(f"stopped at step {state.step}, saved; the same command goes on from there") from None

    def evaluate_if_due(self) -> bool:
        """Evaluate at the start, at the ends of intervals, of epochs and of the run; whether it is the best epoch so far."""
        state, interval = self.state, self.options.eval_interval
        # A run that was stopped in an evaluation goes on with that evaluation.
        if self.evaluate is None or state.evaluated == state.step:
            return False
        epoch_ends = state.step > 0 and (state.step % self.steps.per_epoch == 0 or state.step == self.total)
        if not (epoch_ends or state.step == 0 or (interval and state.step % interval == 0)):
            return False
        found = self.evaluate()
        if not math.isfinite(found.value) and not state.step:
            why = (
                "its weights are numbers, so look at the records"
                if self.steps.sound()
                else "its weights are broken; fetch them again"
            )
            raise DataError(f"the held-out loss of the model is not finite before any step: {why}")
        if not math.isfinite(found.value):
            raise StageError(f"the held-out loss is not finite at step {state.step}; a lower --learning_rate may help")
        self.log({"dev_perplexity": found.value})
        return state.count_evaluation(found.value, epoch_ends=epoch_ends)

    def one_step(self) -> None:
        """One optimizer step, and its row if an interval ends."""
        state = self.state
        if self.progress.now.phase != "training":
            self.progress.phase("training", self.total, "steps", step=state.step)
        began = time.monotonic()
        rate = learning_rate(state.step, self.total, self.options)
        made = self.steps.make(state.step, rate)
        state.step += 1
        state.tokens += made.tokens
        state.sums[3] += made.trained
        seconds = time.monotonic() - began
        state.seconds += seconds
        self.interval = [self.interval[0] + made.tokens, self.interval[1] + seconds]
        self.attempt = [self.attempt[0] + made.tokens, self.attempt[1] + seconds]
        if state.step % self.options.log_interval == 0 or state.step == self.total:
            self.log_training(rate)
        pace = self.attempt[0] / self.attempt[1]
        self.progress.at(state.step, tokens=state.tokens, tokens_per_second=pace, loss=state.loss or None)

    def settle(self) -> None:
        """Add what the devices have summed up to the account."""
        self.state.sums[:3] = [a + b for a, b in zip(self.state.sums[:3], self.steps.take_sums(), strict=True)]

    def log_training(self, rate: float) -> None:
        """Write the row of the interval that ends here."""
        self.settle()
        *sums, trained = self.state.sums
        total, ce, kd = (value / max(trained, 1) for value in sums)
        self.state.loss, self.state.sums = total, [0.0] * 4
        tokens, seconds = self.interval
        self.interval = [0.0, 0.0]
        norm = float(self.steps.engine.get_global_grad_norm())
        parts = {"ce": ce, "kd": kd} if kd else {"ce": ce}
        self.log({"loss": total, **parts, "lr": rate, "grad_norm": norm, "tokens_per_second": tokens / seconds})

    def log(self, values: dict[str, float]) -> None:
        """Write a row, on rank 0."""
        if self.metrics:
            self.metrics.log(self.state.step, values)

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self.state.step == self.recovery.saved:
            return
        self.progress.phase("saving")
        self.settle()
        self.recovery.save(self.state)

    def results(self, model: Any, group: Group) -> dict[str, Any]:
        """The metrics for the marker."""
        state = self.state
        parameters = list(model.parameters())
        found: dict[str, Any] = {
            "steps": state.step,
            "tokens": state.tokens,
            "loss": state.loss,
            "tokens_per_second": state.tokens / state.seconds if state.seconds else 0.0,
            "seconds": state.seconds,
            "processes": group.world,
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            **placement.of(model),
        }
        perplexities = {"dev_perplexity_start": state.dev_perplexity_start, "dev_perplexity": state.dev_perplexity}
        found |= {name: value for name, value in perplexities.items() if value is not None}
        if self.patience:
            found |= {"best_step": state.best_step, "stopped_early": int(state.step < self.total)}
        return found
