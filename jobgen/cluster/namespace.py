"""A namespace of a cluster: PyTorchJobs, pods and their logs, by kubeflow-training's client.

Calls go through that client's own `custom_api` and `core_api`: its methods turn every answer of the server into a
RuntimeError without its status, and drop what its models do not know.
"""

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubeflow.training import TrainingClient
from kubeflow.training.constants import constants
from kubernetes.client import ApiException, ApisApi, BatchV1Api
from kubernetes.config import ConfigException

from jobgen.cluster.answers import RefusedError, operator, told
from jobgen.cluster.objects import of_job, seconds
from jobgen.manifests.checks import CONTAINER
from jobgen.manifests.render import CONDUCTOR
from minima.errors import LostPeerError, NotReadyError, UsageError

JOBS = (constants.GROUP, constants.VERSION)
PLURAL = constants.PYTORCHJOB_PLURAL
QUEUES = "kueue.x-k8s.io"
TIMEOUT = (10, 60)
"""Seconds to connect, and between two bytes of an answer: a half-open connection must not hold the conductor."""
QUIET_SECONDS = 900
"""After which a log that is followed and says nothing is opened again."""
GONE_SECONDS = 660
"""For the pods of a deleted job to end: a training stage saves first."""
PAUSE = 2.0
"""Seconds until a call is tried again that the cluster did not answer."""
RETRIES = 30
"""Calls in a row that the cluster does not answer, before that is said to be an error."""
SKEW_SECONDS = 60
"""By which clocks of the cluster and of this machine may differ."""
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d))(?: |$)")


class Cluster:
    """One namespace.

    Args:
        namespace: its name.
        context: of the kubeconfig; None for the current one, or inside of a cluster for that.

    Raises:
        UsageError: nothing says which cluster.
    """

    def __init__(self, namespace: str, context: str | None = None) -> None:
        self.namespace, self.context = namespace, context
        try:
            client = TrainingClient(namespace=namespace, context=context)
        except (ConfigException, TypeError) as error:
            raise UsageError(f"no cluster is configured ({error}); set KUBECONFIG, or `kubectl config use-context`") from None
        self.custom, self.core = client.custom_api, client.core_api
        self.batch = BatchV1Api(self.core.api_client)
        self.apis = ApisApi(self.core.api_client)

    def check(self) -> None:
        """Check that the namespace is there, as far as this user may ask: lists of what is in it would be empty.

        Raises:
            UsageError: it is not.
        """
        with contextlib.suppress(RefusedError), told(f"look at namespace {self.namespace}"):
            try:
                self.core.read_namespace(self.namespace, _request_timeout=TIMEOUT)
            except ApiException as error:
                if error.status != 404:
                    raise
                raise UsageError(
                    f"no such namespace: {self.namespace}; `kubectl get namespaces` lists those that are there, "
                    f"`kubectl create namespace {self.namespace}` makes it"
                ) from None

    def check_operator(self) -> None:
        """Check that the cluster knows PyTorchJobs; anybody may ask that.

        Raises:
            NoOperatorError: it does not.
        """
        with told("look for the training operator"), operator():
            found = self.custom.get_api_resources(*JOBS, _request_timeout=TIMEOUT)
            if all(kind.name != PLURAL for kind in found.resources):  # Others of the group may be there without it.
                raise ApiException(status=404)

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        """The PyTorchJobs that a label selector picks, oldest first.

        Raises:
            NoOperatorError: the cluster knows none.
        """
        with told(f"list PyTorchJobs in {self.namespace}"), operator():
            found = self.custom.list_namespaced_custom_object(
                *JOBS, self.namespace, PLURAL, label_selector=selector, _request_timeout=TIMEOUT
            )
        return sorted(found["items"], key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))

    def create(self, job: Mapping[str, Any]) -> bool:
        """Create a PyTorchJob; False when one of its name is there, whose content is then the same."""
        with told(f"create {job['metadata']['name']}"):
            try:
                self.custom.create_namespaced_custom_object(
                    *JOBS, self.namespace, PLURAL, job, field_validation="Strict", _request_timeout=TIMEOUT
                )
            except ApiException as error:
                if error.status != 409:
                    raise
                return False
        return True

    def delete(self, *jobs: str, wait: bool = True) -> None:
        """Delete PyTorchJobs, all at once, and `wait` until their last pods have ended.

        Raises:
            NotReadyError: a pod is still there after `GONE_SECONDS`.
        """
        for job in jobs:
            with told(f"delete {job}"):
                try:
                    self.custom.delete_namespaced_custom_object(
                        *JOBS,
                        self.namespace,
                        PLURAL,
                        job,
                        propagation_policy="Background",
                        grace_period_seconds=0,
                        _request_timeout=TIMEOUT,
                    )
                except ApiException as error:
                    if error.status != 404:
                        raise
        deadline = time.monotonic() + GONE_SECONDS
        for job in jobs:
            while wait and (left := self.pods(of_job(job))):
                if time.monotonic() > deadline:
                    raise NotReadyError(f"{job}: deleted, but pod {left[0].metadata.name} is still there; look at its node")
                time.sleep(1)

    def pods(self, selector: str) -> list[Any]:
        """The pods that a label selector picks, oldest first."""
        with told(f"list pods in {self.namespace}"):
            found = self.core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=TIMEOUT).items
        return sorted(found, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))

    def events(self, names: Iterable[str]) -> list[Any]:
        """What the cluster noted, in the last hour, about the objects of these names."""
        found = []
        with told(f"list events in {self.namespace}"):
            for name in names:
                found += self.core.list_namespaced_event(
                    self.namespace, field_selector=f"involvedObject.name={name}", _request_timeout=TIMEOUT
                ).items
        return found

    def workload(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What Kueue made of a PyTorchJob; None if it made nothing, or is not there."""
        with told(f"list Kueue's Workloads in {self.namespace}"):
            try:
                groups = self.apis.get_api_versions(_request_timeout=TIMEOUT).groups
                version = next((group.preferred_version.version for group in groups if group.name == QUEUES), "v1beta1")
                found = self.custom.list_namespaced_custom_object(
                    QUEUES,
                    version,
                    self.namespace,
                    "workloads",
                    label_selector=f"{QUEUES}/job-uid={job['metadata']['uid']}",
                    _request_timeout=TIMEOUT,
                )
            except ApiException as error:
                if error.status != 404:
                    raise
                return None
        return next(iter(found["items"]), None)

    def restarts(self, job: Mapping[str, Any]) -> int:
        """How many pods of a job were made again, as far as the cluster's events tell: it keeps them for an hour, and after 25
        of one job in a row drops most.
        """
        name = job["metadata"]["name"]
        selector = f"involvedObject.kind=PyTorchJob,involvedObject.name={name},reason=SuccessfulCreatePod"
        with told(f"list events in {self.namespace}"):
            events = self.core.list_namespaced_event(self.namespace, field_selector=selector, _request_timeout=TIMEOUT).items
        made = sum(event.count or 1 for event in events if event.involved_object.uid == job["metadata"]["uid"])
        pods = sum(replica["replicas"] for replica in job["spec"]["pytorchReplicaSpecs"].values())
        return max(0, made - pods)

    def conductors(self, pipeline: str) -> list[Any]:
        """The conductor Jobs of a pipeline, oldest first."""
        selector = f"minima/pipeline={pipeline},app.kubernetes.io/component={CONDUCTOR}"
        with told(f"list Jobs in {self.namespace}"):
            found = self.batch.list_namespaced_job(self.namespace, label_selector=selector, _request_timeout=TIMEOUT).items
        return sorted(found, key=lambda job: (job.metadata.creation_timestamp, job.metadata.name))

    def note(self, name: str, key: str) -> str | None:
        """What a ConfigMap says under a key; None if it is not there, or says nothing."""
        with told(f"read ConfigMap {name} in {self.namespace}"):
            try:
                found = self.core.read_namespaced_config_map(name, self.namespace, _request_timeout=TIMEOUT)
            except ApiException as error:
                if error.status != 404:
                    raise
                return None
        return (found.data or {}).get(key)

    def write_note(self, name: str, key: str, text: str, labels: Mapping[str, str]) -> None:
        """Say something in a ConfigMap that is there, and label it."""
        patch = {"metadata": {"labels": dict(labels)}, "data": {key: text}}
        with told(f"write ConfigMap {name} in {self.namespace}"):
            self.core.patch_namespaced_config_map(name, self.namespace, patch, _request_timeout=TIMEOUT)

    def conductor_pods(self, job: str) -> list[Any]:
        """The pods of a conductor's Job, oldest first."""
        return self.pods(f"batch.kubernetes.io/job-name={job}")

    def lines(self, pod: str, *, whole: bool = False, **options: Any) -> Iterator[str]:
        """What a pod wrote so far, line by line; `options` are those of the API.

        With `whole`, without a last line that has no end yet.
        """
        with told(f"log of {pod}"):
            answer = self.core.read_namespaced_pod_log(
                pod, self.namespace, _preload_content=False, _request_timeout=(10, QUIET_SECONDS), **options
            )
            rest = b""
            for part in answer.stream():
                *lines, rest = (rest + part).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest and not whole:
                yield rest.decode(errors="replace")

    def so_far(self, pod: Any, container: str = CONTAINER, *, timestamps: bool = False) -> Iterator[str]:
        """What a pod's `container` wrote until now: something else may have been put beside it."""
        return self.lines(pod.metadata.name, container=container, timestamps=timestamps)

    def follow(self, pod: Any, container: str = CONTAINER, after: str = "") -> Iterator[str]:
        """What a pod's `container` writes until it ends, each line once: a stream that breaks, as with its kubelet, is
        opened again. With `after`, the time of a line, only what came later.

        Raises:
            LostPeerError: the cluster does not answer `RETRIES` times, or has the log of a pod that ended, or that is being
                deleted, no more.
            UsageError: it refuses that often.
        """
        name, last, failures = pod.metadata.name, after, 0
        said: set[str] = set()
        while True:
            patient, pause = False, PAUSE
            try:
                # Asked before reading, so that all that it wrote is there to be read.
                now = self._again(pod)
                if now is None:
                    return  # Its log went with it; one of its name may be another's.
                phase, known = now.status.phase, last
                # Something else in the pod may go on.
                ended = phase not in {"Pending", "Running"} or any(
                    each.name == container and each.state.terminated for each in now.status.container_statuses or []
                )
                patient = not ended and not now.metadata.deletion_timestamp
                read = phase != "Pending"
                options = {"container": container, "follow": True, "timestamps": True, **_since(last)}
                for line in self.lines(name, whole=not ended, **options) if read else ():
                    stamp = STAMP.match(line)
                    if not stamp:  # The kubelet's own words about the log.
                        if line not in said:
                            said.add(line)
                            yield line
                    elif not known or stamp[1] > known:  # Of a fixed width, so they compare as text.
                        last, known = stamp[1], ""
                        failures = 0
                        yield line[stamp.end() :]
                if ended:
                    return
                failures, pause = 0, PAUSE / 4  # Most often it ended, and its phase says so soon.
            except LostPeerError:
                failures += 0 if patient else 1  # While the pod is there, its node will be again.
                if failures > RETRIES:
                    raise
            except UsageError:  # As of a kubelet that does not know its pods yet.
                failures += 1
                if failures > RETRIES:
                    raise
            time.sleep(pause)

    def _again(self, pod: Any) -> Any:
        """This very pod as it is now; None if it is gone."""
        with told(f"list pods in {self.namespace}"):
            found = self.core.list_namespaced_pod(
                self.namespace, field_selector=f"metadata.name={pod.metadata.name}", _request_timeout=TIMEOUT
            ).items
        return next((p for p in found if p.metadata.uid == pod.metadata.uid), None)


def _since(stamp: str) -> dict[str, int]:
    """The option of the API for what came after a line, and some before it: clocks differ."""
    return {"since_seconds": max(0, int(time.time() - seconds(stamp))) + SKEW_SECONDS} if stamp else {}
