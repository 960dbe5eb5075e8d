"""NetworkPolicies bind for real: connections between pods, tried under kube-router's firewall in the node's network.

The cluster of these tests has no engine for policies; where Go is, kube-router is built from its module and started beside it.
"""

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobgen.manifests import conductor, network, render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from tests.cluster.conftest import wait

MODULE = "github.com/cloudnativelabs/kube-router/v2"
VERSION = "v2.1.0"
NODE = Path("/run/netns/minima")
"""The network of the one node of the cluster in ../shared/cluster."""
INSIDE = ["nsenter", f"--net={NODE}"]
ITS_OWN = re.compile("KUBE-(ROUTER|NWPLCY|POD-FW)-")
"""Rules of the engine in iptables."""
PORT = render.PORT
LISTEN = f"import socket\nserver = socket.create_server(('', {PORT}))\nwhile True: server.accept()[0].close()"
TRY = "import socket, sys\nsocket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()\nprint('connected')"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.skipif(
        not (NODE.exists() and all(map(shutil.which, ("go", "ipset", "kubectl")))),
        reason=f"needs {NODE}, a node's network, Go and ipset for the engine in it, and kubectl",
    ),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """kube-router, as a firewall alone, until the tests have ended; then nothing of it is left."""
    folder = tmp_path_factory.mktemp("engine")
    env = os.environ | {"GOFLAGS": "-mod=mod", "CGO_ENABLED": "0", "GOBIN": str(folder)}
    subprocess.run(["go", "install", f"{MODULE}/cmd/kube-router@{VERSION}"], cwd=folder, env=env, check=True)
    alone = ["--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--enable-cni=false"]
    where = [f"--kubeconfig={os.environ['KUBECONFIG']}", "--hostname-override=node0", "--health-port=0"]
    with open(folder / "log", "wb") as log:
        running = subprocess.Popen([*INSIDE, str(folder / "kube-router"), *alone, *where], stdout=log, stderr=log)
    yield running
    running.terminate()
    running.wait(30)
    rules = subprocess.run([*INSIDE, "iptables-save"], capture_output=True, text=True, check=True).stdout
    others = "".join(line for line in rules.splitlines(keepends=True) if not ITS_OWN.search(line))
    subprocess.run([*INSIDE, "iptables-restore"], input=others, text=True, check=True)
    subprocess.run([*INSIDE, "ipset", "destroy"], check=True)


@pytest.fixture
def servers() -> Iterator[tuple[str, int, int]]:
    """An address outside the node, which is this machine's, and two ports that answer there."""

    def address(name: str, *inside: str) -> str:
        said = subprocess.run([*inside, "ip", "-json", "address", "show", name], capture_output=True, check=True).stdout
        (ipv4,) = (each for each in json.loads(said)[0]["addr_info"] if each["family"] == "inet")
        return str(ipaddress.ip_interface(f"{ipv4['local']}/{ipv4['prefixlen']}"))

    node = address("minima-in", *INSIDE).partition("/")[0]
    pods = str(ipaddress.ip_interface(address("pods0", *INSIDE)).network)
    here = address("minima-host").partition("/")[0]
    subprocess.run(["ip", "route", "add", pods, "via", node], check=True)
    try:
        with socket.create_server((here, 0)) as one, socket.create_server((here, 0)) as other:
            yield here, one.getsockname()[1], other.getsockname()[1]
    finally:
        subprocess.run(["ip", "route", "del", pods, "via", node], check=True)


def test_pods_reach_their_own_stage_and_nothing_else(
    cluster: Any, engine: subprocess.Popen[bytes], servers: tuple[str, int, int]
) -> None:
    outside, api, other = servers
    pipeline = spec.load("smoke")
    steps = {step.name: render.job(pipeline, step) for step in plan(pipeline)}

    def labels(job: dict[str, Any]) -> dict[str, str]:
        (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
        found: dict[str, str] = replica["template"]["metadata"]["labels"]
        return found

    who = {
        "worker-0": labels(steps["distill"]),
        "worker-1": labels(steps["distill"]),
        "other": labels(steps["adapt"]),
        "conductor": conductor.objects(pipeline)[-1]["spec"]["template"]["metadata"]["labels"],
        "stranger": {"app": "stranger"},
    }
    for name, its in who.items():
        pod = {
            "metadata": {"name": name, "labels": its},
            "spec": {
                "securityContext": render.POD_SECURITY,
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "one",
                        "image": "minima:cpu",
                        "command": ["python", "-c", LISTEN],
                        "securityContext": render.CONTAINER_SECURITY,
                    }
                ],
            },
        }
        cluster.core.create_namespaced_pod(cluster.namespace, pod)

    def addresses() -> dict[str, str] | None:
        found = {pod.metadata.name: pod.status.pod_ip for pod in cluster.core.list_namespaced_pod(cluster.namespace).items}
        return found if all(found.get(name) for name in who) else None

    address = wait("all pods have an address", addresses, 120)

    def connects(source: str, target: str, port: int) -> bool:
        inside = ["python", "-c", TRY, address.get(target, target), str(port)]
        command = ["kubectl", "--namespace", cluster.namespace, "exec", source, "--", *inside]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert "connected" in said or "imed out" in said or "refused" in said, said
        return "connected" in said

    wait("all pods listen", lambda: all(connects("stranger", name, PORT) for name in who), 120)
    # The API server of this cluster is a process of the node itself, which engines always let its pods reach.
    for policy in network.objects(pipeline, cluster.namespace, f"{outside}:{api}"):
        cluster.custom.create_namespaced_custom_object(
            "networking.k8s.io", "v1", cluster.namespace, "networkpolicies", policy, field_validation="Strict"
        )
    wait("the policies bind", lambda: not connects("stranger", "worker-0", PORT), 120)
    assert engine.poll() is None
    for source in who:
        for target in who:
            if source != target:
                together = {source, target} == {"worker-0", "worker-1"}
                assert connects(source, target, PORT) == together, f"{source} to {target}"
    assert connects("conductor", outside, api)
    assert not connects("conductor", outside, other), "another port of the API server's machine"
    assert not connects("worker-0", outside, api)
    assert connects("stranger", outside, other), "a pod of nobody's pipeline is bound"
    for policy in cluster.custom.list_namespaced_custom_object("networking.k8s.io", "v1", cluster.namespace, "networkpolicies")[
        "items"
    ]:
        cluster.custom.delete_namespaced_custom_object(
            "networking.k8s.io", "v1", cluster.namespace, "networkpolicies", policy["metadata"]["name"]
        )
    wait("without policies all are open again", lambda: connects("stranger", "worker-0", PORT), 120)
