"""How much memory of a GPU a stage needs: arithmetic on shapes, no torch.

Weights, gradients and optimizer shards are exact (Rajbhandari et al. 2020, "ZeRO", section 3); activations are an
estimate for flash attention.
"""

from dataclasses import dataclass

from minima.models.shape import Shape
from minima.options import Finetune, Prune, Training

OPTIMIZER_BYTES = 12
"""fp32 master weight and AdamW's two moments, per trained parameter."""
ACCUMULATED_BYTES = 4
"""minima's engine sums the bf16 gradients of micro-batches in fp32, and its step copies its share of the sums once more.

Counted on a CPU, of one process: 18 bytes a parameter between steps, 24 in a step's optimizer, when activations are gone.
"""
LOGIT_BYTES = 12
"""A logit in the loss: as computed, in fp32, and its gradient."""
USABLE = 0.9
"""Share of a GPU's memory; the rest is CUDA's, NCCL's, and lost between blocks."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU."""

    weights: float
    gradients: float = 0
    optimizer: float = 0
    teacher: float = 0
    activations: float = 0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.teacher + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "teacher", "activations")
        told = ", ".join(f"{p} {getattr(self, p) / 1e9:.1f}" for p in parts if getattr(self, p))
        return f"{self.total / 1e9:.1f} GB ({told})"


def pruning(options: Prune, model: Shape) -> Memory:
    """What the one GPU of `prune` needs: gradients of masks only, but every activation on the way to them is kept."""
    width = _width(options.use_bf16)
    tokens = options.per_device_eval_batch_size * options.max_seq_length
    kept = tokens * _activations(model, width, recompute=False)
    return Memory(weights=width * model.parameters, activations=kept + tokens * model.vocab_size * LOGIT_BYTES)


def training(options: Training, model: Shape, teacher: Shape | None, *, processes: int, zero_stage: int) -> Memory:
    """What each GPU of a training stage needs.

    Args:
        options: the stage's options.
        model: the trained model.
        teacher: a frozen model beside it.
        processes: of the whole group.
        zero_stage: DeepSpeed's: 1 shards the optimizer, 2 also the gradients.
    """
    width = _width(options.use_bf16)
    gradient = width + ACCUMULATED_BYTES if options.use_bf16 else width
    rank = options.lora_r if isinstance(options, Finetune) else 0
    trained = model.lora_parameters(rank) if rank else model.parameters
    logits = options.loss_chunk_size * model.vocab_size * LOGIT_BYTES * (2 if teacher else 1)
    tokens = options.per_device_train_batch_size * options.max_seq_length
    forward = tokens * _activations(model, width, recompute=options.use_act_ckpt)
    if teacher:
        forward += tokens * _forward(teacher, width)
    evaluation = options.per_device_eval_batch_size * options.max_seq_length * _forward(model, width)
    copied = ACCUMULATED_BYTES * trained / processes if options.use_bf16 else 0
    return Memory(
        weights=width * (model.parameters + (trained if rank else 0)),  # The frozen output layer stays beside the trained one.
        gradients=gradient * trained / (processes if zero_stage >= 2 else 1),
        optimizer=OPTIMIZER_BYTES * trained / processes,
        teacher=width * teacher.parameters if teacher else 0,
        activations=max(max(forward, evaluation) + logits, copied),
    )


def _width(use_bf16: bool) -> int:
    return 2 if use_bf16 else 4


def _activations(shape: Shape, width: int, *, recompute: bool) -> int:
    """Bytes per token of forward and backward: of every layer what is kept, and one layer's own gradients."""
    inside = width * (8 * shape.hidden + 4 * shape.intermediate)
    gradients = width * 4 * shape.intermediate
    return (shape.layer * width * shape.hidden + inside if recompute else shape.layer * inside) + gradients


def _forward(shape: Shape, width: int) -> int:
    """Bytes per token that live at once without a backward pass."""
    return width * (4 * shape.hidden + 3 * shape.intermediate)
