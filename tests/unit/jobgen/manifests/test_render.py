"""PyTorchJobs: their shapes, their bytes, and what the official models say of them."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobgen.manifests import conductor, document, render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from jobgen.pipeline.pools import amount
from minima.errors import UsageError
from minima.process import stop

JOBS = [
    (name, step, render.job(pipeline, step))
    for name in spec.shipped()
    for pipeline in [spec.load(name)]
    for step in plan(pipeline)
]
IDS = [f"{name}-{step.name}" for name, step, _ in JOBS]


def replica(job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    ((kind, value),) = job["spec"]["pytorchReplicaSpecs"].items()
    return kind, value


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return replica(job)[1]["template"]["spec"]


def container(job: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod(job)["containers"]
    return one


@pytest.mark.parametrize(("name", "step", "job"), JOBS, ids=IDS)
def test_the_kubernetes_shapes_of_the_design(name: str, step: Any, job: dict[str, Any]) -> None:
    kind, spec_ = replica(job)
    assert kind == ("Master" if step.pods == 1 else "Worker")
    assert spec_["replicas"] == step.pods
    assert spec_["restartPolicy"] == "ExitCode"
    assert job["spec"]["runPolicy"] == {"cleanPodPolicy": "Running"}
    assert job["spec"]["nprocPerNode"] == str(step.processes)
    assert ("elasticPolicy" in job["spec"]) == (step.options.elastic and step.pods > 1)
    env = {entry["name"]: entry.get("value") for entry in container(job)["env"]}
    assert ("MINIMA_POD_INDEX" in env) == (step.verb == "build-data" and step.pods > 1)
    assert env["OMP_NUM_THREADS"] == str(max(1, int(amount(step.pool.cpu)) // step.processes))
    assert "CUDA_LAUNCH_BLOCKING" not in env
    assert pod(job)["terminationGracePeriodSeconds"] >= 60 + (stop.SAVING_SECONDS if step.options.elastic else 0)
    assert [*container(job)["command"], *container(job)["args"]] == step.argv


def test_jobs_share_nothing() -> None:
    pipeline = spec.load("smoke")
    step = plan(pipeline)[0]
    changed, before = render.job(pipeline, step), render.job(pipeline, step)
    pod(changed)["securityContext"]["seccompProfile"]["type"] = "Unconfined"
    replica(changed)[1]["template"]["metadata"]["annotations"]["more"] = "yes"
    assert render.job(pipeline, step) == before


@pytest.mark.parametrize("job", [job for _, _, job in JOBS], ids=IDS)
def test_pods_are_restricted(job: dict[str, Any]) -> None:
    context = container(job)["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod(job)["securityContext"]["runAsNonRoot"] is True
    assert pod(job)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(job)["securityContext"]["runAsUser"] >= 10_000
    assert pod(job)["securityContext"]["runAsGroup"] >= 10_000
    assert pod(job)["securityContext"]["fsGroup"] >= 10_000
    assert pod(job)["automountServiceAccountToken"] is False
    mounts = {m["mountPath"] for m in container(job)["volumeMounts"]}
    for entry in container(job)["env"]:
        if entry.get("value", "").startswith("/"):
            assert any(entry["value"].startswith(mount) for mount in mounts), f"{entry} is on the read-only root"


class Response:
    """What the clients' `deserialize` takes."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.data = json.dumps(body)


@pytest.mark.parametrize("job", [job for _, _, job in JOBS], ids=IDS)
def test_the_official_models_read_it_without_loss(job: dict[str, Any]) -> None:
    training = pytest.importorskip("kubeflow.training")
    client = training.ApiClient()
    model = client.deserialize(Response(job), "KubeflowOrgV1PyTorchJob")
    assert client.sanitize_for_serialization(model) == job
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["pytorchReplicaSpec"] = wrong["spec"].pop("pytorchReplicaSpecs")
    with pytest.raises(ValueError, match="pytorch_replica_specs"):
        client.deserialize(Response(wrong), "KubeflowOrgV1PyTorchJob")


def test_names_are_hashes_of_the_whole_object() -> None:
    names = [job["metadata"]["name"] for _, _, job in JOBS]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 53 and re.fullmatch(r"[a-z][-a-z0-9]*-[0-9a-f]{8}", name) for name in names)
    text = spec.read("smoke")
    for old, new in (("image: minima:cpu", "image: minima:gpu"), ("log_interval: 10", "log_interval: 20")):
        before = render.job(spec.parse(text, "smoke"), plan(spec.parse(text, "smoke"))[3])
        after = render.job(spec.parse(text.replace(old, new), "smoke"), plan(spec.parse(text.replace(old, new), "smoke"))[3])
        assert before["metadata"]["name"] != after["metadata"]["name"]
        assert before["metadata"]["labels"]["minima/key"] == after["metadata"]["labels"]["minima/key"]


def test_a_namespace_is_written_where_it_is_asked_for() -> None:
    pipeline = spec.load("smoke")
    assert all("namespace" not in job["metadata"] for _, _, job in JOBS)
    made = render.job(pipeline, plan(pipeline)[0], "training")
    assert made["metadata"]["namespace"] == "training"
    names = {render.job(pipeline, plan(pipeline)[0], where)["metadata"]["name"] for where in (None, "training", "other")}
    assert len(names) == 1  # `kubectl apply -n` of a file without one makes the same job.
    with pytest.raises(UsageError, match="--namespace: found 'No'"):
        render.job(pipeline, plan(pipeline)[0], "No")


def test_what_a_pool_says_is_in_the_pod() -> None:
    pools = (
        "pools:\n  small: {queue: team, image: other:1, node_selector: {disk: ssd}, resources: {rdma/ib: 1}, env: {A: $(B)},"
        " tolerations: [{key: spot, operator: Exists}]}\nstages:"
    )
    pipeline = spec.parse(spec.read("smoke").replace("stages:", pools), "smoke")
    made = render.job(pipeline, plan(pipeline)[0])
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert pod(made)["nodeSelector"] == {"disk": "ssd"}
    assert pod(made)["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert container(made)["image"] == "other:1"
    assert container(made)["resources"]["limits"] == {
        "cpu": "2",
        "memory": "3Gi",
        "ephemeral-storage": "2Gi",
        "rdma/ib": "1",
    }
    assert {"name": "A", "value": "$$(B)"} in container(made)["env"]


def test_a_pod_fills_no_more_of_a_node_than_its_pool_says() -> None:
    pools = "pools:\n  small: {disk: 30Gi, disk_request: 4Gi}\nstages:"
    pipeline = spec.parse(spec.read("smoke").replace("stages:", pools), "smoke")
    made = render.job(pipeline, plan(pipeline)[0])
    resources = container(made)["resources"]
    assert (resources["requests"]["ephemeral-storage"], resources["limits"]["ephemeral-storage"]) == ("4Gi", "30Gi")
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "30Gi"}} in pod(made)["volumes"]
    unbounded = [v for v in pod(made)["volumes"] if "emptyDir" in v and "sizeLimit" not in v["emptyDir"]]
    assert unbounded == []


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("minima:cpu", "IfNotPresent"),
        ("team/minima:train", "Always"),
        ("registry.example.com:5000/minima:train", "Always"),
        (f"registry.example.com/minima@sha256:{'0' * 64}", "IfNotPresent"),
    ],
)
def test_a_tag_that_may_move_is_asked_for_again(image: str, policy: str) -> None:
    text = spec.read("smoke").replace("minima:cpu", image).replace("minima:jobgen", image)
    pipeline = spec.parse(text, "smoke")
    assert container(render.job(pipeline, plan(pipeline)[0]))["imagePullPolicy"] == policy
    (conducting,) = conductor.objects(pipeline)[-1]["spec"]["template"]["spec"]["containers"]
    assert conducting["imagePullPolicy"] == policy


def test_the_kubelet_expands_nothing_in_a_command_line() -> None:
    text = spec.read("smoke").replace("question: What", "question: $(HOME) $$ costs $5? What")
    pipeline = spec.parse(text, "smoke")
    args = container(render.job(pipeline, plan(pipeline)[-1]))["args"]
    assert "$$(HOME) $$$$ costs $$5? What is artificial intelligence?" in args


@pytest.mark.parametrize("job", [job for _, _, job in JOBS], ids=IDS)
def test_yaml_gives_the_object_back(job: dict[str, Any]) -> None:
    text = document.text(spec.load("smoke"), [job])
    assert yaml.safe_load(text) == job
    assert text.endswith("\n")
    assert not re.search(r"[&*]id\d", text)
    assert all(not line.endswith(" ") for line in text.splitlines())


@given(st.text() | st.from_regex(r"[-+]?[0-9]{1,3}([.:_][0-9]*)?(e[-+]?[0-9]{1,2})?", fullmatch=True))
@settings(deadline=None)
def test_strings_stay_strings_in_yaml_1_1_and_1_2(value: str) -> None:
    value = value.encode("utf-8", "ignore").decode()
    text = yaml.dump({"k": [value]}, Dumper=document._Dumper, allow_unicode=True, width=2**31)
    assert yaml.safe_load(text) == {"k": [value]}
    if not re.search(r"""^- ['"]""", text, re.MULTILINE):
        # Plain: no number, boolean or null of YAML 1.2's core schema, which PyYAML does not know.
        assert not re.fullmatch(
            r"[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|nan)|~)", value
        )
        assert value.lower() not in {"", "null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def test_the_bytes_are_the_same_everywhere(tmp_path: Path) -> None:
    copy = tmp_path / "some folder" / "smoke.yaml"
    copy.parent.mkdir()
    copy.write_text(spec.read("smoke"), encoding="utf-8")
    outputs = set()
    runs = itertools.zip_longest(
        [tmp_path, copy.parent, Path("/")],
        ["some folder/smoke.yaml", "smoke.yaml", str(copy)],
        [
            {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"},
            {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "2", "USER": "other", "HOME": "/nowhere"},
            {"LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "3", "PYTHONUTF8": "0", "COLUMNS": "20"},
        ],
    )
    for folder, file, variables in runs:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(spec.__file__).parents[2]), **variables}
        command = [sys.executable, "-m", "jobgen", "render", file, "--output", "-"]
        outputs.add(subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    documents = list(yaml.safe_load_all(outputs.pop()))
    assert [d["metadata"]["name"] for d in documents] == [job["metadata"]["name"] for name, _, job in JOBS if name == "smoke"]
