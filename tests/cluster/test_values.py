"""What `jobgen validate` says of a pod's values is what the API server, the operator's webhook and Kueue's say."""

import copy
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from jobgen.manifests import render
from jobgen.pipeline import fragment as fragments
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from tests.cluster.conftest import wait
from tests.unit.jobgen.pod.cases import REFUSED, STRICTER, TAKEN, fragment
from tests.unit.jobgen.pod.test_values import SHORT

pytestmark = pytest.mark.cluster
ABSENT = ("error looking up service account", "no PriorityClass with name", "not found")
"""Of what a pod names and this cluster has not; a value is not wrong by that."""


class Judge:
    """A namespace whose server is asked, and keeps nothing."""

    def __init__(self, cluster: Any, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        pipeline = spec.parse(yaml.safe_dump(SHORT, sort_keys=False), "p.yaml")
        self.job = render.job(pipeline, plan(pipeline)[0])

    def refuses(self, text: str) -> str:
        """What the server says of a pod with this fragment, in the first form that it refuses; empty if in none."""
        from kubernetes.client import ApiException

        job = copy.deepcopy(self.job)
        (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
        template = replica["template"] = fragments.merge(replica["template"], fragment(text))
        whole = {"metadata": {"name": f"v{uuid.uuid4().hex[:8]}"}, "template": template}
        pod = {"metadata": {**template["metadata"], **whole["metadata"]}, "spec": template["spec"]}
        asked = {"dry_run": "All", "field_validation": "Strict"}
        forms = (
            lambda: self.cluster.core.create_namespaced_pod_template(self.namespace, whole, **asked),
            lambda: self.cluster.custom.create_namespaced_custom_object(
                "kubeflow.org", "v1", self.namespace, "pytorchjobs", job, **asked
            ),
            lambda: self.cluster.core.create_namespaced_pod(self.namespace, pod, **asked),
        )
        for ask in forms:
            try:
                ask()
            except ApiException as error:
                if error.status != 403 or not any(each in error.body for each in ABSENT):
                    return str(error.body)
        return ""


@pytest.fixture(scope="module")
def judge(cluster: Any) -> Iterator[Judge]:
    name = f"{cluster.namespace}-values"
    cluster.core.create_namespace({"metadata": {"name": name}})
    wait("its account is there", lambda: cluster.core.list_namespaced_service_account(name).items)
    yield Judge(cluster, name)
    cluster.core.delete_namespace(name)


@pytest.mark.parametrize("case", REFUSED)
def test_the_server_refuses_too(judge: Judge, case: str) -> None:
    assert judge.refuses(case)


@pytest.mark.parametrize("case", [*STRICTER, *TAKEN])
def test_the_server_takes_it(judge: Judge, case: str) -> None:
    assert judge.refuses(case) == ""
