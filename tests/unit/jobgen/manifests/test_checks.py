"""Each typo that the operator's CRD and webhook let pass is found here."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from jobgen.manifests import checks, render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan

PIPELINE = spec.load("minima-3b")
STEPS = {step.name: step for step in plan(PIPELINE)}
Change = Callable[[dict[str, Any]], object]


def job(stage: str) -> dict[str, Any]:
    return copy.deepcopy(render.job(PIPELINE, STEPS[stage]))


def worker(made: dict[str, Any]) -> dict[str, Any]:
    return made["spec"]["pytorchReplicaSpecs"]["Worker"]


def container(made: dict[str, Any]) -> dict[str, Any]:
    return worker(made)["template"]["spec"]["containers"][0]


def rename(holder: dict[str, Any], old: str, new: str) -> None:
    holder[new] = holder.pop(old)


def told(made: dict[str, Any]) -> str:
    return "\n".join(f"{'.'.join(path)}: {what}" for path, what in checks.problems(made))


CHANGES: dict[str, tuple[Change, str]] = {
    "cleanPodPolicy": (
        lambda o: o["spec"]["runPolicy"].update(cleanPodPolicy="running"),
        "cleanPodPolicy: found 'running'; did you mean 'Running'?",
    ),
    "cleanPodPolicy None": (lambda o: o["spec"]["runPolicy"].update(cleanPodPolicy="None"), "Running frees the GPUs"),
    "restartPolicy": (
        lambda o: worker(o).update(restartPolicy="OnFail"),
        "Worker.restartPolicy: found 'OnFail'; did you mean 'OnFailure'?",
    ),
    "rdzvBackend": (
        lambda o: o["spec"]["elasticPolicy"].update(rdzvBackend="c10"),
        "elasticPolicy.rdzvBackend: found 'c10'; did you mean 'c10d'?",
    ),
    "replica type": (
        lambda o: rename(o["spec"]["pytorchReplicaSpecs"], "Worker", "Wroker"),
        "pytorchReplicaSpecs.Wroker: unknown; did you mean 'Worker'?",
    ),
    "unknown field": (lambda o: o["spec"].update(nproc_per_node="8"), "spec.nproc_per_node: unknown; did you mean"),
    "unknown field of a pod": (
        lambda o: worker(o)["template"]["spec"].update(automountServiceAccountTokens=False),
        "automountServiceAccountTokens: unknown; did you mean 'automountServiceAccountToken'?",
    ),
    "time to live": (
        lambda o: o["spec"]["runPolicy"].update(ttlSecondsAfterFinished=60),
        "runPolicy.ttlSecondsAfterFinished: unknown",
    ),
    "suspend": (lambda o: o["spec"]["runPolicy"].update(suspend=True), "runPolicy.suspend: unknown"),
    "nprocPerNode": (lambda o: o["spec"].update(nprocPerNode=8), "nprocPerNode: found 8; a whole number as a string"),
    "name too long": (lambda o: o["metadata"].update(name="a" * 54), "metadata.name: found"),
    "name with a dot": (lambda o: o["metadata"].update(name="a.b"), "metadata.name: found 'a.b'"),
    "replicas": (lambda o: worker(o).pop("replicas"), "Worker.replicas: found null"),
    "container's name": (lambda o: container(o).update(name="main"), "containers: found main; one container named pytorch"),
    "port's name": (lambda o: container(o)["ports"][0].update(name="port"), "one named pytorchjob-port"),
    "shell string": (lambda o: container(o).update(command="minima adapt"), "command: found 'minima adapt'; a list of strings"),
    "number as argument": (lambda o: container(o)["args"].append(776), "args: found"),
    "number as variable": (lambda o: container(o)["env"].append({"name": "A", "value": 1}), ".value: found 1; a string"),
    "variable twice": (lambda o: container(o)["env"].append({"name": "HOME", "value": "/"}), ": found name HOME twice"),
    "mount": (
        lambda o: container(o)["volumeMounts"][0].update(name="workspce"),
        "no volume 'workspce'; did you mean 'workspace'?",
    ),
    "request is not limit": (
        lambda o: container(o)["resources"]["requests"].update({"nvidia.com/gpu": "4"}),
        "resources.requests.nvidia.com/gpu: found '4', and '8' in `limits`",
    ),
    "no limit": (lambda o: container(o)["resources"]["limits"].pop("memory"), "resources.limits.memory: found null"),
    "min is not max": (lambda o: o["spec"]["elasticPolicy"].update(minReplicas=1), "all three are the same"),
    "rdzvConf": (
        lambda o: o["spec"]["elasticPolicy"]["rdzvConf"].append({"key": "a", "value": 1}),
        "rdzvConf.2: found {key: 'a', value: 1}",
    ),
    "kind": (lambda o: o.update(kind="TFJob"), "kind: found kubeflow.org/v1 TFJob"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_typo_is_found(change: str) -> None:
    made = job("adapt")
    assert checks.problems(made) == []
    edit, expected = CHANGES[change]
    edit(made)
    assert expected in told(made)


def test_a_master_is_alone_and_one() -> None:
    made = job("finetune")
    master = made["spec"]["pytorchReplicaSpecs"]["Master"]
    del master["replicas"]
    assert "Master.replicas: found null; 1 is valid" in told(made)
    master["replicas"] = 2
    assert "Master.replicas: found 2; 1 is valid" in told(made)
    master["replicas"] = 1
    assert checks.problems(made) == []
    made["spec"]["pytorchReplicaSpecs"]["Worker"] = {**master, "replicas": 3}
    assert "one of Master and Worker is valid" in told(made)
