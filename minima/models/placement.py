"""Where this process computes. Imports no transformers, which takes seconds: `doctor` needs none."""

import os
from pathlib import Path
from typing import Any

import torch

from minima.errors import UsageError

GPUS = "MINIMA_GPUS"
"""Variable with the number of GPUs that a pod asked for; jobgen sets it."""
DRIVER = Path("/proc/driver/nvidia/version")
LIBRARIES = Path("/usr/local/nvidia/lib64")
"""Where GKE's device plugin mounts the driver's libraries, which the linker finds by LD_LIBRARY_PATH alone."""


def device() -> torch.device:
    """The accelerator of this process (torchrun's LOCAL_RANK chooses among several), or the CPU.

    Raises:
        UsageError: the pod was given GPUs (`GPUS` says how many) and this process sees fewer: it must not compute on a CPU,
            a hundred times slower, and end well.
    """
    given = int(os.environ.get(GPUS, "0"))
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < given:
        raise UsageError(
            f"this pod was given {given} GPUs, and sees {seen}: {_driver()}{_libraries()}. Valid: a driver of 580 or newer "
            f"(what CUDA {torch.version.cuda or '13.0'} of this image needs) and NVIDIA's container runtime "
            "(`runtimeClassName: nvidia`, where it is not the default); `minima doctor` on that node shows both"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if seen else torch.device("cpu")


def of(model: Any) -> dict[str, Any]:
    """Where and how this process computed with `model`, for the marker: device, dtype, attention, peak bytes of a GPU."""
    place = next(model.parameters()).device
    gpu = place.type == "cuda"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(place) if gpu else place.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
    }
    return found | ({"peak_gpu_bytes": torch.cuda.max_memory_allocated(place)} if gpu else {})


def _driver() -> str:
    """What the kernel says of NVIDIA's driver."""
    try:
        return DRIVER.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return f"there is no {DRIVER}, so no driver reaches into the container"


def _libraries() -> str:
    """That the image does not look for the driver where the node put it."""
    if not LIBRARIES.is_dir() or str(LIBRARIES) in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        return ""
    return (
        f", and its libraries are in {LIBRARIES}; the image's LD_LIBRARY_PATH must name that, as images/train.Dockerfile does"
    )
