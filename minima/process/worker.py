"""One worker of an elastic stage: what torchrun's agent starts on each device."""

import os
import signal
import sys
from types import FrameType

from minima.process import launch
from minima.process.workers import die_with_parent


def main() -> None:
    """Run `python -m minima.process.worker VERB --flags` and exit with the stage's code."""
    die_with_parent(int(os.environ[launch.AGENT]))
    signal.signal(signal.SIGINT, _as_sigterm)
    verb, *argv = sys.argv[1:]
    code = launch.guarded(verb, lambda: launch.work(verb, argv))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of communication libraries may hang after a lost peer; nothing of value is left to do.
    os._exit(code)


def _as_sigterm(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
