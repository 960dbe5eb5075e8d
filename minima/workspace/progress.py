"""What a stage that runs is doing, as a small file in its folder that front ends read.

Phases are words for people: starting, loading, reading, training, evaluating, scoring, writing, saving, waiting. Each pod
of an independent stage has a file of its own. Standard library only.
"""

import contextlib
import json
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from minima.errors import StageError

FORMAT = 1
INTERVAL = 1.0
"""Seconds between two writes, at least."""
LOG_SECONDS = 60.0
"""Seconds between two lines in a log, unless the phase changes."""
WAITING = "waiting"
LONG_SECONDS = 2.0
"""After which a phase of which nobody knows the end shows how long it lasts."""
LOG_WIDTH = 120
BAR, SHORT_BAR = 20, 10
"""Characters of a bar, at most and at least."""
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a stage is.

    Attributes:
        phase: what it does.
        step: how much of this phase is done, in `unit`.
        total: how much that is in all; 0 if nobody knows.
        unit: what is counted, in the plural.
        tokens: read in all attempts.
        tokens_per_second: the pace of this attempt; 0 if it reads none.
        loss: the last one logged.
        eta: seconds until `total`, at the pace of this attempt.
        since: when the program began, in seconds since the epoch.
        phase_since: when the phase began.
        time: of writing.
    """

    phase: str
    step: int = 0
    total: int = 0
    unit: str = ""
    tokens: int = 0
    tokens_per_second: float = 0.0
    loss: float | None = None
    eta: float | None = None
    since: float = 0.0
    phase_since: float = 0.0
    time: float = 0.0


def file(pod: int = 0) -> str:
    """The name of the file of a pod."""
    return f"_progress-{pod}.json" if pod else "_progress.json"


def read(folder: Path) -> Progress | None:
    """What the pods of a stage are doing, together; None where nothing was written yet.

    Counts and paces are sums, the ETA is the last one's, and the phase that of a pod that works.
    """
    found = [p for p in map(_read, sorted(folder.glob("_progress*.json"))) if p]
    if len(found) < 2:
        return found[0] if found else None
    first = next((p for p in found if p.phase != WAITING), found[0])
    alike = [p for p in found if p.unit == first.unit]
    return replace(
        first,
        step=sum(p.step for p in alike),
        total=sum(p.total for p in alike) if all(p.total for p in alike) else 0,
        tokens=sum(p.tokens for p in found),
        tokens_per_second=sum(p.tokens_per_second for p in found if p.phase != WAITING),
        eta=max((p.eta for p in alike if p.eta is not None), default=None),
        since=min(p.since for p in found),
        phase_since=min(p.phase_since for p in alike),
        time=max(p.time for p in found),
    )


def _read(place: Path) -> Progress | None:
    # The file is not synced: after a crash of the machine it may be empty, and its writer comes again.
    with contextlib.suppress(OSError, ValueError):
        return from_json(json.loads(place.read_text(encoding="utf-8")))
    return None


def from_json(content: Any) -> Progress | None:
    """What `to_json` made; None if it is of another version."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    names = {f.name for f in fields(Progress)}
    return Progress(**{name: value for name, value in content.items() if name in names}) if "phase" in content else None


def to_json(progress: Progress) -> dict[str, Any]:
    """As a JSON object, with its format."""
    return {"format": FORMAT, **asdict(progress)}


class Reporter:
    """Tells what the running stage does, at any pace; a thread writes it at most once every `INTERVAL`, and shows it on stderr.

    Args:
        write: puts the text into the stage's file; None for a process that others speak for.
        started: when the program began, in seconds since the epoch.
    """

    def __init__(self, write: Callable[[str], object] | None = None, started: float = 0.0) -> None:
        now = time.time()
        self.now = Progress(phase="starting", since=started or now, phase_since=now, time=now)
        self._put = write
        self._written: Progress | None = None
        self._began: dict[str, tuple[float, int, int]] = {}
        """When a phase was first entered, and with how many steps and tokens behind it."""
        self._said = ("", 0.0)
        """The phase that a log was told last, and when."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def __enter__(self) -> "Reporter":
        if self._put is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._put is None:
            return
        self._stop.set()
        self._thread.join()
        self._write()
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def phase(self, name: str, total: int = 0, unit: str = "", *, step: int = 0) -> None:
        """Begin a phase, or come back to it."""
        now = time.time()
        self._began.setdefault(name, (time.monotonic(), step, self.now.tokens))
        since, tokens = self.now.since, self.now.tokens
        self.now = Progress(
            phase=name, step=step, total=total, unit=unit, tokens=tokens, since=since, phase_since=now, time=now
        )

    def at(
        self, step: int, *, tokens: int | None = None, tokens_per_second: float | None = None, loss: float | None = None
    ) -> None:
        """So much of the phase is done.

        Args:
            step: of its total.
            tokens: read in all.
            tokens_per_second: the pace, if it is not that of `tokens` since the phase was first entered.
            loss: the last one logged.
        """
        began, before, tokens_before = self._began[self.now.phase]
        seconds = max(time.monotonic() - began, 1e-9)
        done, total = step - before, self.now.total
        if tokens is not None and tokens_per_second is None:
            tokens_per_second = (tokens - tokens_before) / seconds
        pace = self.now.tokens_per_second if tokens_per_second is None else tokens_per_second
        self.now = replace(
            self.now,
            step=step,
            tokens=self.now.tokens if tokens is None else tokens,
            tokens_per_second=round(pace, 1),
            loss=loss if loss is not None and math.isfinite(loss) else self.now.loss,
            eta=round(seconds / done * (total - step), 1) if total and done > 0 else None,
            time=time.time(),
        )

    def track(self, items: Iterable[Item], name: str, total: int, unit: str) -> Iterator[Item]:
        """A phase that goes through `items`."""
        self.phase(name, total, unit)
        for done, item in enumerate(items, 1):
            yield item
            self.at(done)

    def _work(self) -> None:
        self._write()
        while not self._stop.wait(INTERVAL):
            self._write()

    def _write(self) -> None:
        now = self.now
        self._show(now)
        if now is self._written or self._put is None:
            return
        self._written = now
        # A full disk, or a lease that went to another: the stage itself meets it at its next write, and says so.
        with contextlib.suppress(OSError, StageError):
            self._put(json.dumps(to_json(now)))

    def _show(self, now: Progress) -> None:
        """On a terminal one line that changes, in a log a line for each phase that lasts, and for each minute of it."""
        if sys.stderr.isatty():
            print(f"\r{line(now, shutil.get_terminal_size().columns - 1)}\x1b[K", end="", file=sys.stderr, flush=True)
        elif self._thread.is_alive() and (now.phase != self._said[0] or time.monotonic() - self._said[1] >= LOG_SECONDS):
            self._said = (now.phase, time.monotonic())
            print(line(now, LOG_WIDTH, bar=0), file=sys.stderr, flush=True)


def line(progress: Progress, width: int, bar: int = BAR) -> str:
    """Progress in one line of at most `width` characters: what matters least is left out first, and a bar fills the rest."""
    if progress.unit == "bytes":
        done, total, unit = f"{progress.step / 1e6:,.1f}", f"{progress.total / 1e6:,.1f}", " MB"
    else:
        done, total, unit = f"{progress.step:,}", f"{progress.total:,}", "" if progress.total else f" {progress.unit}"
    texts = [f"{done}/{total}{unit}" if progress.total else f"{done}{unit}" if progress.step else ""]
    texts += [f"{duration(progress.eta)} left" if progress.eta is not None else ""]
    age = time.time() - progress.phase_since
    if not progress.total and progress.phase_since and age >= LONG_SECONDS:
        texts += [duration(age)]
    least = min(bar, SHORT_BAR) + 2 if progress.total and bar else 0
    more = [
        f"loss {progress.loss:.4g}" if progress.loss is not None else "",
        f"{progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else "",
    ]
    right = "".join(f"  {text}" for text in texts if text)
    for text in more:
        if text and len(progress.phase) + least + len(right) + 2 + len(text) <= width:
            right += f"  {text}"
    room = min(bar, width - len(progress.phase) - len(right) - 2)
    if progress.total and room >= SHORT_BAR:
        filled = round(room * min(progress.step / progress.total, 1))
        right = f"  {'█' * filled}{'░' * (room - filled)}{right}"
    return f"{progress.phase}{right}"[:width]


def duration(seconds: float) -> str:
    """Such as 42s, 3m05s, 2h07m, 3d04h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
