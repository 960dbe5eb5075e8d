"""A pipeline as a folder of a Git repository, for Flux or Argo CD: one object of theirs for each stage, in order.

Neither knows when a PyTorchJob is done: Flux is told by health expressions in each object, Argo CD by the Lua checks of
manifests/argocd. A stage's pods start only when the tool says that those it reads are healthy.
"""

import re
from typing import Any

from jobgen.manifests import render
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import plan
from minima.errors import UsageError

FLUX_NAMESPACE = "flux-system"
TIMEOUT = "720h"
"""How long a stage may take before Flux calls it failed; shorter than that it would report a running training as broken."""
REPOSITORY = re.compile(r"(?:https?|ssh|git|file|oci)://[!-~]+|[\w.-]+@[\w.-]+:[!-~]+", re.ASCII)
"""The address of a Git repository, as Argo CD takes it."""
FOLDER = re.compile(r"(?!\.\.(?:/|$))[\w.-]+(?:/(?!\.\.?(?:/|$))[\w.-]+)*", re.ASCII)
"""A path in a repository, down from its root."""
_CURRENT = "has(status.conditions) && status.conditions.exists(c, c.type == 'Succeeded' && c.status == 'True')"
_FAILED = "has(status.conditions) && status.conditions.exists(c, c.type == 'Failed' && c.status == 'True')"

EXPRESSIONS = {
    "apiVersion": "kubeflow.org/v1",
    "kind": "PyTorchJob",
    "current": _CURRENT,
    "failed": _FAILED,
    "inProgress": f"!({_CURRENT}) && !({_FAILED})",
}


def flux(pipeline: Pipeline, namespace: str, source: str, path: str) -> dict[str, str]:
    """Files: each stage's PyTorchJob in a folder of its own, and `kustomizations.yaml`, which is applied once.

    Args:
        pipeline: what to render.
        namespace: of the jobs.
        source: the GitRepository's name, in `flux-system`.
        path: of the folder in that repository.

    Raises:
        UsageError: a name that cannot be one.
    """
    render.check_name("--source", source)
    _check_path(path)
    options = f"--format flux --namespace {namespace} --source {source} --path {path}"
    steps = plan(pipeline)
    files = {f"{step.name}/job.yaml": render.text(pipeline, [render.job(pipeline, step, namespace)], options) for step in steps}
    objects = []
    for step in steps:
        spec: dict[str, Any] = {
            "interval": "10m",
            "retryInterval": "1m",
            "timeout": TIMEOUT,
            "prune": False,  # A stage that leaves the pipeline may still be training.
            "sourceRef": {"kind": "GitRepository", "name": source},
            "path": f"./{path}/{step.name}",
            # Not `healthChecks`: they would name the job of the commit before, and call it healthy in place of the new one.
            "wait": True,
            "healthCheckExprs": [EXPRESSIONS],
        }
        if step.needs:
            spec["dependsOn"] = [{"name": f"{pipeline.name}-{need}"} for need in step.needs]
        objects.append(
            {
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
                "kind": "Kustomization",
                "metadata": {"name": f"{pipeline.name}-{step.name}", "namespace": FLUX_NAMESPACE},
                "spec": spec,
            }
        )
    files["kustomizations.yaml"] = render.text(pipeline, objects, options)
    return files


def argocd(pipeline: Pipeline, namespace: str, source: str, path: str) -> dict[str, str]:
    """Files: each stage's PyTorchJob in a folder of its own, and `applications/`, the folder of the one Application that
    syncs them in waves.

    Args:
        pipeline: what to render.
        namespace: of the jobs.
        source: the repository's address.
        path: of the folder in that repository.

    Raises:
        UsageError: what cannot be the address of a repository, or a path in one.
    """
    if not REPOSITORY.fullmatch(source):
        raise UsageError(
            f"--source: found {source!r}; a repository's address, such as https://git.example.com/pipelines.git or "
            "git@git.example.com:pipelines.git, is valid"
        )
    _check_path(path)
    files: dict[str, str] = {}
    depth: dict[str, int] = {}
    options = f"--format argocd --namespace {namespace} --source {source} --path {path}"
    for step in plan(pipeline):
        depth[step.name] = 1 + max((depth[need] for need in step.needs), default=-1)
        # A commit changes the Application only by its path, and only then do the waves hold it back.
        job = render.job(pipeline, step, namespace)
        folder = f"{step.name}-{job['metadata']['name'].rpartition('-')[2]}"
        files[f"{folder}/job.yaml"] = render.text(pipeline, [job], options)
        application = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {
                "name": f"{pipeline.name}-{step.name}",
                "namespace": "argocd",
                "annotations": {"argocd.argoproj.io/sync-wave": str(depth[step.name])},
            },
            "spec": {
                "project": "default",
                "source": {"repoURL": source, "targetRevision": "HEAD", "path": f"{path}/{folder}"},
                "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
                # A stage that leaves the pipeline may still be training; a job that somebody deleted comes back, and ends
                # in seconds when its artifact is there.
                "syncPolicy": {"automated": {"prune": False, "selfHeal": True}},
            },
        }
        files[f"applications/{step.name}.yaml"] = render.text(pipeline, [application], options)
    return files


def _check_path(path: str) -> None:
    if not FOLDER.fullmatch(path):
        raise UsageError(
            f"--path: found {path!r}; a folder of the repository, down from its root, such as pipelines/my-run, is valid, of "
            "letters, digits and . _ - /"
        )
