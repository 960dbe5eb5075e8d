"""The program `minima`."""

import contextlib
import os
import sys

from minima.process import stop


def main() -> None:
    """Run the command line and exit with its code."""
    stop.watch(" ".join(sys.argv[1:2]))
    # Only now: the kernel drops SIGTERM for a PID 1 without a handler, and this takes ten times as long as what came before.
    from minima import cli

    code = cli.run(sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # What libraries do in their finalisers can neither hang nor change the code.


if __name__ == "__main__":
    main()
