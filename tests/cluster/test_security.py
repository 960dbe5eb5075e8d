"""What `jobgen validate` says of Pod Security is what the API server's own admission says."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from jobgen.manifests import security
from tests.cluster.conftest import wait
from tests.unit.jobgen.manifests.test_security import CASES, template

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def levels(cluster: Any) -> Iterator[dict[str, str]]:
    """A namespace that enforces each level."""
    made = {level: f"{cluster.namespace}-{level[:4]}" for level in security.LEVELS}
    for level, name in made.items():
        labels = {"pod-security.kubernetes.io/enforce": level}
        cluster.core.create_namespace({"metadata": {"name": name, "labels": labels}})

    def accounts() -> bool:
        return all(cluster.core.list_namespaced_service_account(name).items for name in made.values())

    wait("their accounts are there", accounts)
    yield made
    for name in made.values():
        cluster.core.delete_namespace(name)


@pytest.mark.parametrize("case", CASES)
def test_the_admission_agrees(cluster: Any, levels: dict[str, str], case: str) -> None:
    from kubernetes.client import ApiException

    made = template(CASES[case][0])
    body = {"metadata": {**made["metadata"], "name": f"p{uuid.uuid4().hex[:8]}"}, "spec": made["spec"]}
    body["spec"].pop("priorityClassName", None)
    taken = []
    for level, namespace in levels.items():
        try:
            cluster.core.create_namespaced_pod(namespace, body, dry_run="All", field_validation="Strict")
            taken.append(level)
        except ApiException as error:
            if "violates PodSecurity" not in error.body:
                raise
    narrowest = security.LEVELS.index(security.level(made))
    assert taken == list(security.LEVELS[narrowest:])
