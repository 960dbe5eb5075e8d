"""What stages' pods write, by the logs of their conductors, which outlive them."""

import contextlib
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jobgen.cluster.namespace import RETRIES, STAMP, Cluster
from jobgen.cluster.objects import ENDED, seconds, verdict
from jobgen.cluster.patience import NotBegun
from jobgen.cluster.state import FAILED, FINISHED, read_state
from jobgen.manifests.render import CONDUCTOR
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import named
from jobgen.report import say
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
        for _, line in self.stamped(pod, follow=follow):
            yield line

    def stamped(self, pod: Any, *, follow: bool) -> Iterator[tuple[str, str]]:
        """The same with the time of each, which is empty for what is followed."""
        uid = pod.metadata.uid
        before, had = frozenset(self.seen), self.delivered.get(uid, 0)
        try:
            read = self.cluster.follow(pod, CONDUCTOR) if follow else self.cluster.so_far(pod, CONDUCTOR, timestamps=True)
            for number, whole in enumerate(read):
                stamp, line = ("", whole) if follow else _split(whole)
                self.last = time.monotonic()
                if number < had:
                    continue
                self.delivered[uid] = number + 1
                if OF_A_POD.match(line) and line not in before:
                    self.seen.add(line)
                    yield stamp, line
        except StageError as error:
            if follow and isinstance(error, LostPeerError) and pod.status.phase == "Running":
                raise
            # Such as on a node that is gone; the others have more to say.
            print(f"({error})", file=sys.stderr, flush=True)
        if follow or pod.status.phase in ENDED:
            self.read.add(uid)

    def left(self, pods: list[Any]) -> list[Any]:
        """Those that have begun and were not read."""
        return [pod for pod in pods if pod.status.phase != "Pending" and pod.metadata.uid not in self.read]


class Following(threading.Thread):
    """Passes on what stages' pods write, by their conductors' logs, until nothing more can come."""

    def __init__(
        self,
        cluster: Cluster,
        selector: str,
        over: Callable[[], bool],
        each: Callable[[str], None],
        reader: _Reader | None = None,
    ) -> None:
        super().__init__(name="logs", daemon=True)
        self.cluster, self.selector, self.over, self.each = cluster, selector, over, each
        self.reader = reader or _Reader(cluster)
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


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where logs begin: with all that is there by default.

    Attributes:
        tail: with the last lines, so many.
        since: with lines that are younger, in seconds.
    """

    tail: int | None = None
    since: float | None = None

    def of(self, lines: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the lines, pairs of time and text, that it begins with."""
        oldest = time.time() - self.since if self.since is not None else 0.0
        # What the kubelet itself says of a log has no time.
        return list(deque((line for line in lines if not line[0] or seconds(line[0]) >= oldest), self.tail))


ALL = Beginning()


def logs(pipeline: Pipeline, cluster: Cluster, stage: str, *, follow: bool, begin: Beginning = ALL) -> int:
    """Print what the pods of a stage wrote: what the conductors saw of it, also of pods that are gone, else of those there.

    Args:
        pipeline: whose.
        cluster: where.
        stage: its name.
        follow: go on as more comes, until the stage is over.
        begin: which lines of those that are there.

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

    reader = _Reader(cluster)
    if begin != ALL or not follow:
        there = [line for pod in reader.left(cluster.pods(selector)) for line in reader.stamped(pod, follow=False)]
        own = [line for line in there if line[1].startswith(f"{stage}/")]
        found = bool(own)
        for _, line in begin.of(own):
            each(line)
    if follow and (code := _follow(pipeline, cluster, stage, selector, each, reader)):
        return code
    if found:
        return 0
    pods = cluster.pods(f"minima/pipeline={pipeline.name},minima/stage={step.name}")
    if not pods:
        raise UsageError(f"{stage}: no pod of it in {cluster.namespace}; `jobgen status` says where the pipeline is")
    threads = [threading.Thread(target=_print, args=(cluster, pod, follow, begin), daemon=True) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _follow(
    pipeline: Pipeline, cluster: Cluster, stage: str, selector: str, each: Callable[[str], None], reader: _Reader
) -> int:
    """Pass on lines as they come, until the newest conductor says that the stage is over, or none is at work.

    Returns:
        0, or the exit code for a conductor that cannot begin.
    """

    def at_rest() -> bool:
        return all(verdict(job) for job in cluster.conductors(pipeline.name))

    following = Following(cluster, selector, at_rest, each, reader)
    following.start()
    not_begun = NotBegun(cluster, say)
    waits_for = ""
    while following.is_alive():
        following.join(POLL)
        with contextlib.suppress(LostPeerError):  # The thread meets it too, and counts.
            now, there = read_state(cluster, pipeline.name), cluster.conductors(pipeline.name)
            newest = there[-1] if there else None
            told = now.stage(stage) if now and newest and newest.metadata.name == now.conductor else None
            # A conductor reads its stage's logs to their ends before it says so.
            if told and told.state in {FINISHED, FAILED} and time.monotonic() - following.reader.last > LAST_SECONDS:
                return 0
            if told and told.waits_for not in {"", waits_for}:
                waits_for = told.waits_for
                say(f"{stage}: waits for {waits_for}")
            silent = newest if told is None and newest and not verdict(newest) else None
            if silent and (code := not_begun.look(silent, cluster.conductor_pods(silent.metadata.name))):
                say(f"waiting does not help; {silent.metadata.name} stays, and begins when that is mended")
                return code
    if following.error:
        raise following.error
    return 0


def _print(cluster: Cluster, pod: Any, follow: bool, begin: Beginning) -> None:
    """Print the log of a stage's own pod; of several pods each begins as it is asked."""
    name, last = pod.metadata.name, ""
    try:
        if begin != ALL or not follow:
            there = [_split(line) for line in cluster.so_far(pod, timestamps=True)]
            last = max((stamp for stamp, _ in there), default="")
            for _, line in begin.of(there):
                print(f"{name} | {line}", flush=True)
        for line in cluster.follow(pod, after=last) if follow else ():
            print(f"{name} | {line}", flush=True)
    except StageError as error:
        print(f"{name} | ({error})", file=sys.stderr, flush=True)


def _split(line: str) -> tuple[str, str]:
    """The time of a line, and the rest of it."""
    stamp = STAMP.match(line)
    return (stamp[1], line[stamp.end() :]) if stamp else ("", line)
