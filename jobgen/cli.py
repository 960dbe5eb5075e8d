"""The program jobgen: a command line to one of `commands`, and errors to messages and exit codes."""

import argparse
import os
import sys

from jobgen.commands import arguments
from minima.errors import DISK_FULL, TERMINATED, USAGE, StageError

BROKEN_PIPE = 141


def run(words: list[str]) -> int:
    """Run a command line without the program's name, and return the exit code."""
    try:
        code = _command(arguments.parse(words))
        sys.stdout.flush()
    except StageError as error:
        for line in str(error).splitlines():
            print(f"jobgen: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python must not try to flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("jobgen: interrupted", file=sys.stderr)
        return TERMINATED
    except OSError as error:
        import errno

        print(f"jobgen: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else USAGE
    return code


def _command(given: argparse.Namespace) -> int:
    match given.command:
        case None:
            print(arguments.parser().format_help(), end="")
            return 0
        case "init" | "validate" | "render":
            from jobgen.commands import files

            match given.command:
                case "init":
                    return files.init(given.name, given.start, given.cluster)
                case "validate":
                    return files.validate(given)
            return files.write_manifests(given)
        case "plan":
            from jobgen.commands import estimates

            return estimates.plan(given)
        case "run" | "gc" | "conduct":
            from jobgen.commands import runs

            return {"run": runs.run, "gc": runs.gc, "conduct": runs.conduct}[given.command](given)
        case "completion":
            from jobgen.commands import completion

            return completion.script(given.shell)
    from jobgen.commands import clusters

    return {
        "list": clusters.show,
        "status": clusters.status,
        "logs": clusters.logs,
        "diff": clusters.diff,
        "restart": clusters.restart,
        "stop": clusters.stop,
    }[given.command](given)
