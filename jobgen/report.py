"""The table at the end of a run: each stage's time and artifact, and what was measured. Every number is a marker's."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from minima.options import VERBS, Training


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the widest cell; a column of numbers to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [bool(rows) and all(row[i].replace(".", "").replace(",", "").isdigit() for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(row) for row in rows)])


def report(markers: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str]) -> str:
    """What a finished pipeline made.

    Args:
        markers: stage name to marker, in the order of the pipeline.
        folders: stage name to the artifact's folder, as the reader should see it.
    """
    rows = []
    for name, marker in markers.items():
        size = sum(entry["size"] for entry in marker["files"].values())
        rows.append([name, f"{marker['seconds']:.1f}", f"{size / 2**20:.1f}", folders[name]])
    parts = [table(["stage", "seconds", "MiB", "artifact"], rows)]
    perplexities = [row for name, marker in markers.items() for row in _perplexities(name, marker)]
    if perplexities:
        parts.append(table(["perplexity on held-out records", "before", "after"], perplexities))
    for name, marker in markers.items():
        if marker["verb"] == "evaluate":
            scores = [[k, _number(v)] for k, v in marker["metrics"].items() if isinstance(v, int | float)]
            parts.append(table([f"{name}: measure", "value"], scores))
            if marker["metrics"].get("answer") is not None:
                parts.append(f"{name}: asked {marker['identity']['question']!r}\n  {marker['metrics']['answer']!r}")
    return "\n\n".join(parts)


def _perplexities(name: str, marker: Mapping[str, Any]) -> list[list[str]]:
    metrics = marker["metrics"]
    if not issubclass(VERBS[marker["verb"]], Training) or "dev_perplexity" not in metrics:
        return []
    return [[name, _number(metrics["dev_perplexity_start"]), _number(metrics["dev_perplexity"])]]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def say(text: str) -> None:
    """Tell whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
