"""What another version of a pipeline would change in a cluster: stage by stage, which would run again, and why."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobgen.cluster.namespace import Cluster
from jobgen.cluster.objects import label, verdict
from jobgen.cluster.status import passed_by
from jobgen.manifests import conductor, render
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Part, Step, following, plan
from jobgen.report import table
from minima import flags
from minima.errors import UsageError
from minima.options import VERBS, fields, inputs, reads
from minima.workspace import artifact

SAME, SAME_RESULT, RUNS, RUNS_AGAIN = "same", "same result", "runs", "runs again"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of one stage.

    Attributes:
        stage: its name.
        what: same, same result (by another object), runs, or runs again.
        why: in words; empty where there is nothing to say.
        job: the PyTorchJob of this version.
    """

    stage: str
    what: str
    why: str
    job: str


def changes(pipeline: Pipeline, cluster: Cluster) -> list[Change]:
    """Of each stage whether the cluster's version of it is this one, and why one would run again."""
    jobs = cluster.jobs(f"minima/pipeline={pipeline.name}")
    again: set[str] = set()
    found = []
    steps = plan(pipeline)
    there = {(label(job, "stage"), label(job, "key")) for job in jobs}
    passed = passed_by(steps, {step.name for step in steps if (step.name, step.key) in there})
    for step in steps:
        own = [j for j in jobs if label(j, "stage") == step.name]
        mine = [j for j in own if label(j, "key") == step.key]
        name = render.job(pipeline, step, cluster.namespace)["metadata"]["name"]
        if mine:
            same = any(j["metadata"]["name"] == name for j in mine)
            what, why = (SAME, "") if same else (SAME_RESULT, _changed(step, mine[-1], pipeline, cluster))
        elif step.name in passed:
            what, why = SAME, "its job is gone"
        else:
            again.add(step.name)
            what, why = (RUNS_AGAIN, _why(step, own[-1], again)) if own else (RUNS, "no job of it is there")
        found.append(Change(stage=step.name, what=what, why=why, job=name))
    return found


def preview(pipeline: Pipeline, cluster: Cluster, *, from_stage: str | None, part: Part) -> int:
    """Print what `run` would do with each stage, by the jobs that are there: pods alone see the workspace.

    Raises:
        UsageError: no such stage.
    """
    steps = plan(pipeline)
    chosen = {step.name for step in part.steps(steps)}
    again = following(steps, from_stage) if from_stage is not None else set()
    rows = []
    for each in changes(pipeline, cluster):
        if each.stage not in chosen:
            rows.append([each.stage, "left out", " ".join(part.words)])
        elif each.stage in again:
            rows.append([each.stage, RUNS_AGAIN, f"--from {from_stage}"])
        else:
            rows.append([each.stage, each.what, each.why])
    print(table(["stage", "what", "why"], rows))
    name = conductor.objects(pipeline, cluster.namespace, from_stage, part)[-1]["metadata"]["name"]
    at_work = any(job.metadata.name == name and not verdict(job) for job in cluster.conductors(pipeline.name))
    print(f"{name} is at work already, and would be watched" if at_work else f"{name} would be applied to {cluster.namespace}")
    return 0


def diff(pipeline: Pipeline, cluster: Cluster, *, output: str) -> int:
    """Print the changes, as a table or as JSON."""
    found = changes(pipeline, cluster)
    if output == "json":
        print(json.dumps([asdict(each) for each in found], indent=1, ensure_ascii=False))
    else:
        print(table(["stage", "what", "why"], [[each.stage, each.what, each.why] for each in found]))
    return 0


def _why(step: Step, job: Mapping[str, Any], again: set[str]) -> str:
    """What of the identity of a stage differs from that of its last job."""
    try:
        before = _arguments(job)
    except UsageError:
        return "made by another version of minima, with other options"
    now = step.options
    old, new = artifact.identity(before), artifact.identity(now)
    changed = [f"{name} {old.get(name)!r} → {new[name]!r}" for name in new if old.get(name) != new[name]]
    needs = [need for need in step.made_of if need in again]
    changed += [f"reads {need}, which runs again" for need in needs]
    paths, others = reads(before), reads(now)
    for name in dict.fromkeys([*paths, *others]):
        then, value = paths.get(name, ""), others.get(name, "")
        if then != value and not needs:
            changed.append(f"{name} {then!r} → {value!r}")
    return "; ".join(changed) or "made by another version of minima"


def _changed(step: Step, job: Mapping[str, Any], pipeline: Pipeline, cluster: Cluster) -> str:
    """How an object differs that makes the same result: where, old and new."""
    new = render.job(pipeline, step, cluster.namespace)
    found = list(_paths(new["spec"], job["spec"], ""))
    with contextlib.suppress(UsageError):  # Another version of minima had other options.
        before = _arguments(job)
        found = [each for each in found if not each.startswith("args")]
        for name in (field.name for field in fields(type(before))):
            then, now = getattr(before, name), getattr(step.options, name)
            if then != now:
                measured = ", which is only measured" if name in inputs(type(before)) else ""
                found.append(f"{name} {then!r} → {now!r}{measured}")
    what = "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "") or "labels or annotations"
    return f"{what}; a finished one stays, a running one goes on until `jobgen restart {step.name}`"


def _paths(new: Any, old: Any, path: str) -> Iterator[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        for key in new:
            yield from _paths(new[key], old.get(key), f"{path}.{key}" if path else key)
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for number, (a, b) in enumerate(zip(new, old, strict=True)):
            yield from _paths(a, b, f"{path}.{number}")
    elif new != old:
        short = path.replace("pytorchReplicaSpecs.", "").replace("template.spec.", "").replace("containers.0.", "")
        yield f"{short} {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _arguments(job: Mapping[str, Any]) -> Any:
    """The options that a job was rendered with."""
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    container = replica["template"]["spec"]["containers"][0]
    words = [word.replace("$$", "$") for word in container["args"]]
    return flags.parse(VERBS[container["command"][1]], words)
