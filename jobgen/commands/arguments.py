"""What every command takes: argparse alone, so that help and completion need nothing else."""

import argparse
import glob
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from minima.errors import UsageError, did_you_mean, exit_codes

FORMATS = ("files", "conductor", "network")
PIPELINE = "a pipeline file, or the name of one that ships with jobgen: minima-3b, smoke"
CLUSTERS = (
    *("gke-a2-ultra", "gke-a2-high", "eks-p4d", "eks-p4de", "aks-nd96-a100", "aks-nd96-a100-40"),
    *("openshift", "bare-metal-ib", "kind", "none"),
)
"""Profiles that ship with jobgen."""
WORKSPACE = "./work"
"""Folder of all artifacts on this machine."""
VALIDATE_KEYS = (
    *("cluster", "stages", "conductor", "inputs", "wants", "warnings", "stages[].stage", "stages[].verb", "stages[].pool"),
    *("stages[].pods", "stages[].processes", "stages[].key", "stages[].needs", "stages[].output_dir", "stages[].zero_stage"),
    *("stages[].memory", "stages[].gpu_memory", "stages[].pod_security", "stages[].hindered_by", "conductor.pod_security"),
    *("conductor.hindered_by", "inputs[].path", "inputs[].what", "inputs[].for", "inputs[].there", "wants[].kind"),
    *("wants[].name", "wants[].keys", "wants[].for"),
)
PLAN_KEYS = (
    *("stages", "total", "total.hours", "total.gpu_hours", "total.cost", "total.without", "total.artifact_bytes"),
    *("total.checkpoint_bytes", "stages[].stage", "stages[].verb", "stages[].pool", "stages[].gpus", "stages[].gpu"),
    *("stages[].parameters", "stages[].trained_parameters", "stages[].teacher_parameters", "stages[].zero_stage"),
    *("stages[].micro_batch", "stages[].largest_micro_batch", "stages[].memory", "stages[].usable_memory"),
    *("stages[].flops_per_token", "stages[].tokens", "stages[].tokens_assumed", "stages[].tokens_per_second"),
    *("stages[].error", "stages[].hours", "stages[].gpu_hours", "stages[].cost", "stages[].artifact_bytes"),
    *("stages[].checkpoint_bytes", "stages[].checkpoints"),
)
LIST_KEYS = ("pipeline", "state", "finished", "stages", "running", "age", "conductor", "words")
STATUS_KEYS = (
    *("format", "pipeline", "version", "conductor", "state", "since", "waits_for", "exit_code", "words", "time", "stages"),
    *("stages[].stage", "stages[].state", "stages[].since", "stages[].waits_for", "stages[].waits_since", "stages[].job"),
    *("stages[].restarts", "stages[].exit_code", "stages[].words", "stages[].planned", "stages[].progress", "stages[].result"),
)
DIFF_KEYS = ("stage", "what", "why", "job")


class Parser(argparse.ArgumentParser):
    """Errors are UsageErrors that point to the help of the very command."""

    commands: dict[str, "Parser"]
    """By name; of the whole program's parser only."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows what is valid")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"found {value!r}; {did_you_mean(value, action.choices)}")


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from importlib import metadata

        print(metadata.version("minima"))
        raise SystemExit(0)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line without the program's name; `command` is None without one.

    Raises:
        UsageError: it is wrong.
    """
    made = parser()
    given, rest = made.parse_known_args(words)
    if rest:
        of = made.commands[given.command] if given.command else made
        flag = rest[0].partition("=")[0]
        if not flag.startswith("-"):
            of.error(f"{flag!r}: one word too many")
        of.error(f"{flag}: no such option; {did_you_mean(flag, of._option_string_actions)}")
    return given


def parser() -> Parser:
    """The parser of the whole program."""
    made = Parser(
        prog="jobgen",
        description="Turn a pipeline file into Kubeflow PyTorchJobs, or run it on this machine.",
        epilog=f"example:\n  jobgen init my-model\n  jobgen validate my-model.yaml\n\n{textwrap.fill(exit_codes(), 100)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    made.commands = commands.choices

    def command(name: str, help: str, example: str, keys: Sequence[str] = ()) -> Parser:
        shown = textwrap.fill(f"keys of --output json: {', '.join(keys)}", 100)
        one = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n  {example}" + (f"\n\n{shown}" if keys else ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if keys:
            one.add_argument(
                "--output", choices=("table", "json"), default="table", help="form of what is printed (default: table)"
            )
        return one

    init = command("init", "write NAME.yaml, a pipeline of your own to start from", "jobgen init my-model --cluster eks-p4d")
    init.add_argument("name", metavar="NAME", help="the new pipeline's name: a-z, 0-9 and -")
    init.add_argument("--from", dest="start", default="minima-3b", metavar="SHIPPED", help="which to copy (default: minima-3b)")
    init.add_argument(
        "--cluster",
        metavar="NAME|FILE",
        help=f"its cluster: {', '.join(CLUSTERS)}, or a file of your own such as ./site.yaml (default: none)",
    )

    validate = command(
        "validate",
        "check a pipeline and print its stages, keys and memory",
        "jobgen validate my-model.yaml\n  jobgen validate my-model.yaml --local",
        VALIDATE_KEYS,
    )
    _pipeline(validate)
    validate.add_argument("--local", action="store_true", help="for a run on this machine, which may read any path")
    _workspace(validate)

    costs = command(
        "plan",
        "say what a pipeline's stages will take: memory, time, GPU-hours, cost and disk",
        "jobgen plan my-model.yaml --tokens build-data=125e9 --price 2.50\n  jobgen plan my-model.yaml --local",
        PLAN_KEYS,
    )
    _pipeline(costs)
    costs.add_argument("--local", action="store_true", help="of a run on this machine: reads what its stages have measured")
    _workspace(costs)
    costs.add_argument(
        "--tokens",
        type=_tokens,
        action="append",
        default=[],
        metavar="NAME=N",
        help="tokens in the training records of a stage, or of an input of the pipeline; may be given again "
        "(default: as its marker says with --local, else hours and cost are of a billion tokens)",
    )
    costs.add_argument("--price", type=_price, metavar="P", help="of a GPU-hour, in any currency (default: no cost is shown)")

    render = command(
        "render",
        "write a pipeline's PyTorchJobs, one numbered file for each stage",
        "jobgen render my-model.yaml --output jobs -n training\n  jobgen render smoke --output - | less",
    )
    _pipeline(render)
    render.add_argument("--output", required=True, metavar="DIR", help="folder to write to, or - for standard output")
    render.add_argument("-n", "--namespace", metavar="NS", help="namespace of the objects (default: none is written)")
    render.add_argument(
        "--format",
        choices=FORMATS,
        default="files",
        help="files: a PyTorchJob for each stage, to be applied by hand (default); conductor: one file that carries the whole "
        "pipeline, also for a Git repository of Flux or Argo CD; network: NetworkPolicies of its pods",
    )
    render.add_argument("--api-server", metavar="ADDRESS:PORT", help="of --format network: what the conductor may talk to")

    go = command(
        "run",
        "run a pipeline's stages in order, on this machine with --local, else in a cluster",
        "jobgen run smoke --local\n  jobgen run smoke --local --from distill\n  jobgen run smoke -n minima",
    )
    _pipeline(go)
    go.add_argument("--local", action="store_true", help="on this machine (default: in the cluster that kubectl uses)")
    _workspace(go)
    _where(go)
    go.add_argument("-v", "--verbose", action="store_true", help="show what the stages write, and their command lines")
    go.add_argument("--from", dest="from_stage", metavar="STAGE", help="set this stage's artifact and later ones aside first")
    _part(go)
    go.add_argument("--dry-run", action="store_true", help="say what would run and why, and change nothing")
    _yes(go, "do not ask before --from sets work aside", "ask on a terminal, refuse elsewhere")

    status = command("status", "show where a pipeline is in a cluster", "jobgen status smoke -n minima --watch", STATUS_KEYS)
    _pipeline(status)
    _where(status)
    status.add_argument("--watch", action="store_true", help="again every 5 seconds, until nothing is under way")

    log = command("logs", "print what a stage's pods wrote, across restarts", "jobgen logs smoke distill -n minima --follow")
    _pipeline(log)
    _stage(log)
    _where(log)
    log.add_argument("--follow", action="store_true", help="go on as more comes")
    log.add_argument("--tail", type=_lines, metavar="N", help="begin with the last N lines (default: all)")
    log.add_argument(
        "--since", type=_seconds, metavar="TIME", help="begin with lines this young, such as 10m or 1h30m (default: all)"
    )

    diff = command("diff", "say which stages would run again, and why", "jobgen diff my-model.yaml -n minima", DIFF_KEYS)
    _pipeline(diff)
    _where(diff)

    again = command(
        "restart",
        "put a running stage on its new object, from its checkpoint",
        "jobgen restart my-model.yaml distill -n minima",
    )
    _pipeline(again)
    _stage(again)
    _where(again)

    listing = command("list", "show the pipelines of a namespace", "jobgen list -n minima", LIST_KEYS)
    _where(listing)

    halt = command(
        "stop",
        "delete a pipeline's conductor and running jobs, which save checkpoints first",
        "jobgen stop my-model.yaml -n minima\n  jobgen stop my-model -n minima",
    )
    halt.add_argument("pipeline", metavar="FILE|NAME", help="a pipeline file, or a name that `jobgen list` shows")
    _where(halt)

    collect = command(
        "gc",
        "show artifacts, jobs and ConfigMaps that nothing of a pipeline file refers to; with --yes remove them",
        "jobgen gc my-model.yaml -n minima\n  jobgen gc my-model.yaml --local --yes",
    )
    _pipeline(collect)
    collect.add_argument("--local", action="store_true", help="on this machine (default: in the cluster that kubectl uses)")
    _workspace(collect)
    _where(collect)
    _yes(collect, "remove what is shown", "only show it")

    conduct = command(
        "conduct", "what `run` and the form `conductor` run in the cluster", "jobgen conduct pipeline.yaml --namespace minima"
    )
    _pipeline(conduct)
    _where(conduct)
    conduct.add_argument("--from", dest="from_stage", metavar="STAGE", help="set aside from this stage on first, once")
    _part(conduct)
    conduct.add_argument("--job", default="", metavar="NAME", help="the Job that runs this")
    conduct.add_argument("--uid", default="", metavar="UID", help="that Job's uid")

    complete = command(
        "completion",
        "print what a shell needs to complete jobgen's commands, options, pipelines and stages",
        "source <(jobgen completion bash)\n  jobgen completion fish | source",
    )
    complete.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    return made


def local_workspace(given: argparse.Namespace) -> str:
    """The workspace on this machine, with --local; empty for a cluster.

    Raises:
        UsageError: both are meant.
    """
    if not given.local:
        if given.workspace is not None:
            raise UsageError("--workspace: goes with --local; in a cluster the pipeline's `workspace` is used")
        return ""
    for option in ("namespace", "context"):
        if getattr(given, option, None) is not None:
            raise UsageError(f"--{option}: is of a cluster, --local of this machine; give one of them")
    found = WORKSPACE if given.workspace is None else str(given.workspace)
    if not found or glob.has_magic(found):
        raise UsageError(f"--workspace: found {found!r}; a folder's path without the characters *, ? and [ is valid")
    return found


def _pipeline(of: Parser) -> None:
    of.add_argument("pipeline", metavar="FILE|NAME", help=PIPELINE)


def _lines(word: str) -> int:
    if not word.isascii() or not word.isdecimal():
        raise argparse.ArgumentTypeError(f"found {word!r}; a whole number >= 0 is valid")
    return int(word)


def _seconds(word: str) -> float:
    """A duration as kubectl has it, in seconds."""
    parts = re.findall(r"([0-9]+)([smhd])", word)
    if not parts or "".join(map("".join, parts)) != word:
        raise argparse.ArgumentTypeError(f"found {word!r}; a duration such as 45s, 10m, 1h30m or 2d is valid")
    return float(sum(int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit] for number, unit in parts))


def _tokens(word: str) -> tuple[str, float]:
    name, _, number = word.partition("=")
    return name, _positive(number, word, "a name and a number above 0, such as build-data=125e9,")


def _price(word: str) -> float:
    return _positive(word, word, "a number above 0")


def _positive(number: str, word: str, valid: str) -> float:
    try:
        found = float(number)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e18:
        raise argparse.ArgumentTypeError(f"found {word!r}; {valid} is valid")
    return found


def _part(of: Parser) -> None:
    of.add_argument("--until", metavar="STAGE", help="run this stage and what it needs, no others (default: all)")
    of.add_argument("--only", metavar="STAGE", help="run this stage alone, which needs finished inputs (default: all)")


def _yes(of: Parser, what: str, default: str) -> None:
    of.add_argument("--yes", action="store_true", help=f"{what} (default: {default})")


def _stage(of: Parser) -> None:
    of.add_argument("stage", metavar="STAGE", help="name of the stage")


def _workspace(of: Parser) -> None:
    of.add_argument("--workspace", metavar="DIR", help=f"folder of all artifacts, with --local (default: {WORKSPACE})")


def _where(of: Parser) -> None:
    of.add_argument("-n", "--namespace", metavar="NS", help="namespace in the cluster (default: the kubeconfig's context's)")
    of.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current one)")
