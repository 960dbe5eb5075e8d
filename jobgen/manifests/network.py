"""NetworkPolicies of a pipeline: its pods talk to those of their own stage, to DNS, and to what their work is; nobody to them.

Policies add up, so a site allows more (a mesh, a monitor) by policies of its own. They bind nothing where the
cluster's network has no engine for them, and never what goes past it: InfiniBand, EFA, pods in their node's network.
"""

import ipaddress
from typing import Any

from jobgen.manifests import render
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step, plan
from minima import addresses
from minima.errors import UsageError
from minima.options import Fetch, web_port

DNS = [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]
"""OpenShift's servers listen on 5353. To any address, since a node's own cache of DNS is no pod that a selector finds."""
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
"""Variables that name the proxy of who asks; also in small letters, and with or without a scheme."""


def objects(pipeline: Pipeline, namespace: str | None, api_server: str | None) -> list[dict[str, Any]]:
    """The policies: one that closes all pods of the pipeline but for DNS, and one for each that needs more.

    Args:
        pipeline: what to render.
        namespace: written into the objects; None leaves it to whoever applies them.
        api_server: addresses of the cluster's API server, as `ADDRESS[/LENGTH]:PORT`, with commas between them; only
            a conductor needs them.

    Raises:
        UsageError: an address that is none, or is missing.
    """
    render.check_namespace(namespace)
    all_pods = {"minima/pipeline": pipeline.name}

    def policy(name: str, component: str, who: dict[str, str], **spec: Any) -> dict[str, Any]:
        metadata = {"name": f"{pipeline.name}-{name}", **({"namespace": namespace} if namespace else {})}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {**metadata, "labels": render.labels(pipeline.name, component)},
            "spec": {"podSelector": {"matchLabels": {**all_pods, **who}}, **spec},
        }

    made = [policy("closed", "network", {}, policyTypes=["Ingress", "Egress"], egress=[{"ports": DNS}])]
    servers = _servers(api_server or "") if pipeline.conductor or api_server is not None else []
    if pipeline.conductor:
        who = {"app.kubernetes.io/component": CONDUCTOR}
        made.append(policy(CONDUCTOR, CONDUCTOR, who, policyTypes=["Egress"], egress=servers))
    for step in plan(pipeline):
        stage = {"minima/stage": step.name}
        if step.pods > 1 and step.options.elastic:
            # All ports: torch and NCCL take any that is free. By stage and not by job, whose name changes with its image.
            peers = [{"podSelector": {"matchLabels": {**all_pods, **stage}}}]
            types = {"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": peers}], "egress": [{"to": peers}]}
            made.append(policy(f"{step.name}-rendezvous", step.verb, stage, **types))
        if ports := step.options.asks():
            open_too = _named(pipeline, step)
            egress = [{"ports": [{"protocol": "TCP", "port": port} for port in sorted(ports | open_too)]}]
            made.append(policy(f"{step.name}-servers", step.verb, stage, policyTypes=["Egress"], egress=egress))
    return made


def _named(pipeline: Pipeline, step: Step) -> frozenset[int]:
    """Ports of the servers that a stage's variables name: a proxy, and of fetch those in place of its addresses'."""
    (replica,) = render.job(pipeline, step)["spec"]["pytorchReplicaSpecs"].values()
    env = {each["name"]: each.get("value") or "" for each in replica["template"]["spec"]["containers"][0]["env"]}
    proxies = [text.rpartition("://") for name, text in env.items() if name.upper() in PROXIES]
    named = [f"{scheme or 'http'}://{rest.rpartition('@')[2]}" for scheme, _, rest in proxies]  # A login comes from a Secret.
    if isinstance(step.options, Fetch):
        schemes = {addresses.parse(text).url.partition("://")[0] for text in step.options.source}
        named += [env.get(name, "") for name, scheme in addresses.ENDPOINTS.items() if scheme in schemes]
    return frozenset(filter(None, map(web_port, named)))


def _servers(words: str) -> list[dict[str, Any]]:
    rules = []
    for word in words.split(","):
        address, _, port = word.strip().rpartition(":")
        try:
            network = ipaddress.ip_network(address.strip("[]"))
            number = int(port)
            if not 1 <= number <= 65535:
                raise ValueError(port)
        except ValueError:
            raise UsageError(
                f"--api-server: found {word!r}; ADDRESS:PORT is valid, as `kubectl get endpointslice kubernetes -n default` "
                "shows it, also 10.0.0.0/28:443, and several with commas"
            ) from None
        rules.append({"to": [{"ipBlock": {"cidr": str(network)}}], "ports": [{"protocol": "TCP", "port": number}]})
    return rules
