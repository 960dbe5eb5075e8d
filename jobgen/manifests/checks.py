"""Checks of a PyTorchJob for what the operator's CRD and webhook let pass: a typo there shows only on the cluster.

Facts of Training Operator 1.9.4; pure, so that `jobgen render` needs no cluster and no client.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jobgen.pipeline import fragment
from jobgen.pipeline.pipeline import CONTAINER, LONGEST_JOB, NAME
from minima.errors import did_you_mean

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


def problems(job: Mapping[str, Any]) -> list[str]:
    """What is wrong with a rendered PyTorchJob, each with its path; empty when nothing is."""
    return list(_job(job))


def _job(job: Mapping[str, Any]) -> Iterator[str]:
    yield from _keys(job, JOB, "")
    yield from _keys(job.get("metadata", {}), METADATA, "metadata")
    spec = job.get("spec", {})
    yield from _keys(spec, SPEC, "spec")
    if (job.get("apiVersion"), job.get("kind")) != ("kubeflow.org/v1", "PyTorchJob"):
        yield f"kind: found {job.get('apiVersion')} {job.get('kind')}; kubeflow.org/v1 PyTorchJob is valid"
    name = job.get("metadata", {}).get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_JOB:
        yield f"metadata.name: found {name!r}; a DNS-1035 label of at most {LONGEST_JOB} characters is valid"
    processes = spec.get("nprocPerNode")
    if not isinstance(processes, str) or not processes.isdecimal() or int(processes) < 1:
        yield f"spec.nprocPerNode: found {processes!r}; a whole number as a string is valid"
    policy = spec.get("runPolicy", {})
    yield from _keys(policy, RUN_POLICY, "spec.runPolicy")
    if policy.get("cleanPodPolicy") != "Running":
        yield f"spec.runPolicy.cleanPodPolicy: found {policy.get('cleanPodPolicy')!r}; Running frees the GPUs of a failed job"
        yield from _choice(policy, "cleanPodPolicy", "spec.runPolicy")
    replicas = spec.get("pytorchReplicaSpecs", {})
    yield from _keys(replicas, ("Master", "Worker"), "spec.pytorchReplicaSpecs")
    if len(replicas) != 1:
        yield f"spec.pytorchReplicaSpecs: found {', '.join(replicas) or 'none'}; one of Master and Worker is valid"
    for kind, replica in replicas.items():
        yield from _replica(replica, kind, f"spec.pytorchReplicaSpecs.{kind}")
    elastic = spec.get("elasticPolicy")
    if elastic is not None:
        yield from _elastic(elastic, replicas)


def _elastic(policy: Mapping[str, Any], replicas: Mapping[str, Any]) -> Iterator[str]:
    path = "spec.elasticPolicy"
    yield from _keys(policy, ELASTIC_POLICY, path)
    yield from _choice(policy, "rdzvBackend", path)
    if "Worker" not in replicas:
        yield f"{path}: found without Worker; the rendezvous is at worker 0"
    pods = replicas.get("Worker", {}).get("replicas")
    if not policy.get("minReplicas") == policy.get("maxReplicas") == pods:
        yield f"{path}: found minReplicas and maxReplicas other than Worker's replicas {pods!r}; all three are the same"
    for number, entry in enumerate(policy.get("rdzvConf", [])):
        if set(entry) != {"key", "value"} or not all(isinstance(v, str) for v in entry.values()):
            yield f"{path}.rdzvConf.{number}: found {entry!r}; key and value as strings are valid"


def _replica(replica: Mapping[str, Any], kind: str, path: str) -> Iterator[str]:
    yield from _keys(replica, REPLICA, path)
    yield from _choice(replica, "restartPolicy", path)
    pods = replica.get("replicas")
    if isinstance(pods, bool) or not isinstance(pods, int) or pods < 1 or (kind == "Master" and pods != 1):
        yield f"{path}.replicas: found {pods!r}; {'1' if kind == 'Master' else 'a whole number above 0'} is valid"
    template = replica.get("template", {})
    for where, what in fragment.lacks(template, (path, "template")):
        yield f"{'.'.join(where)}: {what}"
    pod = template.get("spec", {})
    containers = pod.get("containers", [])
    if [c.get("name") for c in containers] != [CONTAINER]:
        names = ", ".join(str(c.get("name")) for c in containers)
        yield f"{path}.template.spec.containers: found {names or 'none'}; one container named {CONTAINER} is valid"
    for container in containers:
        yield from _container(container, f"{path}.template.spec.containers.{container.get('name')}")
    yield from unmounted(template, f"{path}.template.")


def unmounted(template: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Mounts of a pod's template that have no volume, each with its place below `path`."""
    pod = template.get("spec", {})
    volumes = {volume.get("name") for volume in pod.get("volumes", [])}
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind, []):
            for name in (mount.get("name") for mount in container.get("volumeMounts", [])):
                if name not in volumes:
                    where = f"{path}spec.{kind}.{container.get('name')}.volumeMounts"
                    yield f"{where}: no volume {name!r}; {did_you_mean(str(name), volumes)}"


def _container(container: Mapping[str, Any], path: str) -> Iterator[str]:
    if not container.get("image"):
        yield f"{path}.image: missing"
    for key in ("command", "args"):
        words = container.get(key)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            yield f"{path}.{key}: found {words!r}; a list of strings is valid"
    names = [entry.get("name") for entry in container.get("env", [])]
    for entry in container.get("env", []):
        if names.count(entry.get("name")) > 1:
            yield f"{path}.env: found {entry.get('name')} twice"
        if not isinstance(entry.get("value", ""), str):  # None at all is an empty one.
            yield f"{path}.env.{entry.get('name')}: found {entry.get('value')!r}; a string is valid"
    if [p.get("name") for p in container.get("ports", [])] != ["pytorchjob-port"]:
        yield f"{path}.ports: the operator looks for one named pytorchjob-port"
    resources = container.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for key in sorted({"cpu", "memory"} | set(requests) | set(limits)):
        for side, values in (("requests", requests), ("limits", limits)):
            if key not in values and key not in {"cpu", "memory"}:
                continue  # Kubernetes takes the other side.
            value = values.get(key)
            if not isinstance(value, str) or not fragment.QUANTITY.fullmatch(value) or value.startswith("-"):
                yield f"{path}.resources.{side}.{key}: found {value!r}; a quantity as a string is valid"
        same = key == "memory" or "/" in key
        if same and key in requests and key in limits and requests[key] != limits[key]:
            yield f"{path}.resources.{key}: found {requests.get(key)!r} and {limits.get(key)!r}; request and limit are the same"


def _choice(holder: Mapping[str, Any], key: str, path: str) -> Iterator[str]:
    value = holder.get(key)
    if value not in POLICIES[key]:
        yield f"{path}.{key}: found {value!r}; {did_you_mean(str(value), POLICIES[key])}"


def _keys(found: Mapping[str, Any], valid: Iterable[str], path: str) -> Iterator[str]:
    for key in found:
        if key not in valid:
            yield f"{path + '.' if path else ''}{key}: unknown; {did_you_mean(key, valid)}"
