"""The command line of jobgen. Everything else is imported when a command needs it, so that `--help` answers at once."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from minima.errors import DISK_FULL, TERMINATED, USAGE, StageError, UsageError

if TYPE_CHECKING:
    from jobgen.pipeline.pipeline import Pipeline

BROKEN_PIPE = 141
FORMATS = ("files", "conductor", "flux", "argocd")
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
            return _render(given)
        case "run":
            return _run(given)
        case "conduct":
            return _conduct(given)
        case "status" | "logs" | "diff" | "restart":
            return _look(given)
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
    render.add_argument(
        "--format",
        choices=FORMATS,
        default="files",
        help="files: a PyTorchJob for each stage (default); conductor: one file that carries the whole pipeline; "
        "flux, argocd: a folder for a Git repository",
    )
    render.add_argument("--source", metavar="NAME|URL", help="the GitRepository's name (flux) or the repository's URL (argocd)")
    render.add_argument("--path", metavar="PATH", help="where the folder is in the repository (default: the pipeline's name)")

    go = command(
        "run",
        "run a pipeline's stages in order, on this machine or in a cluster",
        "jobgen run smoke --local\n  jobgen run smoke --local --from distill\n  jobgen run smoke --namespace minima",
    )
    go.add_argument("pipeline", metavar="FILE|NAME", help=which)
    where = go.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", action="store_true", help="on this machine")
    where.add_argument("--namespace", metavar="NS", help="in this namespace of the cluster that kubectl uses")
    go.add_argument("--workspace", metavar="DIR", help="folder of all artifacts, with --local (default: ./work)")
    go.add_argument("--from", dest="from_stage", metavar="STAGE", help="set this stage's artifact and later ones aside first")

    def in_cluster(name: str, help: str, example: str) -> argparse.ArgumentParser:
        made = command(name, help, example)
        made.add_argument("pipeline", metavar="FILE|NAME", help=which)
        made.add_argument("--namespace", required=True, metavar="NS", help="namespace of the pipeline")
        return made

    status = in_cluster("status", "show where a pipeline is in a cluster", "jobgen status smoke --namespace minima --watch")
    status.add_argument("--output", choices=("table", "json"), default="table", help="(default: table)")
    status.add_argument("--watch", action="store_true", help="again every 5 seconds, until nothing is under way")

    log = in_cluster("logs", "print what a stage's pods wrote, across restarts", "jobgen logs smoke distill --namespace minima")
    log.add_argument("stage", metavar="STAGE", help="name of the stage")
    log.add_argument("--follow", action="store_true", help="go on as more comes")

    in_cluster("diff", "say which stages would run again, and why", "jobgen diff my-model.yaml --namespace minima")

    again = in_cluster(
        "restart",
        "put a running stage on its new object, from its checkpoint",
        "jobgen restart my-model.yaml distill --namespace minima",
    )
    again.add_argument("stage", metavar="STAGE", help="name of the stage")

    conduct = in_cluster(
        "conduct",
        "what `run --namespace` and the form `conductor` run in the cluster",
        "jobgen conduct pipeline.yaml --namespace minima",
    )
    conduct.add_argument("--from", dest="from_stage", metavar="STAGE", help="set aside from this stage on first, once")
    conduct.add_argument("--job", default="", metavar="NAME", help="the Job that runs this")
    conduct.add_argument("--uid", default="", metavar="UID", help="that Job's uid")
    return parser


def _init(name: str, start: str) -> int:
    import re

    from jobgen.pipeline import spec
    from jobgen.pipeline.pipeline import NAME
    from minima.errors import did_you_mean

    if start not in spec.shipped():
        raise UsageError(f"--from: no shipped pipeline {start!r}; {did_you_mean(start, spec.shipped())}")
    if not NAME.fullmatch(name):
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
    from jobgen.manifests import render
    from jobgen.pipeline import spec
    from jobgen.pipeline.plan import plan
    from jobgen.report import table

    pipeline = spec.load(name)
    steps = plan(pipeline)
    render.files(pipeline)
    rows = []
    for step in steps:
        zero = str(getattr(step.options, "zero_stage", "-"))
        memory = f"{step.memory} of {step.pool.gpu_memory}" if step.memory else "-"
        rows.append([step.name, step.verb, step.pool.name, f"{step.pods}×{step.processes}", step.key, zero, memory])
    print(table(["stage", "verb", "pool", "pods×processes", "key", "ZeRO", "memory of a GPU"], rows))
    return 0


def _files(given: argparse.Namespace, pipeline: "Pipeline") -> dict[str, str]:
    from jobgen.manifests import conductor, gitops, render

    tool = {"flux": gitops.flux, "argocd": gitops.argocd}.get(given.format)
    if tool is None:
        for option in ("source", "path"):
            if getattr(given, option) is not None:
                raise UsageError(f"--{option}: goes with --format flux and --format argocd only")
        if given.format == "conductor":
            render.check_namespace(given.namespace)
            objects = conductor.objects(pipeline, given.namespace)
            options = "--format conductor" + (f" --namespace {given.namespace}" if given.namespace else "")
            return {f"{pipeline.name}-conductor.yaml": render.text(pipeline, objects, options)}
        return render.files(pipeline, given.namespace)
    for option in ("namespace", "source"):
        if not getattr(given, option):
            raise UsageError(f"--{option}: --format {given.format} needs it; `jobgen render --help` says what it is")
    return tool(pipeline, given.namespace, given.source, given.path or pipeline.name)


def _render(given: argparse.Namespace) -> int:
    from jobgen.manifests import render
    from jobgen.pipeline import spec

    output = given.output
    if not output:
        raise UsageError("--output: found an empty path; a folder, or - for standard output, is valid")
    pipeline = spec.load(given.pipeline)
    files = _files(given, pipeline)
    if output == "-":
        sys.stdout.buffer.write("---\n".join(files.values()).encode())
        return 0
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--output: {folder} is, or lies under, a file; name a folder") from None
    heading = render.heading(pipeline.name)
    ours = {
        place.relative_to(folder).as_posix()
        for place in folder.rglob("*.yaml")
        if place.is_file() and _first_line(place) == heading
    }
    foreign = [str(folder / file) for file in files if (folder / file).exists() and file not in ours]
    if foreign:
        raise UsageError(f"--output: {', '.join(foreign)} not made from {pipeline.name}; choose another folder or move it away")
    from minima.workspace.files import write_atomically

    for file, text in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        write_atomically(folder / file, text)
    for file in sorted(ours - files.keys()):
        (folder / file).unlink()
        print(f"removed {folder / file}: {pipeline.name} has no such stage there any more", file=sys.stderr)
    first = folder / next(iter(files))
    next_step = {
        "files": f"one after the other: kubectl apply -f {first} …",
        "conductor": f"kubectl apply -f {first}",
        "flux": f"commit the folder, then once: kubectl apply -f {folder / 'kustomizations.yaml'}",
        "argocd": f"commit the folder, and make one Application of {folder / 'applications'}",
    }[given.format]
    print(f"wrote {len(files)} files to {folder}; {next_step}", file=sys.stderr)
    return 0


def _first_line(place: Path) -> str:
    with open(place, encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n")


def _run(given: argparse.Namespace) -> int:
    from jobgen.manifests import render
    from jobgen.pipeline import spec

    pipeline = spec.load(given.pipeline)
    if given.local:
        from jobgen.local import run_local

        workspace = "./work" if given.workspace is None else given.workspace
        return run_local(pipeline, workspace=workspace, from_stage=given.from_stage)
    if given.workspace is not None:
        raise UsageError("--workspace: goes with --local; in a cluster the pipeline's `workspace` is used")
    render.check_namespace(given.namespace)
    from jobgen.cluster.namespace import Cluster
    from jobgen.cluster.remote import run_remote

    return run_remote(pipeline, Cluster(given.namespace), from_stage=given.from_stage)


def _conduct(given: argparse.Namespace) -> int:
    import signal

    from jobgen.cluster.conduct import conduct
    from jobgen.cluster.namespace import Cluster
    from jobgen.pipeline import spec

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # PID 1 has no default; the stages go on without it.
    return conduct(
        spec.load(given.pipeline), Cluster(given.namespace), from_stage=given.from_stage, name=given.job, uid=given.uid
    )


def _look(given: argparse.Namespace) -> int:
    from jobgen.cluster.namespace import Cluster
    from jobgen.manifests import render
    from jobgen.pipeline import spec

    render.check_namespace(given.namespace)
    pipeline = spec.load(given.pipeline)
    cluster = Cluster(given.namespace)
    match given.command:
        case "status":
            from jobgen.cluster.status import status

            return status(pipeline, cluster, output=given.output, watch=given.watch)
        case "diff":
            from jobgen.cluster.status import diff

            return diff(pipeline, cluster)
        case "logs":
            from jobgen.cluster.remote import logs

            return logs(pipeline, cluster, given.stage, follow=given.follow)
    from jobgen.cluster.remote import restart

    return restart(pipeline, cluster, given.stage)
