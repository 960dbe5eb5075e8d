"""The conductor's objects: a Job that runs `jobgen conduct` beside the pipeline, and the least rights for it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobgen.manifests import render
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline import fragment
from jobgen.pipeline import layers as levels
from jobgen.pipeline.fragment import Layer
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import ALL, Part, Step, plan
from jobgen.pipeline.pools import DISK
from jobgen.pod import kueue
from minima.errors import PERMANENT, UsageError

FOLDER, FILE = "/etc/minima", "pipeline.yaml"
RULES = [
    {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": ["list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "watch"]},
]
"""What it asks of the cluster, in its own namespace, beside the one object that it writes to, `state_name`."""
LARGEST = 2**20
"""Bytes of a ConfigMap, and so of a pipeline."""
VERSION = "minima/version"
"""Label of the Job: the hash of the pipeline file that it conducts."""
PART = "minima/part"
"""Label of a Job that conducts some stages only: their completion is not the pipeline's."""
VERDICTS = (1, *PERMANENT)
"""Exit codes after which no other pod is tried; 1 is Python's own for what nobody expected."""
BACKOFF_LIMIT = 100
"""Pods that may end without a verdict, such as by a lost node, before the Job gives up."""
NOT_ITS_OWN = (
    *("containers", "serviceAccountName", "automountServiceAccountToken", "volumes", "initContainers"),
    *("activeDeadlineSeconds", "readinessGates", "resourceClaims", "resources"),
)
"""What the pods of the stages have of the whole pipeline, and the conductor's has not: without a token it reaches no API, and
it is there for longer, and needs less, than any stage.
"""
RESOURCES = {
    "requests": {"cpu": "100m", "memory": "512Mi", DISK: "0"},
    "limits": {"cpu": "1", "memory": "512Mi", DISK: "256Mi"},
}
"""It writes a log and nothing else, so any node has disk enough, also one that offers none by name."""


def objects(
    pipeline: Pipeline, namespace: str | None = None, from_stage: str | None = None, part: Part = ALL
) -> list[dict[str, Any]]:
    """ServiceAccount, Role, RoleBinding, two ConfigMaps and Job, in the order to apply them.

    The Job is named by the hash of all the rest: another pipeline or image is another Job, and the newest one conducts.

    Args:
        pipeline: what to conduct.
        namespace: written into the objects; None leaves it to whoever applies them.
        from_stage: for `jobgen conduct --from`.
        part: for its `--until` and `--only`.

    Raises:
        UsageError: the pipeline names no image for it, or is too large.
    """
    if not pipeline.conductor:
        place = pipeline.place("conductor")
        raise UsageError(f"{place}: missing; the image of the root Dockerfile, such as `conductor: minima:jobgen`, is valid")
    if (size := len(pipeline.text.encode())) > LARGEST:
        raise UsageError(f"{pipeline.source}: found {size:,} bytes; at most {LARGEST:,}, what a ConfigMap holds, are valid")
    name = f"{pipeline.name}-{CONDUCTOR}"
    below, beside = pipeline.profile.fragment, pipeline.profile.conductor.fragment
    labels = {**render.labels(pipeline.name, CONDUCTOR), **below.labels, **pipeline.fragment.labels}
    annotations = {**below.annotations, **pipeline.fragment.annotations}
    own = pipeline.conductor.fragment
    own = replace(own, labels={**beside.labels, **own.labels}, annotations={**beside.annotations, **own.annotations})
    others = pipeline.conductor.account
    rights = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(name, namespace, labels)}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": _metadata(name, namespace, labels),
        "rules": rules(pipeline),
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(name, namespace, labels),
        "roleRef": rights,
        "subjects": [{"kind": "ServiceAccount", "name": others or name, **({"namespace": namespace} if namespace else {})}],
    }
    content = {FILE: pipeline.text}
    held_name = f"{name}-{_hash(content)}"
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(held_name, namespace, labels),
        "immutable": True,
        "data": content,
    }
    # Without data, which the conductor alone writes: whoever applies this again, by hand or by GitOps, leaves it as it is.
    state = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(state_name(pipeline.name), namespace, labels)}
    words = [*(["--from", from_stage] if from_stage else []), *part.words]
    spec = _job_spec(pipeline, labels, held_name, words)
    partial = {PART: "true"} if part.words else {}
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(
            f"{name}-{_hash([spec, own.labels, own.annotations])}",
            namespace,
            {**labels, **own.labels, VERSION: version(pipeline.text), **partial},
        ),
        "spec": spec,
    }
    made: list[dict[str, Any]] = [*([] if others else [account]), role, binding, held, state, job]
    for each in made:
        notes = {**annotations, **(own.annotations if each is job else {})}
        if each is job:  # What queues and webhooks change of it is theirs: another conductor has another name.
            notes["kustomize.toolkit.fluxcd.io/ssa"] = "IfNotPresent"
        if each is held:  # Its `${…}` are not variables of Flux.
            notes["kustomize.toolkit.fluxcd.io/substitute"] = "disabled"
        if notes:
            each["metadata"]["annotations"] = notes
    return made


def check(pipeline: Pipeline, steps: Sequence[Step] | None = None) -> dict[str, dict[str, Any]]:
    """Make all objects of a pipeline, of which some are only made later, in a pod.

    Args:
        pipeline: from `spec.load`.
        steps: of it; None for those in the cluster.

    Returns:
        The templates of all its pods, by their stages; the conductor's, if it has one, as the last.

    Raises:
        UsageError: one of them would be wrong; one line for each error of any.
    """
    made: dict[str, dict[str, Any]] = {}
    wrong = []
    try:
        for name, job in render.jobs(pipeline, plan(pipeline) if steps is None else steps).items():
            (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
            made[name] = replica["template"]
    except UsageError as error:
        wrong.append(str(error))
    try:
        if pipeline.conductor:
            made[CONDUCTOR] = objects(pipeline)[-1]["spec"]["template"]
    except UsageError as error:
        wrong.append(str(error))
    if wrong:
        raise UsageError("\n".join(wrong))
    return made


def rules(pipeline: Pipeline) -> list[dict[str, Any]]:
    """All that the conductor of a pipeline may do, in its own namespace."""
    verbs = ["get", "update", "patch"]
    state = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [state_name(pipeline.name)], "verbs": verbs}
    # Who applies a Role must have all of its rights, and no queue is no reason to have these.
    queued = any(stage.pool.queue for stage in pipeline.stages.values())
    queues = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list"]}
    return [*RULES, state, *([queues] if queued else [])]


def state_name(pipeline: str) -> str:
    """The ConfigMap in which the conductor of a pipeline says where it is."""
    return f"{pipeline}-{CONDUCTOR}-state"


def version(text: str) -> str:
    """What `VERSION` says for a pipeline file."""
    return _hash({FILE: text})


def _metadata(name: str, namespace: str | None, labels: dict[str, str]) -> dict[str, Any]:
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": dict(labels)}


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _job_spec(pipeline: Pipeline, labels: dict[str, str], held: str, words: list[str]) -> dict[str, Any]:
    conductor = pipeline.conductor
    assert conductor is not None
    container = {
        "name": CONDUCTOR,
        "image": conductor.image,
        "imagePullPolicy": render.pull_policy(conductor.image),
        "command": ["jobgen", "conduct"],
        "args": [f"{FOLDER}/{FILE}", "--namespace", "$(NAMESPACE)", "--job", "$(JOB)", "--uid", "$(JOB_UID)", *words],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            _field("NAMESPACE", "metadata.namespace"),
            _field("JOB", "metadata.labels['batch.kubernetes.io/job-name']"),
            _field("JOB_UID", "metadata.labels['batch.kubernetes.io/controller-uid']"),
        ],
        "resources": RESOURCES,
        "securityContext": render.CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "workspace", "mountPath": pipeline.workspace.path},
            {"name": "pipeline", "mountPath": FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    pod = {
        "serviceAccountName": conductor.account or f"{pipeline.name}-{CONDUCTOR}",
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "securityContext": render.POD_SECURITY,
        "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": pipeline.workspace.claim}},
            {"name": "pipeline", "configMap": {"name": held}},
            {"name": "tmp", "emptyDir": {"sizeLimit": RESOURCES["limits"][DISK]}},
        ],
    }
    # What all pods of the pipeline have, but for what is of a stage's container and account.
    layers = _layers(pipeline)
    template, wrong = levels.over({"metadata": {"labels": dict(labels)}, "spec": pod}, layers, CONDUCTOR)
    if not wrong:
        render.complete(template["spec"])
        found = [*fragment.lacks(template)] or [*kueue.too_large(template, 1), *render.unseen(template["spec"])]
        wrong = [levels.located(layers, template, path, what) for path, what in found]
    if wrong:
        lines = dict.fromkeys(f"{place or pipeline.place('conductor')}: {what}" for place, what in wrong)
        raise UsageError("\n".join(f"{line} (in the pod of the conductor)" for line in lines))
    return {
        "backoffLimit": BACKOFF_LIMIT,
        # A stage that failed is for a person; a pod that was deleted, drained or lost says nothing about the pipeline.
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": CONDUCTOR, "operator": "In", "values": list(VERDICTS)}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": template,
    }


def _layers(pipeline: Pipeline) -> list[Layer]:
    """Of the conductor's pod, in the order of merging."""
    assert pipeline.conductor is not None
    return [
        *map(_for_all, pipeline.profile.fragment.layers),
        *pipeline.profile.conductor.fragment.layers,
        *map(_for_all, pipeline.fragment.layers),
        *pipeline.conductor.fragment.layers,
    ]


def replaced(pipeline: Pipeline) -> list[tuple[str, str]]:
    """As `render.replaced`, of the conductor's pod."""
    return levels.replaced({"metadata": {}, "spec": {}}, _layers(pipeline)) if pipeline.conductor else []


def _for_all(layer: Layer) -> Layer:
    """What of the whole pipeline's template is of the conductor's pod too."""
    spec = {key: value for key, value in (layer.template.get("spec") or {}).items() if key not in NOT_ITS_OWN}
    return replace(layer, template={**layer.template, "spec": spec})


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
