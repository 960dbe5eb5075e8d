"""Which pods a namespace with Pod Security takes, and what hinders; the cluster's admission is asked the same."""

from typing import Any

import pytest

from jobgen.manifests import conductor, render, security
from jobgen.manifests.security import BASELINE, PRIVILEGED, RESTRICTED
from jobgen.pipeline import fragment, spec
from jobgen.pipeline.plan import plan

SMOKE = spec.load("smoke")


def of_container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "pytorch", **fields}]}}


def of_security(**fields: Any) -> dict[str, Any]:
    return of_container(securityContext=fields)


def of_pod(**fields: Any) -> dict[str, Any]:
    return {"spec": {"securityContext": fields}}


def volume(kind: str, **fields: Any) -> dict[str, Any]:
    return {"spec": {"volumes": [{"name": "more", kind: fields}]}}


ROOT = {"runAsUser": 0, "runAsNonRoot": None}
CONFINED, UNCONFINED = {"type": "RuntimeDefault"}, {"type": "Unconfined"}
NO_USER = {"runAsNonRoot": None, "runAsUser": None, "runAsGroup": None}
PROBE = {"httpGet": {"port": 80, "host": "10.0.0.1"}}
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({}, RESTRICTED, ""),
    "IPC_LOCK": (
        of_security(capabilities={"add": ["IPC_LOCK"], "drop": ["ALL"]}),
        PRIVILEGED,
        "containers.pytorch: capability IPC_LOCK",
    ),
    "a capability of baseline": (
        of_security(capabilities={"add": ["SYS_CHROOT"], "drop": ["ALL"]}),
        BASELINE,
        "containers.pytorch: capability SYS_CHROOT",
    ),
    "NET_BIND_SERVICE": (of_security(capabilities={"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}), RESTRICTED, ""),
    "nothing dropped": (of_security(capabilities=None), BASELINE, "containers.pytorch: capabilities not dropped: ALL"),
    "hostNetwork": ({"spec": {"hostNetwork": True}}, PRIVILEGED, "hostNetwork: true"),
    "hostPID": ({"spec": {"hostPID": True}}, PRIVILEGED, "hostPID: true"),
    "hostIPC": ({"spec": {"hostIPC": True}}, PRIVILEGED, "hostIPC: true"),
    "hostPath": (volume("hostPath", path="/x"), PRIVILEGED, "volumes.more: hostPath"),
    "nfs": (volume("nfs", server="a", path="/x"), BASELINE, "volumes.more: nfs"),
    "csi": (volume("csi", driver="a"), RESTRICTED, ""),
    "hostPort": (of_container(ports=[{"containerPort": 80, "hostPort": 80}]), PRIVILEGED, "containers.pytorch: hostPort: 80"),
    "privileged": (
        of_security(privileged=True, allowPrivilegeEscalation=True),
        PRIVILEGED,
        "containers.pytorch: privileged: true, containers.pytorch: no allowPrivilegeEscalation: false",
    ),
    "escalation": (
        of_security(allowPrivilegeEscalation=None),
        BASELINE,
        "containers.pytorch: no allowPrivilegeEscalation: false",
    ),
    "root": (of_pod(**ROOT), BASELINE, "pod: runAsUser: 0, containers.pytorch: no runAsNonRoot: true"),
    "root of a container": (of_security(runAsUser=0), BASELINE, "containers.pytorch: runAsUser: 0"),
    "root, said to be allowed": (of_pod(runAsNonRoot=False), BASELINE, "pod: runAsNonRoot: false"),
    "root of a user namespace": (
        {"spec": {"hostUsers": False, "securityContext": ROOT}},
        RESTRICTED,
        "",
    ),
    "nobody said": (of_pod(**NO_USER), BASELINE, "containers.pytorch: no runAsNonRoot: true"),
    "said by the container": (
        {"spec": {"securityContext": NO_USER, **of_security(runAsNonRoot=True)["spec"]}},
        RESTRICTED,
        "",
    ),
    "no seccomp": (of_pod(seccompProfile=None), BASELINE, "containers.pytorch: no seccompProfile"),
    "seccomp of the container": (
        {
            "spec": {
                "securityContext": {"seccompProfile": None},
                **of_security(seccompProfile=CONFINED)["spec"],
            }
        },
        RESTRICTED,
        "",
    ),
    "unconfined": (
        of_security(seccompProfile=UNCONFINED),
        PRIVILEGED,
        "containers.pytorch: seccompProfile: Unconfined",
    ),
    "AppArmor": (of_pod(appArmorProfile=UNCONFINED), PRIVILEGED, "pod: appArmorProfile: Unconfined"),
    "SELinux": (of_pod(seLinuxOptions={"type": "spc_t"}), PRIVILEGED, "pod: seLinuxOptions.type: spc_t"),
    "SELinux's level": (of_pod(seLinuxOptions={"level": "s0:c1,c2"}), RESTRICTED, ""),
    "a sysctl": (of_pod(sysctls=[{"name": "net.core.somaxconn", "value": "9"}]), PRIVILEGED, "sysctls: net.core.somaxconn"),
    "a safe sysctl": (of_pod(sysctls=[{"name": "net.ipv4.tcp_rmem", "value": "1 2 3"}]), RESTRICTED, ""),
    "a probe of a host": (
        of_container(livenessProbe=PROBE),
        PRIVILEGED,
        "containers.pytorch: livenessProbe.httpGet.host: 10.0.0.1",
    ),
    "an init container": (
        {"spec": {"initContainers": [{"name": "first", "image": "x"}]}},
        BASELINE,
        "containers.first: no allowPrivilegeEscalation: false, containers.first: capabilities not dropped: ALL",
    ),
}
"""By name: a fragment of a stage's pod, the narrowest level that takes it, and what hinders."""


def template(more: dict[str, Any]) -> dict[str, Any]:
    """The template of a stage's pods with a fragment over it."""
    job = render.job(SMOKE, plan(SMOKE)[0])
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    return fragment.merge(replica["template"], more)


@pytest.mark.parametrize("case", CASES)
def test_the_level_and_what_hinders(case: str) -> None:
    more, level, words = CASES[case]
    assert security.level(template(more)) == level
    assert ", ".join(what for _, what in security.hindrances(template(more))) == words


@pytest.mark.parametrize("name", spec.shipped())
def test_the_shipped_pipelines_are_restricted(name: str) -> None:
    pipeline = spec.load(name)
    for step in plan(pipeline):
        (replica,) = render.job(pipeline, step)["spec"]["pytorchReplicaSpecs"].values()
        assert security.hindrances(replica["template"]) == []
    assert security.hindrances(conductor.objects(pipeline)[-1]["spec"]["template"]) == []
