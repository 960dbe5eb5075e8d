"""Watches as scripted: what is told, and that a broken one is opened again."""

import queue
import time
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from kubernetes.client import ApiException

from jobgen.cluster import changes
from jobgen.cluster.changes import Changes


class Script:
    """An API call whose answers are given one after the other: lines of a watch, or an error in place of one."""

    def __init__(self) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()
        self.asked: list[dict[str, Any]] = []

    def __call__(self, *words: str, **options: Any) -> Any:
        self.asked.append(options)
        return SimpleNamespace(stream=lambda: self._lines(self.answers.get()))

    def _lines(self, answer: Any) -> Any:
        for line in answer:
            if isinstance(line, Exception):
                raise line
            yield line


@pytest.mark.parametrize(
    "error", [urllib3.exceptions.ProtocolError("broken"), ApiException(status=410), ConnectionResetError("reset"), None]
)
def test_changes_are_told_also_after_a_watch_broke(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    monkeypatch.setattr(changes, "PAUSE", 0.0)
    jobs, silent = Script(), Script()
    there = SimpleNamespace(
        namespace="ns",
        custom=SimpleNamespace(list_namespaced_custom_object=jobs),
        core=SimpleNamespace(list_namespaced_pod=silent),
        batch=SimpleNamespace(list_namespaced_job=silent),
    )
    made = Changes(there, "short")  # type: ignore[arg-type]
    assert not made.happened()
    for _ in range(3):
        jobs.answers.put([b"{}", *([error] if error else [])])
        deadline = time.monotonic() + 30
        while not (told := made.happened()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told
        assert not made.happened()
    assert all(options["label_selector"] == "minima/pipeline=short" for options in jobs.asked)
    assert all(options["watch"] and options["timeout_seconds"] == changes.SECONDS for options in jobs.asked)
