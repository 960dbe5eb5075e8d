"""What happens when: faults in a training of two pods, one after the other, on a real cluster.

Where the training goes on, its weights are those of the unbroken run, byte for byte.
"""

import contextlib
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster.objects import last_words
from jobgen.manifests import render
from jobgen.pipeline import plan, spec
from minima.errors import StageError
from tests.cluster.conftest import conditions, digest, execute, first_stages, only_distill, wait

pytestmark = [pytest.mark.cluster]
STEP = re.compile(r"step (\d+)/\d+ loss")
STEPS = 150
"""Enough for one fault after the other."""
SAVED = 10
"""Steps between two checkpoints."""
SIGNAL = """
import os, pathlib, signal
places = pathlib.Path('/proc').glob('[0-9]*/cmdline')
found = [place.parent.name for place in places if b'minima.process.worker' in place.read_bytes()]
(worker,) = [int(name) for name in found if name not in ('1', str(os.getpid()))]
os.kill(worker, signal.{name})
"""


@pytest.fixture(scope="module")
def base(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return first_stages(cluster, tmp_path_factory.mktemp("faults"))


def distill(cluster: Any, base: dict[str, str], **changes: Any) -> tuple[dict[str, Any], str]:
    """The PyTorchJob of `distill` alone, under a new pipeline's name, and the folder it makes."""
    records = changes.pop("records", base["records"])
    document = only_distill(f"f{uuid.uuid4().hex[:6]}", base["model"], records, **{"max_steps": STEPS, **changes})
    pipeline = spec.parse(yaml.safe_dump(document, sort_keys=False), "fault.yaml")
    (step,) = plan.plan(pipeline)
    return render.job(pipeline, step, cluster.namespace), step.output_dir


@dataclass(frozen=True)
class Unbroken:
    """A training from its first step to its last, with a pause in which a newer job wanted its folder, and how that ended."""

    name: str
    weights: str
    restarts: int
    newer: tuple[int, str]


@pytest.fixture(scope="module")
def unbroken(cluster: Any, base: dict[str, str]) -> Unbroken:
    older, folder = distill(cluster, base)
    newer = yaml.safe_load(yaml.safe_dump(older))
    container(newer)["containers"][0]["image"] = "minima:jobgen"
    newer["metadata"]["name"] = f"{older['metadata']['name'][:-1]}z"
    cluster.create(older)
    name = older["metadata"]["name"]
    wait("it trains", lambda: steps(cluster, name))
    hang(cluster, f"{name}-worker-1")  # So that it is not done before the newer one is there.
    ended = failed(cluster, newer)
    inside(cluster, f"{name}-worker-1", "python", "-c", SIGNAL.format(name="SIGCONT"))
    wait("the older job ends", lambda: "Succeeded" in conditions(find(cluster, name)))
    weights = digest(cluster, "minima:cpu", f"{folder}/model.safetensors")
    return Unbroken(name, weights, cluster.restarts(find(cluster, name)), ended)


def test_two_jobs_never_write_one_folder(unbroken: Unbroken) -> None:
    """An image bump while the stage runs, applied by hand or by a GitOps tool: the older job goes on, the newer one ends."""
    code, words = unbroken.newer
    assert (code, f"{unbroken.name}-worker-" in words) == (75, True), words
    assert unbroken.restarts == 0


def pods(cluster: Any, job: str) -> list[Any]:
    found: list[Any] = cluster.pods(f"training.kubeflow.org/job-name={job}")
    return found


def steps(cluster: Any, job: str, but: frozenset[str] = frozenset()) -> list[int]:
    """The optimizer steps that the pods there have logged, leaving some out by their uid."""
    found = []
    for pod in pods(cluster, job):
        if pod.status.phase == "Running" and pod.metadata.uid not in but:
            with contextlib.suppress(StageError):  # Replaced meanwhile, or its container is not there yet.
                for line in cluster.lines(pod.metadata.name):
                    found += [int(n) for n in STEP.findall(line)]
    return found


def find(cluster: Any, job: str) -> dict[str, Any]:
    (found,) = [j for j in cluster.jobs("") if j["metadata"]["name"] == job]
    return dict(found)


def inside(cluster: Any, pod: str, *command: str) -> None:
    """Run a command in a pod's container."""
    from kubernetes.stream import stream

    call = stream(
        cluster.core.connect_get_namespaced_pod_exec,
        pod,
        cluster.namespace,
        command=list(command),
        stdout=True,
        stderr=True,
        _preload_content=False,
    )
    call.run_forever(timeout=30)
    # 137: the container ended while it looked.
    assert call.returncode in {0, 137}, f"{call.read_stdout()}{call.read_stderr()}"
    call.sock.shutdown()  # Its own close() leaves the socket open once the server has closed the connection.


def delete(cluster: Any, pod: str) -> None:
    cluster.core.delete_namespaced_pod(pod, cluster.namespace)


def delete_at_once(cluster: Any, pod: str) -> None:
    """As a lost node does: nothing can be saved."""
    cluster.core.delete_namespaced_pod(pod, cluster.namespace, grace_period_seconds=0)


def kill_worker(cluster: Any, pod: str) -> None:
    inside(cluster, pod, "python", "-c", SIGNAL.format(name="SIGKILL"))


def terminate(cluster: Any, pod: str) -> None:
    inside(cluster, pod, "python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")


def hang(cluster: Any, pod: str) -> None:
    """A worker that stands still, as one whose device hangs."""
    inside(cluster, pod, "python", "-c", SIGNAL.format(name="SIGSTOP"))


FAULTS = [(delete_at_once, 1), (kill_worker, 1), (terminate, 0)]
MORE = [(delete, 0), (delete, 1), (delete_at_once, 0), (kill_worker, 0), (terminate, 1), (hang, 1)]


@pytest.mark.parametrize("faults", [FAULTS, pytest.param(MORE, marks=pytest.mark.long)], ids=["some", "more"])
def test_training_goes_on_to_the_same_weights(
    cluster: Any, base: dict[str, str], unbroken: Unbroken, faults: list[tuple[Callable[[Any, str], None], int]]
) -> None:
    """One fault after the other, each when a checkpoint was made since the one before."""
    job, folder = distill(cluster, base)
    # A peer that hangs is given up after a minute, not ten.
    container(job)["containers"][0]["env"].append({"name": "DEEPSPEED_TIMEOUT", "value": "1"})
    name = job["metadata"]["name"]
    cluster.create(job)
    reached, before = 0, frozenset[str]()
    for fault, which in faults:
        reached = wait(
            f"a checkpoint before {fault.__name__}",
            lambda: max((n for n in steps(cluster, name, before) if n > reached + SAVED), default=0),  # noqa: B023
        )
        before = frozenset(pod.metadata.uid for pod in pods(cluster, name))
        fault(cluster, f"{name}-worker-{which}")
        wait(f"{fault.__name__} leads to a new pod", lambda: {p.metadata.uid for p in pods(cluster, name)} - before)  # noqa: B023
    wait("the job ends", lambda: conditions(find(cluster, name)) & {"Succeeded", "Failed"})
    assert "Succeeded" in conditions(find(cluster, name)), last_words(pods(cluster, name))
    assert cluster.restarts(find(cluster, name)) >= 1
    assert digest(cluster, "minima:cpu", f"{folder}/model.safetensors") == unbroken.weights
    cluster.delete(name)


def failed(cluster: Any, job: dict[str, Any]) -> tuple[int, str]:
    """Run a job that fails; exit code and last words. Its other pod is gone soon, and the one that failed stays as it is."""
    name = job["metadata"]["name"]
    cluster.create(job)
    wait("the job ends", lambda: conditions(find(cluster, name)) & {"Succeeded", "Failed"})
    found = find(cluster, name)
    assert "Failed" in conditions(found)
    wait("no pod runs", lambda: not any(pod.status.phase == "Running" for pod in pods(cluster, name)), 60)
    words = last_words(pods(cluster, name))
    assert words is not None
    ended = min(
        s.state.terminated.finished_at
        for pod in pods(cluster, name)
        for s in pod.status.container_statuses or []
        if s.state.terminated
    )
    (when,) = [c["lastTransitionTime"] for c in found["status"]["conditions"] if c["type"] == "Failed"]
    assert (datetime.fromisoformat(when.replace("Z", "+00:00")).astimezone(UTC) - ended).total_seconds() < 30
    # The other pod, which lost its peer, may have been made again before the operator saw the cause.
    assert cluster.restarts(found) <= 1
    return words


def container(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    return found


def alone(job: dict[str, Any]) -> None:
    """Leave a job one pod: another one would cost seconds and show nothing."""
    job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = 1
    job["spec"]["elasticPolicy"] |= {"minReplicas": 1, "maxReplicas": 1}


def test_a_wrong_option_is_64(cluster: Any, base: dict[str, str]) -> None:
    job, _ = distill(cluster, base)
    container(job)["containers"][0]["args"] += ["--learning_rat", "1"]
    code, words = failed(cluster, job)
    assert (code, "did you mean 'learning_rate'?" in words) == (64, True)


def test_corrupt_data_is_65(cluster: Any, base: dict[str, str]) -> None:
    program = f"""
import pathlib, shutil
shutil.copytree({base["records"]!r}, '/workspace/corrupt', ignore=lambda folder, names: [n for n in names if n[0] in '_.'])
for place in pathlib.Path('/workspace/corrupt').glob('dev-*.tfrecord'):
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
"""
    execute(cluster, "minima:cpu", ["python", "-c", program])
    job, _ = distill(cluster, base, records="/workspace/corrupt")
    code, words = failed(cluster, job)
    assert code == 65
    assert re.search(
        r"/workspace/corrupt/dev-.*\.tfrecord: record \d+ at byte \d+: the checksum of its content is wrong", words
    )


def test_an_unexpected_error_is_70(cluster: Any, base: dict[str, str]) -> None:
    """A library that breaks in a way nobody thought of: its traceback is in the log, and no retry."""
    program = """
import pathlib
place = pathlib.Path('/workspace/broken/deepspeed.py')
place.parent.mkdir()
place.write_text("raise RuntimeError('planted')")
"""
    execute(cluster, "minima:cpu", ["python", "-c", program])
    job, _ = distill(cluster, base)
    container(job)["containers"][0]["env"].append({"name": "PYTHONPATH", "value": "/workspace/broken"})
    alone(job)
    code, words = failed(cluster, job)
    assert (code, "unexpected RuntimeError: planted; this is a bug of minima" in words) == (70, True), words
    said = [line for pod in pods(cluster, job["metadata"]["name"]) for line in cluster.lines(pod.metadata.name)]
    assert any("Traceback (most recent call last)" in line for line in said)


def test_a_missing_input_is_75(cluster: Any, base: dict[str, str]) -> None:
    job, _ = distill(cluster, base, records="/workspace/nowhere")
    code, words = failed(cluster, job)
    assert (code, "nothing at /workspace/nowhere" in words) == (75, True)


def test_a_full_volume_is_74(cluster: Any, base: dict[str, str]) -> None:
    """The pipeline's folder on a volume that holds less than a checkpoint of each process."""
    job, folder = distill(cluster, base)
    pod = container(job)
    pod["volumes"].append({"name": "full", "emptyDir": {"medium": "Memory", "sizeLimit": "96Ki"}})
    pod["containers"][0]["volumeMounts"].append({"name": "full", "mountPath": str(Path(folder).parent)})
    alone(job)
    code, words = failed(cluster, job)
    assert (code, "no space left" in words) == (74, True)


def test_attempts_used_up_are_70(cluster: Any, base: dict[str, str]) -> None:
    """What stands in the workspace after ten starts that came to nothing; nothing else limits them."""
    job, folder = distill(cluster, base)
    program = (
        f"import pathlib; place = pathlib.Path({folder!r}); place.mkdir(parents=True); "
        "(place / '_attempts.json').write_text('{\"progress\": 0, \"attempts\": 10}')"
    )
    execute(cluster, "minima:cpu", ["python", "-c", program])
    code, words = failed(cluster, job)
    assert (code, "10 starts without progress" in words) == (70, True), words


def test_out_of_memory_is_137_and_tried_again_and_counted(cluster: Any, base: dict[str, str]) -> None:
    job, folder = distill(cluster, base)
    resources = container(job)["containers"][0]["resources"]
    resources["limits"]["memory"] = resources["requests"]["memory"] = "160Mi"
    container(job)["volumes"][-1]["emptyDir"]["sizeLimit"] = "16Mi"
    name = job["metadata"]["name"]
    cluster.create(job)
    codes: set[int] = set()

    def host() -> set[str]:
        return {pod.metadata.uid for pod in pods(cluster, name) if pod.metadata.name.endswith("-worker-0")}

    first = wait("the pod is there", host)

    def killed() -> bool:
        words = last_words(pods(cluster, name))
        codes.update({words[0]} if words else set())
        return bool(host() - first)

    wait("a pod is made again", killed)
    assert "Failed" not in conditions(find(cluster, name))
    assert codes <= {134, 137}
    cluster.delete(name)
    noted = json.loads(execute(cluster, "minima:cpu", ["cat", f"{folder}/_attempts.json"]))
    assert noted["attempts"] + noted["begun"] >= 1
