"""Kueue: pipelines that share a quota, a training that makes room and comes back, and the example with simulated nodes."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests import render
from jobgen.pipeline import plan, spec
from jobgen.pipeline.pools import DISK
from tests.cluster.conftest import conditions, digest, first_stages, only_distill, short, wait
from tests.cluster.machines import NODES
from tests.cluster.test_faults import find, pods, steps
from tests.cluster.test_profiles import ready

pytestmark = [pytest.mark.cluster]
GROUP = ("kueue.x-k8s.io", "v1beta2")
ROOT = Path(__file__).parents[2]
PRIORITY, SPOT = "kueue.x-k8s.io/priority-class", "cloud.google.com/gke-spot"
ZONE = "topology.kubernetes.io/zone"


@pytest.fixture(scope="module")
def kueue(cluster: Any) -> None:
    """Skips where it is not installed."""
    from kubernetes.client import ApiextensionsV1Api

    known = {crd.metadata.name for crd in ApiextensionsV1Api(cluster.core.api_client).list_custom_resource_definition().items}
    if "clusterqueues.kueue.x-k8s.io" not in known:
        pytest.skip("needs Kueue with its integration kubeflow.org/pytorchjob")


def plural(kind: str) -> str:
    return "topologies" if kind == "Topology" else f"{kind.lower()}es" if kind.endswith("s") else f"{kind.lower()}s"


def install(cluster: Any, objects: list[dict[str, Any]]) -> Iterator[None]:
    """Kueue's objects, until the test is over; then the PyTorchJobs of the namespace go first."""
    namespaced = [each for each in objects if each["kind"] == "LocalQueue"]
    wide = [each for each in objects if each not in namespaced]
    for each in wide:
        cluster.custom.create_cluster_custom_object(*GROUP, plural(each["kind"]), each, field_validation="Strict")
    for each in namespaced:
        cluster.custom.create_namespaced_custom_object(
            *GROUP, cluster.namespace, plural(each["kind"]), each, field_validation="Strict"
        )
    yield
    for job in cluster.jobs(""):
        cluster.delete(job["metadata"]["name"])
    for each in reversed(wide):
        cluster.custom.delete_cluster_custom_object(*GROUP, plural(each["kind"]), each["metadata"]["name"])


def example(cluster: Any, name: str) -> list[dict[str, Any]]:
    """manifests/queues/example.yaml under other names."""
    text = (ROOT / "manifests" / "queues" / "example.yaml").read_text(encoding="utf-8")
    text = text.replace("nvidia-a100-80gb", "ACCELERATOR").replace("a100", name).replace("ACCELERATOR", "nvidia-a100-80gb")
    text = text.replace("name: urgent", f"name: {name}").replace("namespace: minima", f"namespace: {cluster.namespace}")
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def queue(cluster: Any, kueue: None) -> Iterator[str]:
    """The example with a quota of one two-pod training on whatever node there is."""
    name = f"q{uuid.uuid4().hex[:6]}"
    objects = {each["kind"]: each for each in reversed(example(cluster, name))}
    del objects["Topology"]
    objects["ResourceFlavor"] = {**objects["ResourceFlavor"], "spec": {}}
    (group,) = objects["ClusterQueue"]["spec"]["resourceGroups"]
    quota = [{"name": "cpu", "nominalQuota": "200m"}, {"name": "memory", "nominalQuota": "6Gi"}]
    group |= {"coveredResources": ["cpu", "memory"], "flavors": [{"name": name, "resources": quota}]}
    first = install(cluster, [objects["ResourceFlavor"], *(each for kind, each in objects.items() if kind != "ResourceFlavor")])
    next(first)
    yield name
    next(first, None)


@pytest.fixture(scope="module")
def base(cluster: Any, queue: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model and records, made by the first stages of the short pipeline with their pool in the queue."""
    made = first_stages(cluster, tmp_path_factory.mktemp("queue"), small={"queue": queue})
    assert len(cluster.custom.list_namespaced_custom_object(*GROUP, cluster.namespace, "workloads")["items"]) == 2
    return made


def queued(cluster: Any, base: dict[str, str], queue: str, **labels: str) -> tuple[str, str]:
    """Apply a `distill` of a new pipeline whose pool names the queue and has these labels; the job's name and its artifact."""
    document = only_distill(f"f{uuid.uuid4().hex[:6]}", base["model"], base["records"])
    document["pools"] = {"small-pair": {"queue": queue, "labels": labels}}
    pipeline = spec.parse(yaml.safe_dump(document, sort_keys=False), "queue.yaml")
    (step,) = plan.plan(pipeline)
    job = render.job(pipeline, step, cluster.namespace)
    cluster.create(job)
    return str(job["metadata"]["name"]), step.output_dir


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
    urgent, _ = queued(cluster, base, queue, **{PRIORITY: queue})
    wait("the first makes room", lambda: "Suspended" in conditions(find(cluster, first)))
    wait("the urgent one ends", lambda: succeeded(cluster, urgent))
    wait("the first comes back and ends", lambda: succeeded(cluster, first))
    wait("the second ends", lambda: succeeded(cluster, second))
    weights = [digest(cluster, "minima:cpu", f"{folder}/model.safetensors") for folder in (broken, unbroken)]
    assert weights[0] == weights[1]


@pytest.fixture
def a100s(cluster: Any, kueue: None, simulator: None) -> Iterator[str]:
    """The example on two nodes of its own and two spot ones, each pair in a zone."""
    machine, _ = NODES["gke-a2-ultra"]
    name = f"q{uuid.uuid4().hex[:6]}"
    taint = {"key": name, "effect": "NoSchedule"}  # No other's pod may come here.
    objects = example(cluster, name)
    for each in objects:
        if each["kind"] == "ResourceFlavor":
            each["spec"]["nodeLabels"][name] = "yes"
            each["spec"]["tolerations"].append({"key": name, "operator": "Exists"})
        if each["kind"] == "ClusterQueue":
            owned, spot = each["spec"]["resourceGroups"][0]["flavors"]
            owned["resources"] = [dict(amount) for amount in spot["resources"]]
    made = {f"{name}-{kind}{number}": kind for kind in ("own", "spot") for number in range(2)}
    try:
        for node, kind in made.items():
            labels = {**machine.labels, name: "yes", ZONE: f"{name}-{kind}", "kubernetes.io/hostname": node}
            labels |= {SPOT: "true"} if kind == "spot" else {}
            taints = [taint, *machine.taints]
            taints += [{"key": SPOT, "value": "true", "effect": "NoSchedule"}] if kind == "spot" else []
            head = {"name": node, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
            status = {"capacity": machine.allocatable, "allocatable": machine.allocatable}
            cluster.core.create_node({"metadata": head, "spec": {"taints": taints}, "status": status})
        wait("the simulated nodes are ready", lambda: all(ready(cluster, node) for node in made), 60)
        there = install(cluster, objects)
        next(there)
        yield name
        next(there, None)
    finally:
        for node in made:
            cluster.core.delete_node(node)


def test_the_example_takes_both_flavors_and_an_urgent_job_the_place_of_another(cluster: Any, a100s: str) -> None:
    """Real Kueue, scheduler and operator, with two pods of 8 GPUs a job; nothing runs in them."""

    def submit(name: str, seconds: str, **labels: str) -> str:
        document = yaml.safe_load(spec.load("minima-3b").text) | {"name": name, "cluster": "gke-a2-ultra"}
        near = {"kueue.x-k8s.io/podset-required-topology": ZONE}
        document.setdefault("pools", {})["a100-16"] = {"queue": a100s, "labels": labels, "annotations": near}
        pipeline = spec.parse(yaml.safe_dump(document, sort_keys=False), "queue.yaml")
        (step,) = [step for step in plan.plan(pipeline) if step.name == "distill"]
        job = render.job(pipeline, step, cluster.namespace)
        job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["metadata"]["annotations"]["simulator/runs-for"] = seconds
        cluster.create(job)
        return str(job["metadata"]["name"])

    def placed(job: str) -> list[str]:
        found = [pod.spec.node_name for pod in pods(cluster, job) if pod.spec.node_name]
        return found if len(found) == 2 else []

    def zones(job: str) -> set[str]:
        """Where both pods are."""
        found = wait(f"both pods of {job} are placed", lambda: placed(job), 90)
        return {node.rpartition("-")[2][:-1] for node in found}

    first = submit("first", "600s")
    assert zones(first) == {"own"}
    second = submit("second", "600s")
    assert zones(second) == {"spot"}
    (toleration,) = [t for t in pods(cluster, second)[0].spec.tolerations if t.key == SPOT]
    assert toleration.value == "true"
    waiting = submit("waiting", "600s")
    wait("a third waits", lambda: "Suspended" in conditions(find(cluster, waiting)), 30)
    urgent = submit("urgent", "5s", **{PRIORITY: a100s})
    assert len(zones(urgent)) == 1
    out = {name for name in (first, second) if "Suspended" in conditions(find(cluster, name))}
    assert len(out) == 1
    assert "Suspended" in conditions(find(cluster, waiting))
    wait("the urgent one ends", lambda: succeeded(cluster, urgent), 60)
    cluster.delete(waiting)
    (evicted,) = out
    assert len(zones(evicted)) == 1


def test_a_queue_that_only_the_namespace_names(cluster: Any, queue: str, tmp_path: Path) -> None:
    """Kueue labels all jobs with a namespace's default queue: the conductor, and its stages, whose Workloads it may not see."""
    from jobgen.cluster import pipelines, rights, waits
    from jobgen.cluster.state import read_state
    from jobgen.manifests import conductor

    head = {"apiVersion": "/".join(GROUP), "kind": "LocalQueue", "metadata": {"name": "default"}}
    there = (*GROUP, cluster.namespace, "localqueues")
    place = short(tmp_path, "unnamed")
    # With the conductor's 100m more than the whole quota of 200m.
    place.write_text(yaml.safe_dump(yaml.safe_load(place.read_text()) | {"pools": {"small": {"cpu": "150m"}}}))
    pipeline = spec.load(str(place))

    def held() -> str:
        (job,) = cluster.conductors(pipeline.name)
        found = waits.of_batch_job(job, [], [], now=time.time())
        return found.words if found else ""

    def said() -> str:
        state = read_state(cluster, pipeline.name)
        return next((each.waits_for for each in state.stages if "queue" in each.waits_for), "") if state else ""

    for name, words, expected in (
        ("nosuch", held, "-conductor-"),
        (queue, said, "queue default: `kubectl get workloads` says why, which the conductor may not see"),
    ):
        cluster.custom.create_namespaced_custom_object(*there, {**head, "spec": {"clusterQueue": name}})
        try:
            rights.apply(cluster, pipeline, conductor.objects(pipeline, cluster.namespace))
            assert expected in wait("it is said what is waited for", words, 120)
        finally:
            pipelines.stop(pipeline.name, cluster, again="")
            cluster.custom.delete_namespaced_custom_object(*there, "default")


def test_a_queue_that_covers_less_than_a_pod_asks_for_is_said_to(cluster: Any, kueue: None) -> None:
    """In Kueue's own words, which jobgen reads."""
    from jobgen.cluster.refusals import in_queue

    name = f"q{uuid.uuid4().hex[:6]}"
    objects = example(cluster, name)
    for each in objects:
        if each["kind"] == "ClusterQueue":
            (group,) = each["spec"]["resourceGroups"]
            group["coveredResources"].remove(DISK)
            for flavor in group["flavors"]:
                flavor["resources"] = [amount for amount in flavor["resources"] if amount["name"] != DISK]
    there = install(cluster, objects)
    next(there)
    try:
        document = yaml.safe_load(spec.load("minima-3b").text) | {"name": "uncovered"}
        document.setdefault("pools", {})["a100-16"] = {"queue": name}
        pipeline = spec.parse(yaml.safe_dump(document, sort_keys=False), "queue.yaml")
        (step,) = [step for step in plan.plan(pipeline) if step.name == "distill"]
        job = render.job(pipeline, step, cluster.namespace)
        cluster.create(job)

        def said() -> str:
            now = find(cluster, job["metadata"]["name"])
            return next((each.words for each in in_queue(now, [], cluster.workload(now), 0) if each.exit_code == 75), "")

        words = wait("Kueue says why", said, 60)
        assert f"resource {DISK} unavailable in ClusterQueue" in words
        assert "its admin can cover that resource" in words
    finally:
        next(there, None)
