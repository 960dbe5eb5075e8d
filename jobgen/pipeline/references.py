"""What the options of a stage read: references to what others make, and paths of what no stage makes.

Each function gives what is wrong as pairs of where and what.
"""

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from jobgen.pipeline.fragment import Path_, Problems
from jobgen.pipeline.pipeline import Input, Reference, Stage
from minima import options
from minima.errors import UsageError, did_you_mean
from minima.options import Options, split_digest
from minima.workspace.inputs import WORKSPACE

PLACE = f"{WORKSPACE}/… or an absolute path"
REFERENCE = re.compile(r"\$\{([^{}]*)\}(?:/(.*))?", re.DOTALL)


def path_problem(path: str) -> str:
    """What is wrong with a path from the root or from the workspace, or nothing; it must be in its one normal form, for it
    enters keys."""
    inside = path.removeprefix(WORKSPACE)
    parts = inside.split("/")[1:]
    if not inside.startswith("/"):
        return f"{PLACE} is valid"
    if path != "/" and any(part in {"", ".", ".."} for part in parts):
        return "a path without empty parts, '.', '..' and '/' at its end is valid"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "a path without control characters is valid"
    return ""


def outside_problem(text: str) -> str:
    """What is wrong with the path of what no stage makes, with or without a digest; or nothing."""
    try:
        bare, _ = split_digest(text)
    except UsageError as error:
        return str(error)
    if "${" in bare.removeprefix(WORKSPACE):
        return f"found {text!r}; only {WORKSPACE} at the start of a path is replaced"
    problem = path_problem(bare)
    if problem and "://" in bare:
        problem += f"; a stage with `verb: fetch` and `source: {bare}` brings it there"
    elif problem and not bare.startswith(("/", "~", WORKSPACE)):
        problem += f"; did you mean {WORKSPACE}/{bare.removeprefix('./').removeprefix('$workspace/')}?"
    return f"found {text!r}; {problem}" if problem else ""


def of_stage(
    verb: type[Options], given: Mapping[str, Any], stage: str, valid: Collection[str]
) -> tuple[dict[str, Reference], list[tuple[Path_, str]]]:
    """The references in a stage's options, by the names that `options.named` gives the paths; whatever else an input names
    must be an absolute path, or in the workspace.

    Args:
        verb: the stage's class of options.
        given: its options, as the file has them.
        stage: its name.
        valid: the names that a reference may have.
    """
    references: dict[str, Reference] = {}
    problems: list[tuple[Path_, str]] = []
    known = {f.name: f for f in options.fields(verb)}
    reads = options.inputs(verb)
    for title, value, where in _texts(given, reads):
        option = where[0]
        if not isinstance(value, str) or option not in known:
            continue
        absolute = known[option].metadata["absolute"]
        match = REFERENCE.fullmatch(value)
        problem = ""
        if match and match[1] == "workspace" and (option in reads or absolute):
            problem = outside_problem(value)
        elif option not in reads:
            if match:
                able = ", ".join(reads) or "none"
                problem = f"found the reference {value!r}; only options that read something take one: {able}"
            elif value and absolute and (wrong := path_problem(value)):
                problem = f"found {value!r}; {wrong}"
        elif match:
            name, inside = match[1], match[2] or ""
            if name not in valid:
                problem = f"found {value!r}: no stage and no input is called {name!r}; {did_you_mean(name, valid)}"
            elif match[2] is not None and (wrong := path_problem("/" + inside)):
                problem = f"found {value!r}; after the reference {wrong}"
            elif "@sha256:" in inside:
                problem = f"found {value!r}; a digest stands at the input itself, in `inputs`"
            else:
                references[title] = Reference(name=name, inside=inside)
        elif "${" in value:
            problem = f"found {value!r}; a reference is ${{name}} or ${{name}}/inside, and the whole value"
        elif value and not value.startswith("/"):
            near = f"; did you mean ${{{value.split('/')[0]}}}?" if value.split("/")[0] in valid else ""
            problem = f"found {value!r}; a reference such as ${{stage}}/inside, {PLACE} is valid{near}"
        if problem:
            problems.append((("stages", stage, "options", *where), problem))
    return references, problems


def _texts(given: Mapping[str, Any], reads: Collection[str]) -> Iterator[tuple[str, Any, Path_]]:
    """Each value of the options, of an input with several paths each of them: its name as `options.named` has it, itself, and
    where it stands below the options."""
    for option, value in given.items():
        if option in reads and isinstance(value, list):
            for number, (title, path) in enumerate(options.named(option, value).items()):
                yield title, path, (option, str(number))
        else:
            yield option, value, (option,)


def leads(stages: Mapping[str, Stage], inputs: Mapping[str, Input]) -> Problems:
    """What is wrong with that to which every reference leads, and with all of them together."""
    for stage in stages.values():
        for title, reference in stage.references.items():
            option = options.option_of(title)
            path = ("stages", stage.name, "options", option)
            outside = inputs.get(reference.name)
            if outside and reference.inside and split_digest(outside.path)[1]:
                text = f"the digest of {reference.name} is of all of it; declare {reference.inside} as an input of its own"
                yield path, text
            if not outside:
                wanted = options.inputs(type(stage.options))[option]
                yield from ((path, text) for text in _made(reference, option, wanted, stages))
    yield from _cycle(stages)


def _made(reference: Reference, option: str, wanted: str, stages: Mapping[str, Stage]) -> Iterator[str]:
    """Nothing, if a stage makes what is `wanted` at the path of a reference to it."""
    makes = type(stages[reference.name].options).makes
    if any(wanted in kinds and fnmatch.fnmatchcase(reference.inside, inside) for inside, kinds in makes.items()):
        return
    able = [
        f"${{{one.name}}}{'/' * bool(inside)}{inside}"
        for one in stages.values()
        for inside, kinds in type(one.options).makes.items()
        if wanted in kinds and inside != "*" and (wanted != "records" or inside.startswith("dev-") == option.startswith("dev_"))
    ]
    found = f"${{{reference.name}}}{'/' * bool(reference.inside)}{reference.inside}"
    yield f"found {found}, which is no {wanted}; {did_you_mean(found, able) if able else 'no stage makes one'}"


def _cycle(stages: Mapping[str, Stage]) -> Problems:
    """A cycle of references, if there is one, by its stages."""
    rest = {name: [r.name for r in stage.references.values() if r.name in stages] for name, stage in stages.items()}
    while free := [name for name, needs in rest.items() if not any(need in rest for need in needs)]:
        for name in free:
            del rest[name]
    if not rest:
        return
    way = [next(iter(rest))]
    while way[-1] not in way[:-1]:
        way.append(next(need for need in rest[way[-1]] if need in rest))
    way = way[way.index(way[-1]) :]
    told = ", ".join(f"{one} reads {other}" for one, other in pairwise(way))
    yield ("stages", way[0]), f"a cycle: {told}; none of them can be the first"
