"""The Lua checks that Argo CD is given, run by Lua, on what the operator writes."""

from pathlib import Path
from typing import Any

import lupa
import pytest
import yaml

CONFIG = yaml.safe_load((Path(__file__).parents[4] / "manifests" / "argocd" / "health.yaml").read_text())


def health(kind: str, obj: dict[str, Any]) -> dict[str, str]:
    """What the check of `kind` says of an object, as Argo CD runs it: with the object as the global `obj`."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(obj, recursive=True)
    return dict(lua.execute(CONFIG["data"][f"resource.customizations.health.{kind}"]))


def job(*conditions: tuple[str, str]) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": t, "status": s, "message": f"job {t}"} for t, s in conditions]}}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ({}, ("Progressing", "waits for its pods")),
        ({"status": {}}, ("Progressing", "waits for its pods")),
        (job(("Created", "True")), ("Progressing", "job Created")),
        (job(("Created", "True"), ("Running", "True")), ("Progressing", "job Running")),
        (job(("Created", "True"), ("Running", "False"), ("Restarting", "True")), ("Progressing", "job Restarting")),
        (job(("Created", "True"), ("Suspended", "True")), ("Suspended", "job Suspended")),
        (job(("Created", "True"), ("Running", "False"), ("Succeeded", "True")), ("Healthy", "job Succeeded")),
        (job(("Created", "True"), ("Running", "False"), ("Failed", "True")), ("Degraded", "job Failed")),
    ],
)
def test_a_pytorchjob(obj: dict[str, Any], expected: tuple[str, str]) -> None:
    found = health("kubeflow.org_PyTorchJob", obj)
    assert (found["status"], found["message"]) == expected


@pytest.mark.parametrize(
    ("path", "sync", "health_there", "expected"),
    [
        ("p/a-1", "Synced", "Healthy", "Healthy"),
        ("p/a-1", "Synced", "Degraded", "Degraded"),
        ("p/a-1", "OutOfSync", "Healthy", "Progressing"),
        ("p/a-0", "Synced", "Healthy", "Progressing"),
    ],
)
def test_an_application_is_healthy_only_at_its_own_commit(path: str, sync: str, health_there: str, expected: str) -> None:
    spec = {"source": {"path": "p/a-1"}}
    compared = {"status": sync, "comparedTo": {"source": {"path": path}}}
    found = {"spec": spec, "status": {"sync": compared, "health": {"status": health_there, "message": "x"}}}
    assert health("argoproj.io_Application", found)["status"] == expected
    assert health("argoproj.io_Application", {"spec": spec})["status"] == "Progressing"
