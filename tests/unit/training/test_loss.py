"""The chunked loss against autograd and F.cross_entropy over full logits."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 its usual name
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minima.data.batch import IGNORE
from minima.training import loss

T, H, HT, V = 11, 6, 5, 13


def inputs(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, loss.Teacher]:
    g = torch.Generator().manual_seed(seed)
    hidden, head, known, known_head = (torch.randn(*s, generator=g, dtype=dtype) for s in ((T, H), (V, H), (T, HT), (V, HT)))
    labels = torch.randint(V, (T,), generator=g)
    labels[[0, 4, 10]] = IGNORE
    return hidden.requires_grad_(), head.requires_grad_(), labels, loss.Teacher(known, known_head)


def reference(hidden: Tensor, head: Tensor, labels: Tensor, teacher: loss.Teacher, weight: float, temperature: float) -> Tensor:
    """One call of F.cross_entropy with mixed targets where the temperature is 1; else the two terms apart."""
    counted = labels != IGNORE
    logits = (hidden @ head.T)[counted]
    onehot = F.one_hot(labels[counted], V).to(logits.dtype)
    soft = (teacher.hidden @ teacher.head.T)[counted].div(temperature).softmax(-1)
    if temperature == 1:
        return F.cross_entropy(logits, weight * onehot + (1 - weight) * soft, reduction="sum")
    kd = F.cross_entropy(logits / temperature, soft, reduction="sum")
    return weight * F.cross_entropy(logits, onehot, reduction="sum") + (1 - weight) * temperature**2 * kd


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (0.0, 1.0), (1.0, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_value_and_gradients(weight: float, temperature: float, chunk_size: int) -> None:
    hidden, head, labels, teacher = inputs()
    expected = reference(hidden, head, labels, teacher, weight, temperature)
    expected_grads = torch.autograd.grad(expected, (hidden, head))
    sums = loss.chunked(hidden, head, labels, chunk_size=chunk_size, teacher=teacher, ce_weight=weight, temperature=temperature)
    grads = torch.autograd.grad(sums.total, (hidden, head))
    torch.testing.assert_close(sums.total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(sums.total.detach(), weight * sums.ce + (1 - weight) * sums.kd)


def test_cross_entropy_alone() -> None:
    hidden, head, labels, _ = inputs()
    expected = F.cross_entropy(hidden @ head.T, labels, reduction="sum")
    sums = loss.chunked(hidden, head, labels, chunk_size=3)
    torch.testing.assert_close(sums.total, expected)
    torch.testing.assert_close(
        torch.autograd.grad(2.5 * sums.total, (hidden, head)), torch.autograd.grad(2.5 * expected, (hidden, head))
    )
    assert sums.kd == 0


def test_gradcheck() -> None:
    hidden, head, labels, teacher = inputs()

    def total(hidden: Tensor, head: Tensor) -> Tensor:
        found = loss.chunked(hidden, head, labels, chunk_size=4, teacher=teacher, ce_weight=0.4, temperature=1.5)
        return found.total

    assert torch.autograd.gradcheck(total, (hidden, head))


def test_ignored_positions_count_in_no_term() -> None:
    """The published soft loss counted padding."""
    hidden, head, labels, teacher = inputs()
    changed, known = hidden.detach().clone(), teacher.hidden.clone()
    ignored = labels == IGNORE
    changed[ignored], known[ignored] = 50.0, -50.0
    changed.requires_grad_()
    first = loss.chunked(hidden, head, labels, chunk_size=4, teacher=teacher, ce_weight=0.5)
    second = loss.chunked(changed, head, labels, chunk_size=4, teacher=loss.Teacher(known, teacher.head), ce_weight=0.5)
    assert [t.item() for t in first] == [t.item() for t in second]
    assert torch.equal(torch.autograd.grad(first.total, head)[0], torch.autograd.grad(second.total, head)[0])
    again = loss.chunked(changed, head, labels, chunk_size=4, teacher=loss.Teacher(known, teacher.head), ce_weight=0.5)
    assert torch.autograd.grad(again.total, changed)[0][ignored].abs().max() == 0


def test_gradient_only_of_what_is_trained() -> None:
    hidden, head, labels, _ = inputs()
    frozen = head.detach()
    found = torch.autograd.grad(loss.chunked(hidden, frozen, labels, chunk_size=4).total, hidden)[0]
    expected = torch.autograd.grad(F.cross_entropy(hidden @ frozen.T, labels, reduction="sum"), hidden)[0]
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert not loss.chunked(hidden, head, labels, chunk_size=4).total.requires_grad


def test_tied_head_gets_both_gradients() -> None:
    _, head, labels, _ = inputs()
    ids = torch.arange(T)
    expected = torch.autograd.grad(F.cross_entropy(F.embedding(ids, head) @ head.T, labels, reduction="sum"), head)[0]
    found = torch.autograd.grad(loss.chunked(F.embedding(ids, head), head, labels, chunk_size=4).total, head)[0]
    torch.testing.assert_close(found, expected)


def test_bfloat16_is_summed_in_float32() -> None:
    """1000 chunks whose gradients of the head are each too small for a bf16 sum."""
    tokens = 1000
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 8, generator=g).expand(tokens, 8).bfloat16().contiguous()
    head = torch.randn(16, 8, generator=g).bfloat16().requires_grad_()
    labels = torch.full((tokens,), 3)
    precise = head.detach().double().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(hidden.double() @ precise.T, labels, reduction="sum"), precise)[0]
    sums = loss.chunked(hidden, head, labels, chunk_size=1)
    found = torch.autograd.grad(sums.total, head)[0]
    assert sums.total.dtype == torch.float32
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=1e-2 * expected.abs().max().item())


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self.largest = max(self.largest, one.numel())
        return result


def test_no_tensor_of_all_logits() -> None:
    tokens, vocabulary, chunk = 64, 512, 8
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 4, generator=g).requires_grad_()
    head = torch.randn(vocabulary, 4, generator=g).requires_grad_()
    teacher = loss.Teacher(torch.randn(tokens, 6, generator=g), torch.randn(vocabulary, 6, generator=g))
    labels = torch.randint(vocabulary, (tokens,), generator=g)
    with _Largest() as seen:
        loss.chunked(hidden, head, labels, chunk_size=chunk, teacher=teacher, ce_weight=0.5).total.backward()
    assert seen.largest == chunk * vocabulary
    with _Largest() as seen:
        F.cross_entropy(hidden @ head.T, labels).backward()
    assert seen.largest == tokens * vocabulary


def test_chunk_size_changes_nothing_but_rounding() -> None:
    hidden, head, labels, teacher = inputs(torch.float32)
    sizes = [loss.chunked(hidden, head, labels, chunk_size=n, teacher=teacher, ce_weight=0.5).total for n in (1, 3, 11)]
    for one, other in itertools.pairwise(sizes):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
