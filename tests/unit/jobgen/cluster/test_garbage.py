"""The pod of `jobgen gc` that does not begin, and what is left of it: on objects that a real cluster gave of conductors."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiException

from jobgen import cli
from jobgen.cluster import garbage, logs
from jobgen.cluster.refusals import PATIENCE
from jobgen.commands import clusters
from jobgen.pipeline import spec
from minima.errors import BUG, NOT_READY, UsageError
from tests.unit.jobgen.cluster.test_conduct import SHORT
from tests.unit.jobgen.cluster.test_waits import AT, recorded

PIPELINE = spec.load(str(SHORT))
TURN = 10.0
"""Seconds from one look to the next."""


class Stuck:
    """A namespace in which the pod of every batch Job is as recorded; its clock goes on whenever somebody sleeps."""

    namespace = "ns"

    def __init__(self, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.case, self.now = recorded(case), AT
        self.batch = self.core = self
        self.log: list[str] = []
        self.left: set[str] = set()
        self.delete_fails = 0
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += TURN

    def create_namespaced_job(self, namespace: str, job: dict[str, Any], **_: Any) -> Any:
        self.left.add(name := job["metadata"]["name"])
        return SimpleNamespace(metadata=SimpleNamespace(uid=f"uid of {name}"))

    def create_namespaced_config_map(self, namespace: str, made: dict[str, Any], **_: Any) -> None:
        (owner,) = made["metadata"]["ownerReferences"]
        assert owner["uid"] == f"uid of {owner['name']}"

    def delete_namespaced_job(self, name: str, *_: Any, **__: Any) -> None:
        if self.delete_fails:
            raise ApiException(status=self.delete_fails)
        self.left.remove(name)

    def read_namespaced_job(self, name: str, *_: Any, **__: Any) -> Any:
        return self.case["job"]

    def jobs(self, selector: str) -> list[Any]:
        return []

    def conductors(self, pipeline: str) -> list[Any]:
        return []

    def list_namespaced_config_map(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(items=[])

    def conductor_pods(self, name: str) -> list[Any]:
        return list(self.case["pods"])

    def events(self, names: list[str]) -> list[Any]:
        return list(self.case["events"])


@pytest.mark.parametrize(
    ("case", "code", "words", "seconds"),
    [
        ("conductor-claim", 75, 'persistentvolumeclaim "nosuch" not found', PATIENCE),
        ("conductor-image", 64, "its image cannot be had", PATIENCE),
        ("conductor-security", 64, "violates PodSecurity", PATIENCE),
        ("conductor-quota", 64, "exceeded quota", PATIENCE),
        ("conductor-busy", 75, "it starts when one has room", garbage.BEGIN_SECONDS),  # It may, but nobody waits for ever.
    ],
)
def test_gc_gives_up_with_the_reason_and_leaves_nothing(
    case: str, code: int, words: str, seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Stuck("conductor-claim" if case == "conductor-busy" else case, monkeypatch)
    if case == "conductor-busy":
        there.case["pods"][0].status.conditions[0].message = "0/2 nodes are available: 2 Insufficient cpu."
    assert garbage.collect(PIPELINE, there, yes=True) == code  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.count(words) == 1
    assert "is removed, since waiting does not help; nothing was changed" in said
    assert seconds <= there.now - AT < seconds + 3 * TURN
    assert there.left == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_gc_that_is_ended_takes_its_pod_away(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Stuck("conductor-claim", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda _: os.kill(os.getpid(), number))
    monkeypatch.setattr(clusters, "cluster_of", lambda given: there)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert cli.run(["gc", str(SHORT)]) == 143
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert there.left == set()
    assert capsys.readouterr().err.endswith("jobgen: interrupted\n")


def test_gc_that_ends_in_the_moment_of_creation_takes_its_pod_away(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Stuck("conductor-claim", monkeypatch)
    create = there.create_namespaced_job

    def interrupted(*words: Any, **options: Any) -> None:
        create(*words, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(there, "create_namespaced_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        garbage.collect(PIPELINE, there, yes=False)  # type: ignore[arg-type]
    assert there.left == set()


@pytest.mark.parametrize("status", [404, 403])
def test_what_hinders_the_removal_hides_no_error_before_it(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Stuck("conductor-claim", monkeypatch)
    there.delete_fails = status

    def refused(*_: Any, **__: Any) -> None:
        raise ApiException(status=422, reason="no")

    monkeypatch.setattr(there, "create_namespaced_job", refused)
    with pytest.raises(UsageError, match=r"create short-gc-.*422: no"):
        garbage.collect(PIPELINE, there, yes=False)  # type: ignore[arg-type]
    assert ("the cluster ends it by itself" in capsys.readouterr().err) is (status == 403)


def test_a_killed_gc_leaves_what_the_cluster_ends() -> None:
    made, held = garbage.objects(PIPELINE, "short-gc-1", yes=True)
    assert made["spec"]["activeDeadlineSeconds"] == 2 * garbage.BEGIN_SECONDS
    assert made["spec"]["ttlSecondsAfterFinished"] < made["spec"]["activeDeadlineSeconds"]
    assert held["metadata"]["name"] == "short-gc-1"


def test_a_gc_that_took_too_long_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = Stuck("conductor-claim", monkeypatch)
    late = SimpleNamespace(type="Failed", status="True", message="Job was active longer than specified deadline")
    there.case["job"].status.conditions = [late]
    there.case["pods"] = []
    assert garbage.collect(PIPELINE, there, yes=False) == BUG  # type: ignore[arg-type]
    assert "failed with exit code 70: Job was active longer than specified deadline" in capsys.readouterr().err


def test_logs_are_not_followed_of_a_conductor_that_cannot_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there: Any = Stuck("conductor-claim", monkeypatch)
    there.conductors = lambda pipeline: [there.case["job"]]
    there.pods = lambda selector: there.case["pods"]
    there.note = lambda name, key: None

    def join(thread: Any, timeout: float | None = None) -> None:
        there.now += TURN

    monkeypatch.setattr(logs.Following, "join", join)
    assert logs.logs(PIPELINE, there, "distill", follow=True) == NOT_READY
    said = capsys.readouterr().err
    assert 'waits for cclaim-conductor-f10e7511-zlrds: 0/2 nodes are available: persistentvolumeclaim "nosuch" not' in said
    assert "waiting does not help; cclaim-conductor-f10e7511 stays, and begins when that is mended" in said
