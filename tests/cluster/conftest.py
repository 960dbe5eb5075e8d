"""A namespace that enforces Pod Security `restricted`, with a claim for the workspace, for each file of tests."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.pipeline import spec

SHORT = Path(__file__).with_name("short.yaml")
# One node, as in kind, whose storage class knows nothing else.
CLAIM = {
    "metadata": {"name": "minima-workspace"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """`jobgen.cluster.Cluster` of a new namespace."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a cluster: KUBECONFIG is not set")
    from jobgen.cluster.namespace import Cluster

    made = Cluster(f"jobgen-test-{uuid.uuid4().hex[:8]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made.core.create_namespace({"metadata": {"name": made.namespace, "labels": labels}})
    made.core.create_namespaced_persistent_volume_claim(made.namespace, CLAIM)
    yield made
    made.core.delete_namespace(made.namespace)


@pytest.fixture
def jobgen(cluster: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `jobgen WORDS --namespace NS` to its end."""

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobgen", *words, "--namespace", cluster.namespace]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == code, f"{done.args} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def short(folder: Path, name: str = "short", **distill: Any) -> Path:
    """The short pipeline as a file, under another name and with other options of `distill`."""
    document = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    document["name"] = name
    document["stages"]["distill"]["options"] |= distill
    place = folder / f"{name}.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    spec.load(str(place))
    return place


def first_stages(cluster: Any, folder: Path, **pools: Any) -> dict[str, str]:
    """Run the short pipeline but for its last stage; paths of the model and of the records."""
    from jobgen.pipeline.plan import plan

    pipeline = short(folder)
    document = yaml.safe_load(pipeline.read_text()) | {"pools": pools}
    del document["stages"]["distill"]
    pipeline.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, "-m", "jobgen", "run", str(pipeline), "--namespace", cluster.namespace]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    made = {step.name: step.output_dir for step in plan(spec.load(str(pipeline)))}
    return {"model": f"{made['init-model']}/model", "records": made["build-data"]}


def only_distill(name: str, model: str, records: str, **options: Any) -> dict[str, Any]:
    """The last stage of the short pipeline as a pipeline of its own, on what others made."""
    document: dict[str, Any] = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    stage = document["stages"]["distill"]
    stage["options"] |= {
        "teacher_model_name_or_path": "${model}",
        "student_model_name_or_path": "${model}",
        "record_path_or_regex": "${records}/train-*.tfrecord",
        "dev_record_path_or_regex": "${records}/dev-*.tfrecord",
        **options,
    }
    return {**document, "name": name, "inputs": {"model": model, "records": records}, "stages": {"distill": stage}}


@pytest.fixture(scope="module")
def simulator(cluster: Any) -> None:
    """Skips where nodes cannot be simulated."""
    from kubernetes.client import ApiException

    try:
        cluster.custom.get_cluster_custom_object("kwok.x-k8s.io", "v1alpha1", "stages", "pytorchjob-pod-succeeds")
    except ApiException as error:
        if error.status != 404:
            raise
        pytest.skip("needs KWOK, with a Stage that ends pods of PyTorchJobs: it simulates nodes with 8 GPUs")


def wait(what: str, condition: Callable[[], Any], seconds: float = 240, every: float = 0.5) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def conditions(job: dict[str, Any]) -> set[str]:
    """The conditions of a PyTorchJob that are true now."""
    return {c["type"] for c in job.get("status", {}).get("conditions") or [] if c["status"] == "True"}


def digest(cluster: Any, image: str, path: str) -> str:
    """SHA-256 of a file in the workspace, read by a pod."""
    name = f"read-{uuid.uuid4().hex[:8]}"
    program = f"import hashlib, sys; print(hashlib.sha256(open({path!r}, 'rb').read()).hexdigest())"
    return execute(cluster, image, ["python", "-c", program], name).strip()


def execute(cluster: Any, image: str, command: list[str], name: str = "") -> str:
    """Run a command in a pod that mounts the workspace, and return what it printed."""
    from jobgen.manifests.render import CONTAINER_SECURITY, POD_SECURITY

    name = name or f"do-{uuid.uuid4().hex[:8]}"
    pod = {
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": "do",
                    "image": image,
                    "command": command,
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
                }
            ],
            "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": "minima-workspace"}}],
        },
    }
    cluster.core.create_namespaced_pod(cluster.namespace, pod)

    def ended() -> str:
        phase = cluster.core.read_namespaced_pod(name, cluster.namespace).status.phase
        return phase if phase in {"Succeeded", "Failed"} else ""

    phase = wait(f"{name} ends", ended)
    said = "\n".join(cluster.lines(name))
    assert phase == "Succeeded", said
    return said
