"""The pipelines of a namespace: all of them at a glance, and one of them stopped."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobgen.cluster.answers import told
from jobgen.cluster.namespace import GONE_SECONDS, TIMEOUT, Cluster
from jobgen.cluster.objects import ENDED, label, seconds, state, verdict
from jobgen.cluster.state import FINISHED, KEY, State, parse
from jobgen.manifests.render import CONDUCTOR
from jobgen.report import say, table
from minima.errors import NotReadyError

OURS = "app.kubernetes.io/managed-by=jobgen"
FLUX, ARGO, ARGO_LABEL = "kustomize.toolkit.fluxcd.io/name", "argocd.argoproj.io/tracking-id", "app.kubernetes.io/instance"
"""What Flux and Argo CD, in either way of tracking, write on objects that they would make again."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pipeline.

    Attributes:
        pipeline: its name.
        state: running (a conductor or a job of it is at work), finished, failed or stopped; without a conductor, what its
            jobs say.
        finished: stages that are; null where no conductor said so.
        stages: how many it has; null where no conductor said so.
        running: stages whose jobs have not ended.
        age: seconds since the last conductor, or without one the last job, was made.
        conductor: the last one's name; empty without one.
        words: the last ones of a failed conductor, or what one that works waits for.
    """

    pipeline: str
    state: str
    finished: int | None = None
    stages: int | None = None
    running: tuple[str, ...] = ()
    age: float | None = None
    conductor: str = ""
    words: str = ""


def rows(
    jobs: Iterable[Mapping[str, Any]], conductors: Iterable[Any], notes: Mapping[str, State | None], now: float
) -> list[Row]:
    """All pipelines that left anything in a namespace, by name.

    Args:
        jobs: PyTorchJobs, oldest first.
        conductors: Jobs, oldest first.
        notes: by pipeline, what its last conductor wrote, or None where it wrote nothing yet.
        now: seconds since the epoch.
    """
    own: dict[str, list[Mapping[str, Any]]] = {}
    last: dict[str, Any] = {}
    for job in jobs:
        own.setdefault(label(job, "pipeline"), []).append(job)
    for conductor in conductors:
        last[conductor.metadata.labels["minima/pipeline"]] = conductor
    return [_row(name, own.get(name, []), last.get(name), notes.get(name), now) for name in sorted({*own, *last, *notes})]


def _row(name: str, jobs: list[Mapping[str, Any]], conductor: Any, note: State | None, now: float) -> Row:
    running = tuple(dict.fromkeys(label(job, "stage") for job in jobs if state(job) not in ENDED))
    ended = verdict(conductor) if conductor else ""
    gone = note is not None and bool(note.conductor) and (conductor is None or note.conductor != conductor.metadata.name)
    if running or (conductor and not ended):
        now_is = "running"
    elif (gone and note and note.state == "working") or (conductor is None and (note or not jobs)):
        now_is = "stopped"
    elif ended == "Failed" or (conductor is None and state(jobs[-1]) == "Failed"):
        now_is = "failed"
    else:
        now_is = "finished"
    made = conductor.metadata.creation_timestamp.timestamp() if conductor else None
    if made is None and jobs:
        made = seconds(jobs[-1]["metadata"]["creationTimestamp"])
    return Row(
        pipeline=name,
        state=now_is,
        finished=sum(stage.state == FINISHED for stage in note.stages) if note else None,
        stages=len(note.stages) if note else None,
        running=running,
        age=round(now - made, 1) if made is not None else None,
        conductor=conductor.metadata.name if conductor else "",
        words=_words(note, running) if note and not gone else "",
    )


def _words(note: State, running: tuple[str, ...]) -> str:
    waits = [f"{stage.stage}: {stage.waits_for}" for stage in note.stages if stage.stage in running and stage.waits_for]
    return note.words or note.waits_for or "; ".join(waits)


def show(cluster: Cluster, *, output: str) -> int:
    """Print the pipelines of a namespace, as a table or as JSON."""
    selector = f"{OURS},app.kubernetes.io/component={CONDUCTOR}"  # Others hold a file for a moment, as gc's.
    with told(f"list ConfigMaps in {cluster.namespace}"):
        maps = cluster.core.list_namespaced_config_map(
            cluster.namespace, label_selector=selector, _request_timeout=TIMEOUT
        ).items
    notes: dict[str, State | None] = {}
    for each in maps:
        name = each.metadata.labels["minima/pipeline"]
        notes[name] = parse((each.data or {}).get(KEY)) or notes.get(name)
    with told(f"list Jobs in {cluster.namespace}"):
        found = cluster.batch.list_namespaced_job(cluster.namespace, label_selector=selector, _request_timeout=TIMEOUT).items
    conductors = sorted(found, key=lambda job: (job.metadata.creation_timestamp, job.metadata.name))
    listed = rows(cluster.jobs(OURS), conductors, notes, time.time())
    if output == "json":
        print(json.dumps([asdict(row) for row in listed], indent=1, ensure_ascii=False))
    elif listed:
        print(table(["pipeline", "state", "stages", "running", "age", "what"], [_cells(row) for row in listed]))
    else:
        print(f"no pipeline in namespace {cluster.namespace}")
    return 0


def _cells(row: Row) -> list[str]:
    stages = f"{row.finished}/{row.stages}" if row.stages else "-"
    hours, minutes = divmod(round((row.age or 0) / 60), 60)
    age = "-" if row.age is None else f"{hours}h{minutes:02}m" if hours else f"{minutes}m"
    return [row.pipeline, row.state, stages, ", ".join(row.running) or "-", age, row.words or row.conductor or "-"]


def stop(pipeline: str, cluster: Cluster, *, again: str) -> int:
    """Delete the conductor and the jobs of a pipeline that have not ended, and wait for their pods, which save checkpoints.

    Args:
        pipeline: its name.
        cluster: its namespace.
        again: the command that goes on.

    Raises:
        NotReadyError: a pod does not end.
    """
    found = cluster.conductors(pipeline)
    conductors = [job.metadata for job in found if not verdict(job)]
    for each in conductors:
        say(f"delete {each.name}")
        with told(f"delete {each.name}"):
            cluster.batch.delete_namespaced_job(
                each.name, cluster.namespace, propagation_policy="Background", _request_timeout=TIMEOUT
            )
    # It might create another job in its last moment.
    _await_end(cluster, f"minima/pipeline={pipeline},app.kubernetes.io/component={CONDUCTOR}")
    jobs = [job["metadata"] for job in cluster.jobs(f"minima/pipeline={pipeline}") if state(job) not in ENDED]
    for job in jobs:
        say(f"delete {job['name']}; its pods save a checkpoint, if they train")
    cluster.delete(*(job["name"] for job in jobs))
    if not conductors and not jobs:
        say(f"nothing of {pipeline} is at work in namespace {cluster.namespace}")
        return 0
    say(f"stopped {pipeline}: artifacts and checkpoints are kept; `{again}` goes on from them")
    for tool, name in _makers(
        [*({**(each.labels or {}), **(each.annotations or {})} for each in conductors), *map(_marks, jobs)]
    ):
        say(f"{tool} would make this again; suspend {name} there")
    return 0


def _marks(job: Mapping[str, Any]) -> dict[str, str]:
    return {**job.get("labels", {}), **job.get("annotations", {})}


def _makers(marks: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The GitOps tools that hold these objects, and what they call what does."""
    found = [("Flux", f"Kustomization {each[FLUX]}") for each in marks if FLUX in each]
    for each in marks:
        if name := each.get(ARGO, "").partition(":")[0] or each.get(ARGO_LABEL):
            found.append(("Argo CD", f"Application {name}"))
    return list(dict.fromkeys(found))


def _await_end(cluster: Cluster, selector: str) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while left := [pod for pod in cluster.pods(selector) if pod.status.phase in {"Pending", "Running"}]:
        if time.monotonic() > deadline:
            name = left[0].metadata.name
            raise NotReadyError(f"{name}: deleted, but still there; `kubectl describe pod {name}` may say why")
        time.sleep(1)
