"""A pipeline in a cluster at a glance: by its conductor's word, or by jobs and pods where none is at work."""

import json
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobgen.cluster import waits
from jobgen.cluster.namespace import PAUSE, RETRIES, Cluster
from jobgen.cluster.objects import ENDED, label, last_words, of_job, seconds, state, verdict
from jobgen.cluster.refusals import QUEUE
from jobgen.cluster.stages import STATES
from jobgen.cluster.state import FAILED, FINISHED, NONE, UNDER_WAY, WAITING, WORKING, StageState, State, read_state, to_json
from jobgen.manifests import conductor
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, plan
from jobgen.report import headline, say, table
from jobgen.screen import Screen
from minima.errors import BUG, LostPeerError
from minima.workspace.progress import duration, line

SILENT_SECONDS = 120.0
"""After which a conductor that wrote nothing is not believed any more; clocks differ."""
WATCH_SECONDS = 5.0
NARROW = 30
"""Characters that the last column has at least, however narrow the terminal."""


def look(pipeline: Pipeline, cluster: Cluster) -> State:
    """Where a pipeline is: what its conductor says, and of what it does not say any more what jobs and pods show."""
    conductors = cluster.conductors(pipeline.name)
    newest = conductors[-1] if conductors else None
    version = conductor.version(pipeline.text)
    mine = read_state(cluster, pipeline.name) if newest else None
    over = verdict(newest) if newest else ""
    if mine and newest and (mine.conductor != newest.metadata.name or mine.version != version):
        mine = None
    if mine and mine.state != WORKING and not over:
        mine = None  # Of an earlier Job of this name.
    if mine and (over == "Complete" or (not over and time.time() - mine.time < SILENT_SECONDS)):
        return mine
    stages = by_jobs(pipeline, cluster, complete=any(_completed(each, version) for each in conductors))
    if mine:
        said = {stage.stage: stage for stage in mine.stages if stage.state in {FINISHED, FAILED}}
        stages = [each if each.state in UNDER_WAY else said.get(each.stage, each) for each in stages]
    found = State(pipeline=pipeline.name, version=version, state=NONE, time=time.time(), stages=tuple(stages))
    return _with_conductor(found, cluster, newest, mine) if newest else found


def _completed(job: Any, version: str) -> bool:
    marks = job.metadata.labels
    return verdict(job) == "Complete" and marks.get(conductor.VERSION) == version and conductor.PART not in marks


def _with_conductor(found: State, cluster: Cluster, job: Any, mine: State | None) -> State:
    """With what there is to say of a conductor that does not speak for itself."""
    name = job.metadata.name
    found = replace(found, conductor=name, since=job.metadata.creation_timestamp.timestamp())
    pods = cluster.conductor_pods(name)
    if over := verdict(job):
        code, words = last_words(pods) or (BUG, "its pod is gone")
        if mine and mine.exit_code is not None:
            code, words = mine.exit_code, mine.words
        return (
            replace(found, state=FINISHED, exit_code=0)
            if over == "Complete"
            else replace(found, state=FAILED, exit_code=code, words=words)
        )
    if job.metadata.labels.get(conductor.VERSION) != found.version:
        return replace(found, state=WORKING, words="conducts another version of this pipeline, `jobgen diff` shows which")
    noted = cluster.events([name, *(pod.metadata.name for pod in pods[-1:])])
    if reason := waits.of_batch_job(job, pods, noted, now=time.time()):
        return replace(found, state=WORKING, waits_for=reason.words)
    silent = f"a word of it: the last one came {duration(time.time() - mine.time)} ago" if mine else "its first word"
    return replace(found, state=WORKING, waits_for=silent)


def by_jobs(pipeline: Pipeline, cluster: Cluster, *, complete: bool) -> list[StageState]:
    """The stages as jobs and pods show them.

    No pod of a stage exists before its inputs are finished; so a stage whose job is not there is finished if a later one's is.

    Args:
        pipeline: whose.
        cluster: where.
        complete: a conductor of this version has finished it.
    """
    steps = plan(pipeline)
    jobs = cluster.jobs(f"minima/pipeline={pipeline.name}")
    mine = {step.name: [j for j in jobs if label(j, "stage") == step.name and label(j, "key") == step.key] for step in steps}
    passed = passed_by(steps, {stage for stage, own in mine.items() if own})
    found = []
    for step in steps:
        own = mine[step.name]
        alive = [j for j in own if state(j) not in ENDED]
        if alive:
            found.append(_under_way(step, alive[0], cluster))
        elif complete or step.name in passed or any(state(j) == "Succeeded" for j in own):
            found.append(StageState(stage=step.name, state=FINISHED, job=own[-1]["metadata"]["name"] if own else ""))
        elif own:
            found.append(_failed(step, own[-1], cluster))
        else:
            needs = f"{', '.join(step.needs)} to finish" if step.needs else ""
            found.append(StageState(stage=step.name, state=WAITING, waits_for=needs))
    return found


def passed_by(steps: list[Step], begun: set[str]) -> set[str]:
    """The stages that those that have a job read, and what these read: finished, though their own jobs may be gone."""
    passed: set[str] = set()
    for step in reversed(steps):
        if step.name in passed | begun:
            passed |= set(step.needs)
    return passed


def _under_way(step: Step, job: Mapping[str, Any], cluster: Cluster) -> StageState:
    name, began = job["metadata"]["name"], seconds(job["metadata"]["creationTimestamp"])
    pods = cluster.pods(of_job(name))
    reason = waits.of_job(
        job,
        pods,
        cluster.events([name, *(pod.metadata.name for pod in pods)]),
        cluster.workload(job) if QUEUE in job["metadata"].get("labels", {}) else None,
        progressed=began,
        limit=2 * step.options.max_attempts,
        now=time.time(),
    )
    return StageState(
        stage=step.name,
        state=STATES[state(job)],
        since=began,
        restarts=cluster.restarts(job),
        job=name,
        waits_for=reason.words if reason else "",
    )


def _failed(step: Step, job: Mapping[str, Any], cluster: Cluster) -> StageState:
    code, words = last_words(cluster.pods(of_job(job["metadata"]["name"]))) or (None, "")
    since = seconds(job["metadata"]["creationTimestamp"])
    return StageState(stage=step.name, state=FAILED, since=since, job=job["metadata"]["name"], exit_code=code, words=words)


def status(pipeline: Pipeline, cluster: Cluster, *, output: str, watch: bool) -> int:
    """Print it as a table or as JSON; with `watch` again and again, until nothing is under way any more."""
    screen, failures = Screen(sys.stdout), 0
    while True:
        try:
            found = look(pipeline, cluster)
        except LostPeerError as error:
            failures += 1
            if not watch or failures > RETRIES:
                raise
            screen.show()
            say(f"{error}; tried again")
            time.sleep(PAUSE)
            continue
        failures = 0
        over = not watch or not (found.state == WORKING or any(stage.state in UNDER_WAY for stage in found.stages))
        if output == "json":
            print(json.dumps(to_json(found), indent=1, ensure_ascii=False), flush=True)
        else:
            lines = rows(found, screen.width if screen.terminal else None)
            if watch and screen.terminal and not over:
                screen.show(*lines)
            else:
                screen.say("\n".join([*lines, *([] if over else [""])]))
        if over:
            return 0
        time.sleep(WATCH_SECONDS)


def rows(found: State, width: int | None) -> list[str]:
    """The table's lines: the conductor, and the stages; long texts go on below themselves where lines have a width."""
    header = ["stage", "state", "for", "what"]
    over = found.state in {FINISHED, FAILED}
    first = [["conductor", found.state, _age(found.since, found.time if over else None)]]
    for stage in found.stages:
        took = duration(stage.result.seconds) if stage.result else "-" if stage.state == WAITING else _age(stage.since)
        first.append([stage.stage, stage.state, took])
    taken = sum(max(len(row[i]) for row in [header, *first]) + 2 for i in range(3))
    room = max(NARROW, width - taken) if width else 0
    last = [_of_conductor(found), *(_of_stage(stage, room) for stage in found.stages)]
    wrapped = []
    for cells, what in zip(first, last, strict=True):
        parts = textwrap.wrap(what, room) if room else [what]
        wrapped += [[*cells, parts[0] if parts else ""], *(["", "", "", part] for part in parts[1:])]
    return table(header, wrapped).splitlines()


def _of_conductor(found: State) -> str:
    if found.state == NONE:
        return "no conductor is there; `jobgen run` starts one"
    if found.state == FAILED:
        return f"exit code {found.exit_code}: {found.words}"
    return f"waits for {found.waits_for}" if found.waits_for else found.words


def _of_stage(stage: StageState, room: int) -> str:
    again = f"{stage.restarts} restart{'s' if stage.restarts > 1 else ''}" if stage.restarts else ""
    if stage.planned and stage.state in {WAITING, *UNDER_WAY}:
        again = f"{again}; {duration(stage.planned)} in all by the plan".removeprefix("; ")
    if stage.state == FAILED:
        what = f"exit code {stage.exit_code}: {stage.words}"
    elif stage.waits_for:
        what = f"{'' if stage.state == WAITING else 'waits '}for {stage.waits_for}"
    elif stage.progress:
        what = line(stage.progress, room - len(again) - 2 if again else room) if room else line(stage.progress, 100, bar=0)
    else:
        what = headline(stage.result) if stage.result else stage.job
    return f"{what}; {again}" if what and again else what or again


def _age(since: float, until: float | None = None) -> str:
    return duration(max(0.0, (until or time.time()) - since)) if since else "-"
