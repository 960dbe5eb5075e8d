"""What stages' pods write, by the logs of their conductors, which outlive them."""

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jobgen.cluster.namespace import RETRIES, Cluster, verdict
from jobgen.cluster.state import FAILED, FINISHED, read_state
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import named
from minima.errors import LostPeerError, StageError, UsageError

POLL = 1.0
LAST_SECONDS = 3.0
"""For the last lines of a log to come."""
OF_A_POD = re.compile(r"[a-z0-9-]+/[a-z0-9-]+ \| ")
"""How the conductor prints a line of a stage's pod."""


class _Reader:
    """Reads conductors' pods, one after the other; a later one prints again what its stages' pods wrote before."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.read: set[str] = set()
        self.seen: set[str] = set()
        self.delivered: dict[str, int] = {}
        """Lines of a pod that came, by its uid."""
        self.last = time.monotonic()
        """When the last one came."""

    def lines(self, pod: Any, *, follow: bool) -> Iterator[str]:
        """The lines of stages' pods that a conductor's pod passed on."""
        uid = pod.metadata.uid
        before, had = frozenset(self.seen), self.delivered.get(uid, 0)
        try:
            read = self.cluster.follow if follow else self.cluster.so_far
            for number, line in enumerate(read(pod, CONDUCTOR)):
                self.last = time.monotonic()
                if number < had:
                    continue
                self.delivered[uid] = number + 1
                if OF_A_POD.match(line) and line not in before:
                    self.seen.add(line)
                    yield line
        except StageError as error:
            if follow and isinstance(error, LostPeerError) and pod.status.phase == "Running":
                raise
            # Such as on a node that is gone; the others have more to say.
            print(f"({error})", file=sys.stderr, flush=True)
        self.read.add(uid)

    def left(self, pods: list[Any]) -> list[Any]:
        """Those that have begun and were not read."""
        return [pod for pod in pods if pod.status.phase != "Pending" and pod.metadata.uid not in self.read]


class Following(threading.Thread):
    """Passes on what stages' pods write, by their conductors' logs, until nothing more can come."""

    def __init__(self, cluster: Cluster, selector: str, over: Callable[[], bool], each: Callable[[str], None]) -> None:
        super().__init__(name="logs", daemon=True)
        self.cluster, self.selector, self.over, self.each = cluster, selector, over, each
        self.reader = _Reader(cluster)
        self.error: StageError | None = None

    def run(self) -> None:
        failures = 0
        while True:
            try:
                over = self.over()  # Before reading, so that all that was written is there to be read.
                for pod in self.reader.left(self.cluster.pods(self.selector)):
                    for line in self.reader.lines(pod, follow=True):
                        self.each(line)
                failures = 0
                if over:
                    return
            except StageError as error:
                failures += 1
                if failures > RETRIES or not isinstance(error, LostPeerError):
                    self.error = error
                    return
            time.sleep(POLL)


def logs(pipeline: Pipeline, cluster: Cluster, stage: str, *, follow: bool) -> int:
    """Print what the pods of a stage wrote: what the conductors saw of it, also of pods that are gone, else of those there.

    Raises:
        UsageError: no such stage, or nothing is there to read.
    """
    step = named(pipeline, stage)
    selector = f"minima/pipeline={pipeline.name},app.kubernetes.io/component={CONDUCTOR}"
    found = False

    def each(line: str) -> None:
        nonlocal found
        if line.startswith(f"{stage}/"):
            found = True
            print(line.removeprefix(f"{stage}/"), flush=True)

    if follow:
        _follow(pipeline, cluster, stage, selector, each)
    else:
        reader = _Reader(cluster)
        for pod in reader.left(cluster.pods(selector)):
            for line in reader.lines(pod, follow=False):
                each(line)
    if found:
        return 0
    pods = cluster.pods(f"minima/pipeline={pipeline.name},minima/stage={step.name}")
    if not pods:
        raise UsageError(f"{stage}: no pod of it in {cluster.namespace}; `jobgen status` says where the pipeline is")
    threads = [threading.Thread(target=_print, args=(cluster, pod, follow), daemon=True) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _follow(pipeline: Pipeline, cluster: Cluster, stage: str, selector: str, each: Callable[[str], None]) -> None:
    """Pass on lines as they come, until the newest conductor says that the stage is over, or none is at work."""

    def at_rest() -> bool:
        return all(verdict(job) for job in cluster.conductors(pipeline.name))

    following = Following(cluster, selector, at_rest, each)
    following.start()
    while following.is_alive():
        following.join(POLL)
        with contextlib.suppress(LostPeerError):  # The thread meets it too, and counts.
            now, there = read_state(cluster, pipeline.name), cluster.conductors(pipeline.name)
            told = now.stage(stage) if now and there and there[-1].metadata.name == now.conductor else None
            # A conductor reads its stage's logs to their ends before it says so.
            if told and told.state in {FINISHED, FAILED} and time.monotonic() - following.reader.last > LAST_SECONDS:
                return
    if following.error:
        raise following.error


def _print(cluster: Cluster, pod: Any, follow: bool) -> None:
    name = pod.metadata.name
    try:
        for line in (cluster.follow if follow else cluster.so_far)(pod):
            print(f"{name} | {line}", flush=True)
    except StageError as error:
        print(f"{name} | ({error})", file=sys.stderr, flush=True)
