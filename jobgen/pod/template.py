"""What the API server takes of a whole pod: what its parts say together, and where one names another."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from jobgen.pod import containers, kueue, quantities, scheduling, volumes
from jobgen.pod.containers import PROBES
from jobgen.pod.quantities import number
from minima.errors import did_you_mean, told

Path_ = tuple[str, ...]
Problems = Iterator[tuple[Path_, str]]
KINDS = ("initContainers", "containers")
HOST = ("hostNetwork", "hostPID", "hostIPC")
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
SECCOMP, SECCOMP_OF = "seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/"
PROFILES = {"RuntimeDefault": "runtime/default", "Unconfined": "unconfined"}
OTHERS = {
    "scheduler.alpha.kubernetes.io/tolerations": "`tolerations` says it",
    "kubernetes.io/config.mirror": "it is of pods that a kubelet has of a file",
}
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
OF_HOST = {
    "hostNetwork": ("net.",),
    "hostIPC": ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."),
}
"""Kernel settings that a pod has not for itself in its node's namespace."""
LONGEST_ANNOTATIONS = 256 * 2**10


def template(value: Mapping[str, Any], path: Path_) -> Problems:
    annotations, spec = (value.get("metadata") or {}).get("annotations") or {}, value.get("spec") or {}
    here = (*path, "metadata", "annotations")
    if (size := sum(len(each.encode()) for pair in annotations.items() for each in pair)) > LONGEST_ANNOTATIONS:
        yield here, f"found {size:,} bytes; at most {LONGEST_ANNOTATIONS:,} are valid"
    yield from (((*here, key), what) for key, what in kueue.annotations(annotations))
    for key, text in annotations.items():
        if key == DELETION_COST and not (text.lstrip("-").isdecimal() and -(2**31) <= int(text) < 2**31):
            yield (*here, key), f"found {told(text)}; a whole number is valid, in quotes"
        if key in OTHERS:
            yield (*here, key), f"refused: {OTHERS[key]}"
    yield from _profiles(annotations, spec, here)


def _profiles(annotations: Mapping[str, str], spec: Mapping[str, Any], path: Path_) -> Problems:
    """Annotations that were there before the fields of AppArmor and seccomp, which they must not contradict."""
    security = spec.get("securityContext") or {}
    boxes = {each.get("name"): each.get("securityContext") or {} for kind in KINDS for each in spec.get(kind) or []}
    for key, text in annotations.items():
        if key != SECCOMP and not key.startswith((APPARMOR, SECCOMP_OF)):
            continue
        prefix, field = (APPARMOR, "appArmorProfile") if key.startswith(APPARMOR) else (SECCOMP_OF, "seccompProfile")
        name = key.removeprefix(prefix)
        if prefix == APPARMOR and name not in boxes:
            yield (*path, key), f"found no container {told(name)}; {did_you_mean(name, boxes)}"
        if text not in PROFILES.values() and not text.startswith("localhost/") and (text or prefix != APPARMOR):
            yield (*path, key), f"found {told(text)}; runtime/default, unconfined or localhost/NAME is valid"
        of_pod = security.get(field) if key == SECCOMP or prefix == APPARMOR else None
        if said := (boxes.get(name) or {}).get(field) or of_pod:
            same = PROFILES.get(said.get("type"), f"localhost/{said.get('localhostProfile')}")
            if text != same:
                yield (*path, key), f"found {told(text)} beside {field}, which says {same}; the same, or one of them, is valid"


def pod(value: Mapping[str, Any], path: Path_) -> Problems:
    yield from _containers(value, path)
    yield from dict.fromkeys(_root(value, path))
    yield from _namespaces(value, path)
    yield from _scheduling(value, path)
    yield from _names(value, path)
    yield from _resources(value, path)


def _containers(value: Mapping[str, Any], path: Path_) -> Problems:
    regular = [each.get("name") for each in value.get("containers") or []]
    for place, each in enumerate(value.get("initContainers") or []):
        here = (*path, "initContainers", str(place))
        if each.get("name") in regular:
            yield (*here, "name"), f"found {told(each['name'])}, which another container has; another name is valid"
        if each.get("restartPolicy") != "Always":
            for key in (*PROBES, "lifecycle"):
                if each.get(key) is not None:
                    yield (
                        (*here, key),
                        "found without restartPolicy: Always, which a sidecar has; what runs to its end has none",
                    )
    # Those of init containers are of one after the other.
    groups = [_each_container({"containers": value.get("containers")}, path)]
    groups += [iter([each]) for each in _each_container({"initContainers": value.get("initContainers")}, path)]
    for group in groups:
        taken: list[tuple[Any, ...]] = []
        for here, each in group:
            for index, port in enumerate(each.get("ports") or []):
                one = (port.get("protocol") or "TCP", port.get("hostIP") or "", port.get("hostPort"))
                if port.get("hostPort") and one in taken:
                    yield (*here, "ports", str(index), "hostPort"), f"found {port['hostPort']} twice; another port is valid"
                taken.append(one)
    grace = value.get("terminationGracePeriodSeconds", 30)
    for here, each in _each_container(value, path):
        for event, action in (each.get("lifecycle") or {}).items():
            seconds = ((action or {}).get("sleep") or {}).get("seconds", 0) if isinstance(action, Mapping) else 0
            if not 0 <= seconds <= grace:
                valid = f"0 to {grace}, the pod's terminationGracePeriodSeconds, is valid"
                yield (*here, "lifecycle", event, "sleep", "seconds"), f"found {seconds}; {valid}"


def _each_container(value: Mapping[str, Any], path: Path_) -> Iterator[tuple[Path_, Mapping[str, Any]]]:
    for kind in KINDS:
        for place, each in enumerate(value.get(kind) or []):
            yield (*path, kind, str(place)), each


def _namespaces(value: Mapping[str, Any], path: Path_) -> Problems:
    """What a pod shares with its node."""
    shared = [key for key in HOST if value.get(key)]
    if value.get("hostUsers") is False and shared:
        yield (*path, "hostUsers"), f"found false beside {' and '.join(shared)}; users of its own go with namespaces of its own"
    if value.get("shareProcessNamespace") and value.get("hostPID"):
        yield (*path, "shareProcessNamespace"), "found beside hostPID; one of them is valid"
    security = value.get("securityContext") or {}
    for place, each in enumerate(security.get("sysctls") or []):
        name = (each.get("name") or "").replace("/", ".")
        for key, prefixes in OF_HOST.items():
            if value.get(key) and name.startswith(prefixes):
                yield (
                    (*path, "securityContext", "sysctls", str(place), "name"),
                    f"found {name} beside {key}: it would be the node's",
                )
    names = [each.get("name") for each in security.get("sysctls") or []]
    for index in containers.repeated(names):
        yield (*path, "securityContext", "sysctls", str(index), "name"), f"found {told(names[index])} twice; once is valid"
    for here, each in _each_container(value, path):
        if value.get("hostUsers") is not False and (each.get("securityContext") or {}).get("procMount") == "Unmasked":
            yield (*here, "securityContext", "procMount"), "found Unmasked without the pod's hostUsers: false, which it takes"
        for number_, port in enumerate(each.get("ports") or [] if value.get("hostNetwork") else []):
            if (port.get("hostPort") or port.get("containerPort")) != port.get(
                "containerPort"
            ) and "initContainers" not in here:
                yield (
                    (*here, "ports", str(number_), "hostPort"),
                    "found another than containerPort, with hostNetwork; the same is valid",
                )
    if (value.get("os") or {}).get("name") == "linux":
        options = [(path, value), *_each_container(value, path)]
        for here, each in options:
            if (each.get("securityContext") or {}).get("windowsOptions") is not None:
                yield (*here, "securityContext", "windowsOptions"), "found in a pod of os linux; take it out"


def _root(value: Mapping[str, Any], path: Path_) -> Problems:
    """The server takes it; the kubelet makes no such container."""
    whole = value.get("securityContext") or {}
    for here, each in _each_container(value, path):
        own = each.get("securityContext") or {}
        user, place = (whole.get("runAsUser"), path) if own.get("runAsUser") is None else (own["runAsUser"], here)
        refused = whole.get("runAsNonRoot") if own.get("runAsNonRoot") is None else own["runAsNonRoot"]
        if user == 0 and refused:
            what = "found 0, root, which runAsNonRoot: true refuses, as jobgen says it; another user, or"
            yield (*place, "securityContext", "runAsUser"), f"{what} `runAsNonRoot: false` beside it, is valid"


def _scheduling(value: Mapping[str, Any], path: Path_) -> Problems:
    config = value.get("dnsConfig") or {}
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if value.get("dnsPolicy") == "None" and not servers:
        yield (*path, "dnsPolicy"), "found None without dnsConfig.nameservers, of which it takes at least one"
    if len(servers) > 3:
        yield (*path, "dnsConfig", "nameservers"), f"found {len(servers)}; at most 3 are valid"
    if len(searches) > 32 or len(" ".join(searches)) > 2048:
        yield (*path, "dnsConfig", "searches"), "found more than 32, or 2,048 characters; fewer are valid"
    if value.get("nodeName") and value.get("schedulingGates"):
        yield (*path, "nodeName"), "found beside schedulingGates, which keep it from all nodes; one is valid"
    # Admission sets what the class says, and refuses another number; without a class it is 0, or the cluster's default.
    if value.get("priority") is not None and (value["priority"] != 0 or value.get("priorityClassName")):
        yield (
            (*path, "priority"),
            f"found {value['priority']}; the cluster takes it from the class, which priorityClassName names",
        )
    if value.get("preemptionPolicy") == "Never" and not value.get("priorityClassName"):
        yield (*path, "preemptionPolicy"), "found Never; the cluster takes it from the class, which priorityClassName names"
    if value.get("overhead") and not value.get("runtimeClassName"):
        yield (*path, "overhead"), "found without runtimeClassName; the cluster takes it from that class"


def _names(value: Mapping[str, Any], path: Path_) -> Problems:
    """Where one part of a pod names another."""
    known = {each.get("name"): each for each in value.get("volumes") or []}
    claims = [each.get("name") for each in value.get("resourceClaims") or []]
    for here, each in _each_container(value, path):
        for key in ("volumeMounts", "volumeDevices"):
            for index, item in enumerate(each.get(key) or []):
                name, place = item.get("name"), (*here, key, str(index), "name")
                if name not in known:
                    yield place, f"no volume {told(name)}; {did_you_mean(str(name), known)}"
                elif key == "volumeDevices" and not {"persistentVolumeClaim", "ephemeral"} & known[name].keys():
                    yield place, f"found the volume {told(name)}, which is no claim; only a claim's can be a device"
        for index, item in enumerate((each.get("resources") or {}).get("claims") or []):
            if item.get("name") not in claims:
                what = f"no entry {told(item.get('name'))} of resourceClaims; {did_you_mean(str(item.get('name')), claims)}"
                yield (*here, "resources", "claims", str(index)), what
        for index, variable in enumerate(each.get("env") or []):
            file = (variable.get("valueFrom") or {}).get("fileKeyRef")
            if file is not None and "emptyDir" not in known.get(file.get("volumeName"), {}):
                place = (*here, "env", str(index), "valueFrom", "fileKeyRef", "volumeName")
                folders = [str(name) for name, volume in known.items() if "emptyDir" in volume]
                yield place, f"no emptyDir {told(file.get('volumeName'))}; {did_you_mean(str(file.get('volumeName')), folders)}"
    for place_, each in enumerate(value.get("resourceClaims") or []):
        if len(volumes.sources(each, ("name",))) != 1:
            yield (
                (*path, "resourceClaims", str(place_)),
                "found not one of resourceClaimName and resourceClaimTemplateName; one is valid",
            )


def _resources(value: Mapping[str, Any], path: Path_) -> Problems:
    """What the whole pod asks for, beside what its containers do."""
    whole = value.get("resources") or {}
    here = (*path, "resources")
    if whole.get("claims"):
        yield (*here, "claims"), "found for the whole pod; a container's resources name claims"
    for side in ("requests", "limits"):
        for name in whole.get(side) or {}:
            if name not in {"cpu", "memory"} and not quantities.is_huge(name):
                yield (*here, side, name), f"found {told(name)} for the whole pod; cpu, memory and huge pages are valid"
    for name, amount in (whole.get("requests") or {}).items():
        if number(amount) < _asked(value, name):
            what = "less than its containers ask for together; at least as much is valid"
            yield (*here, "requests", name), f"found {told(amount)}, {what}"
    for name, amount in (value.get("overhead") or {}).items():
        if problem := quantities.name_problem(name) or quantities.amount_problem(name, amount):
            yield (*path, "overhead", name), problem
    for name, amount in (whole.get("limits") or {}).items():
        for each in value.get("containers") or []:
            limit = ((each.get("resources") or {}).get("limits") or {}).get(name)
            if limit is not None and number(limit) > number(amount):
                yield (*here, "limits", name), f"found {told(amount)}, below the container {each.get('name')}'s {told(limit)}"


def _asked(value: Mapping[str, Any], name: str) -> Fraction:
    """How much of a resource the containers of a pod ask for at once: sidecars stay, each other one that comes first ends."""
    sidecars = first = Fraction()
    for each in value.get("initContainers") or []:
        one = number(((each.get("resources") or {}).get("requests") or {}).get(name, 0))
        first = max(first, sidecars + one)
        if each.get("restartPolicy") == "Always":
            sidecars += one
    regular = [((each.get("resources") or {}).get("requests") or {}).get(name, 0) for each in value.get("containers") or []]
    return max(first, sidecars + sum(map(number, regular), Fraction()))


RULES = {**scheduling.RULES, **volumes.RULES, **containers.RULES, "PodTemplateSpec": template, "PodSpec": pod}
"""By the definition of the schema, each for a complete value of the right types and forms."""
