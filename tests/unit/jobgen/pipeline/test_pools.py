"""Pools: built in, changed, new, and wrong."""

from typing import Any

import pytest

from jobgen.pipeline import pools
from minima.errors import UsageError

NEW = {"cpu": 4, "memory": "8Gi"}


def build(name: str = "mine", **values: Any) -> pools.Pool:
    below = pools.BUILT_IN.get(name, pools.Pool(name=name))
    return pools.settled(pools.build(below, values, lambda *keys: ".".join(["p.yaml:1: pools", name, *keys])))


@pytest.mark.parametrize(("name", "processes"), [("a100-32", 32), ("a100-16", 16), ("a100-8", 8), ("a100-1", 1), ("cpu", 1)])
def test_built_in_pools_have_the_tutorials_sizes(name: str, processes: int) -> None:
    pool = build(name)
    assert pool.pods * pool.processes == processes
    assert bool(pool.gpus) == name.startswith("a100")


def test_changes_are_laid_over_a_built_in_pool() -> None:
    pool = build("a100-16", node_selector={"a.b/c": "d"}, resources={"rdma/ib": 8}, queue="team")
    assert (pool.pods, pool.gpus, pool.resources, pool.queue) == (2, 8, {"rdma/ib": "8"}, "team")
    assert pool.tolerations == pools.BUILT_IN["a100-16"].tolerations
    assert pools.BUILT_IN["a100-16"].queue == ""


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "A100"),
        ({"gpu": None}, ""),
        ({"gpu": "H100"}, "H100"),
        ({"gpu_memory": "40Gi"}, "A100"),
        ({"gpu_memory": "80G"}, "A100"),
        ({"gpu_memory": "81920Mi"}, "A100"),
        ({"gpu_memory": "141Gi"}, ""),
        ({"gpu_memory": "94Gi"}, ""),
        ({"gpu_memory": "141Gi", "gpu": "H100"}, "H100"),
        ({"cpu": 8}, "A100"),
    ],
)
def test_a_size_that_the_kind_does_not_have_is_of_another_kind(values: dict[str, Any], kind: str) -> None:
    assert build("a100-16", **values).gpu == kind


def test_numbers_are_quantities() -> None:
    assert (build(cpu=4, memory="8Gi").cpu, build(cpu=0.5, memory="8Gi").cpu) == ("4", "0.5")


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", 0.1), ("2", 2.0), ("1.5", 1.5), ("3k", 3000.0), ("2Ki", 2048.0), ("80Gi", 85899345920.0), ("1e3", 1e3)],
)
def test_amounts(text: str, number: float) -> None:
    assert pools.amount(text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pods": 0}, "pods: found 0; a whole number from 1 to 10000"),
        ({"pods": True}, "pods: found true"),
        ({"gpus": "8"}, "gpus: found '8'"),
        ({"gpus": 8, "processes": 4}, "4 processes on 8 GPUs"),
        ({"memory": "8 Gi"}, "memory: found '8 Gi'; a quantity above 0"),
        ({"memory": "8 Gi"}, "did you mean 8Gi?"),
        ({"memory": "8GB"}, "did you mean 8G?"),
        ({"memory": "0"}, "memory: found '0'"),
        ({"memory": True}, "memory: found true"),
        ({"cpu_limit": 2}, "cpu_limit 2 is below cpu 4"),
        ({"disk": "1Gi", "disk_request": "2Gi"}, "disk_request 2Gi is above disk 1Gi"),
        ({"disk": "0"}, "disk: found '0'"),
        ({"disk_request": False}, "disk_request: found false"),
        ({"resources": {"ephemeral-storage": "1Gi"}}, "ephemeral-storage is the pool's own field disk"),
        ({"node_selector": ["a"]}, "node_selector: found ['a']; a mapping"),
        ({"node_selector": {"a": 1}}, "node_selector.a: found 1; a string, in quotes, is valid"),
        ({"node_selector": {"a b": "c"}}, "node_selector.a b: found 'a b'"),
        ({"resources": {"nvidia.com/gpu": 8}}, "nvidia.com/gpu is the pool's own field gpus"),
        ({"tolerations": {"key": "a"}}, "tolerations: found {key: 'a'}; a list"),
        ({"tolerations": [{"kee": "a"}]}, "tolerations.0.kee: unknown; did you mean 'key'?"),
        (
            {"tolerations": [{"key": "a", "operator": "Exist"}]},
            "tolerations.0.operator: found 'Exist'; did you mean 'Exists'?",
        ),
        (
            {"tolerations": [{"effect": "NoSchedule"}]},
            "tolerations.0: found no key and operator Equal; a key, or operator Exists,",
        ),
        ({"image": "a b"}, "image: found 'a b'"),
        ({"gpu": "B200"}, "gpu: found 'B200', whose speed is not known; valid: A100, H100; or null, for any other kind"),
        ({"gpu": ""}, "gpu: found ''"),
        ({"queue": "a/b"}, "queue: found 'a/b'"),
        ({"queue": "Team.A"}, "queue: found 'Team.A'; a name of a-z"),
        ({"queue": "a..b"}, "queue: found 'a..b'; a name of a-z"),
        ({"resources": {"efa": 4}}, "resources.efa: found 'efa', which is no resource of Kubernetes' own"),
        ({"resources": {"rdma/ib": 1.5}}, "resources.rdma/ib: found '1.5'; a whole number"),
        (
            {"resources": {"hugepages-2Mi": "5121Ki"}},
            "resources.hugepages-2Mi: found '5121Ki'; a multiple of a page of 2Mi, such as 6Mi",
        ),
        ({"cpu": "80Gi"}, "cpu: found '80Gi', a size of memory"),
        ({"cpu": 0.0001}, "cpu: found '0.0001'; a thousandth of a CPU"),
        ({"memory": "900m"}, "memory: found '900m', which is 0.9 bytes"),
        ({"node_selector": {"a..b/c": "d"}}, "node_selector.a..b/c: found 'a..b/c'"),
        ({"node_selector": {"a": "-"}}, "node_selector.a: found '-'; a label's value"),
        ({"tolerations": [{"operator": "Exists", "tolerationSeconds": 5}]}, "0.tolerationSeconds: found beside no effect"),
    ],
)
def test_what_is_wrong_with_a_pool(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(**{**NEW, **values})
    assert expected in str(caught.value)
