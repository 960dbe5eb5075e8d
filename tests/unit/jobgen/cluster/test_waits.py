"""What each wait says, on objects that a real cluster gave: recorded.json holds what is read of them, a case a line.

That a cluster says the same today is for tests/cluster/test_waits.py.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiClient

from jobgen.cluster import objects, refusals, waits
from jobgen.cluster.refusals import UNKNOWN, Wait

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded.json").read_text())
AT: float = RECORDED.pop("at")


def model(content: Any, kind: str) -> Any:
    return ApiClient().deserialize(SimpleNamespace(data=json.dumps(content)), kind)


def recorded(case: str) -> dict[str, Any]:
    found = RECORDED[case]
    return {
        "job": model(found["job"], "V1Job") if case.startswith("conductor-") else found["job"],
        "pods": model(found["pods"], "list[V1Pod]"),
        "events": model(found["events"], "list[CoreV1Event]"),
        "workload": found["workload"],
    }


def of(case: str, *, progressed: float = 0, limit: int = 20, now: float = AT, **changes: Any) -> Wait | None:
    found = recorded(case) | changes
    if case.startswith("conductor-"):
        return waits.of_batch_job(found["job"], found["pods"], found["events"], now=now)
    return waits.of_job(**found, progressed=progressed, limit=limit, now=now)


@pytest.mark.parametrize(
    ("case", "exit_code", "words"),
    [
        ("badname", 64, 'its image cannot be had: Failed to apply default image tag "Minima:cpu:x"'),
        ("image", 64, 'its image cannot be had: failed to pull and unpack image "registry.invalid/minima:none"'),
        ("config", 75, 'CreateContainerConfigError: secret "nosuch" not found; make what is missing'),
        ("configmap", 75, 'FailedMount: MountVolume.SetUp failed for volume "x" : configmap "nosuch" not found; make it'),
        ("claim", 75, 'persistentvolumeclaim "nosuch" not found; make the claim nosuch in the namespace'),
        (
            "unbound",
            0,
            'unbound immediate PersistentVolumeClaims: storageclass.storage.k8s.io "nosuch" not found; it starts when',
        ),
        (
            "gpu",
            0,
            "no node takes it: 0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s);",
        ),
        (
            "taint",
            0,
            "1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s); it starts when one",
        ),
        ("limit", 64, "its pods are refused: maximum memory usage per Container is 8Gi, but limit is 16Gi; change the pool"),
        (
            "quota",
            64,
            "exceeded quota: q, requested: requests.cpu=3, limited: requests.cpu=2; that is more than the whole quota",
        ),
        ("policy", 64, "'no-policy' denied request: images must be signed; change the pool or the image"),
        (
            "security",
            64,
            'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "pytorch" must',
        ),
        ("dead", 0, "its node dead does not answer (NodeNotReady: Node is not ready); `kubectl describe node dead`"),
        (
            "dead2",
            0,
            "its node dead does not answer; `kubectl describe node dead` may say why; if the machine is gone for good",
        ),
        ("noqueue", 75, "queue nosuch: LocalQueue nosuch doesn't exist; make it (manifests/queues has an example)"),
        (
            "queue2",
            0,
            "queue full: couldn't assign flavors to pod set master: insufficient unused quota for cpu in flavor exp",
        ),
        ("queue3", 64, "> maximum capacity (50m); the queue can never hold it"),
        ("sidecar", 70, "its container pytorch ended with exit code 0, but proxy keeps the pod; let nothing put a container"),
        ("start", 70, "without progress: failed to create containerd task: "),
        (
            "unmanaged",
            0,
            "the training operator has not looked at it; `kubectl get pods -A -l control-plane=kubeflow-training-opera",
        ),
        ("conductor-claim", 75, 'persistentvolumeclaim "nosuch" not found; make the claim nosuch in the namespace'),
        ("conductor-image", 64, 'its image cannot be had: failed to pull and unpack image "registry.invalid/minima:none"'),
        (
            "conductor-quota",
            64,
            "its pod is refused: exceeded quota: q, requested: requests.cpu=3, limited: requests.cpu=2; that is more",
        ),
        (
            "conductor-sa",
            75,
            'error looking up service account exp/csa-conductor: serviceaccount "csa-conductor" not found; make it',
        ),
        (
            "conductor-security",
            64,
            'its pod is refused: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        ),
    ],
)
def test_the_words_and_whether_waiting_can_help(case: str, exit_code: int, words: str) -> None:
    found = of(case)
    assert found is not None
    assert words in found.words
    assert found.exit_code == exit_code


@pytest.mark.parametrize(
    ("message", "exit_code", "words"),
    [
        (
            'pods "x" is forbidden: exceeded quota: q, requested: requests.cpu=3,pods=1, used: requests.cpu=9,pods=2, '
            "limited: requests.cpu=10,pods=5",
            0,
            "exceeded quota: q, requested: requests.cpu=3,pods=1, limited: requests.cpu=10,pods=5; it starts when others",
        ),
        ('pods "x" is forbidden: exceeded quota: q, requested: a=1e3x, used: a=1, limited: a=2', 0, "it starts when others"),
        ('pods "x" is forbidden: exceeded quota: words of a later version', 0, "it starts when others"),
        ('pods "x" is forbidden: no PriorityClass with name high was found', 75, "correct `priority_class`"),
        ('pods "x" is forbidden: pod rejected: RuntimeClass "nvidia" not found', 75, "correct `runtimeClassName`"),
        (
            'pods "x" is forbidden: error looking up service account ns/trainer: serviceaccount "trainer" not found',
            75,
            "make it; the conductor's own is made by `jobgen run`",
        ),
        ('pods "x" is forbidden: failed quota: q: must specify limits.cpu', 64, "its pods are refused: failed quota: q: must"),
        (
            'admission webhook "w" denied the request: no',
            64,
            'its pods are refused: admission webhook "w" denied the request: no;',
        ),
        ('Pod "x" is invalid: spec.priority: Required value', 64, "its pods are refused: Pod"),
        ("etcdserver: request timed out", 0, "its pods are refused: etcdserver: request timed out; it is tried again"),
        ("words of a later version", 0, "it is tried again; if it stays so, ask the cluster's admin"),
        ('Internal error occurred: failed calling webhook "w": refused', 0, "the program behind that webhook does not answer"),
    ],
)
def test_the_words_of_other_refusals(message: str, exit_code: int, words: str) -> None:
    events = recorded("policy")["events"]
    for event in events:
        event.message = f"Error creating: {message}"
    found = of("policy", events=events)
    assert found is not None
    assert words in found.words
    assert found.exit_code == exit_code


@pytest.mark.parametrize(
    "other",
    [
        "insufficient unused quota for cpu in flavor big, 20m more needed",
        "insufficient unused quota for cpu in flavor big",
        "couldn't change flavor from: small to: big",
    ],
)
def test_a_queue_of_which_one_flavor_is_too_small_and_another_is_full(other: str) -> None:
    workload = json.loads(json.dumps(RECORDED["queue3"]["workload"]))
    (condition,) = workload["status"]["conditions"]
    condition["message"] += f", {other}"
    found = of("queue3", workload=workload)
    assert found is not None
    assert "> maximum capacity" in found.words
    assert "`kubectl get workloads` shows who is before it" in found.words
    assert found.exit_code == 0


@pytest.mark.parametrize(("later", "exit_code"), [(-1, 75), (0, 0), (60, 0)])
def test_what_was_missing_and_came_in_time_is_no_fault(later: int, exit_code: int) -> None:
    """Then a big image is pulled, for as long as that takes; events of the cluster's own have whole seconds."""
    events = recorded("configmap")["events"]
    pulling = recorded("image")["events"][1]
    (mount,) = (event for event in events if event.reason == "FailedMount")
    pulling.involved_object = mount.involved_object
    pulling.last_timestamp = mount.last_timestamp + timedelta(seconds=later)
    for order in ([*events, pulling], [pulling, *events]):
        found = of("configmap", events=order, now=AT + 600)
        assert found is not None
        assert found.exit_code == exit_code
        assert ("Pulling image" in found.words) == (exit_code == 0)


def test_a_ready_container_beside_one_without_an_image_is_no_lost_node() -> None:
    """Native, or not: the kubelet says that the pod is not ready, as the node's controller would."""
    for place in ("init_container_statuses", "container_statuses"):
        (pod,) = recorded("image")["pods"]
        setattr(pod.status, place, [_proxy(), *(getattr(pod.status, place) or [])])
        assert of("image", pods=[pod]) == of("image"), place


def test_a_container_beside_it_that_is_not_ready_is_no_lost_node() -> None:
    (pod,) = recorded("dead")["pods"]
    proxy = _proxy()
    proxy.ready = False
    pod.status.container_statuses.append(proxy)
    next(c for c in pod.status.conditions if c.type == "ContainersReady").status = "False"
    assert of("dead", pods=[pod], events=[]) is None


def test_a_native_sidecar_does_not_keep_its_pod() -> None:
    (pod,) = recorded("sidecar")["pods"]
    pod.status.init_container_statuses = [_proxy()]
    pod.status.container_statuses = [c for c in pod.status.container_statuses if c.name != "proxy"]
    assert of("sidecar", pods=[pod]) is None


def _proxy() -> Any:
    """A container that runs and is ready."""
    (pod,) = recorded("sidecar")["pods"]
    return next(c for c in pod.status.container_statuses if c.name == "proxy")


def test_every_recorded_case_is_looked_at() -> None:
    assert len(RECORDED) == 26  # All of the table, and the next.


def test_a_pod_that_its_lost_node_never_deletes() -> None:
    assert of("dead-deleted", now=AT + 60) == of("dead")
    assert of("dead-deleted") is None  # It has half a minute more than its time to end.


def test_nothing_is_said_of_what_has_just_begun() -> None:
    """A job's first seconds: pods that are not placed, images that are not there yet."""
    for case in ("claim", "image", "config", "gpu", "conductor-sa", "unmanaged", "conductor-image"):
        begun = recorded(case)
        place = begun["pods"][-1:] or [begun["job"]]
        created = (
            place[0]["metadata"]["creationTimestamp"] if isinstance(place[0], dict) else place[0].metadata.creation_timestamp
        )
        at = objects.seconds(created) if isinstance(created, str) else created.timestamp()
        assert of(case, now=at + 9) is None, case


def test_restarts_count_from_the_last_progress_and_up_to_the_limit() -> None:
    again = of("start", limit=26)
    assert again is not None
    assert (again.patience, "given up after 26 times within an hour" in again.words) == (math.inf, True)
    assert of("start", limit=25, progressed=AT) is None  # It came further since.
    events = recorded("start")["events"]
    times = sorted(refusals.when(e) for e in events if e.reason == "Scheduled")
    younger = {
        **RECORDED["start"]["job"],
        "metadata": {**RECORDED["start"]["job"]["metadata"], "creationTimestamp": _stamp(times[-2])},
    }
    assert of("start", job=younger) is None  # What an earlier job of this name did does not count.
    half = of("start", limit=20, progressed=times[12])
    assert half is not None
    assert half.patience == math.inf


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_a_volume_that_not_all_pods_can_have() -> None:
    """As Kubernetes 1.36 says it of a claim for one pod, which is recorded, and of one for one node."""
    (pod,) = recorded("claim")["pods"]
    once = (
        "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already"
    )
    pod.status.conditions[0].message = f"{once} in-use by another pod. preemption: no"
    found = of("claim", pods=[pod])
    assert found is not None
    assert (found.exit_code, found.words.endswith("make its claim with accessModes: [ReadWriteMany]")) == (75, True)
    assert "in-use by another pod" in found.words
    (pod,), events = recorded("configmap")["pods"], recorded("configmap")["events"]
    for event in events:
        event.message = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other'
    found = of("configmap", pods=[pod], events=events)
    assert found is not None
    assert found.exit_code == 0  # The other pod may end.
    assert "already used by pod(s) other; its volume is on one node at a time" in found.words


def test_what_no_scheduler_takes_up() -> None:
    """A gate, a scheduler that is not there, and a resource claim that cannot be made: as a cluster of 1.36 showed them."""
    (pod,) = recorded("claim")["pods"]
    pod.status.conditions[0].reason = "SchedulingGated"
    pod.status.conditions[0].message = "Scheduling is blocked due to non-empty scheduling gates"
    said = [of("claim", pods=[pod], events=[])]
    pod.status.conditions = []
    for scheduler in (None, "volcano"):
        pod.spec.scheduler_name = scheduler
        said.append(of("claim", pods=[pod], events=[]))
    (*_, event) = (each for each in recorded("claim")["events"] if each.involved_object.kind == "Pod")
    event.reason, event.message = "FailedResourceClaimCreation", 'resourceclaimtemplate.resource.k8s.io "gpu" not found'
    said.append(of("claim", pods=[pod], events=[event]))
    ends = ("takes them away", "shows whether one runs", "start that one, or correct `schedulerName`", "mend what asks for it")
    for found, end in zip(said, ends, strict=True):
        assert found is not None
        assert found.words.endswith(end), found.words
    assert "no scheduler called volcano has looked at it" in said[2].words  # type: ignore[union-attr]
    assert 'FailedResourceClaimCreation: resourceclaimtemplate.resource.k8s.io "gpu" not found' in said[3].words  # type: ignore[union-attr]


def test_an_hour_old_refusal_is_forgotten() -> None:
    later = of("policy", now=AT + 3600)
    assert later is not None
    assert "the training operator has not looked at it" in later.words


def test_what_waiting_cannot_help_goes_first() -> None:
    """One pod of a group has no node, and the other no image."""
    both = [*recorded("gpu")["pods"], *recorded("image")["pods"]]
    found = of("gpu", pods=both)
    assert found is not None
    assert found.exit_code == 64
    assert "image" in found.words


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("couldn't assign flavors to pod set worker: resource rdma/ib unavailable in ClusterQueue", 75, "cover that resource"),
        (
            "pod set worker: resource rdma/ib unavailable in ClusterQueue, insufficient unused quota for cpu in flavor a",
            0,
            "who is before it",
        ),
        ("ClusterQueue team is inactive", 0, "`kubectl describe clusterqueue team` says why: who stopped it can let it go on"),
        ("LocalQueue full is inactive", 0, "`kubectl describe localqueue full` says why"),
        ("Workload namespace doesn't match ClusterQueue selector", 75, "let this namespace in, by its `namespaceSelector`"),
    ],
)
def test_a_queue_that_another_than_its_user_has_to_mend(said: str, code: int, words: str) -> None:
    workload = json.loads(json.dumps(RECORDED["queue3"]["workload"]))
    workload["status"]["conditions"][0]["message"] = said
    found = of("queue3", workload=workload)
    assert found is not None
    assert found.exit_code == code
    assert found.words.startswith(f"queue full: {said}; ")
    assert words in found.words


def test_a_job_that_kueue_holds_back_and_does_not_look_at() -> None:
    """As in a namespace that Kueue's own configuration leaves out: its webhook suspends the job all the same."""
    found = of("queue2", workload=None)
    assert found is not None
    assert "held back for queue full, but no Kueue made a Workload of it" in found.words
    assert found.exit_code == 0
    young = json.loads(json.dumps(RECORDED["queue2"]["job"]))
    young["metadata"]["creationTimestamp"] = datetime.fromtimestamp(AT - 5, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    now = of("queue2", job=young, workload=None)
    assert now is not None
    assert "Kueue has not said why" in now.words


def test_a_workload_that_the_conductor_may_not_see() -> None:
    """A namespace's own queue, which the pipeline does not name: no reason to end, or to say that there is none."""
    found = of("queue2", workload=UNKNOWN)
    assert found is not None
    assert found.exit_code == 0
    assert "`kubectl get workloads` says why" in found.words
    job = json.loads(json.dumps(RECORDED["queue2"]["job"]))
    job["status"]["conditions"] = [{"type": "Running", "status": "True"}]
    assert of("queue2", job=job, pods=[_running()], workload=UNKNOWN) is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [({refusals.QUEUE: "full"}, "held in queue full: `kubectl get workloads` says why"), ({}, "suspended: `kubectl edit job`")],
)
def test_a_conductor_that_somebody_holds_back(labels: dict[str, str], words: str) -> None:
    """The namespace's own queue holds a conductor too: Kueue suspends its Job, which then has a condition."""
    job = json.loads(json.dumps(RECORDED["conductor-image"]["job"]))
    job["metadata"]["labels"] = labels
    job["spec"] = {"suspend": True, "template": {"spec": {"containers": []}}}
    job["status"] = {"conditions": [{"type": "Suspended", "status": "True"}]}
    found = of("conductor-image", job=model(job, "V1Job"), pods=[])
    assert found is not None
    assert words in found.words
    assert found.exit_code == 0


def test_a_queue_that_nobody_keeps() -> None:
    """Kueue without its integration: the label is there, and the pods run."""
    job = json.loads(json.dumps(RECORDED["queue2"]["job"]))
    job["status"]["conditions"] = [{"type": "Running", "status": "True"}]
    later = of("queue2", job=job, pods=[_running()], workload=None)
    assert later is not None
    assert "not in queue full, and runs without: no Kueue made a Workload of it" in later.words
    assert later.exit_code == 0
    assert of("queue2", job=job, pods=[_running()]) is None


def _running() -> Any:
    (pod,) = recorded("dead")["pods"]
    for condition in pod.status.conditions:
        condition.status = "True"
    return pod


def test_pods_that_ended_and_an_operator_that_does_not_notice() -> None:
    (pod,) = recorded("sidecar")["pods"]
    pod.status.phase = "Succeeded"
    found = of("sidecar", pods=[pod], now=AT + 60)
    assert found is not None
    assert "the training operator has not noticed" in found.words
