"""The commands that run a pipeline: run and conduct."""

import argparse
import signal
import sys

from jobgen.commands.arguments import WORKSPACE
from jobgen.pipeline import spec
from minima.errors import TERMINATED, UsageError


def run(given: argparse.Namespace) -> int:
    """Run a pipeline, here or in a cluster."""
    pipeline = spec.load(given.pipeline)
    if given.local:
        for option in ("namespace", "context"):
            if getattr(given, option) is not None:
                raise UsageError(f"--{option}: is of a cluster, --local of this machine; give one of them")
        from jobgen.local import run_local

        workspace = WORKSPACE if given.workspace is None else given.workspace
        return run_local(pipeline, workspace=workspace, from_stage=given.from_stage, verbose=given.verbose)
    if given.workspace is not None:
        raise UsageError("--workspace: goes with --local; in a cluster the pipeline's `workspace` is used")
    from jobgen.cluster.remote import run_remote
    from jobgen.commands.clusters import cluster_of

    return run_remote(pipeline, cluster_of(given), from_stage=given.from_stage)


def conduct(given: argparse.Namespace) -> int:
    """Carry a pipeline through the cluster, in a pod of it."""
    from jobgen.cluster.conduct import conduct
    from jobgen.commands.clusters import cluster_of

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # PID 1 has no default; the stages go on without it.
    return conduct(spec.load(given.pipeline), cluster_of(given), from_stage=given.from_stage, name=given.job, uid=given.uid)
