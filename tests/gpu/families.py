"""Where the time of a device goes, by families of kernels, from a trace of torch's profiler."""

import bisect
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

MARKED = ("loss", "optimizer")
"""Ranges of `record_function` whose kernels count as a family whatever they are."""
NAMED = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|xmma|splitk|^aten::(add|b|)mm|mkldnn"),
    ("copies", r"memcpy|memset|copy|catarray|fill|^aten::(zero_|cat|_to_copy|clone)"),
)
"""The first pattern that is found in a name, in small letters, says the family; else it is `norms and others`."""


def seconds(trace: Path, *, gpu: bool) -> dict[str, float]:
    """Seconds of each family, and `idle` from the first piece of work to the last, in a trace as torch exports it."""
    events = [e for e in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"] if e.get("ph") == "X"]
    marks: dict[str, list[tuple[float, float]]] = {name: [] for name in MARKED}
    for event in events:
        if event.get("cat") == ("gpu_user_annotation" if gpu else "user_annotation") and event["name"] in marks:
            marks[event["name"]].append((event["ts"], event["ts"] + event["dur"]))
    for ranges in marks.values():
        ranges.sort()
    kinds = {"kernel", "gpu_memcpy", "gpu_memset"}
    work = [e for e in events if e.get("cat") in kinds] if gpu else _own_time([e for e in events if e.get("cat") == "cpu_op"])
    found: dict[str, float] = defaultdict(float)
    for event in work:
        found[_family(event, marks)] += event.get("own", event["dur"]) / 1e6
    return dict(found) | {"idle": _idle(work) / 1e6}


def _family(event: dict[str, Any], marks: dict[str, list[tuple[float, float]]]) -> str:
    for name, ranges in marks.items():
        before = bisect.bisect(ranges, (event["ts"], float("inf"))) - 1
        if before >= 0 and event["ts"] <= ranges[before][1]:
            return name
    small = event["name"].lower()
    return next((family for family, pattern in NAMED if re.search(pattern, small)), "norms and others")


def _own_time(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The operations of a CPU, each without the time of those that it calls."""
    found: list[dict[str, Any]] = []
    calling: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        above = calling[event["tid"]]
        while above and above[-1]["ts"] + above[-1]["dur"] <= event["ts"]:
            above.pop()
        mine = event | {"own": event["dur"]}
        if above:
            above[-1]["own"] -= event["dur"]
        above.append(mine)
        found.append(mine)
    return found


def _idle(work: list[dict[str, Any]]) -> float:
    idle, end = 0.0, None
    for event in sorted(work, key=lambda e: e["ts"]):
        if end is not None and event["ts"] > end:
            idle += event["ts"] - end
        end = max(end or 0.0, event["ts"] + event["dur"])
    return idle
