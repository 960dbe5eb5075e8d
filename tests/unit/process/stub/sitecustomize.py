"""Put a stage into every Python process that has this folder on its path: what `STUB` says, instead of training."""

import os
import signal
import sys
import time
import types
from typing import Any


def run(options: Any, output: Any) -> dict[str, int]:
    """Do what the environment says, as a worker of an elastic stage."""
    from minima.errors import DataError, LostPeerError

    rank = os.environ["RANK"]
    print(f"pid {os.getpid()}", flush=True)
    match os.environ["STUB"], rank:
        case "ok", "0":
            time.sleep(0.5)
            (output.folder / "model.safetensors").write_text("weights")
        case "bad data", "0":
            time.sleep(0.5)
            raise LostPeerError("the peer is gone")
        case "bad data", "1":
            raise DataError("train.tfrecord: record 7: checksum")
        case "bug", "1":
            raise ZeroDivisionError("seven")
        case "killed", "1":
            os.kill(os.getpid(), signal.SIGKILL)
        case ("hang", _) | ("killed" | "bug", "0"):
            time.sleep(60)
    return {"rank": int(rank)}


module = types.ModuleType("minima.stages.adapt")
module.run = run  # type: ignore[attr-defined]
sys.modules["minima.stages.adapt"] = module
