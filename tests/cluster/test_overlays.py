"""What a namespace needs once, for every kind of cluster: built by kubectl, judged by a real server."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.commands.arguments import CLUSTERS
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, spec

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="needs a cluster: KUBECONFIG is not set"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl"),
]
MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = MANIFESTS / "overlays"


@pytest.fixture(scope="module")
def core() -> Iterator[Any]:
    from kubernetes import client, config

    config.load_kube_config()
    with client.ApiClient() as api:
        yield client.CoreV1Api(api)


@pytest.fixture(scope="module")
def namespace(core: Any) -> Iterator[str]:
    name = f"jobgen-test-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects of a folder with a kustomization."""
    command = ["kubectl", "kustomize", str(folder)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def test_every_profile_has_one() -> None:
    assert {place.name for place in OVERLAYS.iterdir()} == set(CLUSTERS)


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_overlay_of_every_cluster_is_accepted(namespace: str, name: str) -> None:
    """`kubectl apply -k manifests/overlays/NAME`, as a dry run by the server, so that no volume is provisioned here."""
    found = build(OVERLAYS / name)
    kinds = sorted(each["kind"] for each in found)
    assert kinds in (["Namespace", "PersistentVolumeClaim"], ["Namespace", "PersistentVolumeClaim", "StorageClass"])
    by_kind = {each["kind"]: each for each in found}
    claim, made = by_kind["PersistentVolumeClaim"], spec.load("minima-3b").workspace
    assert (claim["metadata"]["name"], claim["metadata"]["namespace"]) == (made.claim, "minima")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce" if name == "kind" else "ReadWriteMany"]
    if "StorageClass" in by_kind:
        assert by_kind["StorageClass"]["metadata"]["name"] == claim["spec"]["storageClassName"]
    claim["metadata"]["namespace"] = namespace  # That of the overlay is made by it.
    check_accepted(found)


def test_what_closes_a_namespace_is_accepted(namespace: str) -> None:
    (policy,) = build(MANIFESTS / "network")
    assert (policy["kind"], policy["metadata"]["namespace"]) == ("NetworkPolicy", "minima")
    policy["metadata"]["namespace"] = namespace
    check_accepted([policy])


def check_accepted(found: list[dict[str, Any]]) -> None:
    applied = subprocess.run(
        ["kubectl", "apply", "--server-side", "--dry-run=server", "--filename", "-"],
        input=yaml.safe_dump_all(found),
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.count("serverside-applied (server dry run)") == len(found)


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_namespace_of_an_overlay_takes_the_pods_of_its_cluster(core: Any, namespace: str, name: str) -> None:
    """Pod Security, as the server has it: every stage of the published run, and the conductor."""
    labels = next(each for each in build(OVERLAYS / name) if each["kind"] == "Namespace")["metadata"]["labels"]
    core.patch_namespace(namespace, {"metadata": {"labels": labels}})
    made = spec.parse(spec.read("minima-3b").replace("image: minima:train", f"image: minima:train\ncluster: {name}"), "p.yaml")
    templates = {"conductor": conductor.objects(made)[-1]["spec"]["template"]}
    for step in plan.plan(made):
        (replica,) = render.job(made, step)["spec"]["pytorchReplicaSpecs"].values()
        templates[step.name] = replica["template"]
    for stage, template in templates.items():
        spec_of_pod = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
        pod = {"metadata": {"name": stage, "labels": template["metadata"]["labels"]}, "spec": spec_of_pod}
        core.create_namespaced_pod(namespace, pod, dry_run="All", field_validation="Strict")
