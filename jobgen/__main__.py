"""The program `jobgen`."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if "_ARGCOMPLETE" in os.environ:
        from jobgen.commands.completion import complete

        complete()
    from jobgen.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
