"""The commands that look at a cluster, and those that clear something away there."""

import argparse
import shlex
from pathlib import Path

from jobgen.cluster import kubeconfig
from jobgen.cluster.namespace import Cluster
from jobgen.manifests import render
from jobgen.pipeline import spec
from jobgen.pipeline.pipeline import NAME


def cluster_of(given: argparse.Namespace, *, patient: bool = False) -> Cluster:
    """The namespace that a command line means, as kubectl would.

    Args:
        given: the command line.
        patient: do not ask the cluster whether it is there.

    Raises:
        UsageError: there is no such one.
        LostPeerError: the cluster does not answer.
    """
    render.check_namespace(given.namespace)
    namespace, context = kubeconfig.choose(given.namespace, given.context)
    render.check_namespace(namespace)
    cluster = Cluster(namespace, context or None)
    if not patient:
        cluster.check()
    return cluster


def status(given: argparse.Namespace) -> int:
    """Show where a pipeline is."""
    from jobgen.cluster.status import status

    return status(spec.load(given.pipeline), cluster_of(given), output=given.output, watch=given.watch)


def show(given: argparse.Namespace) -> int:
    """Show the pipelines of a namespace."""
    from jobgen.cluster.pipelines import show

    return show(cluster_of(given), output=given.output)


def stop(given: argparse.Namespace) -> int:
    """End what is at work for a pipeline."""
    from jobgen.cluster.pipelines import stop

    name = given.pipeline
    # One that is in the cluster needs no file here.
    if not NAME.fullmatch(name) or Path(name).is_file():
        name = spec.load(given.pipeline).name
    cluster = cluster_of(given)
    words = ["jobgen", "run", given.pipeline, "--namespace", cluster.namespace]
    again = shlex.join([*words, *(["--context", given.context] if given.context else [])])
    return stop(name, cluster, again=again)


def diff(given: argparse.Namespace) -> int:
    """Say what would run again."""
    from jobgen.cluster.diff import diff

    return diff(spec.load(given.pipeline), cluster_of(given), output=given.output)


def logs(given: argparse.Namespace) -> int:
    """Print what a stage's pods wrote."""
    from jobgen.cluster.logs import Beginning, logs

    begin = Beginning(tail=given.tail, since=given.since)
    return logs(spec.load(given.pipeline), cluster_of(given), given.stage, follow=given.follow, begin=begin)


def restart(given: argparse.Namespace) -> int:
    """Put a stage on its new object."""
    from jobgen.cluster.remote import restart

    return restart(spec.load(given.pipeline), cluster_of(given), given.stage)
