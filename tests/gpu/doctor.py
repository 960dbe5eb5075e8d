"""What is here: `minima doctor`, and the device's ceilings."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.gpu import clock
from tests.gpu.part import Place, Row


def run(place: Place) -> Iterator[Row]:
    yield Row("python", sys.version.split()[0])
    yield Row("torch", torch.__version__, f"CUDA {torch.version.cuda}")
    if place.gpu:
        found = torch.cuda.get_device_properties(0)
        yield Row("device", found.name, f"sm_{found.major}{found.minor}", found.major >= 8)
        yield Row("memory", found.total_memory / 1e9, "GB")
        yield Row("NCCL", ".".join(map(str, torch.cuda.nccl.version())), ok=torch.distributed.is_nccl_available())
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            said = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
            yield Row("driver", said or "unknown")
    yield Row("memory bandwidth", clock.bandwidth(place.gpu) / 1e12, "TB/s, read and written")
    yield Row("bf16 matrix rate", clock.matrix_rate(place.gpu) / 1e12, "TFLOP/s")
    minima = [str(Path(sys.executable).parent / "minima"), "doctor", "--workspace", str(place.work)]
    done = subprocess.run(minima, capture_output=True, text=True, check=False, timeout=max(place.left, 10))
    print(done.stdout, done.stderr)
    yield Row("minima doctor", done.stdout.strip().splitlines()[-1] if done.stdout else "said nothing", ok=done.returncode == 0)
