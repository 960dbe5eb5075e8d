"""What is left in a namespace by a conductor that it does not take."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiClient, ApiException, Configuration

from jobgen.cluster import rights
from jobgen.manifests import conductor
from jobgen.pipeline import spec
from jobgen.pipeline.pipeline import Pipeline
from minima.errors import UsageError
from tests.unit.jobgen.cluster.test_conduct import SHORT

PIPELINE = spec.load(str(SHORT))
CLUSTER: Any = SimpleNamespace(namespace="ns", core=SimpleNamespace(api_client=None))


class Client:
    """An API server that answers objects of a kind with an error, if one is given: those of a dry run, or all."""

    def __init__(self, status: int = 0, message: str = "", *, kind: str = "Job", dry_alone: bool = False) -> None:
        self.status, self.message, self.kind, self.dry_alone = status, message, kind, dry_alone
        self.applied: list[str] = []
        self.resources = SimpleNamespace(get=lambda api_version, kind: kind)

    def server_side_apply(self, kind: str, *, body: dict[str, Any], dry_run: str = "", **_: Any) -> None:
        assert kind == body["kind"]
        if kind == self.kind and self.status and (dry_run or not self.dry_alone):
            error = ApiException(status=self.status)
            error.body = json.dumps({"message": self.message})
            raise error
        if not dry_run:
            self.applied.append(kind)


def applied(
    monkeypatch: pytest.MonkeyPatch, client: Client, pipeline: Pipeline = PIPELINE, cluster: Any = CLUSTER
) -> list[str]:
    monkeypatch.setattr(rights, "DynamicClient", lambda _: client)
    rights.apply(cluster, pipeline, conductor.objects(pipeline, "ns"))
    return client.applied


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [(422, "spec.template is invalid", "Job"), (403, "jobs is forbidden", "Job"), (403, "exceeded quota", "ConfigMap")],
)
def test_what_is_refused_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, status: int, message: str, kind: str) -> None:
    client = Client(status, message, kind=kind)
    with pytest.raises(UsageError, match=f"apply {kind} short-conductor-.* to ns: the cluster refuses .*{message}"):
        applied(monkeypatch, client)
    assert client.applied == []


def test_all_is_applied_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [each["kind"] for each in conductor.objects(PIPELINE, "ns")]
    assert applied(monkeypatch, Client()) == kinds
    # A webhook that knows no dry run says nothing about the Job.
    unable = Client(400, 'admission webhook "x" does not support dry run', dry_alone=True)
    assert applied(monkeypatch, unable) == kinds


@pytest.mark.parametrize("account", ["", "mine"])
@pytest.mark.parametrize("allowed", [True, False])
def test_rights_are_asked_of_the_account_that_the_conductor_runs_as(
    monkeypatch: pytest.MonkeyPatch, account: str, allowed: bool
) -> None:
    """Without leave to write a Role the run goes on, if the rights are there."""
    said = f"conductor: {{image: minima:jobgen, service_account: {account}}}" if account else "conductor: minima:jobgen"
    pipeline = spec.parse(PIPELINE.text.replace("conductor: minima:jobgen", said), "short.yaml")
    asked = []

    class Reviews:
        def __init__(self, client: ApiClient) -> None:
            self.who = client.default_headers["Impersonate-User"]

        def create_self_subject_access_review(self, *_: Any, **__: Any) -> Any:
            asked.append(self.who)
            return SimpleNamespace(status=SimpleNamespace(allowed=allowed))

    monkeypatch.setattr(rights, "AuthorizationV1Api", Reviews)
    cluster = SimpleNamespace(namespace="ns", core=SimpleNamespace(api_client=SimpleNamespace(configuration=Configuration())))
    client = Client(403, "roles is forbidden", kind="Role")
    if allowed:
        assert applied(monkeypatch, client, pipeline, cluster)[-1] == "Job"
    else:
        with pytest.raises(UsageError, match=r"roles is forbidden.*, and without it the conductor may not list pytorchjobs"):
            applied(monkeypatch, client, pipeline, cluster)
        assert "Job" not in client.applied
    runs_as = conductor.objects(pipeline)[-1]["spec"]["template"]["spec"]["serviceAccountName"]
    assert set(asked) == {f"system:serviceaccount:ns:{runs_as}"}
    assert runs_as == (account or "short-conductor")
