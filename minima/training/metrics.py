"""What a training run says about itself: metrics.jsonl, TensorBoard events, lines of a log."""

import json
import shutil
import socket
import sys
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from minima.data import framing
from minima.workspace.lease import Lease

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Metrics:
    """The logs of one run, beside its artifact; of the process that holds the lease.

    A row has `step`, `time` (seconds since the epoch) and what was measured. Rows after the step that a run resumes from
    are dropped, since they come again; at step 0 all of them. TensorBoard drops such events itself, where it is told to.

    What an earlier run wrote goes on in copies: it may be frozen, with its files open.
    """

    def __init__(self, lease: Lease, step: int, total: int) -> None:
        rows = lease.making / FILE
        if (lease.folder / FILE).exists():
            shutil.copyfile(lease.folder / FILE, rows)
        self._drop(rows, step)
        self._rows = open(rows, "a", encoding="utf-8")  # noqa: SIM115 closed by `close`
        events = lease.making / TENSORBOARD
        if (lease.folder / TENSORBOARD).exists():
            shutil.copytree(lease.folder / TENSORBOARD, events)
        events.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._events = open(events / name, "wb")  # noqa: SIM115 closed by `close`
        self._event(Event(file_version="brain.Event:2"))
        self._event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        lease.put(FILE, TENSORBOARD)
        self._total = total

    @staticmethod
    def _drop(place: Path, step: int) -> None:
        if not place.exists():
            return
        kept = []
        for line in place.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # Cut off when the run before was killed.
            if 0 < step >= row["step"]:
                kept.append(line + "\n")
        place.write_text("".join(kept), encoding="utf-8")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write one row, and show it in a log; a terminal has a line of progress."""
        row = {"step": step, **values, "time": round(time.time(), 3)}
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._event(Event(step=step, summary=Summary(value=scalars)))
        if not sys.stderr.isatty():
            shown = {name: f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}" for name, value in values.items()}
            print(f"step {step}/{self._total} " + " ".join(f"{k} {v}" for k, v in shown.items()), file=sys.stderr, flush=True)

    def _event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write(framing.frame(event.SerializeToString()))
        self._events.flush()

    def close(self) -> None:
        """Write what is buffered."""
        self._rows.close()
        self._events.close()
