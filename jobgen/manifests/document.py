"""Objects as YAML: the same bytes everywhere."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.spec import shipped


def text(pipeline: Pipeline, objects: list[dict[str, Any]], options: str = "") -> str:
    """Objects as one YAML file, under a comment that says how to make it again, with `options`."""
    # Only the file's own name: the bytes must not depend on the folder.
    source = pipeline.source if pipeline.source in shipped() else Path(pipeline.source).name
    command = f"jobgen render {_shown(source)} --output DIR {options}".rstrip()
    dumped = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=False)
    return f"{heading(pipeline.name)}\n# {command}\n{dumped}"


def heading(pipeline: str) -> str:
    """The first line of every file that was rendered from the pipeline of this name."""
    return f"# Made by jobgen from the pipeline {pipeline}. Change that, not this:"


class _Dumper(yaml.SafeDumper):
    """No anchors; a string is plain only where YAML 1.1 and 1.2 both read it as one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_PLAIN = re.compile(r"(?:--)?[A-Za-z/][A-Za-z0-9_./@=-]*(?::[A-Za-z0-9_./@-]+)?")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    style = None if plain else "'" if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _string)


def _shown(word: str) -> str:
    """A word of a command in a comment, on one line."""
    return shlex.quote(word) if word.isprintable() else repr(word)
