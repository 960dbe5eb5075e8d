"""A pipeline in a cluster at a glance."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobgen.cluster.namespace import ENDED, PAUSE, RETRIES, Cluster, label, last_words, of_job, seconds, state, waiting_for
from jobgen.cluster.remote import verdict
from jobgen.manifests import conductor
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, plan
from jobgen.report import say, table
from minima.errors import LostPeerError, StageError

PROGRESS = re.compile(r"^(?P<time>\S+) step (?P<step>\d+)/(?P<total>\d+) loss ")
TAIL = 400
"""Lines of a pod's log in which the last steps are looked for."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage.

    Attributes:
        stage: its name.
        state: finished, waiting, or that of its PyTorchJob.
        step: optimizer steps done, of `total`.
        eta: seconds to the last step, at the pace of the last log lines.
        restarts: pods that were made again, as far as events reach back.
        age: seconds since the job was created.
        job: its name.
        words: why it does not run, or the last words of a failed pod.
    """

    stage: str
    state: str
    step: int | None = None
    total: int | None = None
    eta: float | None = None
    restarts: int = 0
    age: float | None = None
    job: str = ""
    words: str = ""


def rows(pipeline: Pipeline, cluster: Cluster) -> list[Row]:
    """The stages of a pipeline as the cluster shows them.

    No pod of a stage exists before its inputs are finished; so a stage whose job is not there is finished if a later one's is.
    """
    steps = plan(pipeline)
    jobs = cluster.jobs(f"minima/pipeline={pipeline.name}")
    conductors = cluster.conductors(pipeline.name)
    mark = conductor.version(pipeline.text)
    complete = any(verdict(c) == "Complete" and c.metadata.labels.get(conductor.VERSION) == mark for c in conductors)
    mine = {step.name: [j for j in jobs if label(j, "stage") == step.name and label(j, "key") == step.key] for step in steps}
    passed = passed_by(steps, {stage for stage, own in mine.items() if own})
    found = []
    for step in steps:
        own = mine[step.name]
        alive = [j for j in own if state(j) not in ENDED]
        if alive:
            found.append(_running(step, alive[0], cluster))
        elif complete or step.name in passed or any(state(j) == "Succeeded" for j in own):
            found.append(Row(stage=step.name, state="finished", job=own[-1]["metadata"]["name"] if own else ""))
        elif own:
            found.append(_failed(step, own[-1], cluster))
        else:
            found.append(Row(stage=step.name, state="waiting", words=", ".join(step.needs) and f"for {', '.join(step.needs)}"))
    return found


def passed_by(steps: list[Step], begun: set[str]) -> set[str]:
    """The stages that those that have a job read, and what these read: finished, though their own jobs may be gone."""
    passed: set[str] = set()
    for step in reversed(steps):
        if step.name in passed | begun:
            passed |= set(step.needs)
    return passed


def _running(step: Step, job: Mapping[str, Any], cluster: Cluster) -> Row:
    pods = cluster.pods(of_job(job["metadata"]["name"]))
    done: dict[str, Any] = {}
    words = ""
    for pod in pods:
        if pod.status.phase == "Running":
            done = done or _progress(cluster, pod.metadata.name)
        elif pod.status.phase == "Pending":
            words = f"{pod.metadata.name}: {waiting_for(pod)}"
    now = state(job)
    if now == "Suspended":
        words = f"in queue {job['metadata']['labels'].get('kueue.x-k8s.io/queue-name', '?')}"
    return Row(
        stage=step.name,
        state=now.lower(),
        restarts=cluster.restarts(job),
        age=_age(job),
        job=job["metadata"]["name"],
        words=words,
        **done,
    )


def _progress(cluster: Cluster, pod: str) -> dict[str, Any]:
    """Step, total and ETA from the last lines of a worker's log."""
    try:
        lines = list(cluster.lines(pod, timestamps=True, tail_lines=TAIL))
    except StageError:
        return {}  # It ended meanwhile; the next look finds its job's new state.
    found = [m for m in map(PROGRESS.match, lines) if m]
    if not found:
        return {}
    last = found[-1]
    step, total = int(last["step"]), int(last["total"])
    eta = None
    if len(found) > 1 and (done := step - int(found[0]["step"])) > 0:
        eta = round((seconds(last["time"]) - seconds(found[0]["time"])) / done * (total - step), 1)
    return {"step": step, "total": total, "eta": eta}


def _failed(step: Step, job: Mapping[str, Any], cluster: Cluster) -> Row:
    words = last_words(cluster.pods(of_job(job["metadata"]["name"])))
    told = f"exit code {words[0]}: {words[1]}" if words else ""
    return Row(stage=step.name, state="failed", age=_age(job), job=job["metadata"]["name"], words=told)


def status(pipeline: Pipeline, cluster: Cluster, *, output: str, watch: bool) -> int:
    """Print the rows, as a table or as JSON; with `watch` again and again, until nothing is under way any more."""
    failures = 0
    while True:
        try:
            found = rows(pipeline, cluster)
            conductors = cluster.conductors(pipeline.name)
        except LostPeerError as error:
            failures += 1
            if not watch or failures > RETRIES:
                raise
            say(f"{error}; tried again")
            time.sleep(PAUSE)
            continue
        failures = 0
        print(json.dumps([asdict(row) for row in found], indent=1) if output == "json" else _table(found), flush=True)
        idle = all(row.state in {"finished", "failed", "waiting"} for row in found)
        if not watch or (idle and not (conductors and not verdict(conductors[-1]))):
            return 0
        time.sleep(5)
        print()


def _table(found: list[Row]) -> str:
    header = ["stage", "state", "step", "ETA", "restarts", "age", "what"]
    return table(
        header,
        [
            [
                row.stage,
                row.state,
                f"{row.step}/{row.total}" if row.total else "-",
                _duration(row.eta),
                str(row.restarts or "-"),
                _duration(row.age),
                row.words or row.job or "-",
            ]
            for row in found
        ],
    )


def _age(job: Mapping[str, Any]) -> float:
    return round(time.time() - seconds(job["metadata"]["creationTimestamp"]), 1)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
