"""What `jobgen validate` says of a pod's values is what the API server, the operator's webhook and Kueue's say."""

import copy
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from jobgen.manifests import render
from jobgen.pipeline import fragment as fragments
from jobgen.pipeline import level, spec
from jobgen.pipeline.pipeline import CONTAINER
from jobgen.pipeline.plan import plan
from jobgen.pipeline.source import Place
from jobgen.pod import forms
from tests.cluster.conftest import wait
from tests.unit.jobgen.pod.cases import REFUSED, STRICTER, TAKEN, fragment
from tests.unit.jobgen.pod.odd import changed
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


JOBS: dict[str, bool] = {
    "labels: {kueue.x-k8s.io/queue-name: Team.A}": False,
    "labels: {kueue.x-k8s.io/queue-name: team.a}": True,
    "labels: {kueue.x-k8s.io/prebuilt-workload-name: A_b}": False,
    "labels: {kueue.x-k8s.io/max-exec-time-seconds: '0'}": False,
    "labels: {kueue.x-k8s.io/max-exec-time-seconds: '60'}": True,
    "labels: {kueue.x-k8s.io/priority-class: A_b}": True,
    "scheduling_policy: {minResources: {cpu: foo}}": False,
    "scheduling_policy: {minResources: {cpu: 5, nvidia.com/gpu: '8'}, minAvailable: 2, queue: a, priorityClass: b}": True,
    "scheduling_policy: {minAvailable: 2147483648}": False,
    "scheduling_policy: {scheduleTimeoutSeconds: 5s}": False,
}
"""What a level says of the job itself, and whether it is taken."""


@pytest.mark.parametrize(("case", "taken"), JOBS.items())
def test_the_words_for_the_job_itself(judge: Judge, case: str, taken: bool) -> None:
    from kubernetes.client import ApiException

    said = yaml.safe_load(case)
    _, problems = level.read(said, (), Place("p.yaml", {}), container=CONTAINER)
    job = copy.deepcopy(judge.job)
    job["metadata"]["labels"] |= said.get("labels", {})
    if "scheduling_policy" in said:
        job["spec"]["runPolicy"]["schedulingPolicy"] = said["scheduling_policy"]
    where = ("kubeflow.org", "v1", judge.namespace, "pytorchjobs")
    try:
        judge.cluster.custom.create_namespaced_custom_object(*where, job, dry_run="All", field_validation="Strict")
        found = True
    except ApiException as error:
        if error.status not in {400, 403, 422}:
            raise
        found = False
    # A queue is said by a pool's `queue`, by the same form.
    queue = said.get("labels", {}).get(level.QUEUE)
    ours = not forms.queue_name(queue) if queue else not problems
    assert (found, ours) == (taken, taken)


STRICT = (
    *(
        "a name of a-z",
        "found no source",
        "an image such as",
        "a key of letters",
        "an absolute path without :",
        "HugePages-2Mi",
    ),
    *("AUDIT_READ", "SYS_ADMIN", "twice in this list", "is missing", "found ''; valid: ", "found without runtimeClassName"),
    *("found no name, by which", "one of name and signerName", "a relative path is valid", "does not begin with .."),
    *(
        "twice; once is valid",
        "from 0 to 255",
        "no emptyDir",
        "runAsNonRoot: true refuses",
        "a whole number is valid, in quotes",
    ),
)
"""Why ours may refuse what the server takes: what can name nothing, what no kubelet runs, what the published schema says."""


@pytest.mark.long
def test_every_field_with_odd_values(judge: Judge) -> None:
    """Nothing is refused by the server that ours takes; and the other way round with a reason."""
    from kubernetes.client import ApiException

    missed, strict = [], []
    for what, template in changed():
        found = [said for _, said in fragments.lacks(template)]
        body = {"metadata": {"name": "odd"}, "template": template}
        try:
            judge.cluster.core.create_namespaced_pod_template(judge.namespace, body, dry_run="All", field_validation="Strict")
            if found and not all(any(reason in said for reason in STRICT) for said in found):
                strict.append((what, found))
        except ValueError:  # The client's own models.
            assert found, what
        except ApiException as error:
            if not found:
                missed.append((what, error.body))
    assert (missed, strict) == ([], [])
