"""Checks of a PyTorchJob for what the operator's CRD and webhook let pass: a typo there shows only on the cluster.

Facts of Training Operator 1.9.4; pure, so that `jobgen render` needs no cluster and no client.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jobgen.pipeline import fragment
from jobgen.pipeline.fragment import Path_, Problems
from jobgen.pipeline.pipeline import CONTAINER, LONGEST_JOB, NAME
from jobgen.pod import kueue
from minima.errors import did_you_mean, told

POLICIES = {
    "cleanPodPolicy": ("All", "Running", "None"),
    "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"),
    "rdzvBackend": ("c10d", "etcd", "etcd-v2"),
}
JOB = ("apiVersion", "kind", "metadata", "spec")
METADATA = ("name", "namespace", "labels", "annotations")
SPEC = ("nprocPerNode", "elasticPolicy", "runPolicy", "pytorchReplicaSpecs")
RUN_POLICY = ("cleanPodPolicy", "schedulingPolicy")
"""Not `ttlSecondsAfterFinished` (a GitOps tool would train again), `suspend` and `managedBy` (Kueue's), `backoffLimit`
and `activeDeadlineSeconds` (not honoured)."""
ELASTIC_POLICY = ("rdzvBackend", "minReplicas", "maxReplicas", "rdzvConf")
REPLICA = ("replicas", "restartPolicy", "template")


def problems(job: Mapping[str, Any]) -> list[tuple[Path_, str]]:
    """What is wrong with a rendered PyTorchJob, as pairs of where and what."""
    return list(_job(job))


def _job(job: Mapping[str, Any]) -> Problems:
    yield from _keys(job, JOB, ())
    yield from _keys(job.get("metadata", {}), METADATA, ("metadata",))
    spec = job.get("spec", {})
    yield from _keys(spec, SPEC, ("spec",))
    if (job.get("apiVersion"), job.get("kind")) != ("kubeflow.org/v1", "PyTorchJob"):
        yield ("kind",), f"found {job.get('apiVersion')} {job.get('kind')}; kubeflow.org/v1 PyTorchJob is valid"
    name = job.get("metadata", {}).get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_JOB:
        yield ("metadata", "name"), f"found {told(name)}; a DNS-1035 label of at most {LONGEST_JOB} characters is valid"
    processes = spec.get("nprocPerNode")
    if not isinstance(processes, str) or not processes.isdecimal() or int(processes) < 1:
        yield ("spec", "nprocPerNode"), f"found {told(processes)}; a whole number as a string is valid"
    policy = spec.get("runPolicy", {})
    here = ("spec", "runPolicy")
    yield from _keys(policy, RUN_POLICY, here)
    if policy.get("cleanPodPolicy") != "Running":
        yield (*here, "cleanPodPolicy"), f"found {told(policy.get('cleanPodPolicy'))}; Running frees the GPUs of a failed job"
        yield from _choice(policy, "cleanPodPolicy", here)
    replicas = spec.get("pytorchReplicaSpecs", {})
    here = ("spec", "pytorchReplicaSpecs")
    yield from _keys(replicas, ("Master", "Worker"), here)
    if len(replicas) != 1:
        yield here, f"found {', '.join(replicas) or 'none'}; one of Master and Worker is valid"
    for kind, replica in replicas.items():
        yield from _replica(replica, kind, (*here, kind))
    elastic = spec.get("elasticPolicy")
    if elastic is not None:
        yield from _elastic(elastic, replicas)


def _elastic(policy: Mapping[str, Any], replicas: Mapping[str, Any]) -> Problems:
    path = ("spec", "elasticPolicy")
    yield from _keys(policy, ELASTIC_POLICY, path)
    yield from _choice(policy, "rdzvBackend", path)
    if "Worker" not in replicas:
        yield path, "found without Worker; the rendezvous is at worker 0"
    pods = replicas.get("Worker", {}).get("replicas")
    if not policy.get("minReplicas") == policy.get("maxReplicas") == pods:
        yield path, f"found minReplicas and maxReplicas other than Worker's replicas {told(pods)}; all three are the same"
    for number, entry in enumerate(policy.get("rdzvConf", [])):
        if set(entry) != {"key", "value"} or not all(isinstance(v, str) for v in entry.values()):
            yield (*path, "rdzvConf", str(number)), f"found {told(entry)}; key and value as strings are valid"


def _replica(replica: Mapping[str, Any], kind: str, path: Path_) -> Problems:
    yield from _keys(replica, REPLICA, path)
    yield from _choice(replica, "restartPolicy", path)
    pods = replica.get("replicas")
    if isinstance(pods, bool) or not isinstance(pods, int) or pods < 1 or (kind == "Master" and pods != 1):
        yield (*path, "replicas"), f"found {told(pods)}; {'1' if kind == 'Master' else 'a whole number above 0'} is valid"
    template = replica.get("template", {})
    path = (*path, "template")
    yield from (((*path, *where), what) for where, what in fragment.lacks(template))
    yield from (((*path, *where), what) for where, what in kueue.too_large(template, pods if isinstance(pods, int) else 0))
    containers = template.get("spec", {}).get("containers", [])
    if [c.get("name") for c in containers] != [CONTAINER]:
        names = ", ".join(str(c.get("name")) for c in containers)
        yield (*path, "spec", "containers"), f"found {names or 'none'}; one container named {CONTAINER} is valid"
    for number, container in enumerate(containers):
        yield from _container(container, (*path, "spec", "containers", str(number)))


def _container(container: Mapping[str, Any], path: Path_) -> Problems:
    for key in ("command", "args"):
        words = container.get(key)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            yield (*path, key), f"found {told(words)}; a list of strings is valid"
    if [p.get("name") for p in container.get("ports", [])] != ["pytorchjob-port"]:
        yield (*path, "ports"), "the operator looks for one named pytorchjob-port"
    resources = container.get("resources", {})
    amounts = {side: resources.get(side, {}) for side in ("requests", "limits")}
    for side, found in amounts.items():
        yield from (((*path, "resources", side), f"{key} is missing") for key in ("cpu", "memory") if key not in found)
    if amounts["requests"].get("memory") != amounts["limits"].get("memory"):
        what = f"found {told(amounts['limits'].get('memory'))}, and {told(amounts['requests'].get('memory'))} asked for"
        yield (*path, "resources", "limits", "memory"), f"{what}; request and limit are the same"


def _choice(holder: Mapping[str, Any], key: str, path: Path_) -> Problems:
    value = holder.get(key)
    if value not in POLICIES[key]:
        yield (*path, key), f"found {told(value)}; {did_you_mean(str(value), POLICIES[key])}"


def _keys(found: Mapping[str, Any], valid: Iterable[str], path: Path_) -> Problems:
    for key in found:
        if key not in valid:
            yield (*path, key), f"unknown; {did_you_mean(key, valid)}"
