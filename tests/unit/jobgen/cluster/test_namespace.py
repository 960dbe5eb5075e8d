"""What jobgen makes of the answers of a cluster's API."""

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from kubernetes.client import ApiException

from jobgen.cluster.answers import NoOperatorError, RefusedError, operator, told
from jobgen.cluster.namespace import Cluster
from minima.errors import LostPeerError, StageError, UsageError
from tests.unit.jobgen.cluster.test_conduct import pod


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, LostPeerError) for status in (0, 408, 429, 500, 502, 503, 504)],
        *[(status, RefusedError) for status in (401, 403)],
        *[(status, UsageError) for status in (400, 404, 405, 409, 410, 413, 422)],
    ],
)
def test_what_may_pass_and_what_may_not(status: int, kind: type[StageError]) -> None:
    with pytest.raises(kind, match=f"do it: the cluster .*{status}: words") as caught, told("do it"):
        raise ApiException(status=status, reason="words")
    assert type(caught.value) is kind


def test_no_answer_may_pass() -> None:
    for error in (urllib3.exceptions.ProtocolError("broken"), ConnectionRefusedError("refused")):
        with pytest.raises(LostPeerError, match="no cluster answers"), told("do it"):
            raise error


def test_a_webhook_of_the_operator_that_does_not_answer() -> None:
    body = '{"message": "failed calling webhook \\"validator.pytorchjob.training-operator.kubeflow.org\\": connection refused"}'
    error = ApiException(status=500, reason="")
    error.body = body
    with pytest.raises(LostPeerError, match=r"failed calling webhook .*; .* shows whether the operator does"), told("create x"):
        raise error


def test_a_cluster_without_the_operator() -> None:
    with (
        pytest.raises(NoOperatorError, match=r"no PyTorchJobs; install .*kubectl apply --server-side"),
        told("look"),
        operator(),
    ):
        raise ApiException(status=404, reason="page not found")
    with pytest.raises(RefusedError), told("look"), operator():
        raise ApiException(status=403)


@pytest.mark.parametrize(("kinds", "there"), [(["tfjobs", "pytorchjobs"], True), (["tfjobs"], False), (None, False)])
def test_the_operator_is_looked_for_by_its_kind(kinds: list[str] | None, there: bool) -> None:
    def resources(*_: str, **__: Any) -> Any:
        if kinds is None:
            raise ApiException(status=404)
        return SimpleNamespace(resources=[SimpleNamespace(name=kind) for kind in kinds])

    cluster = object.__new__(Cluster)
    cluster.custom = SimpleNamespace(get_api_resources=resources)
    expected = contextlib.nullcontext() if there else pytest.raises(NoOperatorError, match="no PyTorchJobs; install")
    with expected:
        cluster.check_operator()


def test_a_pod_is_itself_only_by_its_uid() -> None:
    """A StatefulSet's or an operator's pod comes again under the same name, with another log."""
    mine, again = pod(0, ""), pod(0, "")
    again.metadata = SimpleNamespace(name="pod", uid="another")
    cluster = object.__new__(Cluster)
    cluster.namespace = "ns"
    there: list[Any] = [again]
    cluster.core = SimpleNamespace(list_namespaced_pod=lambda *_, **__: SimpleNamespace(items=there))
    assert cluster._again(mine) is None
    there.append(mine)
    assert cluster._again(mine) is mine
