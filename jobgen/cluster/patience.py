"""How long jobs have waited, and for what: the cluster is asked for more only where a pod does not simply run."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobgen.cluster import waits
from jobgen.cluster.answers import RefusedError
from jobgen.cluster.namespace import Cluster
from jobgen.cluster.objects import ENDED, state
from jobgen.cluster.refusals import QUEUE, UNKNOWN, Wait
from jobgen.cluster.waits import AFTER
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline.plan import Step
from minima.errors import NOT_READY
from minima.workspace.attempts import progressed

ASK_SECONDS = (8.0, 20.0)
"""Between two looks at what the cluster noted about a job: at first, and when its pods stay the same."""
NOT_BEGUN_SECONDS = 5.0
"""Between two looks at a batch Job that does not begin."""
MOST_PODS = 4
"""Pods of a job about which the cluster is asked: in a group they wait for the same."""


@dataclass
class _Known:
    events: list[Any] = field(default_factory=list)
    workload: Mapping[str, Any] | None = None
    asked: float = 0.0
    pause: float = 0.0
    pods: frozenset[str] = frozenset()
    """By their uids."""
    wait: Wait | None = None
    since: float | None = None
    """When something was first seen that waiting cannot help."""


class Patience:
    """Of one conductor.

    Args:
        cluster: to ask.
        claim: of the workspace.
    """

    def __init__(self, cluster: Cluster, claim: str) -> None:
        self._cluster, self._claim = cluster, claim
        self._known: dict[str, _Known] = {}
        """By a job's uid."""

    def reason(self, step: Step, job: Mapping[str, Any], pods: list[Any]) -> Wait | None:
        """What a job that has not ended waits for; None while it goes on."""
        known, now = self._of(job), time.time()
        if self.settled(job, pods):
            known.wait = known.since = None
            return None
        if (there := frozenset(pod.metadata.uid for pod in pods)) != known.pods:
            known.pods, known.pause = there, ASK_SECONDS[0]
        if now - known.asked > known.pause:
            busy = [pod for pod in pods if not _runs(pod)][:MOST_PODS]
            names = [job["metadata"]["name"], *(pod.metadata.name for pod in busy)]
            names += [self._claim] if any(pod.status.phase == "Pending" for pod in busy) else []
            known.events = self._cluster.events(names)
            if job["metadata"].get("labels", {}).get(QUEUE):
                try:
                    known.workload = self._cluster.workload(job)
                except RefusedError:
                    known.workload = UNKNOWN
            known.asked, known.pause = now, min(2 * (known.pause or ASK_SECONDS[0]), ASK_SECONDS[1])
        known.wait = waits.of_job(
            job,
            pods,
            known.events,
            known.workload,
            progressed=progressed(Path(step.output_dir)),
            limit=2 * step.options.max_attempts,
            now=now,
        )
        hopeless = known.wait is not None and known.wait.exit_code > 0
        known.since = (known.since or now) if hopeless else None
        return known.wait

    def settled(self, job: Mapping[str, Any], pods: list[Any]) -> bool:
        """Whether a job runs as it should, so that it may be left alone until something changes."""
        wanted = sum(replica["replicas"] for replica in job["spec"]["pytorchReplicaSpecs"].values())
        queued = job["metadata"].get("labels", {}).get(QUEUE) and self._of(job).workload is None
        runs = [_runs(pod) or pod.status.phase in ENDED for pod in pods]
        some = any(_runs(pod) for pod in pods)
        return state(job) == "Running" and len(pods) == wanted and all(runs) and some and not queued

    def over(self, job: Mapping[str, Any]) -> bool:
        """Whether it has waited long enough for what waiting cannot help."""
        known = self._of(job)
        return known.wait is not None and known.since is not None and time.time() - known.since >= known.wait.patience

    def doomed(self) -> bool:
        """Whether some job will have to be given up, if nothing changes."""
        return any(known.since is not None for known in self._known.values())

    def forget(self, job: Mapping[str, Any]) -> None:
        """It is being deleted."""
        self._known.pop(job["metadata"]["uid"], None)

    def remember(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """These are left: all others have ended, or are gone."""
        uids = {job["metadata"]["uid"] for job in jobs}
        self._known = {uid: known for uid, known in self._known.items() if uid in uids}

    def _of(self, job: Mapping[str, Any]) -> _Known:
        return self._known.setdefault(job["metadata"]["uid"], _Known())


def _runs(pod: Any) -> bool:
    """Whether all of a pod runs, and has for a while, as far as its node says."""
    containers = pod.status.container_statuses or []
    ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])
    leaving = pod.metadata.deletion_timestamp
    aged = time.time() - pod.metadata.creation_timestamp.timestamp() > AFTER
    return pod.status.phase == "Running" and ready and aged and not leaving and all(c.state.running for c in containers)


class NotBegun:
    """Says why a batch Job of ours does not begin, or what keeps it from ending, to whoever waits for it.

    Args:
        cluster: to ask.
        say: tells a reason when it is new.
        container: of the Job's pod.
        most: seconds of waiting for whatever it is; without, only what waiting cannot help ends it.
    """

    def __init__(
        self, cluster: Cluster, say: Callable[[str], None], container: str = CONDUCTOR, most: float = math.inf
    ) -> None:
        self._cluster, self._say, self._container, self._most = cluster, say, container, most
        self._said = ""
        self._asked = 0.0
        self._waits: float | None = None
        """Since when it waits for anything."""
        self._doomed: float | None = None
        """Since when for something that waiting cannot help."""

    def look(self, job: Any, pods: list[Any]) -> int:
        """Look at it, now and then; an exit code when that is enough."""
        now = time.time()
        if now - self._asked < NOT_BEGUN_SECONDS:
            return 0
        self._asked = now
        noted = self._cluster.events([job.metadata.name, *(pod.metadata.name for pod in pods[-1:])])
        reason = waits.of_batch_job(job, pods, noted, now=now, container=self._container)
        if reason is None:
            self._said, self._waits, self._doomed = "", None, None
            return 0
        if reason.words != self._said:
            self._say(f"waits for {reason.words}")
        self._said = reason.words
        self._waits = self._waits or now
        self._doomed = (self._doomed or now) if reason.exit_code else None
        if self._doomed and now - self._doomed >= reason.patience:
            return reason.exit_code
        return NOT_READY if now - self._waits >= self._most else 0
