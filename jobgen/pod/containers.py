"""What the API server takes of a container: resources, variables, probes, rights, mounts."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobgen.pod import quantities, volumes
from jobgen.pod.quantities import is_device, is_huge, number
from minima.errors import told

Path_ = tuple[str, ...]
Problems = Iterator[tuple[Path_, str]]
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HANDLERS = ("exec", "grpc", "httpGet", "sleep", "tcpSocket")


def resources(value: Mapping[str, Any], path: Path_) -> Problems:
    limits, requests = value.get("limits") or {}, value.get("requests") or {}
    wrong = False
    for side, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if problem := quantities.name_problem(name) or quantities.amount_problem(name, amount):
                wrong = True
                yield (*path, side, name), problem
    if wrong:
        return
    for name, amount in requests.items():
        whole = is_device(name) or is_huge(name)
        if name not in limits:
            if whole:
                yield (*path, "requests", name), "found without a limit; the same amount in `limits` is valid"
        elif whole and number(amount) != number(limits[name]):
            yield (
                (*path, "requests", name),
                f"found {told(amount)}, and {told(limits[name])} in `limits`; the same amount is valid",
            )
        elif number(amount) > number(limits[name]):
            yield (
                (*path, "requests", name),
                f"found {told(amount)}, above the limit {told(limits[name])}; at most as much is valid",
            )
    if any(map(is_huge, (*limits, *requests))) and not {"cpu", "memory"} & {*limits, *requests}:
        yield path, "found huge pages without cpu or memory; one of these beside them is valid"


def repeated(found: list[Any]) -> Iterator[int]:
    """The numbers of entries that were there before."""
    yield from (number for number, each in enumerate(found) if each in found[:number])


def variable_source(value: Mapping[str, Any], path: Path_) -> Problems:
    if len(found := volumes.sources(value)) != 1:
        valid = "one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef is valid"
        yield path, f"found {' and '.join(found) or 'nothing'}; {valid}"
    if value.get("fieldRef") is not None:
        yield from volumes.field_reference(value["fieldRef"], (*path, "fieldRef"), volumes.FIELDS_OF_VARIABLES)
    if value.get("resourceFieldRef") is not None:
        yield from volumes.resource_reference(value["resourceFieldRef"], (*path, "resourceFieldRef"))


def variable(value: Mapping[str, Any], path: Path_) -> Problems:
    if value.get("value") and value.get("valueFrom") is not None:
        yield path, "found value and valueFrom; one of them is valid"


def variables_from(value: Mapping[str, Any], path: Path_) -> Problems:
    if len(found := volumes.sources(value, ("prefix",))) != 1:
        yield (
            path,
            f"found {' and '.join(found) or 'neither configMapRef nor secretRef'}; one of configMapRef and secretRef is valid",
        )


def probe(value: Mapping[str, Any], path: Path_) -> Problems:
    yield from _handler(value, path)
    kind = path[-1]
    if kind != "readinessProbe" and (value.get("successThreshold") or 1) != 1:
        yield (*path, "successThreshold"), f"found {value['successThreshold']}; 1 is valid for a {kind}"
    if kind == "readinessProbe" and value.get("terminationGracePeriodSeconds") is not None:
        yield (*path, "terminationGracePeriodSeconds"), "found for a readinessProbe, which ends no container; take it out"


def _handler(value: Mapping[str, Any], path: Path_) -> Problems:
    found = [key for key in HANDLERS if value.get(key) is not None]
    if len(found) != 1:
        yield path, f"found {' and '.join(found) or 'nothing to do'}; one of {', '.join(HANDLERS)} is valid"


def handler(value: Mapping[str, Any], path: Path_) -> Problems:
    yield from _handler(value, path)


def executed(value: Mapping[str, Any], path: Path_) -> Problems:
    if not value.get("command"):
        yield path, "command is missing"


def seccomp(value: Mapping[str, Any], path: Path_) -> Problems:
    local, profile = value.get("type") == "Localhost", value.get("localhostProfile")
    if local and profile is None:
        yield path, "localhostProfile is missing; it goes with type Localhost"
    if not local and profile is not None:
        yield (*path, "localhostProfile"), f"found beside type {value.get('type')}; it goes with Localhost"
    elif profile and (profile.startswith("/") or ".." in profile.split("/")):
        yield (*path, "localhostProfile"), f"found {told(profile)}; a path below the kubelet's folder of profiles is valid"


def apparmor(value: Mapping[str, Any], path: Path_) -> Problems:
    local, profile = value.get("type") == "Localhost", value.get("localhostProfile")
    if local and (not profile or profile != profile.strip()):
        yield path, f"found localhostProfile {told(profile)}; a name without spaces around it goes with type Localhost"
    if not local and profile is not None:
        yield (*path, "localhostProfile"), f"found beside type {value.get('type')}; it goes with Localhost"


def security(value: Mapping[str, Any], path: Path_) -> Problems:
    """Of the two that do not go together, jobgen says that privileges do not grow; so a person said the other."""
    if value.get("allowPrivilegeEscalation") is False:
        what = "found true beside allowPrivilegeEscalation: false, which jobgen says"
        if value.get("privileged"):
            yield (*path, "privileged"), f"{what}; take it out, or say allowPrivilegeEscalation: true too"


def exit_codes(value: Mapping[str, Any], path: Path_) -> Problems:
    codes = value.get("values") or []
    for index in repeated(codes):
        yield (*path, "values", str(index)), f"found {codes[index]} twice; once is valid"


def container(value: Mapping[str, Any], path: Path_) -> Problems:
    if not value.get("image"):
        yield path, "image is missing"
    security_context = value.get("securityContext") or {}
    paths = {each.get("devicePath"): each.get("name") for each in value.get("volumeDevices") or []}
    for index, mount in enumerate(value.get("volumeMounts") or []):
        here = (*path, "volumeMounts", str(index))
        if mount.get("subPath") and mount.get("subPathExpr"):
            yield here, "found subPath and subPathExpr; one of them is valid"
        if mount.get("mountPropagation") == "Bidirectional" and not security_context.get("privileged"):
            yield (
                (*here, "mountPropagation"),
                "found Bidirectional, which takes privileged: true; HostToContainer or None is valid",
            )
        if mount.get("recursiveReadOnly") in {"Enabled", "IfPossible"}:
            if not mount.get("readOnly"):
                yield (*here, "recursiveReadOnly"), "found without readOnly: true, which it goes with"
            if mount.get("mountPropagation") not in {None, "None"}:
                yield (*here, "recursiveReadOnly"), f"found beside mountPropagation {mount['mountPropagation']}; None is valid"
        if mount.get("mountPath") in paths or mount.get("name") in paths.values():
            yield here, "found in volumeDevices too; a volume is mounted, or is a device"
    ports = value.get("ports") or []
    for index in repeated([each.get("name") or place for place, each in enumerate(ports)]):
        yield (*path, "ports", str(index), "name"), f"found {told(ports[index]['name'])} twice; another name is valid"
    for index in repeated([each.get("resourceName") for each in value.get("resizePolicy") or []]):
        yield (*path, "resizePolicy", str(index)), "found a policy of this resource twice; one is valid"
    asked = [each.get("name") for each in (value.get("resources") or {}).get("claims") or []]
    for index in repeated(asked):  # For another of its requests the API server would take it; the operator's CRD does not.
        yield (*path, "resources", "claims", str(index)), f"found {told(asked[index])} twice; once is valid"
    if value.get("restartPolicyRules") and not value.get("restartPolicy"):
        yield (*path, "restartPolicyRules"), "found without restartPolicy, which it goes with"


RULES = {
    "ResourceRequirements": resources,
    "EnvVarSource": variable_source,
    "EnvVar": variable,
    "EnvFromSource": variables_from,
    "Probe": probe,
    "LifecycleHandler": handler,
    "ExecAction": executed,
    "SeccompProfile": seccomp,
    "AppArmorProfile": apparmor,
    "SecurityContext": security,
    "ContainerRestartRuleOnExitCodes": exit_codes,
    "Container": container,
}
