"""The last words of a process: on stderr, and where Kubernetes and torchrun's agent look for them."""

import json
import os
import sys
import time
from pathlib import Path

TERMINATION_LOG = Path(os.environ.get("MINIMA_TERMINATION_LOG", "/dev/termination-log"))
"""Where Kubernetes, or `jobgen run --local`, looks for a program's last words."""


def say(verb: str, message: str) -> None:
    """Say the last words on stderr, and to Kubernetes, which shows them in the pod's status."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # A worker tells its agent, which says the root cause once.
        body = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(report).write_text(json.dumps(body), encoding="utf-8")
        return
    print(f"minima {verb}: {message}", file=sys.stderr, flush=True)
    leave(message)


def leave(message: str) -> None:
    """Leave the last words of a container where Kubernetes shows them."""
    if TERMINATION_LOG.is_file() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(message[:4000], encoding="utf-8", errors="backslashreplace")
