"""When something of a pipeline changes in a cluster: a watch of each kind, so that nobody has to ask all the time."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes.client import ApiException

from jobgen.cluster.namespace import JOBS, PAUSE, PLURAL, Cluster

SECONDS = 300
"""After which a watch is opened again."""


class Changes:
    """Tells when PyTorchJobs, pods or Jobs of a pipeline changed.

    It may tell too often, and after a watch that broke too late: so who relies on it also asks now and then.
    """

    def __init__(self, cluster: Cluster, pipeline: str) -> None:
        self._changed = threading.Event()
        self._selector = f"minima/pipeline={pipeline}"
        namespace = cluster.namespace
        for call, words in (
            (cluster.custom.list_namespaced_custom_object, (*JOBS, namespace, PLURAL)),
            (cluster.core.list_namespaced_pod, (namespace,)),
            (cluster.batch.list_namespaced_job, (namespace,)),
        ):
            threading.Thread(target=self._watch, args=(call, words), daemon=True).start()

    def _watch(self, call: Callable[..., Any], words: tuple[str, ...]) -> None:
        while True:
            with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError, OSError):
                answer = call(
                    *words,
                    label_selector=self._selector,
                    watch=True,
                    timeout_seconds=SECONDS,
                    _preload_content=False,
                    _request_timeout=(10, SECONDS + 30),
                )
                for _ in answer.stream():
                    self._changed.set()
            time.sleep(PAUSE)

    def happened(self) -> bool:
        """Whether something did since this was last asked."""
        now = self._changed.is_set()
        self._changed.clear()
        return now
