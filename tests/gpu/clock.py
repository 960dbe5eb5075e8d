"""How long work takes on a device, and what its ceilings are."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bf16 operations per second by NVIDIA's datasheets (SXM)."""


def peak() -> tuple[str, float] | None:
    """The name in the datasheet and the peak of this GPU; None where it is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next(((model, rate) for model, rate in PEAK.items() if model in name), None)


def synchronize(device: str) -> None:
    """Wait for all work of the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Median time of `work`, after warming up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def bandwidth(place_gpu: bool) -> float:
    """Bytes per second of a copy within the device's memory, read and written."""
    size = (4 << 30) if place_gpu else (1 << 26)
    device = "cuda" if place_gpu else "cpu"
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def matrix_rate(place_gpu: bool) -> float:
    """Operations per second of a bf16 product of square matrices, on random data."""
    size, device = (8192, "cuda") if place_gpu else (256, "cpu")
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)
