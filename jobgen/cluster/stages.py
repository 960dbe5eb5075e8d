"""The stages of a pipeline that a conductor carries through a cluster: each is brought forward by what there is of it.

What is finished stands in the workspace, what runs in the cluster; here is only what was seen and said of them.
"""

import time
from pathlib import Path
from typing import Any

from jobgen.artifacts import check_needs
from jobgen.cluster.followers import Followers
from jobgen.cluster.hashing import Hashing
from jobgen.cluster.namespace import Cluster
from jobgen.cluster.objects import ENDED, label, last_words, of_job, state
from jobgen.cluster.patience import Patience
from jobgen.cluster.refusals import Wait
from jobgen.cluster.state import FAILED, FINISHED, QUEUED, RESTARTING, RUNNING, STARTING, WAITING, StageState, keeper
from jobgen.manifests import render
from jobgen.manifests.conductor import VERDICTS
from jobgen.pipeline.estimate import estimates, expected
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import ALL, Part, Step, plan
from jobgen.report import Result, say
from minima.errors import BUG, DataError, NotReadyError
from minima.process.words import leave
from minima.workspace import artifact, progress
from minima.workspace.marker import MARKER

PATIENCE = 60.0
"""Seconds for a marker to be seen after its job has Succeeded: a network file system may be late."""
STATES = {"Created": STARTING, "Suspended": QUEUED, "Running": RUNNING, "Restarting": RESTARTING}
"""What a stage's state is by that of its PyTorchJob."""


class Stages:
    """Of one conductor.

    Args:
        pipeline: whose; its workspace is mounted here, at its path.
        cluster: the namespace.
        name: of the Job that runs this; empty if none does.
        part: the stages to run; the others are looked at alone.
    """

    def __init__(self, pipeline: Pipeline, cluster: Cluster, name: str, part: Part = ALL) -> None:
        self.pipeline, self.cluster, self.name, self.part = pipeline, cluster, name, part
        self.all_steps = plan(pipeline)
        self.steps = part.steps(self.all_steps)
        self.objects = {step.name: render.job(pipeline, step, cluster.namespace) for step in self.all_steps}
        self.markers: dict[str, dict[str, Any]] = {}
        self.watched: dict[str, str] = {}
        """Jobs seen alive by this conductor, by stage: their failure is news."""
        self.succeeded: dict[str, float] = {}
        """When a job without a marker was first seen Succeeded."""
        self.pods: dict[str, str] = {}
        self.followers = Followers(cluster)
        self.hashing = Hashing(pipeline.workspace.path)
        self.patience = Patience(cluster, pipeline.workspace.claim)
        self.settled: set[str] = set()
        """Stages whose jobs run as they should."""
        self.failed: dict[str, int] = {}
        """Exit codes of stages that failed, the first one first."""
        self.failed_at = 0.0
        self.said: set[str] = set()
        self.superseded = False
        names = {stage: job["metadata"]["name"] for stage, job in self.objects.items()}
        self.kept = keeper(cluster, pipeline, self.all_steps, names, name, self.once)

    def leave_out(self, from_stage: str | None) -> None:
        """Say of the stages that this run is not about whether they are finished: those that it needs have to be."""
        self.markers |= check_needs(self.all_steps, self.steps, from_stage)
        for step in self.all_steps:
            if step not in self.steps:
                marker = self.markers.get(step.name)
                result = Result.of(marker, step.output_dir, expected(step, marker["metrics"])) if marker else None
                waits = "" if marker else f"another run: this one is {' '.join(self.part.words)}"
                self.kept.stage(step.name, state=FINISHED if marker else WAITING, waits_for=waits, result=result)
        self.estimate()

    def estimate(self) -> None:
        """Say how long stages take by the plan: of how many tokens shows when their records are finished."""
        for one in estimates(self.all_steps, {}):
            known = one.hours is not None and not one.assumed
            self.kept.stage(one.step.name, planned=round(one.hours * 3600, 1) if known and one.hours else None)

    def is_ready(self, step: Step) -> bool:
        """Whether there is something to do for a stage: it has neither ended nor waits for another one."""
        return step.name not in self.markers.keys() | self.failed.keys() and all(need in self.markers for need in step.needs)

    def check_superseded(self) -> None:
        """End when a newer conductor of this pipeline is there: two would start both of two versions."""
        newest = self.cluster.conductors(self.pipeline.name)[-1:]
        if self.name and newest and newest[0].metadata.name != self.name:
            self.superseded = True
            raise NotReadyError(f"a newer conductor took over: {newest[0].metadata.name}")

    def advance(self, step: Step, jobs: list[dict[str, Any]]) -> None:
        """Bring one stage forward whose inputs are there."""
        job = self.objects[step.name]
        name = job["metadata"]["name"]
        same = [j for j in jobs if label(j, "stage") == step.name and label(j, "key") == step.key]
        alive = [j for j in same if state(j) not in ENDED]
        marker = artifact.finished(step.options)
        if marker is not None and not alive:
            self.finish(step, marker)
        elif alive:
            self.watch(step, alive[0], name)
        elif ended := next((j for j in same if j["metadata"]["name"] == name), None):
            if state(ended) == "Succeeded":
                self.await_marker(step, name)
            elif self.watched.get(step.name) == name:
                self.fail(step, ended)
            else:
                say(f"{self.title(step)}: {name} failed before; made again")
                self.cluster.delete(name)
        elif older := next((j for j in same if j["metadata"]["name"] == self.watched.get(step.name)), None):
            if state(older) == "Failed":
                self.fail(step, older)
            else:
                self.await_marker(step, older["metadata"]["name"])
        elif left := self.alive_pods(step):
            # Such as of a job that somebody deleted: it is saving a checkpoint, and holds the folder.
            self.wait(step, f"{left[0].metadata.name} of an earlier job to end")
        elif self.failed:
            pass  # Nothing new begins.
        elif not self.hashing.done(step):
            self.wait(step, "its inputs to be hashed, once for all its pods")
        else:
            self.check_superseded()  # A deletion above may have taken minutes.
            self.tell_of_others(step, jobs)
            if self.cluster.create(job):
                say(f"{self.title(step)}: {name}: {' '.join(step.argv)}")
            self.watched[step.name] = name
            self.kept.stage(step.name, state=STARTING, job=name, waits_for="")

    def wait(self, step: Step, why: str) -> None:
        """Say why a stage does not go on, if it does not: in the log when that is new, in the state for as long as it is so."""
        if why and why != self.stage(step).waits_for:
            say(f"{self.title(step)}: waits for {why}")
        self.kept.stage(step.name, waits_for=why)

    def tell_of_others(self, step: Step, jobs: list[dict[str, Any]]) -> None:
        for job in jobs:
            if label(job, "stage") == step.name and label(job, "key") != step.key and state(job) not in ENDED:
                name = job["metadata"]["name"]
                self.once(
                    f"{self.title(step)}: {name} still runs for another result; `kubectl delete pytorchjob {name}` ends it"
                )

    def alive_pods(self, step: Step) -> list[Any]:
        selector = f"minima/pipeline={self.pipeline.name},minima/stage={step.name},minima/key={step.key}"
        return [pod for pod in self.cluster.pods(selector) if pod.status.phase in {"Pending", "Running"}]

    def watch(self, step: Step, job: dict[str, Any], name: str) -> None:
        """Follow the pods of a job that is under way, and say what is new about it; stop it when it cannot get anywhere."""
        found = job["metadata"]["name"]
        now = STATES[state(job)]
        shown = progress.read(Path(step.output_dir)) if now == RUNNING else None
        self.kept.stage(step.name, state=now, job=found, progress=shown)
        self.watched[step.name] = found
        self.succeeded.pop(step.name, None)
        if found != name:
            self.once(
                f"{self.title(step)}: goes on as {found}, made by another version; `jobgen restart` would put it on {name}"
            )
        pods = self.cluster.pods(of_job(found))
        for pod in pods:
            pod_name, uid = pod.metadata.name, pod.metadata.uid
            before = self.pods.get(pod_name)
            if before not in (None, uid) and f"restart {uid}" not in self.said:
                self.said.add(f"restart {uid}")
                restarts = self.stage(step).restarts + 1
                self.kept.stage(step.name, restarts=restarts)
                say(f"{self.title(step)}: {pod_name} was made again (restart {restarts})")
            self.pods[pod_name] = uid
            if pod.status.phase != "Pending":
                self.followers.start(step.name, pod)
        (self.settled.add if self.patience.settled(job, pods) else self.settled.discard)(step.name)
        reason = self.patience.reason(step, job, pods)
        self.wait(step, reason.words if reason else "")
        if reason and self.patience.over(job):
            self.give_up(step, job, reason)

    def give_up(self, step: Step, job: dict[str, Any], reason: Wait) -> None:
        """Stop a job that waiting cannot help, so that it holds nothing; if it did its work before, the pipeline goes on."""
        name = job["metadata"]["name"]
        say(f"{self.title(step)}: {name} is stopped, since waiting does not help")
        self.cluster.delete(name, wait=False)
        self.patience.forget(job)
        if artifact.finished(step.options) is None:
            self.failure(step, name, reason.exit_code, reason.words)

    def read_out(self, step: Step, name: str) -> list[Any]:
        """Print what is left of the logs of a job that ended; its pods."""
        pods = self.cluster.pods(of_job(name))
        self.followers.finish(step.name, [pod for pod in pods if pod.status.phase in ENDED])
        return pods

    def finish(self, step: Step, marker: dict[str, Any]) -> None:
        if step.name in self.watched:
            self.read_out(step, self.watched[step.name])
        self.markers[step.name] = marker
        self.settled.discard(step.name)
        result = Result.of(marker, step.output_dir, expected(step, marker["metrics"]))
        self.kept.stage(step.name, state=FINISHED, waits_for="", exit_code=0, progress=None, result=result)
        self.estimate()
        word = "finished" if step.name in self.watched else "finished already"
        say(f"{self.title(step)}: {word} ({artifact.summary(marker, step.options)})")

    def await_marker(self, step: Step, name: str) -> None:
        since = self.succeeded.setdefault(step.name, time.monotonic())
        self.wait(step, f"the marker of {name}, which succeeded")
        if step.name not in self.watched:  # Its artifact was set aside, or lost, after it had succeeded.
            say(f"{self.title(step)}: {name} succeeded before, but its artifact is gone; made again")
            self.cluster.delete(name)
            del self.succeeded[step.name]
        elif time.monotonic() - since > PATIENCE:
            raise DataError(f"{step.output_dir}: {name} Succeeded, but there is no {MARKER}; is the workspace one file system?")

    def fail(self, step: Step, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        self.failure(step, name, *(last_words(self.read_out(step, name)) or (BUG, "no pod says why")))

    def failure(self, step: Step, name: str, code: int, words: str) -> None:
        """A stage failed; what is said last of all is what failed first."""
        say(f"{self.title(step)}: {name} failed with exit code {code}: {words}")
        self.kept.stage(step.name, state=FAILED, job=name, waits_for="", exit_code=code, words=words)
        if not self.failed:
            self.failed_at = time.monotonic()
            self.kept.change(words=f"{step.name} failed with exit code {code}: {words}")
            leave(self.kept.state.words)
        # After any other code the Job would start another conductor, and that one the stage.
        self.failed[step.name] = code if code in VERDICTS else BUG
        self.settled.discard(step.name)

    def stage(self, step: Step) -> StageState:
        """What is known of a stage."""
        found = self.kept.state.stage(step.name)
        assert found is not None
        return found

    def title(self, step: Step) -> str:
        return f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step.name}"

    def once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            say(text)
