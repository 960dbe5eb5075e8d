"""The smoke pipeline through `jobgen run --local`, bf16, one process; killed in distill and resumed, bit for bit."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from jobgen.pipeline import spec
from jobgen.pipeline.plan import Step, plan
from minima import flags
from minima.workspace.marker import CHECKPOINTS, MARKER, read_marker
from tests.gpu.part import Place, Row

BIN = Path(sys.executable).parent
TRAINING = ("adapt", "distill", "finetune", "finetune-lora")
ON_A_DEVICE = ("adapt", "prune", "distill", "finetune", "finetune-lora", "evaluate")


def write(folder: Path, *, toy: bool) -> Path:
    """The shipped pipeline, shorter and in bf16, with deterministic attention in distill; a process for each stage."""
    steps = 12 if toy else 80
    shape: dict[str, int] = {}
    sizes: dict[str, int] = {}
    if toy:
        shape = {"layer": 3, "hidden": 32, "head": 2, "kv_head": 1, "intermediate": 64}
        sizes = {"global_batch_size": 2, "per_device_train_batch_size": 1}
    raw: dict[str, Any] = yaml.safe_load((Path(spec.__file__).parents[1] / "pipelines/smoke.yaml").read_text(encoding="utf-8"))
    raw["name"] = "light"
    for name, stage in raw["stages"].items():
        stage["pool"] = "small"
        if name in ON_A_DEVICE:
            stage["options"]["use_bf16"] = True
        if name in TRAINING:
            stage["options"] |= {"max_steps": steps, "save_interval": steps // 6, "log_interval": 2, **sizes}
        if toy:
            stage["options"] |= {"dev_proportion": 0.005} if "dev_proportion" in stage["options"] else {}
    raw["stages"]["init-model"]["options"] |= {"english_characters": 400_000, "chinese_characters": 100_000, **shape}
    raw["stages"]["convert"]["options"] |= (
        {"layer": 2, "hidden": 32, "head": 2, "kv_head": 1, "intermediate": 32} if toy else {}
    )
    raw["stages"]["prune"]["options"] |= {"num_examples": 16, "num_layer_examples": 4}
    raw["stages"]["distill"]["options"]["attn_implementation"] = "eager"
    raw["stages"]["evaluate"]["options"]["limit"] = 16
    place = folder / "light.yaml"
    place.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return place


def run(place: Place) -> Iterator[Row]:
    pipeline, workspace = write(place.work, toy=not place.gpu), place.work / "workspace"
    steps = {step.name: step for step in plan(spec.load(str(pipeline)), str(workspace))}
    command = [str(BIN / "jobgen"), "run", str(pipeline), "--local", "--workspace", str(workspace)]
    # cuBLAS chooses among kernels of different rounding without it.
    env = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

    began = time.monotonic()
    distill = Path(steps["distill"].output_dir)
    step = kill_in(distill, command, env, place)
    yield Row("killed in distill", step, ok=step.startswith("step"))
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    yield from stages(steps, place)
    yield Row(
        "pipeline", time.monotonic() - began, "s to its table", done.returncode == 0 and "evaluate: measure" in done.stdout
    )
    if done.returncode == 0:
        yield unbroken(steps["distill"], place.work / "unbroken", env)


def kill_in(folder: Path, command: list[str], env: dict[str, str], place: Place) -> str:
    """Start the pipeline, kill it after a checkpoint of the stage that writes `folder`, and say which."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    while process.poll() is None and place.left > 0:
        found = sorted(folder.glob(f"{CHECKPOINTS}/step-*"))
        if found:
            process.send_signal(signal.SIGKILL)
            process.wait()
            deadline = time.monotonic() + 20
            while workers_of(folder) and time.monotonic() < deadline:
                time.sleep(0.1)
            return "too late" if (folder / MARKER).exists() else found[-1].name
        time.sleep(0.02)
    return f"ended with {process.poll()} before it"


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def stages(steps: dict[str, Step], place: Place) -> Iterator[Row]:
    """A row for each stage: its seconds, and on which device and in which type it computed."""
    for name, step in steps.items():
        if not (Path(step.output_dir) / MARKER).exists():
            for log in place.work.glob(f"workspace/light/_logs/{Path(step.output_dir).name}*"):
                print(f"{log.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")
            yield Row(name, "did not finish", ok=False)
            continue
        marker = read_marker(Path(step.output_dir))
        metrics = marker["metrics"]
        said = [str(metrics[key]) for key in ("device", "dtype", "attention") if key in metrics]
        right = name not in ON_A_DEVICE or (said[1:2] == ["bfloat16"] and (said[0] != "cpu") == place.gpu)
        perplexity = [metrics[key] for key in ("dev_perplexity_start", "dev_perplexity") if key in metrics]
        told = f"; perplexity {' → '.join(f'{value:.1f}' for value in perplexity)}" if perplexity else ""
        yield Row(name, marker["seconds"], f"s; {', '.join(said) or 'no device'}{told}", right)


def unbroken(step: Step, folder: Path, env: dict[str, str]) -> Row:
    """Whether the stage, run again without a break, makes the same bytes."""
    options = dataclasses.replace(step.options, output_dir=str(folder))
    subprocess.run([str(BIN / "minima"), step.verb, *flags.argv(options)], env=env, check=True)
    files = [Path(where) / "model.safetensors" for where in (step.output_dir, folder)]
    same = len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 1
    return Row("resumed = unbroken", "bit for bit" if same else "weights differ", ok=same)
