"""A pod fetches from a server, as a user who may do little, and the next stage reads what came."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests.render import CONTAINER_SECURITY, POD_SECURITY
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from tests.cluster.conftest import digest, wait
from tests.unit import tiny

pytestmark = pytest.mark.cluster
PORT = 8000


def serve(cluster: Any, files: dict[str, str]) -> None:
    """A pod that offers `files` by HTTP, as http://files:PORT/NAME."""
    cluster.core.create_namespaced_config_map(cluster.namespace, {"metadata": {"name": "files"}, "data": files})
    container = {
        "name": "files",
        "image": "minima:cpu",
        "command": ["python", "-m", "http.server", "--directory", "/files", str(PORT)],
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "files", "mountPath": "/files"}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    pod = {
        "metadata": {"name": "files", "labels": {"app": "files"}},
        "spec": {
            "securityContext": POD_SECURITY,
            "containers": [container],
            "volumes": [{"name": "files", "configMap": {"name": "files"}}],
        },
    }
    cluster.core.create_namespaced_pod(cluster.namespace, pod)
    # Without an address of its own: not every cluster for tests has a kube-proxy.
    headless = {"clusterIP": "None", "selector": {"app": "files"}, "ports": [{"port": PORT}]}
    service = {"metadata": {"name": "files"}, "spec": headless}
    cluster.core.create_namespaced_service(cluster.namespace, service)

    def ready() -> bool:
        found = cluster.core.read_namespaced_pod("files", cluster.namespace).status.conditions or []
        return any(each.type == "Ready" and each.status == "True" for each in found)

    wait("the server is ready", ready, 60)


def test_what_a_pod_fetches_feeds_the_next_stage(
    cluster: Any, jobgen: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    tiny.tokenizer(tmp_path)
    files = {place.name: place.read_text() for place in tmp_path.iterdir()}
    files["config.json"] = json.dumps({"vocab_size": 128})
    files["text.jsonl"] = "".join(json.dumps({"text": f"{n} bottles of beer"}) + "\n" for n in range(200))
    serve(cluster, files)
    pins = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    sources = [
        f"{'text' if name == 'text.jsonl' else 'model'}=http://files:{PORT}/{name}@sha256:{pin}" for name, pin in pins.items()
    ]
    document = {
        "name": "fetched",
        "image": "minima:cpu",
        "conductor": "minima:jobgen",
        "workspace": {"claim": "minima-workspace", "path": "/workspace"},
        "stages": {
            "fetch": {"pool": "small", "options": {"source": sources}},
            "build-data": {
                "pool": "small",
                "options": {
                    "input_dir": "${fetch}/text",
                    "tokenizer_name_or_path": "${fetch}/model",
                    "max_seq_length": 32,
                    "dev_proportion": 0.1,
                },
            },
        },
    }
    place = tmp_path / "fetched.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False))
    assert "build-data" in jobgen("run", str(place)).stdout
    fetched = next(step for step in plan(spec.load(str(place))) if step.name == "fetch")
    assert digest(cluster, "minima:cpu", f"{fetched.output_dir}/text/text.jsonl") == pins["text.jsonl"]
