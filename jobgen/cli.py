"""The command line of jobgen. Everything else is imported when a command needs it, so that `--help` answers at once."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from minima.errors import DISK_FULL, TERMINATED, USAGE, StageError, UsageError

BROKEN_PIPE = 141
EXIT_CODES = "exit codes: 0 done, 64 wrong command or pipeline, 65 bad data, 70 bug, 74 disk full, 75 an input is not there"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows what is valid")


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from importlib import metadata

        print(metadata.version("minima"))
        raise SystemExit(0)


def run(words: list[str]) -> int:
    """Run a command line without the program's name, and return the exit code."""
    try:
        code = _command(_parser().parse_args(words))
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
        case "init":
            return _init(given.name, given.start)
        case "validate":
            return _validate(given.pipeline)
        case "render":
            return _render(given.pipeline, given.output, given.namespace)
        case "run":
            return _run(given.pipeline, local=given.local, workspace=given.workspace, from_stage=given.from_stage)
    print(_parser().format_help(), end="")
    return 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="jobgen",
        description="Turn a pipeline file into Kubeflow PyTorchJobs, or run it on this machine.",
        epilog=f"example:\n  jobgen init my-model\n  jobgen validate my-model.yaml\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, help: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    init = command("init", "write NAME.yaml, a pipeline of your own to start from", "jobgen init my-model --from smoke")
    init.add_argument("name", metavar="NAME", help="the new pipeline's name: a-z, 0-9 and -")
    init.add_argument("--from", dest="start", default="minima-3b", metavar="SHIPPED", help="which to copy (default: minima-3b)")

    which = "a pipeline file, or the name of one that ships with jobgen: minima-3b, smoke"
    validate = command("validate", "check a pipeline and print its stages, keys and memory", "jobgen validate my-model.yaml")
    validate.add_argument("pipeline", metavar="FILE|NAME", help=which)

    render = command(
        "render",
        "write a pipeline's PyTorchJobs, one numbered file for each stage",
        "jobgen render my-model.yaml --output jobs --namespace training\n  jobgen render smoke --output - | less",
    )
    render.add_argument("pipeline", metavar="FILE|NAME", help=which)
    render.add_argument("--output", required=True, metavar="DIR", help="folder to write to, or - for standard output")
    render.add_argument("--namespace", metavar="NS", help="namespace of the objects (default: none is written)")

    go = command(
        "run", "run a pipeline's stages in order", "jobgen run smoke --local\n  jobgen run smoke --local --from distill"
    )
    go.add_argument("pipeline", metavar="FILE|NAME", help=which)
    go.add_argument("--local", action="store_true", help="on this machine")
    go.add_argument("--workspace", default="./work", metavar="DIR", help="folder of all artefacts (default: ./work)")
    go.add_argument("--from", dest="from_stage", metavar="STAGE", help="set this stage's artefact and later ones aside first")
    return parser


def _init(name: str, start: str) -> int:
    import re

    from jobgen import spec
    from minima.errors import did_you_mean

    if start not in spec.shipped():
        raise UsageError(f"--from: no shipped pipeline {start!r}; {did_you_mean(start, spec.shipped())}")
    if not spec.NAME.fullmatch(name):
        raise UsageError(f"NAME: found {name!r}; a name of a-z, 0-9 and -, starting with a letter, is valid")
    text = re.sub(rf"^name: {re.escape(start)}$", f"name: {name}", spec.read(start), count=1, flags=re.MULTILINE)
    place = Path(f"{name}.yaml")
    spec.parse(text, str(place))
    try:
        with open(place, "x", encoding="utf-8", newline="\n") as out:
            out.write(text)
    except FileExistsError:
        raise UsageError(f"{place}: there already; choose another name, or move it away") from None
    print(f"wrote {place}; next: jobgen validate {place}")
    return 0


def _validate(name: str) -> int:
    from jobgen import render, spec
    from jobgen.plan import plan
    from jobgen.report import table

    pipeline = spec.load(name)
    steps = plan(pipeline)
    render.files(pipeline)
    rows = []
    for step in steps:
        zero = str(getattr(step.options, "zero_stage", "-"))
        memory = f"{step.memory} of {step.pool.gpu_memory}" if step.memory else "-"
        rows.append([step.stage, step.verb, step.pool.name, f"{step.pods}×{step.processes}", step.key, zero, memory])
    print(table(["stage", "verb", "pool", "pods×processes", "key", "ZeRO", "memory of a GPU"], rows))
    return 0


def _render(name: str, output: str, namespace: str | None) -> int:
    from jobgen import render, spec

    if not output:
        raise UsageError("--output: found an empty path; a folder, or - for standard output, is valid")
    pipeline = spec.load(name)
    files = render.files(pipeline, namespace)
    if output == "-":
        sys.stdout.buffer.write("---\n".join(files.values()).encode())
        return 0
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--output: {folder} is, or lies under, a file; name a folder") from None
    heading = render.heading(pipeline.name)
    ours = {place.name for place in folder.glob("[0-9]*-*.yaml") if place.is_file() and _first_line(place) == heading}
    foreign = [str(folder / file) for file in files if (folder / file).exists() and file not in ours]
    if foreign:
        raise UsageError(f"--output: {', '.join(foreign)} not made from {pipeline.name}; choose another folder or move it away")
    from minima.files import write_atomically

    for file, text in files.items():
        write_atomically(folder / file, text)
    for file in sorted(ours - files.keys()):
        (folder / file).unlink()
        print(f"removed {folder / file}: {pipeline.name} has no such stage there any more", file=sys.stderr)
    first = folder / next(iter(files))
    print(f"wrote {len(files)} PyTorchJobs to {folder}; one after the other: kubectl apply -f {first} …", file=sys.stderr)
    return 0


def _first_line(place: Path) -> str:
    with open(place, encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n")


def _run(name: str, *, local: bool, workspace: str, from_stage: str | None) -> int:
    if not local:
        raise UsageError("only --local runs here; for a cluster: jobgen render, then kubectl apply")
    from jobgen import spec
    from jobgen.run import run_local

    return run_local(spec.load(name), workspace=workspace, from_stage=from_stage)
