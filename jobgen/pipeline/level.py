"""What a pipeline, a pool, a stage and the conductor can each say of their objects: short words, and a pod's fragment.

The short ones are what nearly everybody needs; all else is said in Kubernetes' own words under `pod`. What jobgen itself must
decide is refused with the reason.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobgen.pipeline import credentials, fragment
from jobgen.pipeline.fragment import Fragment, Layer, Path_, Problems
from jobgen.pipeline.pipeline import CONTAINER
from jobgen.pipeline.pools import GPU, OURS, VARIABLE
from jobgen.pipeline.source import Place
from jobgen.pod import forms, kueue
from minima.addresses import ENDPOINTS
from minima.errors import told
from minima.options import web_port

KEYS = ("labels", "annotations", "env", "image_pull_secrets", "service_account", "priority_class", "pod")
SCHEDULING = "scheduling_policy"
"""One more key, of those that make PyTorchJobs."""
IN_SPEC = {
    "image_pull_secrets": "imagePullSecrets",
    "service_account": "serviceAccountName",
    "priority_class": "priorityClassName",
}
"""Short words that are fields of a pod's spec."""
FORMS = {"secret": ("secret", "key"), "config_map": ("config_map", "key"), "field": ("field",), "resource": ("resource",)}
"""Where the value of a variable may come from, and what each form holds."""
MAY_GO = {"HF_HUB_OFFLINE"}
"""Variables of jobgen's that a fragment may remove."""
QUEUE = "kueue.x-k8s.io/queue-name"
OUR_LABELS = re.compile(r"minima/.*|training\.kubeflow\.org/.*|app\.kubernetes\.io/(name|instance|component|managed-by)")
OUR_ANNOTATIONS = {
    "argocd.argoproj.io/hook",
    "kustomize.toolkit.fluxcd.io/ssa",
    "kustomize.toolkit.fluxcd.io/substitute",
}
"""By which a stage's job is left alone in a folder that Argo CD or Flux syncs, and the conductor's is once it is made."""
GRACE = 600
"""Seconds that a training pod has to save; a fragment may give more."""
IN_CONTAINER = {
    "command": "jobgen writes the stage's command line",
    "args": "jobgen writes the stage's command line; its words are the stage's `options`",
    "image": "the key `image` says it",
    "ports": "the operator looks for a port of its own",
    "restartPolicy": "the pod's restart is decided by exit codes",
    "restartPolicyRules": "the pod's restart is decided by exit codes",
    "terminationMessagePath": "stages leave their last words at the default place",
    "terminationMessagePolicy": "stages leave their last words in their log",
}
IN_POD = {
    "restartPolicy": "the operator restarts pods by exit codes",
    "hostname": "pods find the host of their rendezvous by it",
    "hostnameOverride": "pods find the host of their rendezvous by their own name",
    "subdomain": "the operator's services need it",
    "serviceAccount": "the key `service_account` says it",
}
IN_CONDUCTOR = {
    **dict.fromkeys(("restartPolicy", "restartPolicyRules"), "its Job starts another pod, by exit codes"),
    **dict.fromkeys(("hostname", "hostnameOverride", "subdomain", "ports"), "nothing looks for the conductor by it"),
    **dict.fromkeys(("command", "args"), "jobgen writes its command line"),
    "serviceAccountName": "the conductor's key `service_account` says it",
}
"""As of `IN_POD` and `IN_CONTAINER`, where the conductor's reasons are others."""
PROGRAMS = (
    *("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/minima/bin", "/opt/minima/lib", "/proc", "/sbin", "/sys"),
    *("/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/local/lib", "/usr/sbin"),
)
"""Folders of the image without which nothing runs."""
TAKEN = {*(each.split("/")[1] for each in PROGRAMS), "boot", "root", "run", "src", "tmp", "var"}
"""Folders of the image's root, and those that jobgen mounts there: none of them is the workspace's."""
OF_POOL = {"cpu": "cpu", "memory": "memory", GPU: "gpus"}


def read(values: Mapping[str, Any], path: Path_, place: Place, *, container: str) -> tuple[Fragment, list[tuple[Path_, str]]]:
    """The fragment that the keys of one level make, and what is wrong with them, as pairs of where and what.

    Args:
        values: the level's mapping; keys of others are left alone.
        path: where it stands.
        place: in its file.
        container: the name of jobgen's container in the pods.
    """
    found = list(_problems(values, path, container))
    if found:
        return Fragment(), found
    labels, annotations = dict(values.get("labels") or {}), dict(values.get("annotations") or {})
    spec: dict[str, Any] = {}
    words = {(): path, ("metadata", "labels"): (*path, "labels"), ("metadata", "annotations"): (*path, "annotations")}
    for key, name in IN_SPEC.items():
        words["spec", name] = (*path, key)
        if key in values and (name != "serviceAccountName" or container == CONTAINER):  # That of the conductor has a Role too.
            said = [{"name": each} for each in values[key]] if isinstance(values[key], list) else values[key]
            spec[name] = said or None  # Which takes out what is said below.
    if values.get("env"):
        env = [{"name": name, **_source(value)} for name, value in values["env"].items()]
        spec["containers"] = [{"name": container, "env": env}]
        here = ("spec", "containers", "0", "env")
        words |= {here: (*path, "env")} | {(*here, str(n)): (*path, "env", name) for n, name in enumerate(values["env"])}
    short = {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}
    layers = (
        Layer(template=short, place=place, words=words),
        Layer(template=values.get("pod") or {}, place=place, words={(): (*path, "pod")}),
    )
    policy = dict(values.get(SCHEDULING) or {})
    return Fragment(labels=labels, annotations=annotations, layers=layers, scheduling_policy=policy), []


def _problems(values: Mapping[str, Any], path: Path_, container: str) -> Problems:
    for key, form in (("labels", forms.qualified), ("annotations", forms.annotation)):
        for name, value in (yield from _pairs(values.get(key), (*path, key))):
            here = (*path, key, name)
            if valid := form(name):
                yield here, f"found {name!r}; {valid}"
            elif why := _ours(key, name, container):
                yield here, why
            if not isinstance(value, str):
                yield here, f"found {told(value)}; a string is valid, in quotes"
            elif valid := (forms.label_value(value) or kueue.label(name, value)) if key == "labels" else "":
                yield here, f"found {told(value)}; {valid}"
            elif credentials.noted(name, value):
                yield here, credentials.IN_GIT
    names = values.get("image_pull_secrets")
    if names is not None and not (isinstance(names, list) and all(_is_name(name) for name in names)):
        yield (*path, "image_pull_secrets"), f"found {told(names)}; a list of names of Secrets is valid, as [registry]"
    for key, kind in (("service_account", "ServiceAccount"), ("priority_class", "PriorityClass")):
        if values.get(key) is not None and not _is_name(values[key]):
            valid = f"the name of a {kind} is valid, of a-z, 0-9, - and ., or null, which takes out one that is said below"
            yield (*path, key), f"found {told(values[key])}; {valid}"
    for name, value in (yield from _pairs(values.get("env"), (*path, "env"))):
        yield from ((((*path, "env", name), what)) for what in _of_variable(name, value))
    if values.get(SCHEDULING) is not None:
        yield from fragment.problems(values[SCHEDULING], (*path, SCHEDULING), "SchedulingPolicy")
    pod = values.get("pod")
    if pod is not None:
        wrong = list(fragment.problems(pod, (*path, "pod")))
        yield from wrong
        if not wrong:
            yield from _owned(pod, (*path, "pod"), container)
            yield from ((where, credentials.IN_GIT) for where in credentials.inside(pod, (*path, "pod")))


def _ours(kind: str, name: str, container: str) -> str:
    """Why a label or an annotation is jobgen's to say; empty if it is not."""
    if OUR_LABELS.fullmatch(name):
        return "jobgen, the operator or Argo CD find their objects by it; choose another name"
    if name == QUEUE and kind == "labels" and container == CONTAINER:
        return "refused: a pool's `queue` says it"
    if name in OUR_ANNOTATIONS and kind == "annotations":
        return "refused: jobgen says by it what Argo CD and Flux leave alone; take it out"
    return ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not forms.subdomain(value)


def _pairs(value: Any, path: Path_) -> Any:
    """Items of a mapping; a problem if it is none."""
    if value is None:
        return []
    if not isinstance(value, dict):
        yield path, f"found {told(value)}; a mapping is valid"
        return []
    return list(value.items())


def _of_variable(name: str, value: Any) -> Iterator[str]:
    """What is wrong with a variable of the environment."""
    if not VARIABLE.fullmatch(name):
        yield f"found {name!r}; a name of letters, digits and _ is valid"
    if OURS.fullmatch(name):
        yield "it is set by jobgen, the operator or torchrun; remove it"
    if value is None:
        return  # It is taken out.
    if isinstance(value, str):
        if credentials.literal(name, value):
            yield f"a literal credential stands in Git for ever; {name}: {{secret: NAME, key: KEY}} takes it from a Secret"
        elif name in ENDPOINTS and value and "$(" not in value and not web_port(value):
            # Not shown: it may hold a password.
            yield "found no URL of a server; http:// or https:// and a host is valid, without a login, as in https://hub.example.com"
        if "\0" in value:
            yield "found a NUL character; text without it is valid"
        return
    valid = (
        "; a string, or one of {secret: NAME, key: KEY}, {config_map: NAME, key: KEY}, {field: PATH}, {resource: NAME} is valid"
    )
    if not isinstance(value, dict):
        yield f"found {told(value)}{valid}"
        return
    form = next((keys for first, keys in FORMS.items() if first in value), None)
    if form is None or set(value) != set(form) or not all(isinstance(item, str) and item for item in value.values()):
        yield f"found {told(value)}{valid}"
    elif VARIABLE.fullmatch(name):
        yield from (what for _, what in fragment.lacks({"name": name, **_source(value)}, (), "EnvVar"))


def _source(value: str | Mapping[str, str] | None) -> dict[str, Any]:
    """The value of a variable as Kubernetes has it."""
    match value:
        case None:
            return {fragment.DIRECTIVE: "delete"}
        case str():
            return {"value": value.replace("$", "$$")}  # The kubelet would expand $(NAME).
        case {"secret": name, "key": key}:
            return {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
        case {"config_map": name, "key": key}:
            return {"valueFrom": {"configMapKeyRef": {"name": name, "key": key}}}
        case {"field": path}:
            return {"valueFrom": {"fieldRef": {"fieldPath": path}}}
        case {"resource": name}:
            return {"valueFrom": {"resourceFieldRef": {"resource": name}}}
    raise AssertionError(value)


def _hides(mounted: str) -> bool:
    """Whether a volume mounted at this path would hide the image's programs."""
    above = posixpath.normpath(mounted).strip("/")
    return mounted.startswith("/") and any(not above or f"{each}/".startswith(f"/{above}/") for each in PROGRAMS)


def _owned(pod: Mapping[str, Any], path: Path_, container: str) -> Problems:
    """What a fragment says that is jobgen's to say."""
    for kind in ("labels", "annotations"):
        for key in (pod.get("metadata") or {}).get(kind) or {}:
            if why := _ours(kind, key, container):
                yield (*path, "metadata", kind, key), why
    spec, here = pod.get("spec") or {}, (*path, "spec")
    yield from _decided(spec, here, IN_POD, container)
    if container != CONTAINER and spec.get("automountServiceAccountToken") is False:
        yield (*here, "automountServiceAccountToken"), "refused: the conductor asks the cluster's API by its token"
    grace = spec.get("terminationGracePeriodSeconds", GRACE)
    if container == CONTAINER and (grace is None or grace < GRACE):
        yield (*here, "terminationGracePeriodSeconds"), f"found {grace}; at least {GRACE} is valid, in which a stage saves"
    for number, volume in enumerate(spec.get("volumes") or []):
        if volume.get("name") in {"workspace", "shm"}:
            instead = "the key `workspace` says it" if volume["name"] == "workspace" else "a pool's `shm` says its size"
            yield (*here, "volumes", str(number)), f"refused: {instead}"
    for number, one in enumerate(spec.get("initContainers") or []):
        for place, variable in enumerate(one.get("env") or []):
            if credentials.literal(name := variable.get("name", ""), variable.get("value") or ""):
                where = (*here, "initContainers", str(number), "env", str(place))
                yield where, f"{name}: a literal credential stands in Git for ever; `valueFrom: {{secretKeyRef: …}}` takes it"
    for number, one in enumerate(spec.get("containers") or []):
        yield from _of_container(one, (*here, "containers", str(number)), container)


def _decided(said: Mapping[str, Any], path: Path_, reasons: Mapping[str, str], container: str) -> Problems:
    """What jobgen decides of a pod, or of its container."""
    if container != CONTAINER:
        reasons = {**reasons, **IN_CONDUCTOR}
    yield from (((*path, key), f"refused: {why}") for key, why in reasons.items() if key in said)


def _of_container(one: Mapping[str, Any], path: Path_, container: str) -> Problems:
    if one.get("name") != container or fragment.DIRECTIVE in one:
        yield (
            path,
            f"refused: a pod has the one container {container}, for another would keep it running after its end; a sidecar is "
            "one of `initContainers` with `restartPolicy: Always`",
        )
        return
    yield from _decided(one, path, IN_CONTAINER, container)
    for side, amounts in (one.get("resources") or {}).items():
        for name in amounts if isinstance(amounts, dict) and container == CONTAINER else ():
            if name in OF_POOL:
                yield (
                    (*path, "resources", side, name),
                    f"refused: the pool's `{OF_POOL[name]}` says it, for the memory plan too",
                )
    for number, variable in enumerate(one.get("env") or []):
        where = (*path, "env", str(number))
        name = variable.get("name", "")
        yield from ((where, f"{name}: {what}") for what in _of_variable(name, variable.get("value", "")))
    for number, mount in enumerate(one.get("volumeMounts") or []):
        if _hides(mounted := mount.get("mountPath") or ""):
            what = f"refused: the image's programs are at {mounted}, which it would hide; a folder below it is valid"
            yield (*path, "volumeMounts", str(number)), what
        if mount.get("name") in {"workspace", "shm"} or mount.get("mountPath") in {"/dev/shm"}:
            yield (*path, "volumeMounts", str(number)), "refused: jobgen mounts the workspace and /dev/shm"
