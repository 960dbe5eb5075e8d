"""Cross entropy and distillation over the full vocabulary, in chunks of tokens.

The logits [T, V] of a micro-batch are the largest tensor of all (3 GB in bf16 at 32,768 × 49,216). Here they exist for
one chunk at a time, of either model, and the gradients are made in the same pass, as in Liger Kernel (arXiv 2410.10989).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minima.data.batch import IGNORE, Batch


class Teacher(NamedTuple):
    """What the soft term needs of the frozen teacher: hidden states [T, Ht] and head weight [V, Ht]."""

    hidden: Tensor
    head: Tensor


class Sums(NamedTuple):
    """Sums over the counted tokens, in nats: `total` has gradients, `ce` and `kd` (0 without teacher) are for show."""

    total: Tensor
    ce: Tensor
    kd: Tensor


BatchLoss = Callable[[Any, Batch], Sums]
"""The loss of a model on a micro-batch: what a stage contributes to its training."""


def cross_entropy(chunk_size: int) -> BatchLoss:
    """The loss of pretraining and finetuning, and of every evaluation."""

    def batch_loss(model: Any, batch: Batch) -> Sums:
        hidden, head = hidden_and_head(model, batch)
        return chunked(hidden, head, batch.labels.flatten(), chunk_size=chunk_size)

    return batch_loss


def hidden_and_head(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Last hidden states [B·S, H] of a LLaMA, with or without adapters, and the weight [V, H] of its output layer."""
    llama = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = llama.model(input_ids=batch.input_ids, use_cache=False, **batch.documents).last_hidden_state
    return hidden.flatten(0, 1), llama.get_output_embeddings().weight


def chunked(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    chunk_size: int,
    teacher: Teacher | None = None,
    ce_weight: float = 1.0,
    temperature: float = 1.0,
) -> Sums:
    """Sum over tokens of CE, or with a teacher of `ce_weight · CE + (1 − ce_weight) · temperature² · soft CE`.

    Soft CE is −Σ_v softmax(teacher / temperature)_v · log_softmax(student / temperature)_v (Hinton et al. 2015).
    Softmaxes are in fp32 (fp64 for fp64 input). Neither model's logits exist for more than `chunk_size` tokens at once.

    Args:
        hidden: last hidden states [T, H], after the final norm.
        head: weight of the output layer [V, H]; its gradient is made only if it requires one.
        labels: token ids [T]; positions with IGNORE count in no term.
        chunk_size: tokens at a time.
        teacher: without one the loss is CE alone.
        ce_weight: weight of CE.
        temperature: of both softmaxes of the soft term.
    """
    if teacher is None:
        teacher, ce_weight = Teacher(hidden.new_empty(0), head.new_empty(0)), 1.0
    needed = torch.is_grad_enabled()
    arguments = (
        hidden,
        head,
        labels,
        teacher.hidden.detach(),
        teacher.head.detach(),
        chunk_size,
        ce_weight,
        temperature,
        needed,
    )
    return Sums(*_Chunked.apply(*arguments))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        teacher_hidden: Tensor,
        teacher_head: Tensor,
        chunk_size: int,
        ce_weight: float,
        temperature: float,
        needed: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        ce = hidden.new_zeros((), dtype=wide)
        kd = hidden.new_zeros((), dtype=wide)
        grad_hidden = torch.empty_like(hidden) if needed and ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head, dtype=wide) if needed and ctx.needs_input_grad[1] else None
        for start in range(0, len(labels), chunk_size):
            chunk = slice(start, start + chunk_size)
            counted = (labels[chunk] != IGNORE)[:, None]
            target = labels[chunk].clamp(min=0)[:, None]
            logits = (hidden[chunk] @ head.T).to(wide)
            log_p = logits.log_softmax(-1)
            ce -= (log_p.gather(-1, target) * counted).sum()
            grad = log_p.exp_().scatter_add_(-1, target, torch.full_like(target, -1, dtype=wide)).mul_(ce_weight)
            if teacher_head.numel():
                soft = (teacher_hidden[chunk] @ teacher_head.T).to(wide).div_(temperature).softmax(-1)
                log_q = logits.div_(temperature).log_softmax(-1)
                kd -= temperature**2 * (torch.linalg.vecdot(soft, log_q)[:, None] * counted).sum()
                grad.add_(log_q.exp_().sub_(soft), alpha=(1 - ce_weight) * temperature)
            grad = grad.mul_(counted).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, head, out=grad_hidden[chunk])
            if grad_head is not None:
                grad_head += grad.T @ hidden[chunk]
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(ce, kd)
        total = ce_weight * ce + (1 - ce_weight) * kd
        return total, ce, kd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        factor = grads[0]
        return (
            None if grad_hidden is None else (grad_hidden * factor).to(grad_hidden.dtype),
            None if grad_head is None else (grad_head * factor).to(ctx.head_dtype),
            *[None] * 7,
        )
