"""How many optimizer steps a run has, and the learning rate of each."""

import math

from minima.data import order
from minima.options import Training


def planned_steps(options: Training, num_examples: int) -> int:
    """Optimizer steps of all epochs, or `max_steps` if that is fewer."""
    steps = options.num_train_epochs * order.steps_per_epoch(options.global_batch_size, num_examples)
    return min(steps, options.max_steps or steps)


def learning_rate(step: int, total: int, options: Training) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up that starts above 0, then the schedule towards 0."""
    warmup = math.ceil(options.warmup_proportion * total)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return options.learning_rate * factor[options.lr_scheduler_type]
