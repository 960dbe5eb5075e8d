"""What others hold back: pods that the cluster refuses to make, and jobs in a queue. Pure, as `waits`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobgen.cluster.objects import seconds, state
from jobgen.pipeline.pools import amount
from minima.errors import NOT_READY, USAGE, UsageError

SILENT = 30.0
"""Seconds after which somebody who should have said something, such as the operator, is said not to answer."""
PATIENCE = 120.0
"""Seconds in which a registry may come back, or somebody make what is missing, before a job is given up."""
FORGOTTEN = 1200.0
"""Seconds after which an event tells of the past: the operator tries again at least this often."""
HOPELESS = ("forbidden", "invalid", "denied", "is not allowed")
"""Words of a refusal that comes again; any other may pass, such as a timeout of the cluster's own."""
TEMPORARY = ("insufficient unused quota", "more needed", "couldn't change flavor")
"""Kueue's words for a flavor that may have room later; it says them in one line with those of all other flavors."""
QUEUE = "kueue.x-k8s.io/queue-name"
UNKNOWN: Mapping[str, Any] = {}
"""A Workload that the conductor may not see: its rights have it only where the pipeline names a queue, and a namespace may have
one by default.
"""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One reason.

    Attributes:
        words: the cluster's own, and what to do.
        exit_code: to end with if it is the same for `patience` seconds; 0 where waiting may help for ever.
        patience: in seconds.
    """

    words: str
    exit_code: int = 0
    patience: float = PATIENCE


def refused(job: Mapping[str, Any], pods: Sequence[Any], events: Iterable[Any], now: float) -> Iterator[Wait]:
    """Pods that are not there because the cluster does not let the operator make them."""
    wanted = sum(replica["replicas"] for replica in job["spec"]["pytorchReplicaSpecs"].values())
    told = [e for e in about(events, job["metadata"]["uid"], "FailedCreatePod") if "already exists" not in e.message]
    if len(pods) < wanted and state(job) != "Suspended" and (refused := newest(told, now)):
        yield refusal(refused, f"{job['metadata']['name']}: its pods are refused")


def refusal(event: Any, what: str) -> Wait:
    """Why the cluster makes no pod, and whether it ever will."""
    said = re.sub(r'^(?:\(combined from similar events\): )?Error creating: (?:pods ".*?" is forbidden: )?', "", event.message)
    remedies = {
        "failed calling webhook": ("the program behind that webhook does not answer; its admin can start it", 0),
        "exceeded quota": ("it starts when others of the namespace end", 0),
        "violates PodSecurity": ("jobgen's pods meet `restricted`: find what changes them, such as a mutating webhook", USAGE),
        "error looking up service account": ("make it; the conductor's own is made by `jobgen run`", NOT_READY),
        "no PriorityClass with name": ("its admin can make it, or correct `priority_class`", NOT_READY),
        "pod rejected: RuntimeClass": ("its admin can make it, or correct `runtimeClassName`", NOT_READY),
    }
    default = ("it is tried again; if it stays so, ask the cluster's admin", 0)
    if any(words in event.message for words in HOPELESS):
        what_to = "change the pool or the image (of the conductor: `conductor`) as these words say, or ask the cluster's admin"
        default = (what_to, USAGE)
    remedy, code = next((value for words, value in remedies.items() if words in said), default)
    if said.startswith("exceeded quota") and _too_much(said):
        remedy = "that is more than the whole quota: make the pool (of the conductor: its `pod`) smaller, or ask for more"
        code = USAGE
    # What else is used changes all the time.
    return Wait(words=f"{what}: {re.sub(', used: .*?(?=, limited)', '', said)}; {remedy}", exit_code=code)


def _too_much(said: str) -> bool:
    """Whether a quota's words ask for more than it holds when nobody uses any."""
    parts = re.split(r", used: .*, limited: ", said, maxsplit=1)
    asked, most = (dict(re.findall(r"([^\s,=]+)=([^\s,]+)", part)) for part in (parts[0], parts[-1]))
    try:
        return any(amount(asked[name]) > amount(limit) for name, limit in most.items() if name in asked)
    except UsageError:  # A quantity in a form of its own.
        return False


def in_queue(job: Mapping[str, Any], pods: Sequence[Any], workload: Mapping[str, Any] | None, now: float) -> Iterator[Wait]:
    """A job that Kueue holds back, or one that it should and does not know of; `workload` may be `UNKNOWN`."""
    queue = job["metadata"].get("labels", {}).get(QUEUE)
    if not queue:
        return
    if state(job) != "Suspended":
        if pods and workload is None and now - seconds(job["metadata"]["creationTimestamp"]) > SILENT:
            yield Wait(
                words=f"{job['metadata']['name']}: not in queue {queue}, and runs without: no Kueue made a Workload of it; "
                "its admin can turn on the integration kubeflow.org/pytorchjob, which is off from 0.19 on"
            )
        return
    if workload == UNKNOWN:
        yield Wait(words=f"queue {queue}: `kubectl get workloads` says why, which the conductor may not see")
        return
    if workload is None and now - seconds(job["metadata"]["creationTimestamp"]) > SILENT:
        yield Wait(
            words=f"{job['metadata']['name']}: held back for queue {queue}, but no Kueue made a Workload of it; its admin can "
            "look whether Kueue runs, and let it manage this namespace (managedJobsNamespaceSelector)"
        )
        return
    conditions = {c["type"]: c for c in (workload or {}).get("status", {}).get("conditions", [])}
    told = next((c for kind in ("QuotaReserved", "Admitted") if (c := conditions.get(kind)) and c["status"] == "False"), None)
    said = told["message"] if told else "Kueue has not said why"
    words = f"queue {queue}: {said}"
    if "doesn't exist" in said:
        yield Wait(
            words=f"{words}; make it (manifests/queues has an example), or correct the pool's `queue`", exit_code=NOT_READY
        )
    elif "unavailable in ClusterQueue" in said and not any(words in said for words in TEMPORARY):
        yield Wait(
            words=f"{words}; its admin can cover that resource in the ClusterQueue (manifests/queues has an example)",
            exit_code=NOT_READY,
        )
    elif "doesn't match ClusterQueue selector" in said:
        yield Wait(words=f"{words}; its admin can let this namespace in, by its `namespaceSelector`", exit_code=NOT_READY)
    elif "> maximum capacity" in said and not any(words in said for words in TEMPORARY):
        yield Wait(
            words=f"{words}; the queue can never hold it: make the pool smaller, or name another `queue`", exit_code=USAGE
        )
    elif inactive := re.search(r"(ClusterQueue|LocalQueue) (\S+) is inactive", said):
        kind = inactive[1].lower()
        yield Wait(words=f"{words}; `kubectl describe {kind} {inactive[2]}` says why: who stopped it can let it go on")
    else:
        yield Wait(words=f"{words}; `kubectl get workloads` shows who is before it")


def about(events: Iterable[Any], uid: str, reason: str) -> list[Any]:
    return [event for event in events if event.involved_object.uid == uid and event.reason == reason]


def newest(events: list[Any], now: float) -> Any:
    newest = max(events, key=when, default=None)
    return newest if newest and now - when(newest) < FORGOTTEN else None


def when(event: Any) -> float:
    """When an event last came; some have only the one time, and some only the other."""
    series = event.series.last_observed_time if event.series else None
    found: datetime = series or event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return found.timestamp()
