"""The conductor: carries a pipeline through a cluster, stage by stage, as markers appear in the workspace.

It holds no state: what is finished stands in the workspace, what runs in the cluster. So it may end at any time, and another
one goes on.
"""

import errno
import math
import sys
import time
from pathlib import Path
from typing import Any

from jobgen.artifacts import ASIDE, check_outside_inputs, set_aside
from jobgen.cluster.changes import Changes
from jobgen.cluster.followers import Followers
from jobgen.cluster.hashing import Hashing
from jobgen.cluster.namespace import ENDED, RETRIES, Cluster, NoOperatorError, RefusedError, label, last_words, of_job, state
from jobgen.cluster.patience import Patience
from jobgen.cluster.state import (
    FAILED,
    FINISHED,
    QUEUED,
    RESTARTING,
    RUNNING,
    STARTING,
    StageState,
    keeper,
)
from jobgen.cluster.waits import Wait
from jobgen.manifests import render
from jobgen.manifests.conductor import VERDICTS
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, following, plan
from jobgen.report import Result, report, say
from minima.errors import BUG, DataError, LostPeerError, NotReadyError, StageError
from minima.process.words import leave
from minima.workspace import artifact, progress
from minima.workspace.marker import MARKER

POLL = 2.0
"""Seconds between two looks at the cluster."""
SLOW = 10.0
"""Seconds between two looks when nothing says that something changed, but something is waited for."""
IDLE = 30.0
"""The same when all jobs run as they should."""
LINGER = 600.0
"""Seconds, after a stage failed, in which jobs that cannot get anywhere are still stopped: nobody else would."""
PATIENCE = 60.0
"""Seconds for a marker to be seen after its job has Succeeded: a network file system may be late."""


def conduct(pipeline: Pipeline, cluster: Cluster, *, from_stage: str | None, name: str, uid: str) -> int:
    """Run what is not finished, and print the report.

    Args:
        pipeline: what to run; its workspace is mounted here, at its path.
        cluster: the namespace.
        from_stage: delete the jobs and set aside the artifacts of this stage and of all that follow from it first, once.
        name: of the Job that runs this.
        uid: of that Job, so that a second pod of it does not start from `from_stage` again.

    Returns:
        0, or the exit code of the stage that failed.

    Raises:
        UsageError: no such stage, or the cluster refuses.
        NotReadyError: an input is not there, or a newer conductor took over.
        LostPeerError: the cluster does not answer.
        DataError: a finished artifact, or an input from outside, is not what it was.
    """
    conductor = _Conductor(pipeline, cluster, name)
    try:
        return conductor.run(from_stage, uid)
    except StageError as error:
        leave(str(error))
        conductor.end(error.exit_code, str(error))
        raise


STATES = {"Created": STARTING, "Suspended": QUEUED, "Running": RUNNING, "Restarting": RESTARTING}
"""What a stage's state is by that of its PyTorchJob."""


class _Conductor:
    def __init__(self, pipeline: Pipeline, cluster: Cluster, name: str) -> None:
        self.pipeline, self.cluster, self.name = pipeline, cluster, name
        self.steps = plan(pipeline)
        self.objects = {step.name: render.job(pipeline, step, cluster.namespace) for step in self.steps}
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
        self.kept = keeper(cluster, pipeline, self.steps, names, name, self.once)

    def end(self, code: int, words: str) -> None:
        """Write the last state; a newer conductor writes its own."""
        if not self.superseded:
            self.kept.change(state=FAILED if code else FINISHED, exit_code=code, words=words if code else "", waits_for="")
            self.kept.write(now=True)

    def run(self, from_stage: str | None, uid: str) -> int:
        check_outside_inputs(self.pipeline, self.steps)
        changes = Changes(self.cluster, self.pipeline.name)
        failures, looked = 0, -math.inf
        while True:
            code = None
            try:
                if from_stage is not None:
                    self.start_from(from_stage, uid)
                    from_stage = None
                if changes.happened() or time.monotonic() - looked >= self.pause():
                    code = self.look()
                    looked = time.monotonic()
                for step in self.steps:
                    if step.name in self.settled:
                        self.kept.stage(step.name, progress=progress.read(Path(step.output_dir)))
                failures = 0
                self.kept.change(waits_for="")
            except (LostPeerError, RefusedError, NoOperatorError, OSError) as error:
                failures += 1
                if failures > RETRIES or getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                self.once(f"{error}; tried again")
                self.kept.change(waits_for=f"{error}; tried again")
                looked = -math.inf
            if code is not None:
                self.end(code, self.kept.state.words)
                return code
            self.kept.write()
            time.sleep(POLL)

    def is_ready(self, step: Step) -> bool:
        """Whether there is something to do for a stage: it has neither ended nor waits for another one."""
        return step.name not in self.markers.keys() | self.failed.keys() and all(need in self.markers for need in step.needs)

    def pause(self) -> float:
        """Seconds between two looks, if nothing changes meanwhile."""
        if self.succeeded:
            return POLL  # A marker shows in the workspace, not in the cluster.
        return IDLE if all(step.name in self.settled for step in self.steps if self.is_ready(step)) else SLOW

    def start_from(self, stage: str, uid: str) -> None:
        """Delete jobs and set artifacts aside, unless an earlier pod of this Job has done so."""
        aside = Path(self.pipeline.workspace.path) / self.pipeline.name / ASIDE
        done = aside / f".from-{uid}" if uid else None
        chosen = following(self.steps, stage)
        self.check_superseded()
        if done and done.exists():
            return
        for job in self.cluster.jobs(f"minima/pipeline={self.pipeline.name}"):
            if job["metadata"]["labels"].get("minima/stage") in chosen:
                say(f"delete {job['metadata']['name']}")
                self.cluster.delete(job["metadata"]["name"])
                self.check_superseded()
        moved = set_aside(self.steps, stage, aside)
        self.kept.change(words=f"set aside {', '.join(place.name for place in moved) or 'nothing'}, as --from {stage} says")
        if done:
            aside.mkdir(parents=True, exist_ok=True)
            done.touch()

    def look(self) -> int | None:
        """Look at everything once and start what can start; the exit code when there is nothing left to do."""
        self.check_superseded()
        jobs = self.cluster.jobs(f"minima/pipeline={self.pipeline.name}")
        for step in self.steps:
            if self.is_ready(step) and (not self.failed or step.name in self.watched):
                self.advance(step, jobs)
        if self.failed:
            if self.patience.doomed() and time.monotonic() - self.failed_at < LINGER:
                return None
            if running := self.watched.keys() - self.markers.keys() - self.failed.keys():
                say(f"still running, and going on by themselves: {', '.join(sorted(running))}")
            return next(iter(self.failed.values()))
        if len(self.markers) < len(self.steps):
            return None
        results = {each.stage: each.result for each in self.kept.state.stages if each.result}
        # A log keeps the order of one stream only.
        print(report(results), file=sys.stderr, flush=True)
        return 0

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
        result = Result.of(marker, step.output_dir)
        self.kept.stage(step.name, state=FINISHED, waits_for="", exit_code=0, progress=None, result=result)
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
