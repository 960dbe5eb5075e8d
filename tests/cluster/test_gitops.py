"""The conductor in a Git repository, with Flux's real controller: commits, reverts, failures, suspension, deletion."""

import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster.objects import last_words, verdict
from jobgen.cluster.refusals import QUEUE
from jobgen.cluster.state import LABEL
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, spec
from tests.cluster.conftest import conditions, short, wait
from tests.cluster.test_queue import install, kueue

__all__ = ["kueue"]
ROOT = Path(__file__).parents[2]
PUBLISH = ROOT.parent / "shared" / "cluster" / "publish"
"""Stands in for a push and Flux's source controller, which could reach no Git server here."""
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="needs a cluster: KUBECONFIG is not set"),
    pytest.mark.skipif(not PUBLISH.exists(), reason=f"needs {PUBLISH}, which stands in for a Git repository"),
]
GROUP = ("kustomize.toolkit.fluxcd.io", "v1")
STAGES = ("init-model", "build-data", "distill")
WORKERS = 4
"""Kustomizations that Flux's controller looks at at once, unless it is told otherwise."""


def publish(folder: Path, source: str, namespace: str) -> str:
    """Commit a folder to a repository; the revision."""
    command = ["bash", str(PUBLISH), str(folder), source, namespace]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def example(name: str, source: str, namespace: str, of: str) -> dict[str, Any]:
    """manifests/gitops/flux.yaml with other names: the Kustomization in `namespace`, the pipeline in namespace `of`."""
    text = (ROOT / "manifests" / "gitops" / "flux.yaml").read_text(encoding="utf-8")
    for old, new in (("my-run", name), ("pipelines", source), ("namespace: minima", f"namespace: {of}")):
        assert old in text
        text = text.replace(old, new)
    found: dict[str, Any] = yaml.safe_load(text)
    found["metadata"]["namespace"] = namespace
    return found


class Kustomization:
    """One of Flux's objects."""

    def __init__(self, cluster: Any, name: str, namespace: str) -> None:
        self.custom, self.name = cluster.custom, name
        self.there = (*GROUP, namespace, "kustomizations")

    def apply(self, body: dict[str, Any]) -> None:
        self.custom.create_namespaced_custom_object(*self.there, body, field_validation="Strict")

    def patch(self, **body: Any) -> None:
        self.custom.patch_namespaced_custom_object(*self.there, self.name, body)

    def exists(self) -> bool:
        return bool(
            self.custom.list_namespaced_custom_object(*self.there, field_selector=f"metadata.name={self.name}")["items"]
        )

    def delete(self) -> None:
        self.custom.delete_namespaced_custom_object(*self.there, self.name)
        wait("the Kustomization is gone", lambda: not self.exists(), 120)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.custom.get_namespaced_custom_object(*self.there, self.name).get("status", {})
        return found

    def reconcile(self) -> str:
        """`flux reconcile kustomization`, and wait for it; the reason of the condition Ready."""
        asked = str(time.time())
        self.patch(metadata={"annotations": {"reconcile.fluxcd.io/requestedAt": asked}})
        return str(wait("Flux looks", lambda: self.status().get("lastHandledReconcileAt") == asked and self.ready(), 120))

    def ready(self, revision: str = "") -> str:
        """The reason of the condition Ready once Flux has made up its mind, about this revision if one is said."""
        status = self.status()
        if revision and status.get("lastAttemptedRevision") != revision:
            return ""
        found = [c for c in status.get("conditions", []) if c["type"] == "Ready" and c["status"] != "Unknown"]
        return str(found[0]["reason"]) if found else ""

    def settled(self, revision: str, seconds: float = 120) -> str:
        """Wait until it has made up its mind about a revision."""
        return str(wait(f"{self.name} at {revision}", lambda: self.ready(revision), seconds))


class Repository(Kustomization):
    """A Git repository with one pipeline in it, and its Kustomization in flux-system."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        super().__init__(cluster, f"g{uuid.uuid4().hex[:6]}", "flux-system")
        self.cluster, self.folder = cluster, folder
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
        rendered.parent.mkdir(exist_ok=True)
        # The stages' own files lie beside it: Flux must leave them alone.
        for form in ("files", "conductor"):
            command = [
                sys.executable,
                "-m",
                "jobgen",
                "render",
                str(self.pipeline),
                "--output",
                str(rendered),
                "--format",
                form,
            ]
            subprocess.run([*command, "--namespace", self.cluster.namespace], check=True, capture_output=True)
        assert len(list(rendered.iterdir())) == len(STAGES) + 1
        other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": self.cluster.namespace}}
        (rendered.parent / "other").mkdir(exist_ok=True)
        (rendered.parent / "other" / "other.yaml").write_text(yaml.safe_dump(other))
        return publish(rendered.parent, self.name, "flux-system")

    def jobs(self) -> dict[str, dict[str, Any]]:
        """PyTorchJobs by name."""
        return {job["metadata"]["name"]: job for job in self.cluster.jobs(f"minima/pipeline={self.name}")}

    def job(self, stage: str) -> str:
        """The name of a stage's job in the present commit."""
        pipeline = spec.load(str(self.pipeline))
        (step,) = [s for s in plan.plan(pipeline) if s.name == stage]
        return str(render.job(pipeline, step, self.cluster.namespace)["metadata"]["name"])

    def conductor(self) -> str:
        """The name of the conductor in the present commit."""
        return str(conductor.objects(spec.load(str(self.pipeline)), self.cluster.namespace)[-1]["metadata"]["name"])

    def conducts(self) -> bool:
        """Whether the present commit's conductor is the only one that is there."""
        return [job.metadata.name for job in self.cluster.conductors(self.name)] == [self.conductor()]

    def ended(self) -> str:
        """Wait until the present commit's conductor has ended; its verdict."""

        def end() -> str:
            return verdict(self.cluster.conductors(self.name)[-1]) if self.conducts() else ""

        return str(wait("the conductor ends", end))


@pytest.fixture(scope="module")
def repository(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """The short pipeline, pushed, and at work on its first stage, though Flux's look is over."""
    made = Repository(cluster, tmp_path_factory.mktemp("gitops"))
    revision = made.push()
    made.apply(example(made.name, made.name, "flux-system", cluster.namespace))
    assert made.settled(revision) == "ReconciliationSucceeded"
    assert made.conducts()
    yield made
    if made.exists():
        made.delete()
    source = ("source.toolkit.fluxcd.io", "v1", "flux-system", "gitrepositories")
    cluster.custom.delete_namespaced_custom_object(*source, made.name)


def created(job: dict[str, Any]) -> str:
    return str(job["metadata"]["creationTimestamp"])


def completed(job: dict[str, Any]) -> str:
    return str(job["status"]["completionTime"])


def test_a_commit_while_a_stage_runs_takes_its_place_at_once_and_a_revert_makes_nothing_anew(repository: Repository) -> None:
    first = repository.job("distill")
    wait("distill runs", lambda: "Running" in conditions(repository.jobs().get(first, {})))
    revision = repository.push(distill__learning_rate=2e-3, distill__max_steps=5)
    assert repository.settled(revision) == "ReconciliationSucceeded"
    assert repository.conducts()
    assert repository.ended() == "Complete"
    assert repository.jobs().keys() == {first, *map(repository.job, STAGES)}
    before = repository.jobs()
    assert repository.settled(repository.push()) == "ReconciliationSucceeded"
    assert repository.ended() == "Complete"
    after = repository.jobs()
    assert {name: job["metadata"]["uid"] for name, job in after.items()} == {n: j["metadata"]["uid"] for n, j in before.items()}


def test_the_stages_ran_in_order_and_nothing_of_their_files_beside_it(repository: Repository) -> None:
    jobs = [repository.jobs()[repository.job(stage)] for stage in STAGES]
    assert all("Succeeded" in conditions(job) for job in jobs)
    assert completed(jobs[0]) <= created(jobs[1])
    assert completed(jobs[1]) <= created(jobs[2])
    assert all("kustomize.toolkit.fluxcd.io/name" not in job["metadata"]["labels"] for job in jobs)


def test_a_failed_stage_is_told_and_another_commit_goes_on(repository: Repository, cluster: Any) -> None:
    assert repository.settled(repository.push(build_data__text_key=["txt"]))
    assert repository.ended() == "Failed"
    code, words = last_words(cluster.pods(f"training.kubeflow.org/job-name={repository.job('build-data')}")) or (0, "")
    assert (code, "did you mean 'text'?" in words) == (65, True)
    assert repository.reconcile() == "HealthCheckFailed"
    assert repository.settled(repository.push())
    assert repository.ended() == "Complete"
    assert repository.reconcile() == "ReconciliationSucceeded"
    (state,) = [
        each.metadata.labels[LABEL]
        for each in cluster.core.list_namespaced_config_map(cluster.namespace, label_selector=LABEL).items
        if each.metadata.name == conductor.state_name(repository.name)
    ]
    assert state == "finished"
    (command,) = re.findall(r"^kubectl wait .*$", (ROOT / "docs" / "gitops.md").read_text(encoding="utf-8"), re.MULTILINE)
    command = command.replace("smoke", repository.name).replace("minima ", f"{cluster.namespace} ").replace("720h", "20s")
    subprocess.run([*shlex.split(command), "--kubeconfig", os.environ["KUBECONFIG"]], check=True, capture_output=True)


def test_while_suspended_no_commit_is_applied_and_a_deletion_leaves_the_jobs(repository: Repository, cluster: Any) -> None:
    before = repository.conductor()
    repository.patch(spec={"suspend": True})
    revision = repository.push(distill__max_steps=4)
    # Whatever comes later is looked at later.
    other = Kustomization(cluster, f"{repository.name}-other", "flux-system")
    body = example(other.name, repository.name, "flux-system", cluster.namespace)
    del body["spec"]["healthChecks"]
    other.apply({**body, "spec": {**body["spec"], "path": "./other"}})
    assert other.settled(revision) == "ReconciliationSucceeded"
    other.delete()
    assert repository.status()["lastAttemptedRevision"] != revision
    assert [job.metadata.name for job in cluster.conductors(repository.name)] == [before]
    jobs = repository.jobs().keys()
    repository.patch(spec={"suspend": False})
    assert repository.settled(revision) == "ReconciliationSucceeded"
    wait("its job is made", lambda: repository.jobs().keys() - jobs)
    repository.delete()
    wait("the conductor is gone", lambda: not cluster.conductors(repository.name))
    assert jobs < repository.jobs().keys()


def test_what_a_queue_changes_of_a_conductor_is_not_put_back(cluster: Any, kueue: None, tmp_path: Path) -> None:
    """A flavor's tolerations, in a Job that has some of its own and may not be changed any more."""
    name = f"g{uuid.uuid4().hex[:6]}"
    quota = [{"name": "cpu", "nominalQuota": 4}, {"name": "memory", "nominalQuota": "8Gi"}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": name, "resources": quota}]}
    specs: dict[str, Any] = {
        "ResourceFlavor": {"tolerations": [{"key": "spot", "operator": "Exists"}]},
        "ClusterQueue": {"namespaceSelector": {}, "resourceGroups": [group]},
        "LocalQueue": {"clusterQueue": name},
    }
    head = {"apiVersion": "kueue.x-k8s.io/v1beta2", "metadata": {"name": name}}
    queue = install(cluster, [{**head, "kind": kind, "spec": body} for kind, body in specs.items()])
    next(queue)
    document = yaml.safe_load(short(tmp_path, name).read_text())
    document["pools"] = {"small": {"node_selector": {"there-is": "no-such-node"}}}
    own = {"spec": {"tolerations": [{"key": "mine", "operator": "Exists"}]}}
    document["conductor"] = {"image": "minima:jobgen", "labels": {QUEUE: name}, "pod": own}
    made = Kustomization(cluster, name, cluster.namespace)
    revision = push_conductor(cluster, tmp_path, document, name)
    made.apply(example(name, name, cluster.namespace, cluster.namespace))
    assert made.settled(revision) == "ReconciliationSucceeded"

    def keys() -> list[str]:
        (job,) = cluster.conductors(name)
        return [] if job.spec.suspend else [toleration.key for toleration in job.spec.template.spec.tolerations]

    wait("Kueue lets the conductor go", lambda: keys() == ["mine", "spot"], 120)
    assert made.reconcile() == "ReconciliationSucceeded"
    assert keys() == ["mine", "spot"]
    # One that is left alone is replaced all the same.
    document["conductor"]["pod"] = {}
    assert made.settled(push_conductor(cluster, tmp_path, document, name)) == "ReconciliationSucceeded"
    wait("Kueue lets the next one go", lambda: keys() == ["spot"], 120)
    made.delete()
    wait("the conductor is gone", lambda: not cluster.conductors(name))
    next(queue, None)


def push_conductor(cluster: Any, folder: Path, document: dict[str, Any], source: str) -> str:
    """Commit a pipeline's conductor to a repository of the namespace; the revision."""
    place = folder / f"{document['name']}.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, "-m", "jobgen", "render", str(place), "--format", "conductor", "-n", cluster.namespace]
    rendered = folder / f"repository-{source}" / document["name"]
    subprocess.run([*command, "--output", str(rendered)], check=True, capture_output=True)
    return publish(rendered.parent, source, cluster.namespace)


def test_more_pipelines_than_workers_at_once_as_a_tenant(cluster: Any, tmp_path: Path) -> None:
    """None of them holds a worker of Flux while its stage runs, so a commit to all of them is applied at once."""
    docs = (ROOT / "docs" / "gitops.md").read_text(encoding="utf-8")
    for command in re.findall(r"^kubectl create .*$", docs, re.MULTILINE):
        words = shlex.split(command.replace("minima", cluster.namespace))
        subprocess.run([*words, "--kubeconfig", os.environ["KUBECONFIG"]], check=True, capture_output=True)
    source = f"g{uuid.uuid4().hex[:6]}"
    names = [f"{source}-{number}" for number in range(WORKERS + 1)]

    def push(cpu: str) -> str:
        for name in names:
            document = yaml.safe_load(short(tmp_path, name).read_text())
            # Nobody's node: a job that waits costs nothing.
            document["pools"] = {"small": {"cpu": cpu, "node_selector": {"there-is": "no-such-node"}}}
            revision = push_conductor(cluster, tmp_path, document, source)
        return revision

    made = [Kustomization(cluster, name, cluster.namespace) for name in names]
    revision = push("100m")
    for each in made:
        body = example(each.name, source, cluster.namespace, cluster.namespace)
        body["spec"]["serviceAccountName"] = "flux"
        each.apply(body)
    for each in made:
        assert each.settled(revision) == "ReconciliationSucceeded"

    def running() -> dict[str, Any] | None:
        found = {name: cluster.jobs(f"minima/pipeline={name}") for name in names}
        return found if all(found.values()) else None

    before = wait("each has its first job", running)
    first = {name: [job.metadata.uid for job in cluster.conductors(name)] for name in names}
    revision = push("200m")
    for each in made:
        assert each.settled(revision) == "ReconciliationSucceeded"
        (new,) = cluster.conductors(each.name)
        assert first[each.name] != [new.metadata.uid]
        assert not verdict(new)
    # The same artifact on another pool: the job that is there goes on.
    assert {n: [j["metadata"]["uid"] for j in js] for n, js in (running() or {}).items()} == {
        n: [j["metadata"]["uid"] for j in js] for n, js in before.items()
    }
    for each in made:
        each.delete()
    wait("all conductors are gone", lambda: not any(cluster.conductors(name) for name in names))
