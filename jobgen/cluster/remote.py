"""A pipeline in a cluster, from outside of it: start its conductor and watch it, read logs, put a stage on a new object."""

import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from kubernetes.client import V1DeleteOptions

from jobgen.cluster import rights, waits
from jobgen.cluster.namespace import ENDED, GONE_SECONDS, PAUSE, RETRIES, Cluster, last_words, state, told
from jobgen.manifests import conductor, render
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, following, plan
from jobgen.report import say
from minima.errors import BUG, TERMINATED, LostPeerError, NotReadyError, StageError, UsageError, did_you_mean

POLL = 1.0
ASK_SECONDS = 5.0
"""Between two looks at a conductor that does not begin."""
OF_A_POD = re.compile(r"[a-z0-9-]+/[a-z0-9-]+ \| ")
"""How the conductor prints a line of a stage's pod."""


def run_remote(pipeline: Pipeline, cluster: Cluster, *, from_stage: str | None) -> int:
    """Apply the pipeline's conductor, unless this very one is at work, and show what it says until it ends.

    Ctrl-C ends the watching alone; the same command watches again, on any machine.

    Returns:
        The conductor's exit code: 0, or that of the stage that failed; 143 after Ctrl-C.

    Raises:
        UsageError: no such stage, or the cluster refuses.
        NotReadyError: the cluster has no training operator.
    """
    if from_stage is not None:
        following(plan(pipeline), from_stage)
    objects = conductor.objects(pipeline, cluster.namespace, from_stage)
    name = objects[-1]["metadata"]["name"]
    there = next((job for job in cluster.conductors(pipeline.name) if job.metadata.name == name), None)
    if there and verdict(there):
        say(f"delete {name}, which has ended")
        _delete_conductor(cluster, pipeline.name, name)
        there = None
    if there is None:
        cluster.check_operator()
        rights.apply(cluster, pipeline, objects)
        say(f"applied {name} to namespace {cluster.namespace}; it goes on without this program")
    else:
        say(f"{name} is at work already")
    try:
        return _watch(cluster, pipeline.name, name)
    except KeyboardInterrupt:
        say(f"not watching any more; {name} goes on, the same command watches again")
        return TERMINATED


def _delete_conductor(cluster: Cluster, pipeline: str, name: str) -> None:
    with told(f"delete {name}"):
        cluster.batch.delete_namespaced_job(name, cluster.namespace, body=V1DeleteOptions(propagation_policy="Background"))
    deadline = time.monotonic() + GONE_SECONDS
    while any(job.metadata.name == name for job in cluster.conductors(pipeline)):
        if time.monotonic() > deadline:
            raise NotReadyError(f"{name}: deleted, but still there; `kubectl describe job {name}` may say why")
        time.sleep(POLL)


def verdict(job: Any) -> str:
    """Complete or Failed, or nothing while a conductor is at work."""
    conditions = job.status.conditions or []
    return next((c.type for c in conditions if c.status == "True" and c.type in {"Complete", "Failed"}), "")


class _Reader:
    """Reads conductors' pods, one after the other; a later one prints again what its stages' pods wrote before."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.read: set[str] = set()
        self.seen: set[str] = set()
        self.delivered: dict[str, int] = {}
        """Lines of a pod that came, by its uid."""

    def lines(self, pod: Any, *, follow: bool) -> Iterator[str]:
        uid = pod.metadata.uid
        before, had = frozenset(self.seen), self.delivered.get(uid, 0)
        try:
            read = self.cluster.follow if follow else self.cluster.so_far
            for number, line in enumerate(read(pod, CONDUCTOR)):
                if number < had:
                    continue
                self.delivered[uid] = number + 1
                if OF_A_POD.match(line):
                    if line in before:
                        continue
                    self.seen.add(line)
                yield line
        except StageError as error:
            if follow and isinstance(error, LostPeerError) and pod.status.phase == "Running":
                raise
            # Such as on a node that is gone; the others have more to say.
            print(f"({error})", file=sys.stderr, flush=True)
        self.read.add(uid)

    def left(self, pods: list[Any]) -> list[Any]:
        """Those that have begun and were not read."""
        return [pod for pod in pods if pod.status.phase != "Pending" and pod.metadata.uid not in self.read]


class _Beginning:
    """Says why a conductor does not begin."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.said = ""
        self.asked = 0.0
        self.since: float | None = None
        """When something was first seen that waiting cannot help."""

    def look(self, job: Any, pods: list[Any]) -> int:
        """Look at it, now and then; an exit code when waiting does not help. The Job stays, and begins when that is mended."""
        now = time.time()
        if now - self.asked < ASK_SECONDS:
            return 0
        self.asked = now
        noted = self.cluster.events([job.metadata.name, *(pod.metadata.name for pod in pods[-1:])])
        reason = waits.of_conductor(job, pods, noted, now=now)
        if reason and reason.words != self.said:
            say(f"waits for {reason.words}")
        self.said = reason.words if reason else ""
        self.since = (self.since or now) if reason and reason.exit_code else None
        if reason and self.since and now - self.since >= reason.patience:
            say(f"waiting does not help; {job.metadata.name} stays, and begins when that is mended")
            return reason.exit_code
        return 0


def _watch(cluster: Cluster, pipeline: str, name: str) -> int:
    """Print the logs of the conductor's pods, one after the other, until its Job has a verdict; its exit code."""
    reader = _Reader(cluster)
    beginning = _Beginning(cluster)
    failures = 0
    while True:
        try:
            pods = cluster.pods(f"batch.kubernetes.io/job-name={name}")
            for pod in reader.left(pods):
                for line in reader.lines(pod, follow=True):
                    print(line, flush=True)
            job = next((job for job in cluster.conductors(pipeline) if job.metadata.name == name), None)
            if job and (code := beginning.look(job, pods)):
                return code
            failures = 0
        except LostPeerError as error:
            failures += 1
            if failures > RETRIES:
                raise
            say(f"{error}; tried again")
            time.sleep(PAUSE)
            continue
        if job is None:
            raise UsageError(f"{name} was deleted; the stages that run go on, the same command starts a conductor again")
        if ended := verdict(job):
            if ended == "Complete":
                return 0
            code, words = last_words(cluster.pods(f"batch.kubernetes.io/job-name={name}")) or (BUG, "its pod is gone")
            say(f"{name} failed: {words}")
            return code
        time.sleep(POLL)


def logs(pipeline: Pipeline, cluster: Cluster, stage: str, *, follow: bool) -> int:
    """Print what the pods of a stage wrote: what the conductors saw of it, also of pods that are gone, else of those there.

    Raises:
        UsageError: no such stage, or nothing is there to read.
    """
    step = _step(pipeline, stage)
    reader, found = _Reader(cluster), False
    over = re.compile(rf"\S+ \[\d+/\d+\] {re.escape(stage)}: (?:finished|\S+ failed with) ")
    while True:
        pods = cluster.pods(f"minima/pipeline={pipeline.name},app.kubernetes.io/component={CONDUCTOR}")
        for pod in reader.left(pods):
            for line in reader.lines(pod, follow=follow):
                if line.startswith(f"{stage}/") and OF_A_POD.match(line):
                    found = True
                    print(line.removeprefix(f"{stage}/"), flush=True)
                elif follow and found and pod is pods[-1] and over.match(line):
                    return 0
        if not follow or all(verdict(job) for job in cluster.conductors(pipeline.name)):
            break
        time.sleep(POLL)
    if found:
        return 0
    pods = cluster.pods(_selector(pipeline, step))
    if not pods:
        raise UsageError(f"{stage}: no pod of it in {cluster.namespace}; `jobgen status` says where the pipeline is")
    threads = [threading.Thread(target=_print, args=(cluster, pod, follow), daemon=True) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _print(cluster: Cluster, pod: Any, follow: bool) -> None:
    name = pod.metadata.name
    try:
        for line in (cluster.follow if follow else cluster.so_far)(pod):
            print(f"{name} | {line}", flush=True)
    except StageError as error:
        print(f"{name} | ({error})", file=sys.stderr, flush=True)


def restart(pipeline: Pipeline, cluster: Cluster, stage: str) -> int:
    """Delete the running jobs of a stage, which save a checkpoint, and create the one of this pipeline, which goes on from it.

    Raises:
        UsageError: no such stage, or it does not run.
    """
    step = _step(pipeline, stage)
    job = render.job(pipeline, step, cluster.namespace)
    name = job["metadata"]["name"]
    alive = [j for j in cluster.jobs(_selector(pipeline, step)) if state(j) not in ENDED]
    if not alive:
        raise UsageError(f"{stage}: does not run in {cluster.namespace}; `jobgen status` says where the pipeline is")
    other = next((j for j in alive if j["metadata"]["labels"].get("minima/key") != step.key), None)
    if other:
        raise UsageError(
            f"{stage}: {other['metadata']['name']} makes another result (`jobgen diff` says why), so nothing of it could be "
            "taken over; delete that job, then run the pipeline"
        )
    conductors = [c for c in cluster.conductors(pipeline.name) if not verdict(c)]
    if conductors and conductors[-1].metadata.labels.get(conductor.VERSION) != conductor.version(pipeline.text):
        raise UsageError(
            f"{conductors[-1].metadata.name} conducts another version, and would put {stage} on its own object again; "
            "run or apply this version first"
        )
    for each in alive:
        say(f"delete {each['metadata']['name']}, which saves a checkpoint first")
        cluster.delete(each["metadata"]["name"])
    created = cluster.create(job)
    say(f"{'created' if created else 'there already'}: {name}, which goes on from the last checkpoint")
    return 0


def _step(pipeline: Pipeline, stage: str) -> Step:
    steps = {step.name: step for step in plan(pipeline)}
    if stage not in steps:
        raise UsageError(f"{stage}: no such stage; {did_you_mean(stage, steps)}")
    return steps[stage]


def _selector(pipeline: Pipeline, step: Step) -> str:
    return f"minima/pipeline={pipeline.name},minima/stage={step.name}"
