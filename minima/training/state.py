"""What a training run must know to go on, besides weights and moments."""

from dataclasses import dataclass, field


@dataclass
class State:
    """The account of a run, kept in each checkpoint as JSON.

    Attributes:
        step: optimizer steps done.
        evaluated: step of the last evaluation; -1 before the first.
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
    evaluated: int = -1
    tokens: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    loss: float = 0.0
    dev_perplexity_start: float | None = None
    dev_perplexity: float | None = None
    best_dev_perplexity: float | None = None
    best_step: int = 0
    bad_epochs: int = 0

    def count_evaluation(self, perplexity: float, *, epoch_ends: bool) -> bool:
        """Take note of the perplexity at this step; whether an epoch ends here that is the best so far."""
        self.evaluated, self.dev_perplexity = self.step, perplexity
        if self.step == 0:
            self.dev_perplexity_start = perplexity
        if not epoch_ends:
            return False
        if self.best_dev_perplexity is None or perplexity < self.best_dev_perplexity:
            self.best_dev_perplexity, self.best_step, self.bad_epochs = perplexity, self.step, 0
            return True
        self.bad_epochs += 1
        return False

    def forget_evaluations(self) -> None:
        """Drop the perplexities: they are of other held-out records than those that are measured from here on."""
        self.evaluated = -1
        self.dev_perplexity_start = self.dev_perplexity = self.best_dev_perplexity = None
