"""What a pipeline's pods name and nobody makes for them: Secrets, ConfigMaps, claims, accounts, classes and queues.

The fields are those of the API reference of Kubernetes 1.36 (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
pod-v1/) that name an object without which a pod does not start. What is `optional` there may be missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobgen.manifests import conductor
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step

OBJECTS = {
    **dict.fromkeys(("secret", "secretKeyRef", "secretRef", "nodePublishSecretRef", "azureFile", "imagePullSecrets"), "Secret"),
    **dict.fromkeys(("configMap", "configMapKeyRef", "configMapRef"), "ConfigMap"),
    "persistentVolumeClaim": "PersistentVolumeClaim",
    "clusterTrustBundle": "ClusterTrustBundle",
}
"""Kinds by fields whose value, or each entry of it, names one object by one of `NAMES`."""
NAMES = ("name", "secretName", "claimName")
WORDS = {
    "serviceAccountName": "ServiceAccount",
    "priorityClassName": "PriorityClass",
    "runtimeClassName": "RuntimeClass",
    "storageClassName": "StorageClass",
    "resourceClaimName": "ResourceClaim",
    "resourceClaimTemplateName": "ResourceClaimTemplate",
}
"""Kinds by fields whose value is the name."""
FREE = ("labels", "annotations", "matchLabels", "nodeSelector", "volumeAttributes", "options")
"""Fields whose own keys are anybody's words."""

PRIORITY = "kueue.x-k8s.io/priority-class"
"""Label of a job that names Kueue's own kind of class."""


@dataclass(frozen=True, kw_only=True)
class Want:
    """An object that must be there.

    Attributes:
        keys: what of a Secret or a ConfigMap is read by name.
        readers: the stages whose pods name it, and `conductor`.
    """

    kind: str
    name: str
    keys: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


def objects(pipeline: Pipeline, steps: Sequence[Step], templates: Mapping[str, Any]) -> list[Want]:
    """All objects that must be there before the pipeline runs, each once, by kind.

    Args:
        pipeline: of `spec.load`.
        steps: of its stages.
        templates: of all its pods, as `conductor.check` gives them.
    """
    made = {(each["kind"], each["metadata"]["name"]) for each in conductor.objects(pipeline)} if pipeline.conductor else set()
    found: dict[tuple[str, str], Want] = {}
    named = [(name, want) for name, template in templates.items() for want in _named(template["spec"])]
    named += [(step.name, want) for step in steps for want in _of_job(step)]
    for reader, want in named:
        before = found.get((want.kind, want.name), want)
        keys, readers = (*before.keys, *want.keys), (*before.readers, reader)
        found[want.kind, want.name] = replace(want, keys=tuple(dict.fromkeys(keys)), readers=tuple(dict.fromkeys(readers)))
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    return sorted((found[each] for each in found if each not in made), key=lambda want: kinds.index(want.kind))


def _of_job(step: Step) -> Iterator[Want]:
    """What the step's PyTorchJob names beside its pods."""
    if step.pool.queue:
        yield Want(kind="LocalQueue", name=step.pool.queue)
    labels = {key: value for each in step.fragments for key, value in each.labels.items()}
    if name := labels.get(PRIORITY):
        yield Want(kind="WorkloadPriorityClass", name=name)
    policy = {key: value for each in step.fragments for key, value in each.scheduling_policy.items()}
    if name := policy.get("priorityClass"):
        yield Want(kind="PriorityClass", name=name)


def _named(value: Any) -> Iterator[Want]:
    """What a part of a pod's spec names, in all its parts."""
    if isinstance(value, list):
        for each in value:
            yield from _named(each)
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        if key in FREE:
            continue
        if key in WORDS and item:
            yield Want(kind=WORDS[key], name=item)
        if key in OBJECTS:
            for each in item if isinstance(item, list) else [item]:
                yield from _one(OBJECTS[key], each or {})
        yield from _named(item)


def _one(kind: str, value: Mapping[str, Any]) -> Iterator[Want]:
    name = next((value[key] for key in NAMES if value.get(key)), "")
    if name and not value.get("optional"):
        keys = [value, *(value.get("items") or [])]
        yield Want(kind=kind, name=name, keys=tuple(each["key"] for each in keys if each.get("key")))
