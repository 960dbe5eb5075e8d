"""The example of a queue holds what the pools of A100s ask for."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests import render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from jobgen.pipeline.pools import amount

EXAMPLE = Path(__file__).parents[4] / "manifests" / "queues" / "example.yaml"


def flavors() -> list[dict[str, float]]:
    (queue,) = [each for each in yaml.safe_load_all(EXAMPLE.read_text()) if each["kind"] == "ClusterQueue"]
    (group,) = queue["spec"]["resourceGroups"]
    found = [{each["name"]: amount(str(each["nominalQuota"])) for each in flavor["resources"]} for flavor in group["flavors"]]
    assert all(set(group["coveredResources"]) == set(each) for each in found)
    return found


def asked(cluster: str, pool: str) -> dict[str, float]:
    """By the stages of minima-3b on a pool, at most, on a cluster's profile."""
    document = yaml.safe_load(spec.load("minima-3b").text) | {"cluster": cluster}
    pipeline = spec.parse(yaml.safe_dump(document, sort_keys=False), "p.yaml")
    most: dict[str, float] = {}
    for step in plan(pipeline):
        if step.pool.name == pool:
            (replica,) = render.job(pipeline, step)["spec"]["pytorchReplicaSpecs"].values()
            (container,) = replica["template"]["spec"]["containers"]
            requests: dict[str, Any] = container["resources"]["requests"]
            for name, quantity in requests.items():
                most[name] = max(most.get(name, 0), replica["replicas"] * amount(str(quantity)))
    return most


@pytest.mark.parametrize("cluster", ["none", "gke-a2-ultra"])
@pytest.mark.parametrize(("flavor", "pool"), [(0, "a100-32"), (1, "a100-16")])
def test_the_example_holds_the_largest_pools(cluster: str, flavor: int, pool: str) -> None:
    wanted, quota = asked(cluster, pool), flavors()[flavor]
    assert wanted.keys() == quota.keys()
    assert {name: wanted[name] <= quota[name] for name in wanted} == dict.fromkeys(wanted, True)
