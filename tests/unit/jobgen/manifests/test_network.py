"""NetworkPolicies, judged by what Kubernetes says they mean: a pod that one selects may do only what one of those allows."""

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests import conductor, network, render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from minima.errors import UsageError

API = "10.9.0.1"
CLOSED = yaml.safe_load((Path(__file__).parents[4] / "manifests/network/closed.yaml").read_text(encoding="utf-8"))
PIPELINES = {name: spec.load(name) for name in spec.shipped()}


def labels(job: dict[str, Any]) -> dict[str, str]:
    template = job["spec"].get("template") or next(iter(job["spec"]["pytorchReplicaSpecs"].values()))["template"]
    found: dict[str, str] = template["metadata"]["labels"]
    return found


def picks(selector: dict[str, Any], pod: dict[str, str]) -> bool:
    return set(selector) == {"matchLabels"} and selector["matchLabels"].items() <= pod.items()


def one_side(policies: list[dict[str, Any]], side: str, pod: dict[str, str], other: dict[str, str] | str, port: int) -> bool:
    """Whether `pod` may talk to (Egress) or be talked to by (Ingress) another pod, by its labels, or an address."""
    kind, peers = ("egress", "to") if side == "Egress" else ("ingress", "from")
    binding = [p["spec"] for p in policies if picks(p["spec"]["podSelector"], pod) and side in p["spec"]["policyTypes"]]
    for rule in (rule for one in binding for rule in one.get(kind, [])):
        if "ports" in rule and {"protocol": "TCP", "port": port} not in rule["ports"]:
            continue
        if peers not in rule:
            return True
        for peer in rule[peers]:
            if isinstance(other, dict) and "podSelector" in peer and picks(peer["podSelector"], other):
                return True
            if isinstance(other, str) and "ipBlock" in peer:
                return ipaddress.ip_address(other) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    return not binding


def connects(policies: list[dict[str, Any]], source: dict[str, str], target: dict[str, str] | str, port: int) -> bool:
    entered = isinstance(target, str) or one_side(policies, "Ingress", target, source, port)
    return one_side(policies, "Egress", source, target, port) and entered


@pytest.mark.parametrize("closed", [[], [CLOSED]])
@pytest.mark.parametrize("name", PIPELINES)
def test_pods_talk_to_those_of_their_own_stage_and_to_dns(name: str, closed: list[dict[str, Any]]) -> None:
    """Also where the whole namespace is closed by manifests/network."""
    pipeline = PIPELINES[name]
    policies = [*network.objects(pipeline, "ns", f"{API}:6443"), *closed]
    steps = plan(pipeline)
    pods = {step.name: labels(render.job(pipeline, step)) for step in steps}
    pods["conductor"] = labels(conductor.objects(pipeline)[-1])
    elastic = {step.name for step in steps if step.pods > 1 and step.options.elastic}
    assert len(elastic) > 1
    asking = {step.name for step in steps if step.options.asks()}
    outside = {"app.kubernetes.io/name": "other"}
    for one, pod in pods.items():
        for other, peer in pods.items():
            assert connects(policies, pod, peer, 23456) == (one == other and one in elastic), (one, other)
        assert not connects(policies, outside, pod, 23456)
        assert connects(policies, pod, "192.0.2.1", 443) == connects(policies, pod, outside, 443) == (one in asking)
        assert not connects(policies, pod, "192.0.2.1", 80)
        assert connects(policies, pod, "192.0.2.1", 53)
        assert connects(policies, pod, API, 6443) == (one == "conductor")
        assert not connects(policies, pod, API, 22)


def test_a_closed_namespace_lets_jobgens_pods_to_dns_alone_until_policies_are_rendered() -> None:
    pipeline = PIPELINES["smoke"]
    (rendered, *_) = network.objects(pipeline, None, f"{API}:6443")
    own = {"podSelector": rendered["spec"]["podSelector"]}
    assert CLOSED["spec"] | own == rendered["spec"]
    pods = [labels(render.job(pipeline, step)) for step in plan(pipeline)] + [labels(conductor.objects(pipeline)[-1])]
    for pod in pods:
        assert connects([CLOSED], pod, "192.0.2.1", 53)
        assert not connects([CLOSED], pod, API, 6443)
        assert not any(connects([CLOSED], pod, peer, 23456) for peer in pods)
    other = {"app.kubernetes.io/name": "other"}
    assert connects([CLOSED], other, API, 6443)


def test_a_stage_reaches_the_servers_that_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = PIPELINES["smoke"]
    step = plan(pipeline)[0]
    monkeypatch.setattr(type(step.options), "asks", lambda self: frozenset({443}))
    policies = network.objects(pipeline, None, f"{API}:6443")
    asking, other = (labels(render.job(pipeline, each)) for each in plan(pipeline)[:2])
    assert connects(policies, asking, "192.0.2.1", 443)
    assert not connects(policies, asking, "192.0.2.1", 80)
    assert not connects(policies, other, "192.0.2.1", 443)
    assert all("namespace" not in policy["metadata"] for policy in policies)


@pytest.mark.parametrize("wrong", ["", "10.0.0.1", "api:6443", "10.0.0.1:0", "10.0.0.1/16:443", "10.0.0.1:443,"])
def test_an_address_of_the_api_server_that_is_none(wrong: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--api-server: found {wrong.split(',')[-1]!r}; ADDRESS:PORT is valid")):
        network.objects(PIPELINES["smoke"], None, wrong)


def test_without_a_conductor_an_address_is_read_and_none_is_needed() -> None:
    text = PIPELINES["smoke"].text.replace("conductor: minima:jobgen\n", "")
    pipeline = spec.parse(text, "p.yaml")
    with pytest.raises(UsageError, match="--api-server: found 'foo'; ADDRESS:PORT is valid"):
        network.objects(pipeline, None, "foo")
    with pytest.raises(UsageError, match="--api-server: found ''"):
        network.objects(pipeline, None, "")
    assert network.objects(pipeline, None, None) == network.objects(pipeline, None, f"{API}:6443")
    with pytest.raises(UsageError, match="--api-server: found ''"):
        network.objects(PIPELINES["smoke"], None, None)


def test_several_addresses_and_networks() -> None:
    policies = network.objects(PIPELINES["smoke"], None, "10.0.0.16/28:443, [2001:db8::1]:6443")
    conducting = labels(conductor.objects(PIPELINES["smoke"])[-1])
    assert connects(policies, conducting, "10.0.0.17", 443)
    assert connects(policies, conducting, "2001:db8::1", 6443)
    assert not connects(policies, conducting, "10.0.0.33", 443)


@pytest.mark.parametrize(
    ("source", "variables", "open_too"),
    [
        ("hf://org/name@" + "a" * 40, {"HF_ENDPOINT": "https://hub.example.com:8443"}, {8443}),
        ("s3://bucket/x@sha256:" + "a" * 64, {"AWS_ENDPOINT_URL": "http://minio:9000"}, {9000}),
        ("s3://bucket/x@sha256:" + "a" * 64, {"HF_ENDPOINT": "https://hub.example.com:8443"}, set()),
        ("hf://org/name@" + "a" * 40, {"HF_ENDPOINT": {"config_map": "site", "key": "hub"}}, set()),
        ("hf://org/name@" + "a" * 40, {"HTTPS_PROXY": "http://proxy.example.com:3128"}, {3128}),
        (
            "s3://bucket/x@sha256:" + "a" * 64,
            {"https_proxy": "proxy:3128", "HTTP_PROXY": "https://[2001:db8::1]:9000"},
            {3128, 9000},
        ),
        ("https://a.example.com/x@sha256:" + "a" * 64, {"all_proxy": "http://10.0.0.9"}, {80}),
        ("hf://org/name@" + "a" * 40, {"HTTPS_PROXY": "http://$(WHO):$(KEY)@proxy:3128/"}, {3128}),
        ("hf://org/name@" + "a" * 40, {"HTTPS_PROXY": {"secret": "site", "key": "proxy"}, "NO_PROXY": "a:3128"}, set()),
    ],
)
def test_the_port_of_a_mirror_or_a_proxy_is_open(source: str, variables: dict[str, Any], open_too: set[int]) -> None:
    document: dict[str, Any] = {"name": "p", "image": "minima:cpu", "workspace": {"claim": "w", "path": "/w"}}
    stage = {"verb": "fetch", "pool": "cpu", "options": {"source": source}}
    document |= {"env": variables, "stages": {"get": stage}}
    pipeline = spec.parse(yaml.safe_dump(document), "p.yaml")
    policies = network.objects(pipeline, None, f"{API}:6443")
    pod = labels(render.job(pipeline, plan(pipeline)[0]))
    open_too |= {80} if source.startswith("s3") else set()  # As to any bucket.
    assert {port for port in (80, 3128, 8443, 9000) if connects(policies, pod, "192.0.2.1", port)} == open_too
    assert connects(policies, pod, "192.0.2.1", 443)
