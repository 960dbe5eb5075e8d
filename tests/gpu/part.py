"""One part of the measurement, in a process of its own: `python -m tests.gpu.part NAME --device cuda --rows FILE …`.

Every row is in the file as soon as it is measured, so a part that is stopped leaves what it had.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

OUT_OF_MEMORY = 12
"""Exit code of a part that the GPU has no memory for: it is tried again at a smaller scale."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: was measured.
        value: of it.
        unit: of the value, or where it was measured.
        ok: False where the value shows a mistake; None where nothing is expected of it.
    """

    what: str
    value: float | str
    unit: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Place:
    """Where a part runs.

    Attributes:
        device: cuda or cpu; on a CPU everything is of toy size.
        end: when it will be stopped, by time.monotonic().
        scale: below 1 after the memory did not suffice.
        work: folder that all parts share.
        wheels: folder of wheels.
    """

    device: str
    end: float
    scale: float
    work: Path
    wheels: Path

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()


def main() -> None:
    """Run the part and append its rows to the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    chosen = parser.parse_args()
    place = Place(chosen.device, time.monotonic() + chosen.seconds, chosen.scale, chosen.work, chosen.wheels)
    # DeepSpeed guesses by what is installed, and the stages by a device file that not every machine's driver makes.
    os.environ["DS_ACCELERATOR"] = place.device
    rows: Iterator[Row] = importlib.import_module(f"tests.gpu.{chosen.name}").run(place)
    try:
        for row in rows:
            with open(chosen.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps({"part": chosen.name, **asdict(row)}) + "\n")
            print(row, flush=True)
    except Exception as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            print(f"out of memory at scale {place.scale}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
            os._exit(OUT_OF_MEMORY)
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Communication threads may hang.


if __name__ == "__main__":
    main()
