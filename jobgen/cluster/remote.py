"""A pipeline in a cluster, from outside of it: start its conductor, put a stage on a new object."""

import time
from collections.abc import Callable

from kubernetes.client import V1DeleteOptions

from jobgen.cluster import rights
from jobgen.cluster.answers import told
from jobgen.cluster.namespace import GONE_SECONDS, Cluster
from jobgen.cluster.objects import ENDED, state, verdict
from jobgen.cluster.watch import watch
from jobgen.manifests import conductor, render
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import ALL, Part, following, named, plan
from jobgen.report import say
from minima.errors import TERMINATED, NotReadyError, UsageError

POLL = 1.0


def run_remote(
    pipeline: Pipeline,
    cluster: Cluster,
    *,
    from_stage: str | None,
    part: Part = ALL,
    confirm: Callable[[], None] = lambda: None,
    verbose: bool = False,
) -> int:
    """Apply the pipeline's conductor, unless this very one is at work, and say what becomes of its stages until it ends.

    Ctrl-C ends the watching alone; the same command watches again, on any machine.

    Args:
        pipeline: to run.
        cluster: where.
        from_stage: set this stage's artifact and all that follow from it aside first.
        part: the stages to run.
        confirm: called before anything is changed; raises if it may not be.
        verbose: show what the stages' pods write, too.

    Returns:
        The conductor's exit code: 0, or that of the stage that failed; 143 after Ctrl-C.

    Raises:
        UsageError: no such stage, the cluster refuses, or a part would end another run.
        NotReadyError: the cluster has no training operator.
    """
    steps = plan(pipeline)
    part.steps(steps)
    if from_stage is not None:
        following(steps, from_stage)
    render.jobs(pipeline, steps)  # Its pod would say minutes later what is wrong with one.
    objects = conductor.objects(pipeline, cluster.namespace, from_stage, part)
    name = objects[-1]["metadata"]["name"]
    conductors = cluster.conductors(pipeline.name)
    there = next((job for job in conductors if job.metadata.name == name), None)
    if there is None or verdict(there):
        other = next((job.metadata.name for job in conductors if job.metadata.name != name and not verdict(job)), None)
        if part.words and other:  # The newest one conducts: the other would end, and nobody carry on what this part leaves.
            stop = f"jobgen stop {pipeline.name} --namespace {cluster.namespace}"
            stop += f" --context {cluster.context}" if cluster.context else ""
            raise UsageError(
                f"{' '.join(part.words)}: {other} is at work for {pipeline.name}, and would end without its other stages; wait "
                f"until it ends, or `{stop}` first"
            )
        confirm()
        if other:
            say(f"{other} is at work for {pipeline.name}, and ends, since the newest conducts; its stages that run go on")
    if there and verdict(there):
        say(f"delete {name}, which has ended")
        _delete_conductor(cluster, pipeline.name, name)
        there = None
    if there is None:
        cluster.check_operator()
        rights.apply(cluster, pipeline, objects)
        where = f"namespace {cluster.namespace}" + (f" of context {cluster.context}" if cluster.context else "")
        say(f"applied {name} to {where}; it goes on without this program")
    else:
        say(f"{name} is at work already")
    try:
        return watch(cluster, pipeline.name, name, verbose=verbose)
    except KeyboardInterrupt:
        say(f"not watching any more; {name} goes on, the same command watches again")
        return TERMINATED


def _delete_conductor(cluster: Cluster, pipeline: str, name: str) -> None:
    with told(f"delete {name}"):
        cluster.batch.delete_namespaced_job(name, cluster.namespace, body=V1DeleteOptions(propagation_policy="Background"))
    deadline = time.monotonic() + GONE_SECONDS
    while any(job.metadata.name == name for job in cluster.conductors(pipeline)):
        if time.monotonic() > deadline:
            raise NotReadyError(f"{name}: deleted, but still there; `kubectl describe job {name}` may say why")
        time.sleep(POLL)


def restart(pipeline: Pipeline, cluster: Cluster, stage: str) -> int:
    """Delete the running jobs of a stage, which save a checkpoint, and create the one of this pipeline, which goes on from it.

    Raises:
        UsageError: no such stage, or it does not run.
    """
    step = named(pipeline, stage)
    job = render.job(pipeline, step, cluster.namespace)
    name = job["metadata"]["name"]
    alive = [j for j in cluster.jobs(f"minima/pipeline={pipeline.name},minima/stage={stage}") if state(j) not in ENDED]
    if not alive:
        raise UsageError(f"{stage}: does not run in {cluster.namespace}; `jobgen status` says where the pipeline is")
    other = next((j for j in alive if j["metadata"]["labels"].get("minima/key") != step.key), None)
    if other:
        raise UsageError(
            f"{stage}: {other['metadata']['name']} makes another result (`jobgen diff` says why), so nothing of it could be "
            "taken over; delete that job, then run the pipeline"
        )
    conductors = [c for c in cluster.conductors(pipeline.name) if not verdict(c)]
    if conductors and conductors[-1].metadata.labels.get(conductor.VERSION) != conductor.version(pipeline.text):
        raise UsageError(
            f"{conductors[-1].metadata.name} conducts another version, and would put {stage} on its own object again; "
            "run or apply this version first"
        )
    for each in alive:
        say(f"delete {each['metadata']['name']}, which saves a checkpoint first")
        cluster.delete(each["metadata"]["name"])
    created = cluster.create(job)
    say(f"{'created' if created else 'there already'}: {name}, which goes on from the last checkpoint")
    return 0
