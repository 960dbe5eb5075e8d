"""The command line of `minima`: one verb for each stage, and `digest`; `doctor` is also for one machine."""

import os
import textwrap
from importlib import metadata

from minima import flags
from minima.errors import NotReadyError, UsageError, did_you_mean, exit_codes
from minima.options import VERBS, Fetch
from minima.process import launch
from minima.workspace.inputs import input_files, path_digest

OTHERS = {
    "digest": "Print a path or an address of `fetch` with its pin, a digest or a commit, as it is declared and then checked.",
}
HERE = "Check versions, devices, flash-attn, NCCL and the workspace's file system on this machine."
DIGEST = "PATH | SOURCE [--include GLOB …] [--exclude GLOB …]"


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
                print(f"usage: minima {verb} {DIGEST}\n\n{OTHERS[verb]}")
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
    if not words or words[0].startswith("--"):
        raise UsageError(f"usage: minima digest {DIGEST}")
    where, *rest = words
    if "://" not in where and not rest:
        if not input_files(where):
            raise NotReadyError(
                f"{where}: no file there; a file, a folder, a glob or an address such as hf://ORG/NAME is valid"
            )
        print(f"{os.path.abspath(where)}@sha256:{path_digest(where)}")
        return 0
    # The commands that make the files fewer are those of the stage.
    asked = flags.parse(VERBS["fetch"], ["--output_dir", "", "--source", f"/x@sha256:{'0' * 64}", *rest])
    assert isinstance(asked, Fetch)
    from minima.sources.pin import pinned

    print(pinned(where, asked.include, asked.exclude))
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
