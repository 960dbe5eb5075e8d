"""The commands that are of this machine or of a cluster: run, conduct and gc."""

import argparse
import signal
import sys

from jobgen.commands.arguments import local_workspace
from jobgen.pipeline import spec
from minima.errors import TERMINATED


def run(given: argparse.Namespace) -> int:
    """Run a pipeline, here or in a cluster."""
    pipeline = spec.load(given.pipeline)
    workspace = local_workspace(given)
    if workspace:
        from jobgen.local import run_local

        return run_local(pipeline, workspace=workspace, from_stage=given.from_stage, verbose=given.verbose)
    from jobgen.cluster.remote import run_remote
    from jobgen.commands.clusters import cluster_of

    return run_remote(pipeline, cluster_of(given), from_stage=given.from_stage, verbose=given.verbose)


def gc(given: argparse.Namespace) -> int:
    """Show what nothing refers to, and remove it."""
    pipeline = spec.load(given.pipeline)
    workspace = local_workspace(given)
    if workspace:
        from jobgen.garbage import collect

        return collect(pipeline, workspace=workspace, yes=given.yes)
    from jobgen.cluster import garbage
    from jobgen.commands.clusters import cluster_of

    return garbage.collect(pipeline, cluster_of(given), yes=given.yes)


def conduct(given: argparse.Namespace) -> int:
    """Carry a pipeline through the cluster, in a pod of it."""
    from jobgen.cluster.conduct import conduct
    from jobgen.commands.clusters import cluster_of

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # PID 1 has no default; the stages go on without it.
    return conduct(
        spec.load(given.pipeline), cluster_of(given, patient=True), from_stage=given.from_stage, name=given.job, uid=given.uid
    )
