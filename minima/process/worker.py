"""One worker of an elastic stage: what torchrun's agent starts on each device."""

import contextlib
import os
import sys

from minima.process import family, stop


def main() -> None:
    """Run `python -m minima.process.worker VERB --flags` and exit with the stage's code."""
    family.die_with_parent(int(os.environ[family.AGENT]))
    verb, *argv = sys.argv[1:]
    stop.watch(verb)
    from minima.process import launch  # Only now: it takes ten times as long as what came before.

    code = launch.guarded(verb, lambda: launch.work(verb, argv))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Threads of communication libraries may hang after a lost peer; nothing of value is left to do.
    os._exit(code)


if __name__ == "__main__":
    main()
