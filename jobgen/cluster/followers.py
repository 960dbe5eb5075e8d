"""Threads that print what pods write, as it comes."""

import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from jobgen.cluster.namespace import Cluster
from minima.errors import StageError

LAST_LINES_SECONDS = 10.0
"""For the last lines of a job's logs to come."""


class Followers:
    """One for each pod that was begun, under the name of its stage."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._threads: dict[str, threading.Thread] = {}

    def start(self, stage: str, pod: Any) -> threading.Thread:
        """The thread that prints a pod's log."""
        uid = pod.metadata.uid
        if uid not in self._threads:
            self._threads[uid] = threading.Thread(target=self._follow, args=(stage, pod), daemon=True)
            self._threads[uid].start()
        return self._threads[uid]

    def finish(self, stage: str, pods: Iterable[Any]) -> None:
        """Print what is left of the logs of pods that ended, before what follows."""
        # Some may have begun and ended between two looks.
        threads = [self.start(stage, pod) for pod in pods]
        deadline = time.monotonic() + LAST_LINES_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _follow(self, stage: str, pod: Any) -> None:
        """Print a pod's log; its job's state says what became of it."""
        try:
            for line in self._cluster.follow(pod):
                print(f"{stage}/{pod.metadata.name} | {line}", file=sys.stderr, flush=True)
        except StageError as error:
            print(f"{stage}/{pod.metadata.name} | ({error})", file=sys.stderr, flush=True)
