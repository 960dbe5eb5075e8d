"""`make gpu` as on the machine with the GPU, on a CPU at toy size: a Python with torch, the wheels, and no network."""

import argparse
import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.gpu import families, wheels
from tests.gpu.__main__ import run_part

ROOT = Path(__file__).parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LOOPBACK = "import fcntl, os, socket, struct, sys; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 65)); "
"""Brings up the one interface of a network of one's own (SIOCSIFFLAGS); then runs its arguments."""


def machine(folder: Path) -> Path:
    """A Python that has torch and what `wheels.LARGE` says of the machine, and pip; as links to what is installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for name in {*wheels.closure("torch"), *wheels.LARGE, "pip"}:
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))).absolute())
    return folder / "bin/python"


@pytest.mark.long
def test_all_parts_end_well_without_network(tmp_path: Path) -> None:
    folder, output = tmp_path / "wheels", tmp_path / "output"
    filled = subprocess.run(
        ["make", "gpu-wheels", f"GPU_PYTHON={PYTHON}", f"WHEELS={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert filled.returncode == 0, filled.stderr
    python = machine(tmp_path / "machine")
    lacks = subprocess.run([python, "-c", "import torch, deepspeed"], capture_output=True, text=True, check=False)
    assert "No module named 'deepspeed'" in lacks.stderr
    command = ["make", "gpu", f"PYTHON3={python}", f"OUT={output}", f"WHEELS={folder}", "GPU_FLAGS=--device cpu --minutes 40"]
    alone = ["unshare", "--map-root-user", "--net", sys.executable, "-c", f"{LOOPBACK}os.execvp(sys.argv[1], sys.argv[1:])"]
    run = subprocess.run([*alone, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    table = json.loads((output / "table.json").read_text())
    assert {name: part["end"] for name, part in table["parts"].items()} == dict.fromkeys(table["parts"], "done")
    found = {(row["part"], row["what"]): row for row in table["rows"]}
    assert found["pipeline", "resumed = unbroken"]["value"] == "bit for bit"
    assert "cpu, bfloat16, eager" in found["pipeline", "distill"]["unit"]
    assert {row["part"] for row in table["rows"]} == set(table["parts"])
    assert not any(row["ok"] is False for row in table["rows"])
    assert run.stdout.rstrip().splitlines()[-3].strip()
    assert (output / "table.txt").read_text() in run.stdout


@pytest.mark.parametrize(
    ("part", "seconds", "scale", "end"),
    [("doctor", 0.5, 1.0, "stopped after 0 s"), ("adapt", 60, 1e-9, "out of memory"), ("no_such", 60, 1.0, "failed with 1")],
)
def test_a_part_that_does_not_end_well_says_how(tmp_path: Path, part: str, seconds: float, scale: float, end: str) -> None:
    chosen = argparse.Namespace(device="cpu", wheels=tmp_path, output=tmp_path)
    with open(tmp_path / "log", "w") as log:
        assert run_part(part, Path(sys.executable), seconds, scale, chosen, tmp_path, log) == end


def test_families_of_a_trace(tmp_path: Path) -> None:
    def event(name: str, ts: float, dur: float, cat: str = "kernel") -> dict[str, object]:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 7}

    events = [
        event("nvjet_tst_128x256", 0, 10),
        event("pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t>", 10, 5),
        event("loss", 20, 10, "gpu_user_annotation"),
        event("nvjet_tst_64x8", 20, 10),
        event("Memcpy DtoD", 31, 1, "gpu_memcpy"),
        event("vectorized_elementwise_kernel", 32, 2),
        event("aten::mm", 0, 100, "cpu_op"),
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    expected = {"matrix products": 10, "attention": 5, "loss": 10, "copies": 1, "norms and others": 2, "idle": 6}
    assert families.seconds(trace, gpu=True) == pytest.approx({name: us / 1e6 for name, us in expected.items()})
    calls = [event("aten::linear", 0, 10, "cpu_op"), event("aten::mm", 2, 6, "cpu_op"), event("aten::add", 12, 1, "cpu_op")]
    trace.write_text(json.dumps({"traceEvents": calls}))
    expected = {"matrix products": 6, "norms and others": 5, "idle": 2}
    assert families.seconds(trace, gpu=False) == pytest.approx({name: us / 1e6 for name, us in expected.items()})
