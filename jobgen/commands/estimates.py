"""The command plan: what the stages of a pipeline will take."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jobgen.commands.arguments import PLAN_KEYS, local_workspace
from jobgen.pipeline import spec
from jobgen.pipeline.estimate import Estimate, Total, estimates, records_of
from jobgen.pipeline.fit import largest_micro_batch, usable
from jobgen.pipeline.memory import Memory, unread
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step
from jobgen.pipeline.plan import plan as steps_of
from jobgen.pipeline.speed import KINDS
from jobgen.report import table
from minima.errors import UsageError, did_you_mean
from minima.options import Fetch, Training, split_digest

PARTS = tuple(part.name for part in fields(Memory))


def plan(given: argparse.Namespace) -> int:
    """Print memory, time, GPU-hours, cost and disk of each stage."""
    pipeline = spec.load(given.pipeline)
    workspace = local_workspace(given)
    steps = steps_of(pipeline, str(Path(workspace).absolute()) if workspace else None)
    found = estimates(steps, _sizes(pipeline, steps, given.tokens))
    if given.output == "json":
        made: dict[str, Any] = {
            "stages": [_row(one, given.price) for one in found],
            "total": _row_of(Total.of(found), given.price),
        }
        below = (*(f"total.{key}" for key in made["total"]), *(f"stages[].{key}" for key in made["stages"][0]))
        assert (*made, *below) == PLAN_KEYS
        print(json.dumps(made, indent=1))
        return 0
    parts = [_costs(found, given.price)]
    if any(one.step.memory for one in found):
        parts.append(_memory(found))
    parts.append("\n".join(_notes(found, priced=given.price is not None)))
    print("\n\n".join(parts))
    return 0


def _sizes(pipeline: Pipeline, steps: Sequence[Step], stated: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Tokens by the name of a stage, or by the path of the records where they are an input."""
    inputs = {name: split_digest(value.path)[0] for name, value in pipeline.inputs.items()}
    read = {place for step in steps for place in records_of(step)}
    stages = {step.name for step in steps if any(place.startswith(f"{step.output_dir}/") for place in read)}
    names = [*stages, *(name for name, path in inputs.items() if any(place.startswith(path) for place in read))]
    sizes: dict[str, float] = {}
    for name, number in stated:
        if name not in names:
            valid = did_you_mean(name, names) if names else "none of this pipeline is read for training"
            raise UsageError(f"--tokens: {name}: no records of a stage or an input that a stage trains on; {valid}")
        if name in stages:
            sizes[name] = number
        else:
            sizes |= {place: number for place in read if place.startswith(inputs[name])}
    return sizes


def _costs(found: Sequence[Estimate], price: float | None) -> str:
    header = ["stage", "parameters", "GPUs", "ZeRO", "micro-batch", "tokens", "tokens/s", "hours", "GPU-hours"]
    rows = [[*_cells(one), *([_cost(one, price)] if price else []), *_disk(one)] for one in found]
    last = _total(Total.of(found), price)
    return table([*header, *(["cost"] if price else []), "GB left", "GB of checkpoints"], [*rows, last])


def _cells(one: Estimate) -> list[str]:
    parameters = f"{one.parameters / 1e9:.3f} B" if one.parameters else "-"
    micro = "-"
    if isinstance(one.step.options, Training):
        micro = str(one.step.options.per_device_train_batch_size)
        if most := _largest(one.step):
            micro += f" of {most}"
    tokens = _count(one.tokens) if one.tokens else "-"
    if one.assumed:
        tokens = f"per {_count(one.assumed)}"
    return [
        one.step.name,
        parameters + (f" + {one.teacher / 1e9:.3f} B" if one.teacher else ""),
        str(one.gpus or "-"),
        str(getattr(one.step.options, "zero_stage", "-")),
        micro,
        tokens,
        f"{one.rate:,.0f}" if one.rate else "-",
        f"{one.hours:,.1f}" if one.hours is not None else "-",
        f"{one.gpu_hours:,.0f}" if one.gpu_hours is not None else "-",
    ]


def _largest(step: Step) -> int | None:
    made, model = step.options, step.model
    if not isinstance(made, Training) or not step.memory or not model:
        return None
    return largest_micro_batch(made, step.pool, model, step.teacher)


def _count(tokens: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if tokens >= size:
            return f"{tokens / size:,.1f} {unit}"
    return f"{tokens:,.0f}"


def _cost(one: Estimate, price: float | None) -> str:
    return f"{one.gpu_hours * price:,.0f}" if one.gpu_hours is not None and price else "-"


def _disk(one: Estimate) -> list[str]:
    kept = f"{one.checkpoints} × {one.checkpoint / 1e9:.1f}" if one.checkpoints else "-"
    return [f"{one.artifact / 1e9:,.1f}" if one.artifact else "-", kept]


def _total(total: Total, price: float | None) -> list[str]:
    sums = ["-", "-", *(["-"] if price else [])]
    if total.hours is not None and total.gpu_hours is not None:
        sums = [f"{total.hours:,.1f}", f"{total.gpu_hours:,.0f}", *([f"{total.gpu_hours * price:,.0f}"] if price else [])]
    kept = total.checkpoints
    return ["in all", *["-"] * 6, *sums, f"{total.artifacts / 1e9:,.1f}", f"{kept / 1e9:,.1f}" if kept else "-"]


def _memory(found: Sequence[Estimate]) -> str:
    rows = []
    for one in found:
        if memory := one.step.memory:
            parts = [size / 1e9 for size in memory.parts.values()]
            rows.append([one.step.name, *(f"{part:.1f}" if part else "-" for part in parts), f"{memory.total / 1e9:.1f}"])
            rows[-1].append(f"{usable(one.step.pool) / 1e9:.1f}")
    return table(["GB of one GPU", *PARTS, "in all", "usable"], rows)


def _notes(found: Sequence[Estimate], *, priced: bool) -> list[str]:
    """What the numbers are, and what is not in them."""
    notes = []
    if timed := [one for one in found if one.rate]:
        kinds = " and ".join(sorted({one.step.pool.gpu for one in timed}))
        error = 100 * max(one.error or 0 for one in timed)
        notes += [
            f"tokens/s: of {kinds} GPUs, as published trainings of others reach it (missed by {error:.0f} % on average where",
            "  not fitted); minima itself has not been timed on one. Evaluations, checkpoints and restarts come on top",
        ]
        costly = ", ".join(f"{one.step.name} {one.flops / 1e9:.1f}" for one in timed if one.flops)
        notes += [
            f"GFLOP a token: {costly};",
            "  a multiplication and its addition are two, attention is half of its square, look-ups and recomputation nothing",
        ]
        if unknown := [one.step for one in timed if one.assumed]:
            places = {place for step in unknown for place in records_of(step)}
            sources = {Path(place).parent.name.rpartition("-")[0] for place in places} - {""}
            how = " ".join(f"--tokens {name}=N" for name in sorted(sources))
            notes += [
                f"hours and cost of a billion tokens, since nothing says how many: {', '.join(s.name for s in unknown)};",
                f"  say it: {how}",
            ]
    untimed = [one for one in found if one.gpus and one.rate is None and one.computes]
    if names := ", ".join(one.step.name for one in untimed if one.flops is not None):
        notes.append(f"no time of {names}: the pool's `gpu` names no kind whose speed is known ({', '.join(KINDS)} are)")
    if names := ", ".join(one.step.name for one in untimed if one.flops is None):
        notes.append(f"no time of {names}: its model's shape is not known; an input, or a stage that fetches it, states it")
    for one in found:
        made = one.step.options
        if isinstance(made, Training) and unread(made):
            notes += [
                f"{one.step.name}: its DeepSpeed file {made.deepspeed} cannot be read from here;",
                "  what it says of ZeRO, buckets and offloading is not in the memory above",
            ]
    total = Total.of(found)
    if total.missing:
        notes.append(f"no hours{' and no cost' * priced} in all: how long {', '.join(total.missing)} will take is not known")
    elif total.hours is not None and total.without:
        notes.append(f"hours in all are without {', '.join(total.without)}: how long that takes is not known beforehand")
    if names := ", ".join(one.step.name for one in found if isinstance(one.step.options, Fetch) and one.artifact is None):
        notes.append(f"GB left in all are without {names}: `gigabytes` of a stage of fetch says how many come")
    return [*notes, "checkpoints are removed when their stage is done; a model stays"]


def _row(one: Estimate, price: float | None) -> dict[str, Any]:
    step = one.step
    memory = step.memory.rounded if step.memory else None
    return {
        "stage": step.name,
        "verb": step.verb,
        "pool": step.pool.name,
        "gpus": one.gpus,
        "gpu": step.pool.gpu or None,
        "parameters": one.parameters,
        "trained_parameters": one.trained,
        "teacher_parameters": one.teacher,
        "zero_stage": getattr(step.options, "zero_stage", None),
        "micro_batch": getattr(step.options, "per_device_train_batch_size", None),
        "largest_micro_batch": _largest(step),
        "memory": memory,
        "usable_memory": round(usable(step.pool)) if step.pool.gpu_memory else None,
        "flops_per_token": one.flops,
        "tokens": one.tokens,
        "tokens_assumed": one.assumed,
        "tokens_per_second": one.rate,
        "error": one.error,
        "hours": one.hours,
        "gpu_hours": one.gpu_hours,
        "cost": one.gpu_hours * price if one.gpu_hours is not None and price else None,
        "artifact_bytes": one.artifact,
        "checkpoint_bytes": one.checkpoint,
        "checkpoints": one.checkpoints,
    }


def _row_of(total: Total, price: float | None) -> dict[str, Any]:
    return {
        "hours": total.hours,
        "gpu_hours": total.gpu_hours,
        "cost": total.gpu_hours * price if total.gpu_hours is not None and price else None,
        "without": list(total.without),
        "artifact_bytes": total.artifacts,
        "checkpoint_bytes": total.checkpoints,
    }
