"""The conductor on a real cluster: a pipeline to its end, whatever becomes of the conductor's pod."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster.objects import last_words
from jobgen.cluster.state import KEY, parse
from jobgen.manifests import conductor
from jobgen.pipeline import plan, spec
from tests.cluster.conftest import conditions, execute, only_distill, short, wait

pytestmark = [pytest.mark.cluster]
Jobgen = Callable[..., subprocess.CompletedProcess[str]]


def apply(cluster: Any, pipeline: Path) -> str:
    """`jobgen render --format conductor`, then `kubectl apply -f`; the Job's name."""
    from kubernetes.dynamic import DynamicClient

    command = [sys.executable, "-m", "jobgen", "render", str(pipeline), "--format", "conductor", "--output", "-"]
    text = subprocess.run([*command, "--namespace", cluster.namespace], capture_output=True, text=True, check=True).stdout
    client = DynamicClient(cluster.core.api_client)
    for each in yaml.safe_load_all(text):
        kind = client.resources.get(api_version=each["apiVersion"], kind=each["kind"])
        client.server_side_apply(kind, body=each, namespace=cluster.namespace, field_manager="kubectl")
    return str(each["metadata"]["name"])


def ended(cluster: Any, job: str) -> str:
    found = cluster.batch.read_namespaced_job(job, cluster.namespace).status.conditions or []
    return next((c.type for c in found if c.status == "True" and c.type in {"Complete", "Failed"}), "")


def of(cluster: Any, stage: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = cluster.jobs(f"minima/stage={stage}")
    return jobs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def done(cluster: Any, folder: Path) -> Path:
    """The short pipeline, applied once, whose conductor's pod was deleted while `distill` ran."""
    pipeline = short(folder)
    job = apply(cluster, pipeline)
    wait("distill runs", lambda: any("Running" in conditions(j) for j in of(cluster, "distill")))
    (pod,) = cluster.pods(f"batch.kubernetes.io/job-name={job}")
    cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace)
    assert wait("the conductor ends", lambda: ended(cluster, job)) == "Complete"
    last = cluster.pods(f"batch.kubernetes.io/job-name={job}")[-1]
    assert last.metadata.uid != pod.metadata.uid
    said = "\n".join(cluster.lines(last.metadata.name))
    assert "[3/3] distill: finished (" in said
    assert said.splitlines()[-1].startswith("distill ")  # The table's row of perplexities.
    return pipeline


def test_it_goes_on_where_its_pod_was_deleted(cluster: Any, done: Path) -> None:
    assert [len(of(cluster, stage)) for stage in ("init-model", "build-data", "distill")] == [1, 1, 1]


def test_finished_stages_need_no_pod(cluster: Any, done: Path, jobgen: Jobgen) -> None:
    """With all jobs gone, only the markers say that there is nothing to do."""
    for job in cluster.jobs(""):
        cluster.delete(job["metadata"]["name"])
    said = jobgen("run", str(done))
    assert said.stderr.count("finished already") == 3
    assert "perplexity on held-out records" in said.stdout
    assert cluster.jobs("") == []


def test_status_and_diff(cluster: Any, done: Path, jobgen: Jobgen, folder: Path) -> None:
    found = parse(jobgen("status", str(done), "--output", "json").stdout)
    assert found is not None
    assert (found.state, found.exit_code) == ("finished", 0)
    names = ["init-model", "build-data", "distill"]
    assert [(each.stage, each.state) for each in found.stages] == [(name, "finished") for name in names]
    assert found.stages[2].result is not None
    assert "conductor" in jobgen("status", str(done)).stdout
    # By jobs and pods, as without a conductor.
    cluster.write_note(conductor.state_name("short"), KEY, "", {})
    bare = parse(jobgen("status", str(done), "--output", "json").stdout)
    assert bare is not None
    assert [each.state for each in bare.stages] == ["finished"] * 3
    changed = short(folder, learning_rate=2e-3)
    try:
        assert "no job of it is there" in jobgen("diff", str(changed)).stdout
    finally:
        short(folder)


def test_a_namespace_that_is_not_there_is_said(done: Path) -> None:
    for command in ("status", "diff", "run"):
        words = [sys.executable, "-m", "jobgen", command, str(done), "--namespace", "jobgen-nowhere"]
        failed = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (failed.returncode, "no such namespace: jobgen-nowhere" in failed.stderr) == (64, True), failed.stderr


def test_from_a_stage_on(cluster: Any, done: Path, jobgen: Jobgen) -> None:
    said = jobgen("run", str(done), "--from", "distill", "--yes").stderr
    assert "conductor: set aside distill-" in said
    assert re.search(r"\[2/3\] build-data +finished already", said)
    assert re.search(r"\[3/3\] distill +finished in ", said)
    assert len(of(cluster, "distill")) == 1
    there = execute(cluster, "minima:cpu", ["ls", "-A", "/workspace/short/_aside"]).split()
    assert sum(name.startswith("distill-") for name in there) == 1
    assert "has ended" in jobgen("run", str(done)).stderr  # Without --from it is another Job.


def test_a_failed_stage_ends_it_with_its_last_words_and_a_fix_goes_on(
    cluster: Any, done: Path, jobgen: Jobgen, folder: Path
) -> None:
    document = yaml.safe_load(done.read_text())
    document["stages"]["build-data"]["options"]["text_key"] = ["txt"]
    broken = folder / "broken.yaml"
    broken.write_text(yaml.safe_dump(document, sort_keys=False))
    failed = jobgen("run", str(broken), code=65)
    assert "did you mean 'text'?" in failed.stderr
    found = parse(jobgen("status", str(broken), "--output", "json").stdout)
    assert found is not None
    assert [each.state for each in found.stages] == ["finished", "failed", "waiting"]
    assert found.stages[1].exit_code == 65
    assert "did you mean 'text'?" in found.stages[1].words
    again = jobgen("diff", str(done)).stdout
    for stage in ("init-model", "build-data", "distill"):  # Of which a test above deleted some jobs.
        assert re.search(rf"^{stage} +same( +its job is gone)?$", again, re.MULTILINE), again
    assert re.search(r"\[2/3\] build-data +finished already", jobgen("run", str(done)).stderr)


def test_a_missing_input_is_said_before_any_pod(cluster: Any, done: Path, jobgen: Jobgen, folder: Path) -> None:
    document = yaml.safe_load(done.read_text())
    document["name"] = "missing"
    document["inputs"] = {"text": "/workspace/nowhere"}
    document["stages"]["build-data"]["options"]["input_dir"] = "${text}"
    place = folder / "missing.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False))
    said = jobgen("run", str(place), code=75)
    assert "inputs.text: nothing at /workspace/nowhere" in said.stderr
    assert cluster.jobs("minima/pipeline=missing") == []


def test_another_image_while_a_stage_runs(cluster: Any, done: Path, jobgen: Jobgen, folder: Path) -> None:
    """The newer conductor takes over and goes on with the running job; `restart` puts it on the new image."""
    made = {step.name: step.output_dir for step in plan.plan(spec.load(str(done)))}
    old = folder / "bump.yaml"
    document = only_distill("bump", f"{made['init-model']}/model", made["build-data"])
    old.write_text(yaml.safe_dump(document, sort_keys=False))
    first = apply(cluster, old)
    mine = "minima/pipeline=bump,minima/stage=distill"
    wait("distill runs", lambda: any("Running" in conditions(j) for j in cluster.jobs(mine)))
    new = folder / "bump-new.yaml"
    new.write_text(old.read_text().replace("image: minima:cpu", "image: minima:jobgen"))
    assert 'image "minima:cpu" → "minima:jobgen"' in jobgen("diff", str(new)).stdout
    second = apply(cluster, new)
    assert wait("the older conductor ends", lambda: ended(cluster, first)) == "Failed"
    (pod,) = cluster.pods(f"batch.kubernetes.io/job-name={first}")
    code, words = last_words([pod]) or (0, "")
    assert (code, f"a newer conductor took over: {second}" in words) == (75, True)
    (before,) = cluster.jobs(mine)
    wait("a checkpoint is there", lambda: "step 1" in jobgen("logs", str(new), "distill").stdout)
    assert "saves a checkpoint first" in jobgen("restart", str(new), "distill").stderr
    assert wait("the newer conductor ends", lambda: ended(cluster, second)) == "Complete"
    (after,) = cluster.jobs(mine)
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert len(cluster.jobs("minima/pipeline=bump")) == 1
    assert "does not run" in jobgen("restart", str(new), "distill", code=64).stderr


def test_it_may_do_nothing_but_what_it_does(cluster: Any, done: Path) -> None:
    """Every verb on every kind that the Role could grant, asked of the cluster's own authorizer."""
    from kubernetes.client import AuthorizationV1Api

    allowed = {
        (group, resource, verb)
        for rule in conductor.RULES
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    kinds = [("kubeflow.org", "pytorchjobs"), ("", "pods"), ("", "pods/log"), ("", "pods/exec"), ("batch", "jobs")]
    kinds += [("", "secrets"), ("", "configmaps"), ("", "serviceaccounts/token"), ("rbac.authorization.k8s.io", "roles")]
    api = AuthorizationV1Api(cluster.core.api_client)
    user = f"system:serviceaccount:{cluster.namespace}:short-conductor"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{cluster.namespace}", "system:authenticated"]
    for namespace in (cluster.namespace, "default"):
        for group, kind in kinds:
            for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
                resource, _, sub = kind.partition("/")
                asked = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
                review = {"spec": {"user": user, "groups": groups, "resourceAttributes": asked}}
                answer = api.create_subject_access_review(review).status.allowed
                assert answer == (namespace == cluster.namespace and (group, kind, verb) in allowed), (namespace, kind, verb)


def test_training_pods_hold_no_token(cluster: Any, done: Path) -> None:
    for pod in cluster.pods("app.kubernetes.io/managed-by=jobgen"):
        if pod.metadata.labels["app.kubernetes.io/component"] != "conductor":
            assert pod.spec.automount_service_account_token is False
            assert not any("kube-api-access" in volume.name for volume in pod.spec.volumes)


def test_the_pipeline_needs_an_image_for_it(done: Path) -> None:
    pipeline = spec.parse(done.read_text().replace("conductor: minima:jobgen\n", ""), "p.yaml")
    with pytest.raises(Exception, match=r"conductor: missing; the image of the root Dockerfile"):
        conductor.objects(pipeline)
