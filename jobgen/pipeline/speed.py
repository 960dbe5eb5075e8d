"""Tokens per second of a GPU: floating-point operations over what published trainings reach of them, with four numbers a kind.

A token's operations are those of `minima.models.shape`. Its time on one GPU is

    (matrices / (efficiency · hidden / (hidden + narrow)) + attention / kernel) / peak · (1 + scaling · log2(GPUs / 8))

where an evaluation or a frozen model costs a forward pass, training three, and recomputed activations one more. Matrices of
narrow models use a GPU less well, attention has a rate of its own (half of its square is counted), and more than 8 GPUs lose
a share with each doubling. The numbers of each kind were fitted to every second row of tests/unit/jobgen/pipeline/speeds.csv
and tested on the others; a test fits them again. docs/plan.md has the errors by source.
"""

import math
from dataclasses import dataclass

from minima.models.shape import Shape
from minima.options import Distill, Finetune, Prune, Training


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of GPU.

    Attributes:
        peak: operations per second in dense bf16, by the data sheet.
        efficiency: share of it that matrices of a wide model reach.
        narrow: width of the residual stream at which they reach half of that.
        kernel: share of the peak that attention reaches.
        scaling: what each doubling of the GPUs beyond 8 adds to a token's time.
        memories: GB of those that there are; a kind that is said for a pool holds for other sizes too.
        error: mean of |predicted / published − 1| on the rows that were not fitted; `worst` is the largest.
    """

    peak: float
    efficiency: float
    narrow: float
    kernel: float
    scaling: float
    error: float
    worst: float
    memories: tuple[int, ...] = ()

    def has(self, memory: float) -> bool:
        """Whether there is one with so many bytes; a driver, or who counts in powers of ten, says less than the name."""
        return any(0.9 * size <= memory / 2**30 <= size for size in self.memories)

    def seconds(self, work: "Work", gpus: int) -> float:
        """Of one token on one of `gpus`."""
        matrices = sum(flops * (1 + self.narrow / width) for flops, width in work.matrices) / self.efficiency
        spread = 1 + self.scaling * math.log2(max(gpus, 8) / 8)
        return (matrices + work.attention / self.kernel) / self.peak * spread


KINDS = {
    "A100": Kind(
        peak=312e12,
        efficiency=0.8183,
        narrow=798.8,
        kernel=0.2803,
        scaling=0.0192,
        error=0.0586,
        worst=0.245,
        memories=(40, 80),
    ),
    "H100": Kind(
        peak=989.4e12,
        efficiency=0.5936,
        narrow=802.8,
        kernel=0.1640,
        scaling=0.0,
        error=0.0731,
        worst=0.254,
        memories=(80, 94, 96),
    ),
}
"""The rows are of other programs than minima (llm-foundry, FSDP, torchtitan, flash-attention's), each tuned by its authors."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a token.

    Attributes:
        matrices: of products with weights, each with the width of its model.
        attention: of queries with keys, and of weights with values.
    """

    matrices: tuple[tuple[float, int], ...]
    attention: float

    @property
    def flops(self) -> float:
        """All of them."""
        return sum(flops for flops, _ in self.matrices) + self.attention


def work(options: Training | Prune, model: Shape, teacher: Shape | None = None, *, recomputed: bool = True) -> Work:
    """What a stage computes for each token, without what is computed again unless `recomputed`."""
    length = options.max_seq_length
    passes = 3.0 + (recomputed and isinstance(options, Training) and options.use_act_ckpt)
    matrices = 2 * model.multiplied * passes
    if isinstance(options, Prune):
        # Gradients of activations alone; and each layer's examples go once through all the layers above it.
        layers = options.num_layer_examples / options.num_examples * (model.layer + 1) / 2
        passes = 2.0 + layers
        matrices = 2 * model.multiplied * passes
    if isinstance(options, Finetune) and options.lora_r:
        trained = model.lora_parameters(options.lora_r)
        frozen = model.multiplied - model.vocab_size * model.hidden
        matrices = 2 * (trained * passes + frozen * (passes - 1))
    attention = model.attention_flops(length) * passes
    known = teacher if isinstance(options, Distill) else None
    if known is None:
        return Work(((matrices, model.hidden),), attention)
    return Work(((matrices, model.hidden), (2 * known.multiplied, known.hidden)), attention + known.attention_flops(length))
