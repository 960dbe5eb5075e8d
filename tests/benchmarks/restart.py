"""How long a training of two pods stands still after a pod is deleted, by new pods and inside the pods that are left.

python -m tests.benchmarks.restart NAMESPACE      in a namespace with the claim minima-workspace and a finished `short` pipeline

By new pods (what jobgen renders) every agent ends with 134 and the operator makes its pod again. Inside the pods
(`elasticPolicy.maxRestarts`) the agent that is left starts its worker again when the new pod has come.
"""

import sys
import time
from datetime import datetime
from typing import Any

from jobgen.cluster.namespace import Cluster
from jobgen.cluster.objects import seconds, state
from jobgen.pipeline import plan, spec
from tests.cluster.conftest import SHORT
from tests.cluster.test_faults import STEP, distill, find, pods


def job(cluster: Cluster, restarts: int) -> dict[str, Any]:
    """`distill` of the short pipeline under a new name, with `maxRestarts`."""
    made = {step.name: step.output_dir for step in plan.plan(spec.load(str(SHORT)))}
    rendered, _ = distill(cluster, {"model": f"{made['init-model']}/model", "records": made["build-data"]})
    if restarts:
        rendered["spec"]["elasticPolicy"]["maxRestarts"] = restarts
    return rendered


def lines(cluster: Cluster, name: str) -> list[tuple[float, str]]:
    """Time and text of all lines of the pods that are there, in order."""
    found = []
    for pod in pods(cluster, name):
        if pod.status.phase in {"Running", "Succeeded"}:
            for line in cluster.lines(pod.metadata.name, timestamps=True):
                stamp, _, text = line.partition(" ")
                found.append((seconds(stamp), text))
    return sorted(found)


def measure(cluster: Cluster, which: int, restarts: int) -> dict[str, float]:
    """Seconds from the deletion of a worker's pod to what follows."""
    rendered = job(cluster, restarts)
    name = rendered["metadata"]["name"]
    cluster.create(rendered)
    while not any(int(m[1]) > 10 for _, text in lines(cluster, name) if (m := STEP.search(text))):
        time.sleep(0.3)
    before = {pod.metadata.uid for pod in pods(cluster, name)}
    deleted = time.time()
    cluster.core.delete_namespaced_pod(f"{name}-worker-{which}", cluster.namespace, grace_period_seconds=0)
    seen: dict[str, float] = {}
    while state(find(cluster, name)) not in {"Succeeded", "Failed"}:
        for pod in pods(cluster, name):
            status = (pod.status.container_statuses or [None])[0]
            if pod.metadata.uid not in before and status and status.state.running:
                started: datetime = status.state.running.started_at
                seen["last new pod runs"] = max(seen.get("last new pod runs", 0), started.timestamp() - deleted)
        time.sleep(0.3)
    after = [at - deleted for at, text in lines(cluster, name) if STEP.search(text) and at > deleted + 2]
    assert state(find(cluster, name)) == "Succeeded"
    pods_made = {pod.metadata.uid for pod in pods(cluster, name)} - before
    cluster.delete(name)
    return {"new pods": len(pods_made), **seen, "next step": min(after)}


def main(namespace: str) -> None:
    cluster = Cluster(namespace)
    for restarts, way in ((0, "by new pods"), (3, "inside the pods")):
        for which in (0, 1):
            found = measure(cluster, which, restarts)
            print(f"{way}, worker-{which} deleted: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
