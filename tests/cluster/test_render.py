"""The real operator's CRD and webhook, and Pod Security `restricted`, judge what jobgen renders."""

import copy
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from jobgen.manifests import render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="needs a cluster: KUBECONFIG is not set"),
]


def rendered(name: str, namespace: str) -> list[dict[str, Any]]:
    """The objects as a cluster gets them: from the YAML."""
    return [yaml.safe_load(text) for text in render.files(spec.load(name), namespace).values()]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from kubernetes import client, config

    config.load_kube_config()
    with client.ApiClient() as api:
        yield api


@pytest.fixture(scope="module")
def namespace(client: Any) -> Iterator[str]:
    """A namespace that enforces Pod Security `restricted`."""
    from kubernetes.client import CoreV1Api

    name = f"jobgen-test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    CoreV1Api(client).create_namespace({"metadata": {"name": name, "labels": labels}})
    yield name
    CoreV1Api(client).delete_namespace(name)


def create_job(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    from kubernetes.client import CustomObjectsApi

    return CustomObjectsApi(client).create_namespaced_custom_object(
        "kubeflow.org",
        "v1",
        job["metadata"]["namespace"],
        "pytorchjobs",
        job,
        dry_run="All",
        field_validation="Strict",
    )


def create_pod(client: Any, job: dict[str, Any]) -> None:
    from kubernetes.client import CoreV1Api

    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    pod = {"metadata": {"name": "one", **replica["template"]["metadata"]}, "spec": replica["template"]["spec"]}
    CoreV1Api(client).create_namespaced_pod(job["metadata"]["namespace"], pod, dry_run="All", field_validation="Strict")


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """What the cluster dropped or changed; webhooks such as Kueue's may add."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [line for key in ours for line in lost(ours[key], theirs.get(key), f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [line for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for line in lost(a, b, f"{path}.{i}")]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]


@pytest.mark.parametrize("name", spec.shipped())
def test_the_operator_accepts_both_pipelines(client: Any, namespace: str, name: str) -> None:
    for job in rendered(name, namespace):
        assert lost(job, create_job(client, job)) == []


@pytest.mark.parametrize("name", spec.shipped())
def test_the_pods_satisfy_restricted(client: Any, namespace: str, name: str) -> None:
    for job in rendered(name, namespace):
        create_pod(client, job)


def test_a_wrong_object_is_refused(client: Any, namespace: str) -> None:
    from kubernetes.client import ApiException

    job = rendered("smoke", namespace)[0]
    wrong = copy.deepcopy(job)
    wrong["spec"]["nprocPerNode"] = 1
    with pytest.raises(ApiException, match="nprocPerNode"):
        create_job(client, wrong)
    wrong = copy.deepcopy(job)
    wrong["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["name"] = "main"
    with pytest.raises(ApiException, match="must have at least one container with name pytorch"):
        create_job(client, wrong)


def test_a_pod_with_privileges_is_refused(client: Any, namespace: str) -> None:
    from kubernetes.client import ApiException

    job = rendered("smoke", namespace)[0]
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    template["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(ApiException, match="violates PodSecurity"):
        create_pod(client, job)


def run_independently(client: Any, namespace: str, program: str) -> tuple[str, dict[str, str]]:
    """Run `program` in two independent pods; the job's last condition, and each pod's output."""
    from kubernetes.client import CoreV1Api, CustomObjectsApi

    text = spec.read("smoke").replace("  build-data:\n    pool: small", "  build-data:\n    pool: small-pair")
    pipeline = spec.parse(text, "smoke")
    (step,) = (one for one in plan(pipeline) if one.name == "build-data")
    job = render.job(pipeline, step, namespace)
    job["metadata"]["name"] = name = f"independent-{uuid.uuid4().hex[:8]}"
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    container = template["containers"][0]
    container["command"], container["args"] = ["python", "-c"], [program, *container["args"][:2], "$$(HOME) costs $$5"]
    template["volumes"][0] = {"name": "workspace", "emptyDir": {}}
    jobs = CustomObjectsApi(client)
    jobs.create_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", job)
    ended = ""
    deadline = time.monotonic() + 180
    while not ended and time.monotonic() < deadline:
        time.sleep(1)
        found = jobs.get_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", name)
        conditions = {c["type"] for c in found.get("status", {}).get("conditions", []) if c["status"] == "True"}
        ended = next(iter(conditions & {"Succeeded", "Failed"}), "")
    core = CoreV1Api(client)
    pods = core.list_namespaced_pod(namespace, label_selector=f"training.kubeflow.org/job-name={name}").items
    return ended, {pod.metadata.name: core.read_namespaced_pod_log(pod.metadata.name, namespace) for pod in pods}


def test_independent_pods_succeed_together(client: Any, namespace: str) -> None:
    """The first pod ends 5 s before the second: the job is done only when both are."""
    program = (
        "import os, sys, time; index = int(os.environ['MINIMA_POD_INDEX']); time.sleep(5 * index); "
        "open('/tmp/x', 'w').close(); open('/workspace/x', 'w').close(); "
        "print(index, os.environ['MINIMA_POD_COUNT'], sys.argv[-1], os.environ['HOME'], flush=True)"
    )
    ended, logs = run_independently(client, namespace, program)
    assert ended == "Succeeded"
    # `$$` of the manifest is `$` in the program, and nothing was expanded.
    assert sorted(logs.values()) == ["0 2 $(HOME) costs $5 /tmp\n", "1 2 $(HOME) costs $5 /tmp\n"]


def test_one_permanent_failure_fails_the_job(client: Any, namespace: str) -> None:
    program = "import os, sys, time; sys.exit(65) if os.environ['MINIMA_POD_INDEX'] == '1' else time.sleep(1000)"
    ended, _ = run_independently(client, namespace, program)
    assert ended == "Failed"
