"""The table at the end of a run: each stage's time and artifact, and what was measured. Every number is a marker's."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minima.options import VERBS, Training


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the widest cell; a column of numbers to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(row) for row in rows)])


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "").replace(",", "").isdigit()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished stage made, as far as it is reported.

    Attributes:
        verb: of the stage.
        key: of its artifact.
        seconds: that it took.
        bytes: of its files.
        files: how many.
        folder: where they are, as the reader should see it.
        metrics: what it measured.
        question: that it was asked, of an evaluation.
        planned_rate: tokens per second that were planned, where it ran on what the plan knows.
        planned_bytes: of one GPU, likewise.
    """

    verb: str
    key: str
    seconds: float
    bytes: int
    files: int
    folder: str
    metrics: dict[str, Any]
    question: str = ""
    planned_rate: float | None = None
    planned_bytes: float | None = None

    @classmethod
    def of(cls, marker: Mapping[str, Any], folder: str, planned: tuple[float | None, float | None] = (None, None)) -> "Result":
        """That of a marker; `planned` are tokens per second and bytes of one GPU."""
        return cls(
            verb=marker["verb"],
            key=marker["key"],
            seconds=marker["seconds"],
            bytes=sum(entry["size"] for entry in marker["files"].values()),
            files=len(marker["files"]),
            folder=folder,
            metrics=marker["metrics"],
            question=marker["identity"].get("question", ""),
            planned_rate=planned[0],
            planned_bytes=planned[1],
        )


def report(results: Mapping[str, Result]) -> str:
    """What a finished pipeline made, by stage, in the order of the pipeline."""
    rows = []
    for name, result in results.items():
        pace = result.metrics.get("tokens_per_second")
        rows.append(
            [name, f"{result.seconds:.1f}", f"{pace:,.0f}" if pace else "-", f"{result.bytes / 2**20:.1f}", result.folder]
        )
    parts = [table(["stage", "seconds", "tokens/s", "MiB", "artifact"], rows)]
    if planned := [row for name, result in results.items() for row in _planned(name, result)]:
        parts.append(table(["beside the plan", "tokens/s", "planned", "GB of a GPU", "planned"], planned))
    perplexities = [row for name, result in results.items() for row in _perplexities(name, result)]
    if perplexities:
        parts.append(table(["perplexity on held-out records", "before", "after"], perplexities))
    for name, result in results.items():
        if result.verb == "evaluate":
            scores = [[k, _number(v)] for k, v in result.metrics.items() if isinstance(v, int | float)]
            parts.append(table([f"{name}: measure", "value"], scores))
            if result.metrics.get("answer") is not None:
                parts.append(f"{name}: asked {result.question!r}\n  {result.metrics['answer']!r}")
    return "\n\n".join(parts)


def titled(number: int, count: int, stage: str, width: int) -> str:
    """What a line about a stage begins with, aligned with those of the others, whose names have up to `width` characters."""
    return f"[{number:>{len(str(count))}}/{count}] {stage:<{width}}"


def headline(result: Result) -> str:
    """What a stage measured, in a few words."""
    found = result.metrics
    parts = []
    if found.get("dev_perplexity_start") is not None:
        parts.append(f"perplexity {_number(found['dev_perplexity_start'])} → {_number(found['dev_perplexity'])}")
    elif (perplexity := found.get("dev_perplexity", found.get("perplexity"))) is not None:
        parts.append(f"perplexity {_number(perplexity)}")
    units = {"vocab_size": "pieces", "train_examples": "examples", "parameters": "parameters", "files": "files"}
    for metric, unit in units.items():
        if metric in found and not parts:
            parts.append(f"{found[metric]:,} {unit}")
    if found.get("tokens_per_second"):
        parts.append(f"{found['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def _planned(name: str, result: Result) -> list[list[str]]:
    """What was measured on GPUs, each beside what `jobgen plan` said of it."""
    rate, peak = result.metrics.get("tokens_per_second"), result.metrics.get("peak_gpu_bytes")
    if not result.planned_rate and not result.planned_bytes:
        return []
    rates = [f"{one:,.0f}" if one else "-" for one in (rate, result.planned_rate)]
    return [[name, *rates, *(f"{one / 1e9:.1f}" if one else "-" for one in (peak, result.planned_bytes))]]


def _perplexities(name: str, result: Result) -> list[list[str]]:
    metrics = result.metrics
    if not issubclass(VERBS[result.verb], Training) or "dev_perplexity" not in metrics:
        return []
    start = metrics.get("dev_perplexity_start")  # Not there if the held-out records changed under way.
    return [[name, _number(start) if start else "-", _number(metrics["dev_perplexity"])]]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def say(text: str) -> None:
    """Tell whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
