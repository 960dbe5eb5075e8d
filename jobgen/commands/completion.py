"""Completion in bash, zsh and fish: argcomplete asks the parser of jobgen, and for names the functions here."""

import os
from argparse import Namespace
from pathlib import Path

import argcomplete
from argcomplete.completers import DirectoriesCompleter, SuppressCompleter

from jobgen.commands.arguments import CLUSTERS, parser
from minima.errors import UsageError


def script(shell: str) -> int:
    """Print what the shell reads once."""
    print(argcomplete.shellcode(["jobgen"], shell=shell, use_defaults=False))
    return 0


def complete() -> None:
    """Answer the shell, which asks by variables, and end the program."""
    made = parser()
    for command in made.commands.values():
        for action in command._actions:
            match action.dest:
                case "pipeline":
                    action.completer = _pipelines  # type: ignore[attr-defined]
                case "stage" | "from_stage" | "until" | "only":
                    action.completer = _stages  # type: ignore[attr-defined]
                case "cluster":
                    action.completer = _clusters  # type: ignore[attr-defined]
                case "workspace" | "output" if action.choices is None:
                    action.completer = DirectoriesCompleter()  # type: ignore[attr-defined]
                case _ if action.choices is None:
                    action.completer = SuppressCompleter()  # type: ignore[attr-defined]
    argcomplete.autocomplete(made, always_complete_options=False)


def _pipelines(prefix: str, **_: object) -> list[str]:
    """Shipped pipelines, and files and folders that may be or hold one."""
    from jobgen.pipeline.spec import shipped

    folder = Path(os.path.expanduser(os.path.dirname(prefix)) or ".")
    found = [name for name in shipped() if not os.path.dirname(prefix)]
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = os.path.join(os.path.dirname(prefix), place.name)
        if place.name.startswith(".") != os.path.basename(prefix).startswith("."):
            continue
        if place.is_dir():
            found.append(f"{name}/")
        elif place.suffix in {".yaml", ".yml"}:
            found.append(name)
    return found


def _clusters(prefix: str, **_: object) -> list[str]:
    """Shipped profiles, and files and folders that may be or hold one."""
    files = [name for name in _pipelines(prefix) if name.endswith((".yaml", ".yml", "/"))]
    return [*([] if os.path.dirname(prefix) else CLUSTERS), *files]


def _stages(parsed_args: Namespace, **_: object) -> list[str]:
    """The stages of the pipeline that the line names so far."""
    from jobgen.pipeline import spec

    try:
        return list(spec.load(parsed_args.pipeline).stages)
    except (UsageError, AttributeError, TypeError):
        return []  # No pipeline yet, or a wrong one: `jobgen validate` says what is wrong with it.
