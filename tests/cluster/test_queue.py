"""Kueue: pipelines that share a quota, and a training that makes room and comes back."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import conditions, digest, first_stages, wait
from tests.cluster.test_faults import distill, find, pods, steps

pytestmark = [pytest.mark.cluster]
GROUP = ("kueue.x-k8s.io", "v1beta2")


@pytest.fixture(scope="module")
def queue(cluster: Any) -> Iterator[str]:
    """A LocalQueue whose quota is that of one two-pod training."""
    from kubernetes.client import ApiextensionsV1Api

    known = {crd.metadata.name for crd in ApiextensionsV1Api(cluster.core.api_client).list_custom_resource_definition().items}
    if "clusterqueues.kueue.x-k8s.io" not in known:
        pytest.skip("needs Kueue with its integration kubeflow.org/pytorchjob")
    name = f"q{uuid.uuid4().hex[:6]}"
    flavor = {"metadata": {"name": name}}
    quota = [{"name": "cpu", "nominalQuota": "200m"}, {"name": "memory", "nominalQuota": "6Gi"}]
    whole = {
        "metadata": {"name": name},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [
                {"coveredResources": ["cpu", "memory"], "flavors": [{"name": name, "resources": quota}]},
            ],
        },
    }
    priority = {"metadata": {"name": name}, "value": 1000}
    kinds: dict[str, dict[str, Any]] = {"ResourceFlavor": flavor, "ClusterQueue": whole, "WorkloadPriorityClass": priority}
    plural = {"ResourceFlavor": "resourceflavors", "ClusterQueue": "clusterqueues"}
    plural["WorkloadPriorityClass"] = "workloadpriorityclasses"
    for kind, body in kinds.items():
        head = {"apiVersion": "/".join(GROUP), "kind": kind}
        cluster.custom.create_cluster_custom_object(*GROUP, plural[kind], head | body, field_validation="Strict")
    local = {"apiVersion": "/".join(GROUP), "kind": "LocalQueue", "metadata": {"name": name}, "spec": {"clusterQueue": name}}
    cluster.custom.create_namespaced_custom_object(*GROUP, cluster.namespace, "localqueues", local)
    yield name
    for job in cluster.jobs(""):
        cluster.delete(job["metadata"]["name"])
    for kind in reversed(kinds):
        cluster.custom.delete_cluster_custom_object(*GROUP, plural[kind], name)


@pytest.fixture(scope="module")
def base(cluster: Any, queue: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model and records, made by the first stages of the short pipeline with their pool in the queue."""
    made = first_stages(cluster, tmp_path_factory.mktemp("queue"), small={"queue": queue})
    assert len(cluster.custom.list_namespaced_custom_object(*GROUP, cluster.namespace, "workloads")["items"]) == 2
    return made


def queued(cluster: Any, base: dict[str, str], queue: str, **labels: str) -> tuple[str, str]:
    """Apply a `distill` of a new pipeline to the queue; the job's name and its artifact."""
    job, folder = distill(cluster, base, max_steps=60)
    job["metadata"]["labels"] |= {"kueue.x-k8s.io/queue-name": queue, **labels}
    cluster.create(job)
    return str(job["metadata"]["name"]), folder


def succeeded(cluster: Any, name: str) -> bool:
    now = conditions(find(cluster, name))
    assert "Failed" not in now
    return "Succeeded" in now


def test_the_second_waits_and_a_preempted_training_comes_back_to_the_same_weights(
    cluster: Any, base: dict[str, str], queue: str
) -> None:
    first, broken = queued(cluster, base, queue)
    wait("a checkpoint is there", lambda: max(steps(cluster, first), default=0) > 10)
    second, unbroken = queued(cluster, base, queue)
    wait("the second is suspended", lambda: "Suspended" in conditions(find(cluster, second)))
    assert pods(cluster, second) == []
    urgent, _ = queued(cluster, base, queue, **{"kueue.x-k8s.io/priority-class": queue})
    wait("the first makes room", lambda: "Suspended" in conditions(find(cluster, first)))
    wait("the urgent one ends", lambda: succeeded(cluster, urgent))
    wait("the first comes back and ends", lambda: succeeded(cluster, first))
    wait("the second ends", lambda: succeeded(cluster, second))
    weights = [digest(cluster, "minima:cpu", f"{folder}/model.safetensors") for folder in (broken, unbroken)]
    assert weights[0] == weights[1]


def test_the_example_of_a_queue_is_accepted(cluster: Any, queue: str) -> None:
    """`kubectl apply -f manifests/queues/example.yaml`, as a dry run."""
    place = Path(__file__).parents[2] / "manifests" / "queues" / "example.yaml"
    for each in yaml.safe_load_all(place.read_text()):
        plural = f"{each['kind'].lower()}s"
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = cluster.namespace
            cluster.custom.create_namespaced_custom_object(
                *GROUP, cluster.namespace, plural, each, dry_run="All", field_validation="Strict"
            )
        else:
            cluster.custom.create_cluster_custom_object(*GROUP, plural, each, dry_run="All", field_validation="Strict")
