"""Why a job does not go on: the cluster's own words, what to do, and whether waiting can help. Pure.

Reasons and messages are those of Kubernetes 1.36, Training Operator 1.9.4 and Kueue 0.17.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jobgen.cluster.objects import ENDED, seconds
from jobgen.cluster.refusals import QUEUE, SILENT, Wait, about, in_queue, newest, refusal, refused, when
from jobgen.manifests.checks import CONTAINER
from jobgen.manifests.render import CONDUCTOR
from minima.errors import BUG, NOT_READY, USAGE

AFTER = 10.0
"""Seconds that things may take before what they wait for is worth a word."""
NO_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
MANY = "all pods of a pipeline share the workspace: make its claim with accessModes: [ReadWriteMany]"
NO_CONTAINER = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def of_job(
    job: Mapping[str, Any],
    pods: Sequence[Any],
    events: Sequence[Any],
    workload: Mapping[str, Any] | None,
    *,
    progressed: float,
    limit: int,
    now: float,
) -> Wait | None:
    """What a PyTorchJob that has not ended waits for; None while it goes on. What waiting cannot help goes first.

    Args:
        job: the PyTorchJob.
        pods: of it.
        events: of it, of its pods and of its claim.
        workload: Kueue's, of it; `UNKNOWN` if whoever asks may not see it.
        progressed: when its stage last came further, in seconds since the epoch.
        limit: how often a pod may be made again without that.
        now: in seconds since the epoch.
    """
    found = [
        *_made_again(job, events, progressed, limit),
        *refused(job, pods, events, now),
        *(wait for pod in pods if (wait := of_pod(pod, events, now=now))),
        *in_queue(job, pods, workload, now),
        *_of_operator(job, pods, now),
    ]
    return max(found, key=lambda wait: wait.exit_code > 0, default=None)


def of_batch_job(
    job: Any, pods: Sequence[Any], events: Sequence[Any], *, now: float, container: str = CONDUCTOR
) -> Wait | None:
    """What a batch Job of ours, most often a conductor, waits for that does not begin; None while it does or when it has ended.

    Args:
        job: the batch Job.
        pods: of it, oldest first.
        events: of it and of its pods.
        now: in seconds since the epoch.
        container: of its pods.
    """
    if pods and pods[-1].status.phase not in ENDED:
        return of_pod(pods[-1], events, now=now, container=container)
    if now - job.metadata.creation_timestamp.timestamp() < AFTER:
        return None
    if job.spec.suspend:
        queue = (job.metadata.labels or {}).get(QUEUE)
        where = (
            f"held in queue {queue}: `kubectl get workloads` says why" if queue else "suspended: `kubectl edit job` lets it go"
        )
        return Wait(words=f"{job.metadata.name}: {where}")
    if job.status and job.status.conditions:
        return None
    if refused := newest(about(events, job.metadata.uid, "FailedCreate"), now):
        return refusal(refused, f"{job.metadata.name}: its pod is refused")
    if not pods and now - job.metadata.creation_timestamp.timestamp() > SILENT:
        return Wait(words=f"{job.metadata.name}: the cluster has not made a pod of it; `kubectl describe job` may say why")
    return None


def of_pod(pod: Any, events: Iterable[Any], *, now: float, container: str = CONTAINER) -> Wait | None:
    """What a pod waits for, or is kept by; None while it goes on or when it has ended."""
    name, node, status = pod.metadata.name, pod.spec.node_name, pod.status
    age = now - pod.metadata.creation_timestamp.timestamp()
    own = [event for event in events if event.involved_object.uid == pod.metadata.uid]
    told = next((f" ({event.reason}: {event.message})" for event in own if event.reason == "NodeNotReady"), "")
    lost = (
        f"{name}: its node {node} does not answer{told}; `kubectl describe node {node}` may say why; if the machine is gone "
        f"for good, `kubectl delete node {node}` lets the pod be made again elsewhere"
    )
    if pod.metadata.deletion_timestamp:
        # The time by which it should have ended.
        return Wait(words=lost) if node and now - pod.metadata.deletion_timestamp.timestamp() > SILENT else None
    if status.phase in ENDED or age < AFTER:
        return None
    containers = [*(status.init_container_statuses or []), *(status.container_statuses or [])]
    over = next((c.state.terminated for c in containers if c.name == container and c.state.terminated), None)
    # An init container that runs beside it is ended by the kubelet.
    left = [c.name for c in status.container_statuses or [] if c.name != container and c.state.running]
    if over and left:
        return _kept(name, container, over, left, now)
    if _condition(pod, "ContainersReady") == "True" and _condition(pod, "Ready") == "False":
        # Only the node's controller says that: the kubelet would take back the containers' readiness too.
        return Wait(words=lost)
    for each in containers:
        if each.state.waiting and (wait := _not_begun(name, each.state.waiting, own, age)):
            return wait
    if status.phase != "Pending":
        return None
    unplaced = next((c for c in status.conditions or [] if c.type == "PodScheduled" and c.status == "False"), None)
    if unplaced and unplaced.reason == "SchedulingGated":
        return Wait(words=f"{name}: {unplaced.message}; it starts when who put them there (`schedulingGates`) takes them away")
    if unplaced:
        return _unplaced(name, unplaced.message or unplaced.reason, events)
    if age > SILENT and not containers:
        return Wait(words=lost if node else _unseen(pod, own))
    return None


def _unseen(pod: Any, own: list[Any]) -> str:
    """Of a pod that no scheduler took up: something else may have to come first."""
    name, scheduler = pod.metadata.name, pod.spec.scheduler_name or "default-scheduler"
    warned = max((event for event in own if event.type == "Warning"), key=when, default=None)
    if warned:
        return f"{name}: {warned.reason}: {warned.message}; make it in the namespace, or mend what asks for it"
    if scheduler != "default-scheduler":
        return f"{name}: no scheduler called {scheduler} has looked at it; start that one, or correct `schedulerName`"
    return f"{name}: no scheduler has looked at it; `kubectl get pods --namespace kube-system` shows whether one runs"


def _kept(name: str, container: str, over: Any, left: list[str], now: float) -> Wait | None:
    """A pod whose program ended, and that does not end, because something was put beside it."""
    if over.finished_at and now - over.finished_at.timestamp() < AFTER:
        return None
    said = f" ({over.message.strip()})" if over.exit_code and over.message else ""
    words = (
        f"{name}: its container {container} ended with exit code {over.exit_code}{said}, but {', '.join(left)} keeps the pod; "
        "let nothing put a container into this namespace's training pods (Istio: the namespace's label istio-injection)"
    )
    return Wait(words=words, exit_code=over.exit_code or BUG, patience=AFTER)


def _not_begun(name: str, waiting: Any, own: list[Any], age: float) -> Wait | None:
    """A container that is not there yet."""
    # The words of a pause between two pulls hold those of the pull.
    message = (waiting.message or "").rpartition(": ErrImagePull: ")[2].strip()
    if waiting.reason in NO_IMAGE:
        words = (
            f"{name}: its image cannot be had: {message or waiting.reason}; correct `image` (of the conductor: `conductor`) in "
            "the pipeline, or let the namespace's service account pull it"
        )
        return Wait(words=words, exit_code=USAGE)
    if waiting.reason in NO_CONTAINER:
        return Wait(
            words=f"{name}: {waiting.reason}: {message}; make what is missing in the namespace, or mend what asks for it",
            exit_code=NOT_READY,
        )
    # Some have whole seconds only: in the same one, what went wrong came before what goes on.
    said = max(own, key=lambda event: (int(when(event)), event.type == "Normal", when(event)), default=None)
    if said and said.type == "Warning":
        missing = re.search(r'(?:configmap|secret|persistentvolumeclaim) ".*" not found', said.message)
        remedy = f"`kubectl describe pod {name}` shows more"
        if missing:
            remedy = "make it in the namespace, or mend what asks for it"
        elif "Multi-Attach error" in said.message:
            remedy = f"its volume is on one node at a time, and on another one now; {MANY}"
        return Wait(words=f"{name}: {said.reason}: {said.message}; {remedy}", exit_code=NOT_READY if missing else 0)
    if age > SILENT:
        return Wait(words=f"{name}: {said.message if said else waiting.reason}")
    return None


def _unplaced(name: str, message: str, events: Iterable[Any]) -> Wait:
    """A pod that no node takes."""
    said = re.split(r"\.? (?:not found$|no new claims |preemption: )", message)[0].rstrip(".")
    if missing := re.search(r'persistentvolumeclaim "(.*?)" not found', said):
        return Wait(
            words=f"{name}: {said}; make the claim {missing[1]} in the namespace, or correct `workspace.claim`",
            exit_code=NOT_READY,
        )
    if "ReadWriteOncePod" in said:  # Which the conductor has for as long as it is at work.
        return Wait(words=f"{name}: {said}; {MANY}", exit_code=NOT_READY)
    if "unbound immediate PersistentVolumeClaims" in said:
        claims = [e for e in events if e.involved_object.kind == "PersistentVolumeClaim" and e.type == "Warning"]
        why = max(claims, key=when).message if claims else "`kubectl describe pvc` may say why"
        return Wait(words=f"{name}: {said}: {why}; it starts when the claim is bound to a volume")
    return Wait(
        words=f"{name}: no node takes it: {said}; it starts when one has room, or when the pool's node_selector, tolerations "
        "and sizes (of the conductor: what its `pod` says) are those of your nodes"
    )


def _made_again(job: Mapping[str, Any], events: Iterable[Any], progressed: float, limit: int) -> Iterator[Wait]:
    """A pod that is made again and again, though its stage comes no further: `ExitCode` knows no limit.

    Counted in events, which the cluster keeps for an hour: so it does not matter who looks, or for how long, or whether the
    program began.
    """
    # One of its name may have been stopped within the hour.
    since = max(progressed, seconds(job["metadata"]["creationTimestamp"]))
    uids: dict[str, set[str]] = {}
    for event in events:
        if event.involved_object.kind == "Pod" and when(event) >= since:
            uids.setdefault(event.involved_object.name, set()).add(event.involved_object.uid)
    name, most = max(((name, len(found) - 1) for name, found in uids.items()), key=lambda pair: pair[1], default=("", 0))
    if most < min(3, limit):
        return
    warned = [e for e in events if e.type == "Warning" and e.involved_object.name in {name, job["metadata"]["name"]}]
    told = [e for e in warned if e.reason in {"StartError", "Failed", "ContainerCannotRun", "OOMKilled", "Error"}]
    why = max(told, key=when).message if told else "its log, and `kubectl describe pod`, may say why"
    why = re.sub(r"^Error(?:: | pod \S+ container \S+ exitCode: \d+ terminated message: )", "", why)
    words = f"{name}: made again and again without progress: {why}"
    if most >= limit:
        yield Wait(words=f"{words}; given up after {limit} times", exit_code=BUG, patience=0)
    else:
        yield Wait(words=f"{words}; given up after {limit} times within an hour", exit_code=BUG, patience=math.inf)


def _of_operator(job: Mapping[str, Any], pods: Sequence[Any], now: float) -> Iterator[Wait]:
    """A job that nobody looks at."""
    name = job["metadata"]["name"]
    remedy = "`kubectl get pods -A -l control-plane=kubeflow-training-operator` shows whether it runs"
    known = job.get("status", {}).get("conditions") or pods or job["spec"]["runPolicy"].get("suspend")
    if not known and now - seconds(job["metadata"]["creationTimestamp"]) > SILENT:
        yield Wait(words=f"{name}: the training operator has not looked at it; {remedy}")
    ended = [time for pod in pods if pod.status.phase in ENDED and (time := _ended(pod))]
    if ended and len(ended) == len(pods) and now - max(ended) > SILENT:
        yield Wait(words=f"{name}: its pods have ended, and the training operator has not noticed; {remedy}")


def _ended(pod: Any) -> float:
    over = [c.state.terminated.finished_at for c in pod.status.container_statuses or [] if c.state.terminated]
    return max((time.timestamp() for time in over if time), default=0.0)


def _condition(pod: Any, kind: str) -> str:
    return next((c.status for c in pod.status.conditions or [] if c.type == kind), "")
