"""The form for Flux with its real controller: order, commits, reverts, deletions, failures."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster.namespace import last_words
from jobgen.manifests import render
from jobgen.pipeline import plan, spec
from tests.cluster.conftest import conditions, short, wait

PUBLISH = Path(__file__).parents[3] / "shared" / "cluster" / "publish"
"""Stands in for a push and Flux's source controller, which could reach no Git server here."""
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="needs a cluster: KUBECONFIG is not set"),
    pytest.mark.skipif(not PUBLISH.exists(), reason=f"needs {PUBLISH}, which stands in for a Git repository"),
]
FLUX = ("kustomize.toolkit.fluxcd.io", "v1", "flux-system", "kustomizations")
VERBS = ("init-model", "build-data", "distill")


class Repository:
    """A Git repository with one pipeline in it, as Flux sees it."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.name = self.pipeline_name = f"g{uuid.uuid4().hex[:6]}"
        self.pipeline = folder / f"{self.name}.yaml"

    def push(self, **changes: Any) -> str:
        """Commit the pipeline with other options (`stage__option=value`); the revision."""
        short(self.folder, self.name)
        document = yaml.safe_load(self.pipeline.read_text())
        for path, value in changes.items():
            stage, option = path.split("__")
            document["stages"][stage.replace("_", "-")]["options"][option] = value
        self.pipeline.write_text(yaml.safe_dump(document, sort_keys=False))
        rendered = self.folder / "repository" / self.name
        command = [sys.executable, "-m", "jobgen", "render", str(self.pipeline), "--output", str(rendered), "--format", "flux"]
        rendered.parent.mkdir(exist_ok=True)
        subprocess.run(
            [*command, "--namespace", self.cluster.namespace, "--source", self.name], check=True, capture_output=True
        )
        return subprocess.run(
            ["bash", str(PUBLISH), str(rendered.parent), self.name], check=True, capture_output=True, text=True
        ).stdout.strip()

    def apply(self) -> None:
        """`kubectl apply -f kustomizations.yaml`, once."""
        text = (self.folder / "repository" / self.name / "kustomizations.yaml").read_text()
        for each in yaml.safe_load_all(text):
            self.cluster.custom.create_namespaced_custom_object(*FLUX, each, field_validation="Strict")

    def ready(self, stage: str, revision: str) -> dict[str, Any]:
        """The condition Ready of a stage's Kustomization, if it is about this revision."""
        found = self.cluster.custom.get_namespaced_custom_object(*FLUX, f"{self.name}-{stage}")
        if found.get("status", {}).get("lastAttemptedRevision") != revision:
            return {}
        ready = [c for c in found["status"].get("conditions", []) if c["type"] == "Ready" and c["status"] != "Unknown"]
        return dict(ready[0]) if ready else {}

    def settled(self, revision: str, stage: str = "distill") -> dict[str, Any]:
        """Wait until Flux has made up its mind about a stage in a revision."""

        def decided() -> dict[str, Any]:
            ready = self.ready(stage, revision)
            return ready if ready.get("reason") != "DependencyNotReady" else {}

        found: dict[str, Any] = wait(f"{stage} at {revision}", decided, 300)
        return found

    def reconcile(self, stage: str) -> None:
        """`flux reconcile kustomization`."""
        patch = {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": str(time.time())}}}
        self.cluster.custom.patch_namespaced_custom_object(*FLUX, f"{self.name}-{stage}", patch)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """PyTorchJobs by name."""
        return {job["metadata"]["name"]: job for job in self.cluster.jobs(f"minima/pipeline={self.name}")}

    def job(self, stage: str) -> str:
        """The name of a stage's job in the present commit."""
        pipeline = spec.load(str(self.pipeline))
        (step,) = [s for s in plan.plan(pipeline) if s.name == stage]
        return str(render.job(pipeline, step, self.cluster.namespace)["metadata"]["name"])


@pytest.fixture(scope="module")
def repository(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """The short pipeline, pushed and run to its end by Flux."""
    made = Repository(cluster, tmp_path_factory.mktemp("gitops"))
    revision = made.push()
    made.apply()
    assert made.settled(revision)["status"] == "True"
    yield made
    for stage in VERBS:
        cluster.custom.delete_namespaced_custom_object(*FLUX, f"{made.name}-{stage}")


def created(job: dict[str, Any]) -> str:
    return str(job["metadata"]["creationTimestamp"])


def completed(job: dict[str, Any]) -> str:
    return str(job["status"]["completionTime"])


def test_the_chain_ran_in_order(repository: Repository) -> None:
    jobs = [repository.jobs()[repository.job(stage)] for stage in VERBS]
    assert all("Succeeded" in conditions(job) for job in jobs)
    assert len(repository.jobs()) == 3
    assert completed(jobs[0]) <= created(jobs[1])
    assert completed(jobs[1]) <= created(jobs[2])


def test_a_commit_runs_what_it_changes_and_a_revert_runs_nothing(repository: Repository) -> None:
    before = repository.jobs()
    changed = repository.push(distill__learning_rate=2e-3, distill__max_steps=5)
    assert repository.settled(changed)["status"] == "True"
    new = repository.jobs().keys() - before.keys()
    assert new == {repository.job("distill")}
    reverted = repository.push()
    assert repository.settled(reverted)["status"] == "True"
    assert repository.jobs().keys() == before.keys() | new
    assert all(created(repository.jobs()[name]) == created(before[name]) for name in before)


def test_a_deleted_job_comes_back_and_ends_in_seconds(repository: Repository, cluster: Any) -> None:
    name = repository.job("distill")
    before = repository.jobs()[name]
    cluster.delete(name)
    repository.reconcile("distill")
    after = wait(
        "the job is there again", lambda: (j := repository.jobs().get(name)) and "Succeeded" in conditions(j) and j, 120
    )
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    said = "\n".join(cluster.lines(f"{name}-worker-0"))
    assert said.startswith("finished already: ")
    assert "step " not in said


def test_a_failing_stage_stops_the_chain(repository: Repository, cluster: Any) -> None:
    before = repository.jobs()
    revision = repository.push(build_data__text_key=["txt"])
    stopped = repository.settled(revision, "build-data")
    assert (stopped["status"], stopped["reason"]) == ("False", "HealthCheckFailed")
    assert repository.job("build-data") in stopped["message"]
    code, words = last_words(cluster.pods(f"training.kubeflow.org/job-name={repository.job('build-data')}")) or (0, "")
    assert (code, "did you mean 'text'?" in words) == (65, True)
    assert repository.jobs().keys() - before.keys() == {repository.job("build-data")}
    assert repository.ready("distill", revision).get("status") != "True"
    assert repository.settled(repository.push())["status"] == "True"


def test_the_conductor_is_healthy_when_the_pipeline_is_done(repository: Repository, cluster: Any, tmp_path: Path) -> None:
    """Flux knows of itself when a batch Job is done: one Kustomization for the whole pipeline."""
    name = f"c{uuid.uuid4().hex[:6]}"
    place = tmp_path / "repository" / "short.yaml"
    place.parent.mkdir()
    command = [sys.executable, "-m", "jobgen", "render", str(repository.pipeline), "--format", "conductor", "--output", "-"]
    place.write_text(
        subprocess.run([*command, "--namespace", cluster.namespace], check=True, capture_output=True, text=True).stdout
    )
    revision = subprocess.run(
        ["bash", str(PUBLISH), str(place.parent), name], check=True, capture_output=True, text=True
    ).stdout.strip()
    kustomization = {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": name, "namespace": "flux-system"},
        "spec": {
            "interval": "10m",
            "timeout": "720h",
            "prune": True,
            "wait": True,
            "path": "./",
            "sourceRef": {"kind": "GitRepository", "name": name},
        },
    }
    before = repository.jobs()
    cluster.custom.create_namespaced_custom_object(*FLUX, kustomization)

    def ready() -> bool:
        found = cluster.custom.get_namespaced_custom_object(*FLUX, name).get("status", {})
        return found.get("lastAppliedRevision") == revision

    try:
        wait("the conductor's Kustomization is ready", ready, 180)
    finally:
        cluster.custom.delete_namespaced_custom_object(*FLUX, name)
    assert repository.jobs().keys() == before.keys()
    (conductor,) = cluster.batch.list_namespaced_job(cluster.namespace).items or [None]
    assert conductor is None or conductor.status.succeeded == 1
