"""flash-attn, if its wheel is in the folder: values and time beside sdpa, and a training stage with it."""

import subprocess
import sys
from collections.abc import Iterator

import torch
from torch.nn import functional

from tests.gpu import clock, shapes
from tests.gpu.part import Place, Row
from tests.gpu.references import difference

HEAD_DIM = 128
LAYERS = 6
"""Of the run that is trained with it: enough to see the whole way work."""


def run(place: Place) -> Iterator[Row]:
    wheel = next(place.wheels.glob("flash_attn-*.whl"), None)
    if wheel is None or not place.gpu:
        yield Row("flash-attn", "no wheel in the folder" if wheel is None else "needs a GPU")
        return
    # Only now: with it installed, every stage before would have used it.
    target = place.work / "flash-attn"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True)
    sys.path.insert(0, str(target))
    from flash_attn import flash_attn_func

    yield Row("flash-attn", wheel.name.split("-")[1])
    torch.manual_seed(0)
    drawn = [torch.randn(1, 600, 4, HEAD_DIM).bfloat16() for _ in range(4)]
    exact = [t.double().requires_grad_() for t in drawn[:3]]
    ref = sdpa(*exact)
    ref.backward(drawn[3].double())
    large = [torch.randn(4, 4096, 32, HEAD_DIM, device="cuda").bfloat16() for _ in range(4)]
    operations = 4 * 4 * 32 * HEAD_DIM * 4096 * 4097 / 2
    for name, kernel in (("flash-attn", lambda q, k, v: flash_attn_func(q, k, v, causal=True)), ("sdpa", sdpa)):
        given = [t.cuda().requires_grad_() for t in drawn[:3]]
        out = kernel(*given)
        out.backward(drawn[3].cuda())
        errors = [difference(out.detach(), ref.detach())]
        errors += [
            difference(a.grad, b.grad) for a, b in zip(given, exact, strict=True) if a.grad is not None and b.grad is not None
        ]
        yield Row(f"{name}: values and gradients", max(errors), "largest error, bound 0.03", max(errors) < 0.03)
        given = [t.clone().requires_grad_() for t in large[:3]]
        forward = clock.seconds(lambda: kernel(*given), "cuda")  # noqa: B023 called at once
        both = clock.seconds(lambda: kernel(*given).backward(large[3]), "cuda")  # noqa: B023
        yield Row(
            f"{name}: forward", operations / forward / 1e12, f"TFLOP/s, {1e3 * forward:.2f} ms for 4 × 4,096 tokens, 32 heads"
        )
        yield Row(f"{name}: both ways", 3.5 * operations / both / 1e12, f"TFLOP/s, {1e3 * both:.2f} ms")
    yield from shapes.measure("adapt", place, attention="flash_attention_2", most_layers=LAYERS)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's own kernel; all tensors are [B, T, heads, head_dim], as flash-attn has them."""
    heads = (t.transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(next(heads), next(heads), next(heads), is_causal=True).transpose(1, 2)
