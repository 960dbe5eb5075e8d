"""The published run at its real size: 32, 16, 8 and 1 A100s on nodes that KWOK simulates, placed by the real scheduler."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from jobgen.manifests import render
from jobgen.pipeline import plan, spec
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.pools import DISK, GPU
from tests.cluster.conftest import conditions, wait
from tests.cluster.test_faults import find, pods

pytestmark = [pytest.mark.cluster]
MINE = f"simulated-{uuid.uuid4().hex[:6]}"
"""Label and taint of the nodes of this run: no real pod may come here, and none of ours anywhere else."""
VERBS = [step.name for step in plan.plan(spec.load("minima-3b"))]
A100_NODE = {"cpu": "96", "memory": "1100Gi", DISK: "90Gi", GPU: "8", "pods": "32"}


def add_node(cluster: Any, name: str, resources: dict[str, str]) -> None:
    taints = [{"key": MINE, "effect": "NoSchedule"}]
    if GPU in resources:
        taints.append({"key": GPU, "value": "present", "effect": "NoSchedule"})
    node = {
        "metadata": {"name": name, "labels": {MINE: "yes"}, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints},
        "status": {"capacity": resources, "allocatable": resources},
    }
    cluster.core.create_node(node)


def ready(cluster: Any, name: str) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in cluster.core.read_node(name).status.conditions or [])


@pytest.fixture(scope="module")
def nodes(cluster: Any) -> Iterator[list[str]]:
    """Four nodes with 8 A100s each, and one without."""
    from kubernetes.client import ApiException

    try:
        cluster.custom.get_cluster_custom_object("kwok.x-k8s.io", "v1alpha1", "stages", "pytorchjob-pod-succeeds")
    except ApiException as error:
        if error.status != 404:
            raise
        pytest.skip("needs KWOK, with a Stage that ends pods of PyTorchJobs: it simulates nodes with 8 GPUs")
    made = [f"{MINE}-{number}" for number in range(4)]
    try:
        for name in made:
            add_node(cluster, name, A100_NODE)
        add_node(cluster, f"{MINE}-cpu", {"cpu": "400", "memory": "2000Gi", DISK: "90Gi", "pods": "32"})
        wait("the simulated nodes are ready", lambda: all(ready(cluster, name) for name in made), 60)
        yield made
    finally:
        for node in cluster.core.list_node(label_selector=MINE).items:
            cluster.core.delete_node(node.metadata.name)


@pytest.fixture(scope="module")
def pipeline(nodes: list[str]) -> Pipeline:
    """`minima-3b` with its pools on these nodes, as a cluster's names of nodes are stated."""
    document = yaml.safe_load(spec.load("minima-3b").text)
    for pool in ("a100-32", "a100-16", "a100-8", "a100-1", "cpu", "cpu-8"):
        own = document["pools"].setdefault(pool, {})
        gpu = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if pool.startswith("a100") else []
        own |= {"node_selector": {MINE: "yes"}, "tolerations": [*gpu, {"key": MINE, "operator": "Exists"}]}
    return spec.parse(yaml.safe_dump(document, sort_keys=False), "simulated.yaml")


def placed(cluster: Any, job: str) -> dict[str, str]:
    """Node by pod."""
    return {pod.metadata.name: pod.spec.node_name for pod in pods(cluster, job) if pod.spec.node_name}


def all_placed(cluster: Any, job: str, count: int) -> dict[str, str] | None:
    found = placed(cluster, job)
    return found if len(found) == count else None


def running_for(job: dict[str, Any], time: str) -> dict[str, Any]:
    """The job whose simulated pods succeed after that time."""
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    replica["template"]["metadata"]["annotations"]["simulator/runs-for"] = time
    return job


@pytest.mark.parametrize("stage", VERBS)
def test_a_stage_finds_its_pool(cluster: Any, nodes: list[str], pipeline: Pipeline, stage: str) -> None:
    (step,) = [step for step in plan.plan(pipeline) if step.name == stage]
    job = running_for(render.job(pipeline, step, cluster.namespace), "5s")
    name = job["metadata"]["name"]
    cluster.create(job)
    used = set(wait("its pods are placed", lambda: all_placed(cluster, name, step.pool.pods), 60).values())
    if step.pool.gpus:
        assert len(used) == step.pool.pods
        assert used <= set(nodes)
    else:
        assert used == {f"{MINE}-cpu"}
    wait("it ends", lambda: "Succeeded" in conditions(find(cluster, name)), 60)
    cluster.delete(name)  # With its pods, whose GPUs the next stage needs.


def test_the_pod_of_a_lost_node_is_placed_on_another(cluster: Any, nodes: list[str], pipeline: Pipeline) -> None:
    """Scheduler and operator; that its peers, which lose it, are made again too is in test_faults: nothing runs here."""
    (step,) = [step for step in plan.plan(pipeline) if step.name == "adapt"]
    job = running_for(render.job(replace(pipeline, name="lost"), step, cluster.namespace), "600s")
    name = job["metadata"]["name"]
    cluster.create(job)
    wait("32 GPUs run", lambda: len(placed(cluster, name)) == 4 and "Running" in conditions(find(cluster, name)))
    before = {pod.metadata.name: pod.metadata.uid for pod in pods(cluster, name)}
    victim = f"{name}-worker-2"
    gone = placed(cluster, name)[victim]
    add_node(cluster, f"{MINE}-spare", A100_NODE)
    cluster.core.delete_node(gone)
    wait("its pod runs on the spare node", lambda: placed(cluster, name).get(victim) == f"{MINE}-spare", 120)
    now = {pod.metadata.name: pod.metadata.uid for pod in pods(cluster, name)}
    assert {pod for pod in before if now[pod] != before[pod]} == {victim}
    assert not conditions(find(cluster, name)) & {"Failed", "Succeeded"}
    cluster.delete(name)
