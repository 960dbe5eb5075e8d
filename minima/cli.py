"""The command line of `minima`: one verb for each stage, and `digest`; `doctor` is also for one machine."""

import os
import textwrap
from importlib import metadata

from minima import flags
from minima.errors import NotReadyError, UsageError, did_you_mean, exit_codes
from minima.options import VERBS
from minima.process import launch
from minima.workspace.inputs import input_files, path_digest

OTHERS = {
    "digest": "Print PATH@sha256:…, the form in which an input's content is declared and then checked.",
}
HERE = "Check versions, devices, flash-attn, NCCL and the workspace's file system on this machine."


def run(words: list[str]) -> int:
    """Run a command line without the program's name, and return the exit code."""
    match words:
        case [] | ["-h" | "--help" | "help"]:
            print(usage())
            return 0
        case ["--version"]:
            print(metadata.version("minima"))
            return 0
        case ["doctor", *rest] if not any(word.split("=")[0] == "--output_dir" for word in rest):
            if {"-h", "--help"} & set(rest):
                print(f"usage: minima doctor [--workspace DIR]\n\n{HERE}\n\nOr, as a stage:\n{flags.usage(VERBS['doctor'])}")
                return 0
            return launch.guarded("doctor", lambda: _doctor(rest))
        case [verb, *rest] if verb in VERBS:
            if {"-h", "--help"} & set(rest):
                print(flags.usage(VERBS[verb]))
                if verb == "evaluate":
                    from minima import benchmarks

                    print(benchmarks.describe())
                return 0
            return launch.run(verb, rest)
        case [verb, *rest] if verb in OTHERS:
            if {"-h", "--help"} & set(rest):
                print(f"usage: minima {verb} PATH\n\n{OTHERS[verb]}")
                return 0
            return launch.guarded(verb, lambda: _digest(rest))
        case [verb, *_]:
            return launch.guarded(verb, lambda: _unknown(verb))
    raise AssertionError(words)


def usage() -> str:
    """The help text of the program."""
    width = max(map(len, [*VERBS, *OTHERS]))
    lines = ["usage: minima VERB --flag value …", "       minima VERB --help", "", "Stages:"]
    lines += [f"  {verb:{width}}  {cls.summary}" for verb, cls in VERBS.items()]
    lines += ["", "Others:"] + [f"  {verb:{width}}  {what}" for verb, what in OTHERS.items()]
    lines += ["", *textwrap.wrap(exit_codes(), 100)]
    return "\n".join(lines)


def _unknown(verb: str) -> int:
    raise UsageError(f"no such verb; {did_you_mean(verb, [*VERBS, *OTHERS])}")


def _digest(words: list[str]) -> int:
    if len(words) != 1:
        raise UsageError("usage: minima digest PATH")
    if not input_files(words[0]):
        raise NotReadyError(f"{words[0]}: no file there; a file, a folder or a glob is valid")
    print(f"{os.path.abspath(words[0])}@sha256:{path_digest(words[0])}")
    return 0


def _doctor(words: list[str]) -> int:
    match words:
        case []:
            workspace = None
        case ["--workspace", workspace]:
            pass
        case _:
            raise UsageError("usage: minima doctor [--workspace DIR]")
    from minima.stages import doctor

    return doctor.look(workspace)
