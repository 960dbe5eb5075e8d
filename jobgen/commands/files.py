"""The commands that know files alone: init, validate, render."""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobgen.artifacts import outside
from jobgen.commands import warnings
from jobgen.commands.arguments import local_workspace
from jobgen.manifests import conductor, document, network, render, security, wants
from jobgen.manifests.wants import Want
from jobgen.pipeline import spec
from jobgen.pipeline.pipeline import NAME, Pipeline
from jobgen.pipeline.plan import Step, plan
from jobgen.pipeline.pools import amount
from jobgen.report import table
from minima.errors import UsageError, did_you_mean
from minima.workspace.files import write_atomically


def init(name: str, start: str, cluster: str | None) -> int:
    """Write a pipeline to start from, for a cluster if one is named."""
    if start not in spec.shipped():
        raise UsageError(f"--from: no shipped pipeline {start!r}; {did_you_mean(start, spec.shipped())}")
    if not NAME.fullmatch(name):
        raise UsageError(f"NAME: found {name!r}; a name of a-z, 0-9 and -, starting with a letter, is valid")
    text = re.sub(rf"^name: {re.escape(start)}$", f"name: {name}", spec.read(start), count=1, flags=re.MULTILINE)
    if cluster is not None:
        written = cluster if re.fullmatch(r"[./]?[A-Za-z0-9][\w./-]*", cluster) else json.dumps(cluster)
        text = re.sub(r"^image: .*$", lambda found: f"{found[0]}\ncluster: {written}", text, count=1, flags=re.MULTILINE)
    place = Path(f"{name}.yaml")
    text = _without_what_is_said(text, spec.parse(text, str(place)))
    spec.parse(text, str(place))
    try:
        with open(place, "x", encoding="utf-8", newline="\n") as out:
            out.write(text)
    except FileExistsError:
        raise UsageError(f"{place}: there already; choose another name, or move it away") from None
    print(f"wrote {place}; next: jobgen validate {place}")
    return 0


def _without_what_is_said(text: str, pipeline: Pipeline) -> str:
    """The text of a pipeline to start from, without the lines that would replace what its cluster's profile says."""
    profile = pipeline.profile
    said = {key: value for key, value in vars(profile.workspace).items() if value}
    unsaid = {key: value for key, value in vars(pipeline.workspace).items() if key not in said}
    used = {stage.pool.name: profile.pools.get(stage.pool.like) for stage in pipeline.stages.values()}
    imageless = [name for name, pool in used.items() if not (pool and pool.image)]
    lines = {}
    if said:
        lines["workspace"] = (
            f"workspace: {{{', '.join(f'{key}: {value}' for key, value in unsaid.items())}}}\n" if unsaid else ""
        )
    if profile.conductor.image:
        lines["conductor"] = ""
    if len(imageless) < len(used):  # One for all would take the place of those that the profile has.
        own = "".join(f"  {name}: {{image: {pipeline.image}}}\n" for name in imageless)
        lines["image"] = f"pools:\n{own}" if own else ""
    for key, line in lines.items():  # No name or path holds a backslash.
        text = re.sub(rf"^{key}: .*\n", line, text, count=1, flags=re.MULTILINE)
    return text


def validate(given: argparse.Namespace) -> int:
    """Check a pipeline and print its plan."""
    pipeline = spec.load(given.pipeline)
    workspace = local_workspace(given)
    steps = plan(pipeline, str(Path(workspace).absolute()) if workspace else None)
    checked = conductor.check(pipeline, steps)  # For this machine too: a file that is valid is one that `render` takes.
    templates = {} if workspace else checked
    missing = outside(pipeline, steps)
    wanted = wants.objects(pipeline, steps, templates) if templates else []
    told = [*warnings.of(pipeline, steps, templates)]
    if given.output == "json":
        found = {
            "cluster": pipeline.profile.name,
            "stages": [_row(step, templates.get(step.name)) for step in steps],
            "conductor": _pod_security(templates[render.CONDUCTOR]) if render.CONDUCTOR in templates else None,
            "inputs": [
                {"path": one.path, "what": one.what, "for": one.readers, "there": None if templates else one.there}
                for one in missing
            ],
            "wants": [{"kind": one.kind, "name": one.name, "keys": one.keys, "for": one.readers} for one in wanted],
            "warnings": told,
        }
        print(json.dumps(found, indent=1))
        return 0
    rows = []
    for step in steps:
        zero = str(getattr(step.options, "zero_stage", "-"))
        memory = f"{step.memory.total / 1e9:.1f} of {amount(step.pool.gpu_memory) / 1e9:.1f}" if step.memory else "-"
        rows.append([step.name, step.verb, step.pool.name, f"{step.pods}×{step.processes}", step.key, zero, memory])
    print(table(["stage", "verb", "pool", "pods×processes", "key", "ZeRO", "GB of a GPU"], rows))
    for one in missing:
        absent = "" if templates or one.there else "; nothing is there"
        print(f"wants {one.path} ({one.what}), for {', '.join(one.readers)}{absent}")
    for line in _wants(wanted, len(templates)):
        print(line)
    print(": ".join(filter(None, (f"cluster {pipeline.profile.name}", pipeline.profile.about))))
    if (not templates or pipeline.profile.gpus) and (line := _fits(steps)):
        print(line)
    for line in told:
        print(line)
    if templates and all(security.level(template) == security.RESTRICTED for template in templates.values()):
        print("all pods may live in a namespace with Pod Security `restricted`")
    return 0


def _wants(wanted: list[Want], pods: int) -> Iterator[str]:
    """What must be there and is made by nobody, a line for each kind."""
    for kind, group in itertools.groupby(wanted, key=lambda one: one.kind):
        said = []
        for one in group:
            keys = f" with the key{'s' if one.keys[1:] else ''} {', '.join(one.keys)}" if one.keys else ""
            said.append(f"{one.name}{keys}, for {'all pods' if len(one.readers) == pods > 1 else ', '.join(one.readers)}")
        many = ("es" if kind.endswith("s") else "s") if said[1:] else ""
        yield f"wants the {kind}{many} {'; '.join(said)}"


def _fits(steps: list[Step]) -> str:
    """That the stages whose memory is planned fit, and on which GPUs."""
    pools = [step.pool for step in steps if step.memory]
    sizes = {f"{pool.gpu or 'GPUs'} of {round(amount(pool.gpu_memory) / 2**30)} GB" for pool in pools}
    return f"every stage fits its GPUs, {', '.join(sorted(sizes))}" if sizes else ""


def _row(step: Step, template: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "stage": step.name,
        "verb": step.verb,
        "pool": step.pool.name,
        "pods": step.pods,
        "processes": step.processes,
        "key": step.key,
        "needs": list(step.needs),
        "output_dir": step.output_dir,
        "zero_stage": getattr(step.options, "zero_stage", None),
        "memory": step.memory.rounded if step.memory else None,
        "gpu_memory": round(amount(step.pool.gpu_memory)) if step.pool.gpu_memory else None,
        **_pod_security(template),
    }


def _pod_security(template: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where pods of a template may live, and what hinders; None for those of this machine."""
    hindered_by = [what for _, what in security.hindrances(template)] if template else []
    return {"pod_security": security.level(template) if template else None, "hindered_by": hindered_by}


def _files(given: argparse.Namespace, pipeline: Pipeline) -> dict[str, str]:
    if given.api_server is not None and given.format != "network":
        raise UsageError("--api-server: goes with --format network only")
    if given.format == "files":
        return render.files(pipeline, given.namespace)
    render.check_namespace(given.namespace)
    options = f"--format {given.format}" + (f" --namespace {given.namespace}" if given.namespace else "")
    if given.format == "network":
        objects = network.objects(pipeline, given.namespace, given.api_server)
        options += f" --api-server {given.api_server}" if given.api_server else ""
    else:
        objects = conductor.objects(pipeline, given.namespace)
    return {f"{pipeline.name}-{given.format}.yaml": document.text(pipeline, objects, options)}


def write_manifests(given: argparse.Namespace) -> int:
    """Write a pipeline's objects, in one of the forms."""
    output = given.output
    if not output:
        raise UsageError("--output: found an empty path; a folder, or - for standard output, is valid")
    pipeline = spec.load(given.pipeline)
    conductor.check(pipeline)  # Also the objects that this form leaves out.
    files = _files(given, pipeline)
    if output == "-":
        sys.stdout.buffer.write("---\n".join(files.values()).encode())
        return 0
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--output: {folder} is, or lies under, a file; name a folder") from None
    foreign = [str(folder / file) for file in files if (folder / file).exists() and not _form(folder / file, pipeline.name)]
    if foreign:
        raise UsageError(f"--output: {', '.join(foreign)} not made from {pipeline.name}; choose another folder or move it away")
    # Other forms, and other renderings in folders below, may lie there too.
    stale = [p.name for p in folder.glob("*.yaml") if p.name not in files and _form(p, pipeline.name) == given.format]
    for file, text in files.items():
        write_atomically(folder / file, text)
    for file in sorted(stale):
        (folder / file).unlink()
        print(f"removed {folder / file}: {pipeline.name} has no such stage there any more", file=sys.stderr)
    first = folder / next(iter(files))
    by_hand = f"one after the other: kubectl apply -f {first} …"
    next_step = by_hand if given.format == "files" else f"commit it, or kubectl apply -f {first}"
    print(f"wrote {len(files)} files to {folder}; {next_step}", file=sys.stderr)
    return 0


def _form(place: Path, pipeline: str) -> str | None:
    """The form in which a file was rendered from the pipeline of this name; None if it was not."""
    if not place.is_file():
        return None
    with open(place, encoding="utf-8", errors="replace") as file:
        first, command = file.readline().rstrip("\n"), file.readline()
    if first != document.heading(pipeline):
        return None
    stated = re.search(r" --output DIR --format (\w+)", command)
    return stated[1] if stated else "files"
