"""Putting a conductor's objects into a namespace by whoever may do that: only to give it rights takes an admin, once."""

from collections.abc import Iterator, Sequence
from typing import Any

from kubernetes.client import ApiClient, AuthorizationV1Api
from kubernetes.dynamic import DynamicClient

from jobgen.cluster.answers import RefusedError, told
from jobgen.cluster.namespace import TIMEOUT, Cluster
from jobgen.pipeline.pipeline import Pipeline
from jobgen.report import say
from minima.errors import UsageError

RIGHTS = ("ServiceAccount", "Role", "RoleBinding")


def apply(cluster: Cluster, pipeline: Pipeline, objects: Sequence[dict[str, Any]]) -> None:
    """Apply objects; of those that give rights, what may not be applied need not be, if the rights are there already.

    Raises:
        RefusedError: the conductor would lack rights, or something else may not be applied.
        UsageError: the cluster does not take its Job or what that reads, and nothing was applied.
    """
    with told(f"apply the conductor to {cluster.namespace}"):
        client = DynamicClient(cluster.core.api_client)
    for each in objects:
        if each["kind"] not in RIGHTS:  # One that the cluster refuses leaves nothing behind.
            _try(client, cluster, each)
    refused: list[str] = []
    for each in objects:
        kind = each["kind"]
        if kind not in RIGHTS and refused:
            _check(cluster, pipeline, objects, refused)
            refused = []
        try:
            _apply(client, cluster, each)
        except RefusedError as error:
            if kind not in RIGHTS:
                raise
            refused.append(str(error))


def _try(client: DynamicClient, cluster: Cluster, each: dict[str, Any]) -> None:
    """Ask whether the cluster takes an object.

    Raises:
        UsageError: it does not.
    """
    try:
        _apply(client, cluster, each, dry_run="All")
    except UsageError as error:
        if "does not support dry run" not in str(error):  # What the API server says of a webhook that would change more.
            raise


def _apply(client: DynamicClient, cluster: Cluster, each: dict[str, Any], **options: str) -> None:
    name, kind = each["metadata"]["name"], each["kind"]
    with told(f"apply {kind} {name} to {cluster.namespace}"):
        client.server_side_apply(
            client.resources.get(api_version=each["apiVersion"], kind=kind),
            body=each,
            namespace=cluster.namespace,
            field_manager="jobgen",
            force_conflicts=True,
            **options,
        )


def _check(cluster: Cluster, pipeline: Pipeline, objects: Sequence[dict[str, Any]], refused: list[str]) -> None:
    """Check that the conductor has its rights though some of them could not be applied."""
    role, binding = (next(each for each in objects if each["kind"] == kind) for kind in ("Role", "RoleBinding"))
    try:
        lacking = next(_lacking(cluster, role, binding["subjects"][0]["name"]), None)
    except RefusedError:
        say(f"{refused[0]}; if its rights are not there already, the conductor will say so")
        return
    if lacking:
        raise RefusedError(
            f"{refused[0]}, and without it the conductor may not {lacking}; an admin of the namespace gives it its rights, and "
            f"starts it, by: jobgen render {pipeline.source} --namespace {cluster.namespace} --format conductor --output - "
            "| kubectl apply -f -"
        )


def _lacking(cluster: Cluster, role: dict[str, Any], account: str) -> Iterator[str]:
    """What a conductor may not do of all that its Role would let it: asked in the name of its account.

    Raises:
        RefusedError: whoever asks may not.
    """
    client = ApiClient(cluster.core.api_client.configuration)
    client.set_default_header("Impersonate-User", f"system:serviceaccount:{cluster.namespace}:{account}")
    api = AuthorizationV1Api(client)
    for rule in role["rules"]:
        for resource in rule["resources"]:
            kind, _, part = resource.partition("/")
            for verb in rule["verbs"]:
                asked = {"namespace": cluster.namespace, "verb": verb, "group": rule["apiGroups"][0], "resource": kind}
                asked |= {"subresource": part} if part else {}
                asked |= {"name": rule["resourceNames"][0]} if "resourceNames" in rule else {}
                with told(f"ask what {account} may do in {cluster.namespace}"):
                    review = api.create_self_subject_access_review(
                        {"spec": {"resourceAttributes": asked}}, _request_timeout=TIMEOUT
                    )
                if not review.status.allowed:
                    yield f"{verb} {resource}"
