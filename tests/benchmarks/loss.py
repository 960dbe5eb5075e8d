"""Time and peak memory of the chunked loss against full logits: `python -m tests.benchmarks.loss`; a Markdown table.

Memory is what the operations allocate above the inputs, by torch's profiler; both forms make value and gradients.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 its usual name
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from minima.training import loss

SHAPES = ((1024, 256, 8192), (2048, 256, 16384))
CHUNK = 128
REPEATS = 3


def full(hidden: Tensor, head: Tensor, labels: Tensor, teacher: loss.Teacher | None) -> Tensor:
    """The plain form: all logits of both models at once."""
    logits = (hidden @ head.T).float()
    ce = F.cross_entropy(logits, labels, reduction="sum")
    if teacher is None:
        return ce
    soft = (teacher.hidden @ teacher.head.T).float().softmax(-1)
    return 0.5 * ce + 0.5 * F.cross_entropy(logits, soft, reduction="sum")


def chunked(hidden: Tensor, head: Tensor, labels: Tensor, teacher: loss.Teacher | None) -> Tensor:
    """Ours."""
    return loss.chunked(hidden, head, labels, chunk_size=CHUNK, teacher=teacher, ce_weight=0.5).total


def measure(form: Callable[..., Tensor], *inputs: Tensor | loss.Teacher | None) -> tuple[float, int]:
    """Best time in seconds and peak of allocated bytes, of value and gradients."""

    def once() -> None:
        form(*inputs).backward()

    once()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        once()
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return min(seconds), peak


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    heads = ("loss", "tokens", "vocabulary", "full, s", "chunked / full", "full, MiB", "chunked, MiB", "full / chunked")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for tokens, hidden_size, vocabulary in SHAPES:
        hidden = torch.randn(tokens, hidden_size, requires_grad=True)
        head = torch.randn(vocabulary, hidden_size, requires_grad=True)
        labels = torch.randint(vocabulary, (tokens,))
        known = loss.Teacher(torch.randn(tokens, hidden_size), torch.randn(vocabulary, hidden_size))
        for name, teacher in (("CE", None), ("CE + KD", known)):
            plain, ours = (measure(form, hidden, head, labels, teacher) for form in (full, chunked))
            print(
                f"| {name} | {tokens} | {vocabulary} | {plain[0]:.2f} | {ours[0] / plain[0]:.2f} | {plain[1] / 2**20:.0f} | "
                f"{ours[1] / 2**20:.0f} | {plain[1] / ours[1]:.1f} |"
            )


if __name__ == "__main__":
    main()
