"""Whether a pod may live in a namespace with Pod Security `restricted`, and what hinders it.

The rules are those of the Pod Security Standards as Kubernetes 1.36 has them (https://kubernetes.io/docs/concepts/security/
pod-security-standards/), for Linux. A cluster test asks the API server's own admission the same questions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

RESTRICTED, BASELINE, PRIVILEGED = "restricted", "baseline", "privileged"
LEVELS = (RESTRICTED, BASELINE, PRIVILEGED)
"""From the narrowest."""
HOST = ("hostNetwork", "hostPID", "hostIPC")
CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID"),
    *("SETPCAP", "SETUID", "SYS_CHROOT"),
)
"""What `baseline` lets a container add."""
SYSCTLS = (
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range"),
    *("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
    *("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
)
VOLUMES = (
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"),
)
SELINUX = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
PROFILES = ("RuntimeDefault", "Localhost")
"""Of seccomp and of AppArmor."""
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
Found = Iterator[tuple[str, str]]


def level(template: Mapping[str, Any]) -> str:
    """The narrowest of `LEVELS` that takes a pod of this template."""
    broken = {rule for rule, _ in hindrances(template)}
    return PRIVILEGED if BASELINE in broken else BASELINE if broken else RESTRICTED


def hindrances(template: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of a pod's template breaks a rule: the level whose rule it is, `baseline` (and so of `restricted` too) or
    `restricted`, and what, with its place.
    """
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    kinds = ("initContainers", "containers", "ephemeralContainers")
    containers = [container for kind in kinds for container in spec.get(kind) or []]
    found = [*_of_pod(metadata, spec), *_of_user(spec, containers)]
    found += [each for container in containers for each in _of_container(spec, container)]
    return list(dict.fromkeys(found))


def _security(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    return holder.get("securityContext") or {}


def _of_pod(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Found:
    yield from ((BASELINE, f"{key}: true") for key in HOST if spec.get(key))
    for volume in spec.get("volumes") or []:
        kinds = [kind for kind in volume if kind != "name"] or ["emptyDir"]
        for kind in kinds:
            if kind not in VOLUMES:
                yield (BASELINE if kind == "hostPath" else RESTRICTED), f"volumes.{volume.get('name')}: {kind}"
    for each in _security(spec).get("sysctls") or []:
        if each.get("name") not in SYSCTLS:
            yield BASELINE, f"sysctls: {each.get('name')}"
    for name, value in (metadata.get("annotations") or {}).items():
        if name.startswith(APPARMOR) and value and value != "runtime/default" and not value.startswith("localhost/"):
            yield BASELINE, f"annotations.{name}: {value}"
    yield from _of_either("pod", _security(spec))


def _of_either(place: str, security: Mapping[str, Any]) -> Found:
    """What a pod and a container can both say, and may not."""
    options = security.get("seLinuxOptions") or {}
    for key, value in options.items():
        if (key == "type" and value not in SELINUX) or (key in {"user", "role"} and value):
            yield BASELINE, f"{place}: seLinuxOptions.{key}: {value}"
    for key in ("appArmorProfile", "seccompProfile"):
        profile = security.get(key)
        if profile and profile.get("type") not in PROFILES:
            yield BASELINE, f"{place}: {key}: {profile.get('type')}"
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        yield BASELINE, f"{place}: windowsOptions.hostProcess: true"


def _of_user(spec: Mapping[str, Any], containers: list[Mapping[str, Any]]) -> Found:
    """Who a pod runs as; root in a user namespace of its own (`hostUsers: false`) is nobody outside of it."""
    whole = _security(spec)
    places = [("pod", whole), *((f"containers.{each.get('name')}", _security(each)) for each in containers)]
    for place, security in places:
        if spec.get("hostUsers") is not False:
            if security.get("runAsUser") == 0:
                yield RESTRICTED, f"{place}: runAsUser: 0"
            if security.get("runAsNonRoot") is False:
                yield RESTRICTED, f"{place}: runAsNonRoot: false"
            elif place != "pod" and security.get("runAsNonRoot") is None and whole.get("runAsNonRoot") is None:
                yield RESTRICTED, f"{place}: no runAsNonRoot: true"
        if place != "pod" and not security.get("seccompProfile") and not whole.get("seccompProfile"):
            yield RESTRICTED, f"{place}: no seccompProfile"


def _of_container(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Found:
    place, security = f"containers.{container.get('name')}", _security(container)
    yield from _of_either(place, security)
    if security.get("privileged"):
        yield BASELINE, f"{place}: privileged: true"
    if security.get("allowPrivilegeEscalation") is not False:
        yield RESTRICTED, f"{place}: no allowPrivilegeEscalation: false"
    capabilities = security.get("capabilities") or {}
    for name in capabilities.get("add") or []:
        if name not in CAPABILITIES:
            yield BASELINE, f"{place}: capability {name}"
        elif name != "NET_BIND_SERVICE":
            yield RESTRICTED, f"{place}: capability {name}"
    if "ALL" not in (capabilities.get("drop") or []):
        yield RESTRICTED, f"{place}: capabilities not dropped: ALL"
    if (security.get("procMount") or "Default") != "Default":
        own = spec.get("hostUsers") is False
        yield (RESTRICTED if own else BASELINE), f"{place}: procMount: {security.get('procMount')}"
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield BASELINE, f"{place}: hostPort: {port['hostPort']}"
    lifecycle = container.get("lifecycle") or {}
    for name, action in [*((name, container.get(name)) for name in PROBES), *lifecycle.items()]:
        for way in ("httpGet", "tcpSocket"):
            if host := ((action or {}).get(way) or {}).get("host"):
                yield BASELINE, f"{place}: {name}.{way}.host: {host}"
