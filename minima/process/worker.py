"""One worker of an elastic stage: what torchrun's agent starts on each device."""

import contextlib
import os
import sys

from minima.process import agent, launch, stop
from minima.process.family import die_with_parent


def main() -> None:
    """Run `python -m minima.process.worker VERB --flags` and exit with the stage's code."""
    die_with_parent(int(os.environ[agent.PROCESS]))
    verb, *argv = sys.argv[1:]
    stop.watch(verb)
    code = launch.guarded(verb, lambda: launch.work(verb, argv))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Threads of communication libraries may hang after a lost peer; nothing of value is left to do.
    os._exit(code)


if __name__ == "__main__":
    main()
