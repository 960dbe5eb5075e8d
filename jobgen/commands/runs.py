"""The commands that are of this machine or of a cluster: run, conduct and gc."""

import argparse
import os
import signal
import sys
from pathlib import Path

from jobgen.artifacts import work_of
from jobgen.commands.arguments import local_workspace
from jobgen.pipeline import spec
from jobgen.pipeline.plan import Part, following, plan
from minima.errors import TERMINATED, UsageError


def run(given: argparse.Namespace) -> int:
    """Run a pipeline, here or in a cluster."""
    pipeline = spec.load(given.pipeline)
    part = Part(until=given.until, only=given.only)
    workspace = local_workspace(given)
    if workspace and given.dry_run:
        from jobgen.preview import preview

        return preview(pipeline, workspace=workspace, from_stage=given.from_stage, part=part)
    if workspace:
        from jobgen.local import run_local

        if given.from_stage is not None:
            work = work_of(plan(pipeline, str(Path(workspace).absolute())), given.from_stage)
            _confirm(given, ", ".join(os.path.relpath(folder) for folder in work))
        return run_local(pipeline, workspace=workspace, from_stage=given.from_stage, part=part, verbose=given.verbose)
    from jobgen.cluster.diff import preview as preview_remote
    from jobgen.cluster.remote import run_remote
    from jobgen.commands.clusters import cluster_of

    cluster = cluster_of(given)
    if given.dry_run:
        return preview_remote(pipeline, cluster, from_stage=given.from_stage, part=part)

    def confirm() -> None:  # Whether there is work can be seen in a pod only.
        if given.from_stage is not None:
            chosen = following(plan(pipeline), given.from_stage)
            _confirm(given, f"what is there of {', '.join(step.name for step in plan(pipeline) if step.name in chosen)}")

    return run_remote(pipeline, cluster, from_stage=given.from_stage, part=part, confirm=confirm, verbose=given.verbose)


def _confirm(given: argparse.Namespace, work: str) -> None:
    """Ask, unless --yes says so, whether --from may set work aside.

    Raises:
        UsageError: it may not, or there is nobody to ask.
    """
    if given.yes or not work:
        return
    what = f"--from {given.from_stage} sets aside {work}, and makes it again"
    if not sys.stdin.isatty():
        raise UsageError(f"{what}; --yes agrees to that, --dry-run shows what would run")
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UsageError("nothing was changed")


def gc(given: argparse.Namespace) -> int:
    """Show what nothing refers to, and remove it."""
    pipeline = spec.load(given.pipeline)
    workspace = local_workspace(given)
    if workspace:
        from jobgen.garbage import collect

        return collect(pipeline, workspace=workspace, yes=given.yes)
    from jobgen.cluster import garbage
    from jobgen.commands.clusters import cluster_of

    for number in (signal.SIGTERM, signal.SIGHUP):  # As Ctrl-C: it takes its pod away.
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
            signal.signal(number, signal.default_int_handler)
    return garbage.collect(pipeline, cluster_of(given), yes=given.yes)


def conduct(given: argparse.Namespace) -> int:
    """Carry a pipeline through the cluster, in a pod of it."""
    from jobgen.cluster.conduct import conduct
    from jobgen.commands.clusters import cluster_of

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # PID 1 has no default; the stages go on without it.
    part = Part(until=given.until, only=given.only)
    cluster = cluster_of(given, patient=True)
    pipeline = spec.load(given.pipeline)
    return conduct(pipeline, cluster, from_stage=given.from_stage, part=part, name=given.job, uid=given.uid)
