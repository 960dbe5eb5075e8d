"""What the conductors of many pipelines cost the API server while their stages run, or wait in vain for a node.

python -m tests.benchmarks.look [PIPELINES]      on a cluster with KWOK; 100 pipelines if nothing is said

Each pipeline has one PyTorchJob of one pod; all conductors run here, as threads, each with a client of its own. It compares
being told of changes, as the conductor is, with looking every 2 s.
"""

import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import yaml

from jobgen.cluster import conduct
from jobgen.cluster.namespace import Cluster
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, spec
from jobgen.pipeline.pipeline import Pipeline
from jobgen.report import table
from tests.cluster.conftest import CLAIM, SHORT, conditions, wait

SECONDS = 60.0
NODE = f"look-{uuid.uuid4().hex[:6]}"


def pipelines(number: int, place: str) -> Iterator[Pipeline]:
    """Pipelines of one stage, whose pods want a node with this label."""
    document = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    tolerations = [{"key": NODE, "operator": "Exists"}]
    document["pools"] = {"small": {"cpu": "1m", "cpu_limit": "1m", "memory": "2Mi", "shm": "1Mi", "tolerations": tolerations}}
    document["pools"]["small"]["node_selector"] = {NODE: place}
    document["stages"] = {"init-model": document["stages"]["init-model"]}
    for each in range(number):
        yield spec.parse(yaml.safe_dump(document | {"name": f"p{each}"}, sort_keys=False), "p.yaml")


def spent(cluster: Cluster) -> tuple[float, float]:
    """CPU seconds of the API server so far, and requests that it served, watches aside."""
    text = cluster.core.api_client.call_api("/metrics", "GET", auth_settings=["BearerToken"], response_type="str")[0]
    (seconds,) = re.findall(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)
    served = re.findall(r"^apiserver_request_total\{(.*?)\} (\S+)$", text, re.MULTILINE)
    return float(seconds), sum(float(count) for labels, count in served if 'verb="WATCH"' not in labels)


def add(cluster: Cluster, made: list[Pipeline]) -> None:
    """The jobs, whose simulated pods run for an hour, and the ConfigMaps of the conductors."""
    for pipeline in made:
        (step,) = plan.plan(pipeline)
        job = render.job(pipeline, step, cluster.namespace)
        (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
        replica["template"]["metadata"]["annotations"]["simulator/runs-for"] = "1h"
        cluster.create(job)
        name = conductor.state_name(pipeline.name)
        cluster.core.create_namespaced_config_map(cluster.namespace, {"metadata": {"name": name}})


def measure(cluster: Cluster, made: list[Pipeline], *, told: bool) -> tuple[float, float]:
    """Requests a second, and cores of the API server, of the conductors of these pipelines."""
    pause = conduct._Conductor.pause
    if not told:
        conduct._Conductor.pause = lambda self: conduct.POLL  # type: ignore[method-assign]
    running = [conduct._Conductor(pipeline, Cluster(cluster.namespace), "") for pipeline in made]
    for each in running:
        each.followers.start = lambda stage, pod: threading.Thread()  # type: ignore[method-assign]  # Simulated pods have no logs.
        threading.Thread(target=each.run, args=(None, ""), daemon=True).start()
    wait("all have looked", lambda: all(each.watched for each in running), 300)
    time.sleep(20)  # What begins, and what the threads before have left.
    before, began = spent(cluster), time.monotonic()
    time.sleep(SECONDS)
    after, seconds = spent(cluster), time.monotonic() - began
    for each in running:
        each.look = lambda: 0  # type: ignore[method-assign]
        each.pause = lambda: 0.0  # type: ignore[method-assign]
    conduct._Conductor.pause = pause  # type: ignore[method-assign]
    return (after[1] - before[1]) / seconds, (after[0] - before[0]) / seconds


def idle(cluster: Cluster) -> tuple[float, float]:
    before, began = spent(cluster), time.monotonic()
    time.sleep(SECONDS)
    after, seconds = spent(cluster), time.monotonic() - began
    return (after[1] - before[1]) / seconds, (after[0] - before[0]) / seconds


def main(number: int) -> None:
    cluster = Cluster(f"look-{uuid.uuid4().hex[:8]}")
    cluster.core.create_namespace({"metadata": {"name": cluster.namespace}})
    cluster.core.create_namespaced_persistent_volume_claim(cluster.namespace, CLAIM)
    room = {"cpu": "96", "memory": "1100Gi", "ephemeral-storage": "90Gi", "pods": "200"}
    node: dict[str, Any] = {
        "metadata": {"name": NODE, "labels": {NODE: "here"}, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": [{"key": NODE, "effect": "NoSchedule"}]},
        "status": {"capacity": room, "allocatable": room},
    }
    cluster.core.create_node(node)
    rows = []
    try:
        for words, place in (("run", "here"), ("find no node", "nowhere")):
            made = list(pipelines(number, place))
            add(cluster, made)
            wanted = "Running" if place == "here" else "Created"
            wait("the jobs are there", lambda: all(wanted in conditions(job) for job in cluster.jobs("")), 300)  # noqa: B023
            for how, row in (
                ("without conductors", idle(cluster)),
                ("told of changes", measure(cluster, made, told=True)),
                ("looking every 2 s", measure(cluster, made, told=False)),
            ):
                rows.append([f"{number} stages {words}", how, f"{row[0]:.1f}", f"{row[1]:.3f}"])
                print(table(["pipelines", "conductors", "requests/s", "API server's cores"], rows), flush=True)
            cluster.delete(*(job["metadata"]["name"] for job in cluster.jobs("")))
            for pipeline in made:
                cluster.core.delete_namespaced_config_map(conductor.state_name(pipeline.name), cluster.namespace)
    finally:
        cluster.core.delete_node(NODE)
        cluster.core.delete_namespace(cluster.namespace)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
