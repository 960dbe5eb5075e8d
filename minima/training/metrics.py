"""What a training run says about itself: metrics.jsonl, TensorBoard events, lines of a log."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType

# TensorBoard's own switch: where this module is, it does not import TensorFlow, which takes many seconds.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))

from torch.utils.tensorboard import SummaryWriter  # noqa: E402

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Metrics:
    """The logs of one run in one folder; rank 0's only.

    A row has `step`, `time` (seconds since the epoch) and what was measured. Rows after the step that a run resumes from
    are dropped, since they come again; at step 0 all of them.
    """

    def __init__(self, folder: Path, step: int, total: int) -> None:
        place = folder / FILE
        self._drop(place, step)
        self._rows = open(place, "a", encoding="utf-8")  # noqa: SIM115 closed by `close`
        self._events = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)
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
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if not sys.stderr.isatty():
            shown = {name: f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}" for name, value in values.items()}
            print(f"step {step}/{self._total} " + " ".join(f"{k} {v}" for k, v in shown.items()), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write what is buffered."""
        self._rows.close()
        self._events.close()
