"""No wait without a reason, no loop without an end: what keeps a stage from running, and what the conductor says and does."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster import rights, state
from jobgen.manifests import conductor, render
from jobgen.manifests.conductor import state_name
from jobgen.pipeline import plan, spec
from tests.cluster.conftest import SHORT, wait

pytestmark = [pytest.mark.cluster]
Jobgen = Callable[..., subprocess.CompletedProcess[str]]
MINE = f"waits-{uuid.uuid4().hex[:6]}"
"""Of what lies outside of the namespace."""
SMALL = {"cpu": "10m", "cpu_limit": "1", "memory": "1Gi", "shm": "64Mi", "disk_request": "0"}
POOLS: dict[str, dict[str, Any]] = {
    "image": {"image": "registry.invalid/minima:none"},
    "limit": {"memory": "16Gi"},
    "quota": {"cpu": "3", "cpu_limit": "3"},
    "policy": {},
    "gpu": {"gpus": 1, "gpu_memory": "80Gi"},
    "place": {"node_selector": {MINE: "nowhere"}},
    "config": {},
    "sidecar": {},
    "node": {"node_selector": {MINE: "dead"}, "tolerations": [{"key": MINE, "operator": "Exists"}]},
    "unseen": {},
}
"""A stage for each, that reads nothing."""
WORDS = {
    "image": 'its image cannot be had: failed to pull and unpack image "registry.invalid/minima:none"',
    "limit": "its pods are refused: maximum memory usage per Container is 8Gi, but limit is 16Gi",
    "quota": "exceeded quota: few, requested: requests.cpu=3, limited: requests.cpu=2; that is more than the whole quota",
    "policy": "denied request: images must be signed",
    "gpu": "Insufficient nvidia.com/gpu",
    "place": "node(s) didn't match Pod's node affinity/selector",
    "config": 'CreateContainerConfigError: secret "nosuch" not found',
    "sidecar": "ended with exit code 0, but proxy keeps the pod",
    "node": "its node " + MINE + " does not answer",
    "unseen": "the training operator has not looked at it",
}


REFUSED = """
!has(object.metadata.labels) || !('minima/pipeline' in object.metadata.labels) ||
(object.metadata.labels['minima/pipeline'] != 'refused' &&
 !('minima/stage' in object.metadata.labels && object.metadata.labels['minima/stage'] == 'policy'))
"""
"""The pods that a policy lets pass: all but those of the stage `policy`, and of the pipeline `refused`."""
MAY_COME = {"gpu", "place", "node", "unseen"}
"""What may come of itself."""


def faults(folder: Path, name: str, pools: dict[str, dict[str, Any]], **changes: Any) -> Path:
    """A pipeline with a stage for each pool."""
    document = yaml.safe_load(SHORT.read_text(encoding="utf-8")) | {"name": name, **changes}
    options = document["stages"]["init-model"]["options"]
    document["pools"] = {pool: SMALL | fields for pool, fields in pools.items()}
    document["stages"] = {
        pool: {"verb": "init-model", "pool": pool, "options": {**options, "seed": seed}} for seed, pool in enumerate(pools)
    }
    place = folder / f"{name}.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    spec.load(str(place))
    return place


@pytest.fixture(scope="module")
def surroundings(cluster: Any) -> Iterator[None]:
    """What refuses pods, changes them or loses them, each for the stage of its name: limits, policies, and a node that dies."""
    from kubernetes.client import AdmissionregistrationV1Api, ApiException

    admission = AdmissionregistrationV1Api(cluster.core.api_client)
    cluster.core.create_namespaced_limit_range(
        cluster.namespace, {"metadata": {"name": "few"}, "spec": {"limits": [{"type": "Container", "max": {"memory": "8Gi"}}]}}
    )
    cluster.core.create_namespaced_resource_quota(
        cluster.namespace, {"metadata": {"name": "few"}, "spec": {"hard": {"requests.cpu": "2"}}}
    )
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}}
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    refused = {
        "metadata": {"name": MINE},
        "spec": {
            "matchConstraints": {"resourceRules": [pods]},
            "validations": [{"expression": REFUSED, "message": "images must be signed"}],
        },
    }
    binding = {"metadata": {"name": MINE}, "spec": {"policyName": MINE, "matchResources": here}}
    admission.create_validating_admission_policy(refused)
    admission.create_validating_admission_policy_binding(binding | {"spec": binding["spec"] | {"validationActions": ["Deny"]}})  # type: ignore[operator]
    size = {"cpu": "4", "memory": "64Gi", "ephemeral-storage": "90Gi", "pods": "32"}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    alive = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now}
    cluster.core.create_node(
        {
            "metadata": {"name": MINE, "labels": {MINE: "dead"}},
            "spec": {"taints": [{"key": MINE, "effect": "NoSchedule"}]},
            "status": {"capacity": size, "allocatable": size, "conditions": [alive]},
        }
    )
    yield
    admission.delete_validating_admission_policy_binding(MINE)
    admission.delete_validating_admission_policy(MINE)
    try:
        cluster.core.delete_node(MINE)
    except ApiException as error:
        if error.status != 404:
            raise


class Running:
    """`jobgen run` beside the test, and when it said what."""

    def __init__(self, pipeline: Path, namespace: str, **environment: str) -> None:
        command = [sys.executable, "-m", "jobgen", "run", str(pipeline), "--namespace", namespace]
        self.pipeline = pipeline
        self.lines: list[tuple[float, str]] = []
        pipe, out = subprocess.PIPE, subprocess.STDOUT
        self.process = subprocess.Popen(command, stdout=pipe, stderr=out, text=True, env={**os.environ, **environment})
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append((time.monotonic(), line.rstrip("\n")))

    def said(self) -> str:
        return "\n".join(line for _, line in list(self.lines))

    def when(self, words: str) -> float:
        """When a line with these words first came; 0 if none did yet."""
        return next((seconds for seconds, line in list(self.lines) if words in line), 0.0)

    def code(self, seconds: float = 300) -> int:
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


@pytest.fixture(scope="module")
def runs(cluster: Any, surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """All at once, since most of it is waiting."""
    folder = tmp_path_factory.mktemp("waits")
    pools = POOLS | ({"queue": {"queue": "nosuch"}} if has_kueue(cluster) else {})
    places = {
        "faults": faults(folder, "faults", pools),
        "start": faults(folder, "start", {"path": {"env": {"PATH": "/nowhere"}}}),
        "claim": faults(folder, "claim", {"any": {}}, workspace={"claim": "nosuch", "path": "/workspace"}),
        "image": faults(folder, "image", {"any": {}}, conductor="registry.invalid/jobgen:none"),
        "refused": faults(folder, "refused", {"any": {}}),
    }
    changed(cluster, spec.load(str(places["faults"])))
    made = {name: Running(place, cluster.namespace) for name, place in places.items()}
    yield made
    for each in made.values():
        each.stop()


def has_kueue(cluster: Any) -> bool:
    return any(group.name == "kueue.x-k8s.io" for group in cluster.apis.get_api_versions().groups)


def changed(cluster: Any, pipeline: Any) -> None:
    """Jobs as something between jobgen and the operator may change them, which the conductor then finds there."""
    for step in plan.plan(pipeline):
        job = render.job(pipeline, step, cluster.namespace)
        pod = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        (container,) = pod["containers"]
        match step.name:
            case "config":
                container["env"].append({"name": "X", "valueFrom": {"secretKeyRef": {"name": "nosuch", "key": "x"}}})
            case "sidecar":
                same = {key: container[key] for key in ("image", "resources", "securityContext")}
                pod["containers"].append({**same, "name": "proxy", "command": ["sleep", "600"]})
                container |= {"command": ["true"], "args": []}
            case "unseen":
                job["spec"]["runPolicy"]["managedBy"] = "kueue.x-k8s.io/multikueue"  # The operator leaves it to that.
            case _:
                continue
        cluster.create(job)


def told(cluster: Any, pipeline: str) -> state.State | None:
    return state.parse(cluster.note(state_name(pipeline), state.KEY))


def test_each_is_said_within_30_s(cluster: Any, runs: dict[str, Running], jobgen: Jobgen) -> None:
    """By `run`, in the conductor's log and by `status`, from when the cluster has noticed it."""
    words = WORDS | ({"queue": "queue nosuch: LocalQueue nosuch doesn't exist"} if has_kueue(cluster) else {})
    run = runs["faults"]

    def dies() -> None:
        """The node ran the pod for a moment, and is never heard of again."""
        for pod in cluster.pods("minima/stage=node"):
            if pod.status.phase == "Pending" and pod.spec.node_name:
                container: dict[str, Any] = {"name": "pytorch", "image": "x", "imageID": "", "ready": True, "restartCount": 0}
                container["state"] = {"running": {"startedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
                ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
                status = {"phase": "Running", "conditions": ready, "containerStatuses": [container]}
                cluster.core.patch_namespaced_pod_status(pod.metadata.name, cluster.namespace, {"status": status})

    def all_said() -> bool:
        dies()
        return all(run.when(each) for each in words.values())

    wait("each is said", all_said, 120)
    begun = run.when("applied")
    late = {stage: round(run.when(each) - begun) for stage, each in words.items()}
    # The conductor's pod begins, then the jobs' do; a cluster calls a node lost after 40 s more.
    assert not [stage for stage, seconds in late.items() if seconds > (100 if stage == "node" else 45)], late
    (pod,) = cluster.conductor_pods(cluster.conductors("faults")[-1].metadata.name)
    log = "\n".join(cluster.lines(pod.metadata.name))
    assert [each for each in words.values() if each not in log] == []
    rows = json.loads(jobgen("status", str(run.pipeline), "--output", "json").stdout)
    shown = {stage["stage"]: stage["waits_for"] + stage["words"] for stage in rows["stages"]}
    assert [stage for stage, each in words.items() if each not in shown[stage]] == []
    cluster.core.delete_node(MINE)  # As the words about it say.


def test_a_program_that_cannot_start_ends(cluster: Any, runs: dict[str, Running]) -> None:
    """Though no process of ours ever ran, and though the conductor's pod was deleted meanwhile."""

    def begun() -> bool:
        found = told(cluster, "start")
        return bool(found and found.stages[0].restarts > 3)

    wait("it was made again", begun, 90)
    (first,) = cluster.pods("minima/pipeline=start,app.kubernetes.io/component=conductor")
    cluster.core.delete_namespaced_pod(first.metadata.name, cluster.namespace)
    assert runs["start"].code() == 70
    said = runs["start"].said()
    assert 'exec: "minima": executable file not found in $PATH' in said
    assert "given up after 20 times" in said
    assert cluster.jobs("minima/pipeline=start") == []
    assert [pod for pod in cluster.pods("minima/pipeline=start") if "minima/stage" in pod.metadata.labels] == []
    pipeline = spec.load(str(runs["start"].pipeline))
    job = render.job(pipeline, plan.plan(pipeline)[0], cluster.namespace)
    made = {e.involved_object.uid for e in cluster.events([f"{job['metadata']['name']}-master-0"])}
    assert 20 <= len(made) <= 30


def test_a_conductor_that_cannot_start(cluster: Any, runs: dict[str, Running]) -> None:
    """Its claim, its image, its pod that a policy refuses: said by `run` within 30 s, which ends when waiting does not help."""
    expected = {
        "claim": (75, 'persistentvolumeclaim "nosuch" not found; make the claim nosuch in the namespace'),
        "image": (64, 'its image cannot be had: failed to pull and unpack image "registry.invalid/jobgen:none"'),
        "refused": (64, "its pod is refused: ValidatingAdmissionPolicy"),
    }
    for name, (code, words) in expected.items():
        assert runs[name].code() == code
        assert 0 < runs[name].when(words) - runs[name].when("applied") < 30, runs[name].said()


def test_who_may_only_edit_runs_what_an_admin_gave_rights(cluster: Any, runs: dict[str, Running], tmp_path: Path) -> None:
    """A person with the cluster role `edit` in the namespace, which lets nobody see or give rights."""
    document = yaml.safe_load(SHORT.read_text(encoding="utf-8")) | {"name": "edited", "inputs": {"text": "/workspace/nowhere"}}
    document["stages"]["build-data"]["options"]["input_dir"] = "${text}"
    place = tmp_path / "edited.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    editor = kubeconfig_of_an_editor(cluster, tmp_path / "kubeconfig")
    first = Running(place, cluster.namespace, KUBECONFIG=editor)
    assert first.code(60) == 64
    assert "without it the conductor may not list pytorchjobs; an admin of the namespace gives it its rights" in first.said()
    assert (
        f"jobgen render {place} --namespace {cluster.namespace} --format conductor --output - | kubectl apply -f -"
        in first.said()
    )
    assert cluster.conductors("edited") == []
    rights.apply(cluster, spec.load(str(place)), conductor.objects(spec.load(str(place)), cluster.namespace)[:3])
    second = Running(place, cluster.namespace, KUBECONFIG=editor)
    assert second.code(120) == 75
    assert "inputs.text: nothing at /workspace/nowhere" in second.said()


def test_what_waiting_cannot_help_is_stopped_and_ends_it(cluster: Any, runs: dict[str, Running]) -> None:
    """With the code of what failed first, the container beside a finished program; what may still come of itself stays."""
    assert runs["faults"].code() == 70
    assert "keeps the pod" in runs["faults"].said().splitlines()[-1]
    left = {job["metadata"]["labels"]["minima/stage"] for job in cluster.jobs("minima/pipeline=faults")}
    assert left == MAY_COME
    wait(
        "the lost node's pod is made again",
        lambda: all(pod.spec.node_name != MINE for pod in cluster.pods("minima/stage=node")),
        90,
    )


def kubeconfig_of_an_editor(cluster: Any, place: Path) -> str:
    from kubernetes.client import RbacAuthorizationV1Api

    cluster.core.create_namespaced_service_account(cluster.namespace, {"metadata": {"name": "editor"}})
    binding = {
        "metadata": {"name": "editor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "editor", "namespace": cluster.namespace}],
    }
    RbacAuthorizationV1Api(cluster.core.api_client).create_namespaced_role_binding(cluster.namespace, binding)
    token = cluster.core.create_namespaced_service_account_token("editor", cluster.namespace, {"spec": {}}).status.token
    content = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    content["users"] = [{"name": user["name"], "user": {"token": token}} for user in content["users"]]
    place.write_text(yaml.safe_dump(content))
    return str(place)
