"""What a cluster answers instead of what it was asked for, as errors of ours."""

import contextlib
import json
from collections.abc import Iterator

import urllib3
from kubernetes.client import ApiException

from minima.errors import LostPeerError, NotReadyError, UsageError

INSTALL = 'kubectl apply --server-side -k "github.com/kubeflow/trainer.git/manifests/overlays/standalone?ref=v1.9.4"'
OPERATOR_RUNS = "`kubectl get pods -A -l control-plane=kubeflow-training-operator` shows whether the operator does"


class RefusedError(UsageError):
    """The cluster does not know who asks, or does not let them; for a while, it may be about to learn who may do what."""


class NoOperatorError(NotReadyError):
    """The cluster has no PyTorchJobs."""


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the client raises into one error.

    Raises:
        LostPeerError: no cluster answers, or it is not able to; trying again helps.
        RefusedError: it refuses whoever asks (401, 403).
        UsageError: it refuses what is asked.
    """
    try:
        yield
    except ApiException as error:
        reason = _reason(error)
        if error.status in {0, 408, 429, 500, 502, 503, 504}:
            raise LostPeerError(f"{what}: the cluster is not able to ({error.status}: {reason}){_remedy(reason)}") from None
        if error.status in {401, 403}:
            raise RefusedError(f"{what}: the cluster refuses ({error.status}: {reason})") from None
        raise UsageError(f"{what}: the cluster refuses ({error.status}: {reason})") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise LostPeerError(f"{what}: no cluster answers ({error}); `kubectl get nodes` says whether yours does") from None


def _remedy(reason: str) -> str:
    if "failed calling webhook" in reason and "pytorchjob" in reason:
        return f"; the program behind that webhook has to run: {OPERATOR_RUNS}"
    return "; try again"


def _reason(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


@contextlib.contextmanager
def operator() -> Iterator[None]:
    """Turn the answer of a cluster that has no such kind into an error that says so."""
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise
        raise NoOperatorError(f"the cluster has no PyTorchJobs; install the Kubeflow training operator: {INSTALL}") from None
