"""`jobgen gc` in a cluster: jobs and ConfigMaps from here, artifacts by a pod, since only pods see the workspace.

The pod is the conductor's with another command: the same image, user, claim and pipeline file, so it names the very folders
that the conductor names; it needs no rights in the cluster, and sees the workspace read-only until it is told to remove.
"""

import copy
import time
import uuid
from typing import Any

from kubernetes.client import ApiException

from jobgen.cluster.answers import told
from jobgen.cluster.namespace import TIMEOUT, Cluster
from jobgen.cluster.objects import ENDED, label, last_words, state, verdict
from jobgen.cluster.patience import NotBegun
from jobgen.manifests import conductor, render
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import plan
from jobgen.report import say, table
from minima.errors import BUG, StageError, UsageError

COMPONENT = "gc"
BEGIN_SECONDS = 300
"""For the pod to begin, whatever it waits for: there may have to be a node first."""
DEADLINE_SECONDS = 3600
"""For the pod to end, once it has begun."""
KEPT_SECONDS = 120
"""For which the Job stays after its end, where nobody deletes it, as after a program that was killed."""
POLL = 1.0


def collect(pipeline: Pipeline, cluster: Cluster, *, yes: bool) -> int:
    """Show what nothing of the pipeline file refers to: PyTorchJobs, conductors, ConfigMaps, and artifacts in the workspace;
    with `yes` remove it.

    Returns:
        0, or the exit code of the pod.

    Raises:
        UsageError: another version of the pipeline is at work, whose inputs might go.
    """
    keys = {(step.name, step.key) for step in plan(pipeline)}
    version = conductor.version(pipeline.text)
    jobs = [
        job for job in cluster.jobs(f"minima/pipeline={pipeline.name}") if (label(job, "stage"), label(job, "key")) not in keys
    ]
    conductors = [job for job in cluster.conductors(pipeline.name) if job.metadata.labels.get(conductor.VERSION) != version]
    at_work = [job["metadata"]["name"] for job in jobs if state(job) not in ENDED]
    at_work += [job.metadata.name for job in conductors if not verdict(job)]
    if at_work:
        raise UsageError(
            f"{at_work[0]}: at work for another version of {pipeline.name}, whose artifacts this one does not refer to; "
            "`jobgen stop` ends it, or give the file that it runs"
        )
    maps = _maps(pipeline, cluster, {job.metadata.name for job in conductors})
    found = [["PyTorchJob", job["metadata"]["name"]] for job in jobs]
    found += [["Job", job.metadata.name] for job in conductors]
    found += [["ConfigMap", name] for name in maps]
    print(
        table(["what", "name"], found)
        if found
        else f"no object in {cluster.namespace} that {pipeline.source} does not refer to"
    )
    if code := _in_the_workspace(pipeline, cluster, yes=yes):
        return code
    if yes:
        cluster.delete(*(job["metadata"]["name"] for job in jobs))
        for job in conductors:
            with told(f"delete {job.metadata.name}"):
                cluster.batch.delete_namespaced_job(
                    job.metadata.name, cluster.namespace, propagation_policy="Background", _request_timeout=TIMEOUT
                )
        for name in maps:
            with told(f"delete {name}"):
                cluster.core.delete_namespaced_config_map(name, cluster.namespace, _request_timeout=TIMEOUT)
        if found:
            print(f"removed {len(found)} objects of namespace {cluster.namespace}")
    return 0


def _maps(pipeline: Pipeline, cluster: Cluster, gone: set[str]) -> list[str]:
    """The ConfigMaps with a pipeline file that is not this one, and that no conductor mounts but those that go."""
    selector = f"minima/pipeline={pipeline.name},app.kubernetes.io/component={CONDUCTOR}"
    with told(f"list ConfigMaps in {cluster.namespace}"):
        found = cluster.core.list_namespaced_config_map(
            cluster.namespace, label_selector=selector, _request_timeout=TIMEOUT
        ).items
    mounted = {
        volume.config_map.name
        for job in cluster.conductors(pipeline.name)
        if job.metadata.name not in gone
        for volume in job.spec.template.spec.volumes
        if volume.config_map
    }
    files = [each.metadata.name for each in found if (each.data or {}).get(conductor.FILE, pipeline.text) != pipeline.text]
    return [name for name in files if name not in mounted]


def _in_the_workspace(pipeline: Pipeline, cluster: Cluster, *, yes: bool) -> int:
    """Run `jobgen gc --local` in a pod, and print what it says; its exit code."""
    job, held = objects(pipeline, f"{pipeline.name}-{COMPONENT}-{uuid.uuid4().hex[:8]}", yes=yes)
    name = job["metadata"]["name"]
    try:
        with told(f"create {name}"):
            made = cluster.batch.create_namespaced_job(cluster.namespace, job, _request_timeout=TIMEOUT)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made.metadata.uid}
        held["metadata"]["ownerReferences"] = [owner]  # It goes with the Job, whatever becomes of this program.
        with told(f"create ConfigMap {name}"):
            cluster.core.create_namespaced_config_map(cluster.namespace, held, _request_timeout=TIMEOUT)
        return _watch(cluster, name)
    finally:
        _remove(cluster, name)


def _remove(cluster: Cluster, name: str) -> None:
    """Delete the Job, if it is there; what hinders that is said beside what happened before."""
    try:
        with told(f"delete {name}"):
            try:
                cluster.batch.delete_namespaced_job(
                    name, cluster.namespace, propagation_policy="Background", _request_timeout=TIMEOUT
                )
            except ApiException as error:
                if error.status != 404:
                    raise
    except StageError as error:
        say(f"{error}; the cluster ends it by itself")


def objects(pipeline: Pipeline, name: str, *, yes: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The Job, and the ConfigMap with the pipeline file."""
    *_, held, _, conducting = copy.deepcopy(conductor.objects(pipeline))
    template = conducting["spec"]["template"]
    pod = template["spec"]
    assert pipeline.conductor is not None
    if not pipeline.conductor.account:  # One of its own would be there only after a run.
        del pod["serviceAccountName"]
    pod["automountServiceAccountToken"] = False
    container = next(each for each in pod["containers"] if each["name"] == CONDUCTOR)
    container["name"] = COMPONENT
    container["command"] = ["jobgen", "gc"]
    container["args"] = [f"{conductor.FOLDER}/{conductor.FILE}", "--local", "--workspace", pipeline.workspace.path]
    container["args"] += ["--yes"] if yes else []
    container["env"] = [entry for entry in container["env"] if "value" in entry]
    for mount in container["volumeMounts"]:
        if mount["name"] == "workspace" and not yes:
            mount["readOnly"] = True
    # Also where the conductor's pod has another volume there: this file is the one to go by.
    others = [volume for volume in pod["volumes"] if volume["name"] != "pipeline"]
    pod["volumes"] = [*others, {"name": "pipeline", "configMap": {"name": name}}]
    ours = render.labels(pipeline.name, COMPONENT)
    template["metadata"]["labels"] |= ours
    metadata = {**conducting["metadata"], "name": name, "labels": {**conducting["metadata"]["labels"], **ours}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            # Until it has begun: a program that was killed while it waited can end nothing.
            "activeDeadlineSeconds": 2 * BEGIN_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": template,
        },
    }
    held["metadata"] |= {"name": name, "labels": {**held["metadata"]["labels"], **ours}}
    return job, held


def _watch(cluster: Cluster, name: str) -> int:
    """Print what the pod says, until the Job has a verdict, or is not worth waiting for; the exit code."""
    not_begun = NotBegun(cluster, say, COMPONENT, BEGIN_SECONDS)
    read = False
    while True:
        pods = cluster.conductor_pods(name)
        if pods and pods[-1].status.phase != "Pending" and not read:
            with told(f"put off the deadline of {name}"):
                longer = {"spec": {"activeDeadlineSeconds": 2 * BEGIN_SECONDS + DEADLINE_SECONDS}}
                cluster.batch.patch_namespaced_job(name, cluster.namespace, longer, _request_timeout=TIMEOUT)
            for line in cluster.follow(pods[-1], COMPONENT):
                print(line, flush=True)
            read = True
        with told(f"read {name}"):
            job = cluster.batch.read_namespaced_job(name, cluster.namespace, _request_timeout=TIMEOUT)
        match verdict(job):
            case "Complete":
                return 0
            case "Failed":
                told_by_job = next(c.message for c in job.status.conditions if c.type == "Failed")
                code, words = last_words(pods) or (BUG, told_by_job)
                say(f"{name} failed with exit code {code}: {words}")
                return code
        if code := not_begun.look(job, pods):
            say(f"{name} is removed, since waiting does not help{'' if read else '; nothing was changed'}")
            return code
        time.sleep(POLL)
