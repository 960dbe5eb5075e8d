"""Steps to PyTorchJobs as plain dicts, the same everywhere. Shapes of Training Operator 1.9.4."""

import copy
import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from jobgen.manifests import checks, document
from jobgen.pipeline import fragment, layers
from jobgen.pipeline.level import SCHEDULING
from jobgen.pipeline.pipeline import CONTAINER, KEY_LENGTH, NAMESPACE, Pipeline
from jobgen.pipeline.plan import Step, plan
from jobgen.pipeline.pools import DISK, GPU, amount
from jobgen.pod.quantities import number
from minima import options
from minima.errors import StageError, UsageError, listed, told
from minima.options import Fetch
from minima.process.stop import SAVING_SECONDS

CONDUCTOR = "conductor"
"""Component of the objects that carry a pipeline through a cluster."""
USER = 10_000
"""User and group of all pods: no number that a person has on a node."""
PORT = 23456
TMP = {
    "HOME": "/tmp",
    "USER": "minima",  # torch asks for the user's name, and the image need not know the number.
    "XDG_CACHE_HOME": "/tmp/cache",
    "HF_HOME": "/tmp/cache/huggingface",
    "HF_HUB_OFFLINE": "1",
    "TORCH_EXTENSIONS_DIR": "/tmp/cache/torch_extensions",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/torchinductor",
    "TRITON_CACHE_DIR": "/tmp/cache/triton",
}
"""The root is read-only."""
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
FILES = re.compile("NETRC|.*_(?:CA_BUNDLE|CERTS?|CERT_FILE|CREDENTIALS|CREDENTIALS_FILE|TOKEN_FILE|CONFIG_FILE)")
"""Variables that name a file to programs which fail without it."""
OF_IMAGE = ("/etc/pki", "/etc/ssl", "/opt", "/run/secrets", "/usr", "/var/run/secrets")
"""Where an image has files of certificates, and a cluster's own webhooks mount tokens."""


def files(pipeline: Pipeline, namespace: str | None = None) -> dict[str, str]:
    """The pipeline's PyTorchJobs as YAML: file name, numbered in the order they can run, to content."""
    steps = plan(pipeline)
    options = f"--namespace {namespace}" if namespace else ""
    width = max(2, len(str(len(steps) - 1)))
    return {
        f"{number:0{width}}-{name}.yaml": document.text(pipeline, [made], options)
        for number, (name, made) in enumerate(jobs(pipeline, steps, namespace).items())
    }


def job(pipeline: Pipeline, step: Step, namespace: str | None = None) -> dict[str, Any]:
    """The PyTorchJob of one step; raises as `jobs`."""
    return jobs(pipeline, [step], namespace)[step.name]


def jobs(pipeline: Pipeline, steps: Sequence[Step], namespace: str | None = None) -> dict[str, dict[str, Any]]:
    """The PyTorchJobs of steps by their stages, each named by the hash of all the rest of it but its namespace.

    Raises:
        UsageError: the namespace is not the name of one, or what the levels say of pods does not go together; one line for
            each error.
    """
    check_namespace(namespace)
    made: dict[str, dict[str, Any]] = {}
    wrong: dict[str, list[str]] = {}
    for step in steps:
        made[step.name], problems = _job(pipeline, step, namespace)
        for place, what in problems:
            stages = wrong.setdefault(f"{place or pipeline.place('stages', step.name)}: {what}", [])
            if step.name not in stages:
                stages.append(step.name)
    if wrong:
        raise UsageError("\n".join(f"{line} (in the pods of {listed(stages)})" for line, stages in wrong.items()))
    return made


def _job(pipeline: Pipeline, step: Step, namespace: str | None) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A step's job, and what is wrong with it, as pairs of where (empty if no level says it) and what."""
    own = {**labels(pipeline.name, step.verb), "minima/stage": step.name, "minima/key": step.key}
    queue = {"kueue.x-k8s.io/queue-name": step.pool.queue} if step.pool.queue else {}
    metadata = {"labels": {**own, **queue}, "annotations": _annotations(step)}
    for each in step.fragments:
        metadata = {
            "labels": {**metadata["labels"], **each.labels},
            "annotations": {**metadata["annotations"], **each.annotations},
        }
    template, wrong = _template(pipeline, step, own)
    wrong += _gang(step)
    spec = _spec(step, template)
    rendered = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": spec}
    # Without the namespace: `kubectl apply -n` of a file that names none makes the very job that `jobgen run` makes.
    digest = hashlib.sha256(json.dumps(rendered, sort_keys=True).encode()).hexdigest()
    placed = {"namespace": namespace} if namespace is not None else {}
    rendered["metadata"] = {"name": f"{pipeline.name}-{step.name}-{digest[:KEY_LENGTH]}", **placed, **metadata}
    if not wrong:
        found = checks.problems(rendered)
        inside = ("spec", "pytorchReplicaSpecs", *spec["pytorchReplicaSpecs"], "template")
        if found and not any(each.said for each in step.fragments):
            all_ = "; ".join(f"{'.'.join(path)}: {what}" for path, what in found)
            raise StageError(f"{pipeline.source}: {step.name}: jobgen made a wrong object, please report it: {all_}")
        wrong = [layers.located(step.layers, template, path[len(inside) :], what) for path, what in found]
    return copy.deepcopy(rendered), wrong  # Nothing of it is also part of another one.


def check_namespace(name: str | None) -> None:
    """Raises UsageError for what cannot be the name of a namespace."""
    if name is not None and not NAMESPACE.fullmatch(name):
        raise UsageError(f"--namespace: found {name!r}; a name of a-z, 0-9 and -, of at most 63 characters, is valid")


def labels(pipeline: str, component: str) -> dict[str, str]:
    """What every object of a pipeline is labelled with.

    Not with `app.kubernetes.io/instance`: by that label Argo CD may track what is an Application's, and it would delete the
    jobs of a pipeline that is named as one.
    """
    return {
        "app.kubernetes.io/name": "minima",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "jobgen",
        "minima/pipeline": pipeline,
    }


def _annotations(step: Step) -> dict[str, str]:
    """For whoever looks at the job: what it does, reads and makes; and for Flux and Argo CD, which know no order, and would
    start all stages of a folder at once: only the conductor's objects are for them.
    """
    read = [*options.reads(step.options).values()]
    read += step.options.source if isinstance(step.options, Fetch) else ()
    return {
        "minima/summary": step.options.summary,
        "minima/reads": " ".join(read),
        "minima/makes": step.output_dir,
        "kustomize.toolkit.fluxcd.io/ssa": "Ignore",
        "argocd.argoproj.io/hook": "Skip",
    }


def _spec(step: Step, template: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {"nprocPerNode": str(step.processes)}
    if step.pods > 1 and step.options.elastic:
        spec["elasticPolicy"] = {
            "rdzvBackend": "c10d",
            "minReplicas": step.pods,
            "maxReplicas": step.pods,
            # A lost pod idles the others for 70 s with torch's defaults, 19 s with these.
            "rdzvConf": [{"key": "read_timeout", "value": "10"}, {"key": "keep_alive_interval", "value": "2"}],
        }
    spec["runPolicy"] = {"cleanPodPolicy": "Running"}
    if policy := _policy(step):
        spec["runPolicy"]["schedulingPolicy"] = policy
    spec["pytorchReplicaSpecs"] = {
        # With a Master, the operator would give Workers an init container that `restricted` refuses.
        "Master" if step.pods == 1 else "Worker": {
            "replicas": step.pods,
            "restartPolicy": "ExitCode",
            "template": template,
        }
    }
    return spec


def _policy(step: Step) -> dict[str, Any]:
    """Of all levels; null takes out what is said below."""
    said = {key: value for each in step.fragments for key, value in each.scheduling_policy.items()}
    return {key: value for key, value in said.items() if value is not None}


def _gang(step: Step) -> Iterator[tuple[str, str]]:
    """Numbers of the scheduling policy by which no pod would ever start: where, and what of them."""
    pods = f"from 1 to {step.pods}, as many as the stage's pods, is valid"
    for key, least, most, valid in (
        ("minAvailable", 1, step.pods, pods),
        ("scheduleTimeoutSeconds", 0, math.inf, "0 or more seconds are valid"),
    ):
        value = _policy(step).get(key, least)
        if not least <= value <= most:
            layer = next(each for each in reversed(step.fragments) if key in each.scheduling_policy).layers[0]
            yield layer.place(*layer.words[()], SCHEDULING, key), f"found {value}; {valid}"


def _template(pipeline: Pipeline, step: Step, labels: dict[str, str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The pods' template: jobgen's, and over it what pipeline, pool and stage say; and what is wrong with it, as pairs of where
    (empty if no level says it) and what.
    """
    own = {"metadata": {"labels": dict(labels), "annotations": _STAY}, "spec": _pod(pipeline, step)}
    made, wrong = layers.over(own, step.layers, CONTAINER)
    if not wrong:
        complete(made["spec"], step.pool.tolerations)
        found = [*fragment.lacks(made)] or [*_too_full(made["spec"], step), *unseen(made["spec"])]
        wrong = [layers.located(step.layers, made, path, what) for path, what in found]
    return made, wrong


def replaced(pipeline: Pipeline, step: Step) -> list[tuple[str, str]]:
    """What of lists in a step's pods is gone since a later level says another, as pairs of where and what."""
    return layers.replaced({"metadata": {}, "spec": _pod(pipeline, step)}, step.layers)


def complete(pod: dict[str, Any], tolerations: Iterable[Mapping[str, str]] = ()) -> None:
    """What holds whatever fragments say: Kubernetes' rules replace a list of tolerations by the one laid over it, and in its
    node's network a pod asks the node's DNS, which does not know the names of services.
    """
    if pod.get("nodeSelector") == {}:
        del pod["nodeSelector"]
    if needed := [dict(toleration) for toleration in tolerations]:
        pod["tolerations"] = [*needed, *(each for each in pod.get("tolerations") or [] if each not in needed)]
    if pod.get("hostNetwork") and "dnsPolicy" not in pod:
        pod["dnsPolicy"] = "ClusterFirstWithHostNet"


def unseen(pod: Mapping[str, Any]) -> fragment.Problems:
    """The variables of jobgen's container that name a file where nothing is mounted, and no image has it of its own."""
    one = pod["containers"][0]
    seen = (*OF_IMAGE, *(mount["mountPath"].rstrip("/") for mount in one["volumeMounts"]))
    for place, variable in enumerate(one["env"]):
        value = variable.get("value") or ""
        names_one = FILES.fullmatch(variable["name"]) and value.startswith("/") and "$(" not in value
        if names_one and not any(f"{posixpath.normpath(value)}/".startswith(f"{folder}/") for folder in seen):
            mounted = ", ".join(sorted(each["mountPath"] for each in one["volumeMounts"]))
            yield (
                ("spec", "containers", "0", "env", str(place)),
                f"found {told(value)}, which no pod sees: they mount {mounted}; mount a volume there (`pod`)",
            )


def _too_full(spec: Mapping[str, Any], step: Step) -> fragment.Problems:
    """What is wrong with the sizes of a pod's volumes on its node's disk and in its memory: filled, they would end it."""
    sizes: dict[str, dict[str, Fraction]] = {DISK: {}, "memory": {}}
    numbers = {}
    for place, volume in enumerate(spec.get("volumes") or []):
        held = volume.get("emptyDir") or {}
        kind = {"": DISK, "Memory": "memory"}.get(held.get("medium") or "")  # Huge pages are neither.
        if kind and held.get("sizeLimit") is not None:
            numbers[volume["name"]] = str(place)
            sizes[kind][volume["name"]] = number(held["sizeLimit"])
    # /tmp is as large as the pool's disk, and need not be full when others are.
    on_disk = [["tmp"], [name for name in sizes[DISK] if name != "tmp"]]
    for kind, names in (*((DISK, names) for names in on_disk), ("memory", [*sizes["memory"]])):
        limit, total = _limit(spec, kind), sum((sizes[kind].get(name, Fraction()) for name in names), Fraction())
        if limit and (total > limit or (total == limit and kind == "memory")):
            end, key = ("evicted", "disk") if kind == DISK else ("killed", "memory")
            yield (
                ("spec", "volumes", numbers[max(names, key=sizes[kind].__getitem__)]),
                f"the volumes {', '.join(names)} may hold {_gib(total)}, and count against the pod's limit of {kind}, "
                f"{_gib(limit)}, beyond which it is {end}; a larger `{key}` of pool {step.pool.name} helps",
            )
            return


def _limit(spec: Mapping[str, Any], resource: str) -> Fraction:
    """Of all containers of a pod."""
    containers = [*spec["containers"], *(spec.get("initContainers") or [])]
    amounts = (((each.get("resources") or {}).get("limits") or {}).get(resource, 0) for each in containers)
    return sum(map(number, amounts), Fraction())


def _gib(size: Fraction) -> str:
    return f"{float(size) / 2**30:,.1f} GiB"


_STAY = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def _pod(pipeline: Pipeline, step: Step) -> dict[str, Any]:
    pool = step.pool
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": SAVING_SECONDS + 60 if step.options.elastic else 60,
        "securityContext": POD_SECURITY,
    }
    if pool.node_selector:
        pod["nodeSelector"] = {}  # Its place; what is in it comes with the fragments, each level's at its own.
    if pool.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in pool.tolerations]
    pod["containers"] = [_container(pipeline, step)]
    pod["volumes"] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": pipeline.workspace.claim}},
        {"name": "tmp", "emptyDir": {"sizeLimit": pool.disk}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pool.shm}},
    ]
    return pod


def _container(pipeline: Pipeline, step: Step) -> dict[str, Any]:
    words = [word.replace("$", "$$") for word in step.argv]  # The kubelet would expand $(NAME).
    return {
        "name": CONTAINER,
        "image": step.image,
        "imagePullPolicy": pull_policy(step.image),
        "command": words[:2],
        "args": words[2:],
        "env": _env(step),
        "ports": [{"name": "pytorchjob-port", "containerPort": PORT}],
        "resources": _resources(step),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "workspace", "mountPath": pipeline.workspace.path},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _env(step: Step) -> list[dict[str, Any]]:
    pool = step.pool
    values = dict(TMP)
    if isinstance(step.options, Fetch):
        del values["HF_HUB_OFFLINE"]
    # Else torch starts a thread for each core of the node. What a pod asks for, since more may be taken by its neighbours.
    values["OMP_NUM_THREADS"] = str(max(1, math.floor(amount(pool.cpu)) // step.processes))
    if pool.gpus:
        values["MINIMA_GPUS"] = str(pool.gpus)  # A stage that sees fewer ends, instead of computing on the CPU.
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in values.items()]
    if step.pods > 1 and step.options.independent:
        index = {"fieldRef": {"fieldPath": "metadata.labels['training.kubeflow.org/replica-index']"}}
        env += [{"name": "MINIMA_POD_INDEX", "valueFrom": index}, {"name": "MINIMA_POD_COUNT", "value": str(step.pods)}]
    return env


def _resources(step: Step) -> dict[str, Any]:
    pool = step.pool
    both = {"memory": pool.memory, **({GPU: str(pool.gpus)} if pool.gpus else {}), **pool.resources}
    return {
        "requests": {"cpu": pool.cpu, DISK: pool.disk_request or pool.disk, **both},
        "limits": {"cpu": pool.cpu_limit or pool.cpu, DISK: pool.disk, **both},
    }


def pull_policy(image: str) -> str:
    """A movable tag is asked for again, so that no node goes on with what it once meant; a digest cannot change.

    A bare name, such as minima:cpu, is in no registry of ours: it was loaded into the nodes.
    """
    return "Always" if "/" in image and "@" not in image else "IfNotPresent"
