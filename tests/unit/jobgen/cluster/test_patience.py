"""For how long a conductor waits, what it does then, and how little it asks meanwhile."""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import pytest

from jobgen.cluster import conduct, patience
from jobgen.cluster.answers import RefusedError
from jobgen.cluster.patience import Patience
from jobgen.cluster.refusals import PATIENCE
from jobgen.manifests import render
from jobgen.pipeline import plan
from jobgen.pipeline.pipeline import Pipeline
from tests.unit.jobgen.cluster.test_conduct import Fake, make, pipeline, steps
from tests.unit.jobgen.cluster.test_waits import recorded

__all__ = ["pipeline", "steps"]


class Waiting(Fake):
    """A namespace whose jobs' pods are as recorded, by stage: with the events of the same case."""

    def __init__(self, steps: list[plan.Step], cases: dict[str, str], behave: dict[str, str]) -> None:
        super().__init__(steps, behave)
        self.cases = cases
        self.asked: list[str] = []

    def _case(self, name: str) -> str:
        return next((case for stage, case in self.cases.items() if f"-{stage}-" in name), "")

    def pods(self, selector: str) -> list[Any]:
        if "job-name" not in selector:
            return []
        case = self._case(selector)
        there = any(selector.endswith(job["metadata"]["name"]) for job in self.there)
        return recorded(case)["pods"] if case and there else super().pods(selector)

    def events(self, names: Iterable[str]) -> list[Any]:
        self.asked += (found := list(names))
        case = self._case(found[0])
        return recorded(case)["events"] if case else []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the conductor's clock is ahead; each look takes two more, as does each of its own pauses."""
    ahead = [0.0]
    now = time.time
    monkeypatch.setattr(patience.time, "time", lambda: now() + ahead[0])
    return ahead


def conducted(pipeline: Pipeline, cluster: Fake) -> conduct._Conductor:
    return conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]


def test_a_conductor_that_may_not_see_workloads_waits_all_the_same(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    """A namespace's default queue is none that the pipeline names, and so none of the conductor's rights."""

    class Refusing(Fake):
        def workload(self, job: dict[str, Any]) -> None:
            raise RefusedError("list Kueue's Workloads: the cluster refuses (403: no)")

    wait = Patience(Refusing(steps, {}), "claim").reason(steps[0], recorded("queue2")["job"], [])  # type: ignore[arg-type]
    assert wait is not None
    assert wait.exit_code == 0
    assert "queue full: `kubectl get workloads` says why" in wait.words


def test_what_waiting_cannot_help_is_stopped_after_a_while(
    pipeline: Pipeline, steps: list[plan.Step], clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Waiting(steps, {"init-model": "image"}, {"init-model": "Created"})
    conductor = conducted(pipeline, cluster)
    for seconds in (0, 0, PATIENCE - 5):
        clock[0] = seconds
        assert conductor.look() is None
    assert len(cluster.there) == 1
    assert "its image cannot be had" in conductor.stage(steps[0]).waits_for
    clock[0] = PATIENCE + 5
    assert conductor.look() == 64
    assert cluster.there == []
    now = conductor.stage(steps[0])
    assert (now.state, now.exit_code, now.waits_for) == ("failed", 64, "")
    assert "its image cannot be had" in now.words
    said = capsys.readouterr().err
    assert said.count("waits for ") == 1  # Not at every look.
    assert "is stopped, since waiting does not help" in said


def test_what_mended_itself_is_waited_for_as_long_again(pipeline: Pipeline, steps: list[plan.Step], clock: list[float]) -> None:
    cluster = Waiting(steps, {"init-model": "image"}, {"init-model": "Created"})
    conductor = conducted(pipeline, cluster)
    for seconds, case in ((0, "image"), (0, "image"), (60, "gpu"), (130, "image"), (240, "image")):
        clock[0], cluster.cases["init-model"] = seconds, case
        assert conductor.look() is None, seconds
    clock[0] = 260
    assert conductor.look() == 64


def test_what_may_come_of_itself_is_waited_for(pipeline: Pipeline, steps: list[plan.Step], clock: list[float]) -> None:
    for case in ("gpu", "queue2", "dead", "unbound"):
        cluster = Waiting(steps, {"init-model": case}, {"init-model": "Created"})
        conductor = conducted(pipeline, cluster)
        for seconds in (0, 0, 86400):
            clock[0] = seconds
            assert conductor.look() is None
        assert len(cluster.there) == 1


def test_what_did_its_work_before_goes_on(pipeline: Pipeline, steps: list[plan.Step], clock: list[float]) -> None:
    """A container beside the program keeps its pod; the marker is there."""
    cluster = Waiting(steps, {"init-model": "sidecar"}, {"init-model": "Running"})
    conductor = conducted(pipeline, cluster)
    assert conductor.look() is None
    make(steps[0])
    for seconds in (0, 20):
        clock[0] = seconds
        assert conductor.look() is None
    assert [job["metadata"]["labels"]["minima/stage"] for job in cluster.there] == []
    assert 0 in [conductor.look() for _ in range(6)]


def test_a_program_that_never_starts_ends_whoever_looks(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    """A conductor that has just begun, and finds the job of an earlier one that was made again 25 times."""
    cluster = Waiting(steps, {"init-model": "start"}, {})
    job = render.job(pipeline, steps[0], "ns")
    cluster.put(job, "Restarting")
    assert conducted(pipeline, cluster).look() == 70
    assert cluster.there == []


def test_a_failure_does_not_leave_a_loop_behind(
    pipeline: Pipeline, steps: list[plan.Step], clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """One stage fails while another one's image cannot be had: that one is stopped too, and the first one's code counts."""
    steps[1] = dataclasses.replace(steps[1], needs=())
    cluster = Waiting(steps, {"init-model": "image"}, {"init-model": "Created", "build-data": "Failed"})
    conductor = conducted(pipeline, cluster)
    for seconds in (0, 0, PATIENCE - 5):
        clock[0] = seconds
        assert conductor.look() is None
    clock[0] = PATIENCE + 5
    assert conductor.look() == 65
    assert [job["metadata"]["labels"]["minima/stage"] for job in cluster.there] == ["build-data"]
    assert conductor.kept.state.words.startswith("build-data failed with exit code 65")
    assert capsys.readouterr().err.count("build-data: ") == 2  # Its command line, and that it failed, once.


@pytest.mark.parametrize("end", ["failed", "finished", "deleted"])
def test_nothing_is_stopped_any_more_when_what_waited_has_ended(
    pipeline: Pipeline, steps: list[plan.Step], clock: list[float], end: str
) -> None:
    """One stage fails, and another one, whose image could not be had, ends of itself before it is given up."""
    steps[1] = dataclasses.replace(steps[1], needs=())
    cluster = Waiting(steps, {"init-model": "image"}, {"init-model": "Created", "build-data": "Failed"})
    conductor = conducted(pipeline, cluster)
    for _ in range(3):
        assert conductor.look() is None
    cluster.cases = {}
    cluster.there = [job for job in cluster.there if job["metadata"]["labels"]["minima/stage"] != "init-model"]
    if end != "deleted":
        cluster.put(conductor.objects["init-model"], {"failed": "Failed", "finished": "Succeeded"}[end])
    if end == "finished":
        make(steps[0])
    assert conductor.look() == 65


def test_a_failure_leaves_what_may_come_of_itself_alone(
    pipeline: Pipeline, steps: list[plan.Step], capsys: pytest.CaptureFixture[str]
) -> None:
    steps[1] = dataclasses.replace(steps[1], needs=())
    cluster = Waiting(steps, {"init-model": "gpu"}, {"init-model": "Created", "build-data": "Failed"})
    conductor = conducted(pipeline, cluster)
    assert conductor.look() is None
    assert conductor.look() == 65
    assert len(cluster.there) == 2
    assert "still running, and going on by themselves: init-model" in capsys.readouterr().err


def test_nothing_more_is_asked_of_what_runs_and_seldom_of_what_waits(
    pipeline: Pipeline, steps: list[plan.Step], clock: list[float]
) -> None:
    job = render.job(pipeline, steps[0], "ns")
    job["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-26T11:00:00Z"}
    running = job | {"status": {"conditions": [{"type": "Running", "status": "True"}]}}
    (healthy,) = recorded("dead")["pods"]
    for condition in healthy.status.conditions:
        condition.status = "True"
    cluster = Waiting(steps, {"init-model": "gpu"}, {})
    made = Patience(cluster, "claim")  # type: ignore[arg-type]
    for seconds in range(0, 100, 2):
        clock[0] = seconds
        assert made.settled(running, [healthy])
        assert made.reason(steps[0], running, [healthy]) is None
    assert cluster.asked == []
    waiting = recorded("gpu")["pods"]
    for seconds in range(100, 300, 2):
        clock[0] = seconds
        assert not made.settled(running, waiting)
        assert made.reason(steps[0], running, waiting) is not None
    times = cluster.asked.count(job["metadata"]["name"])
    assert 200 / 30 <= times <= 12
    assert set(cluster.asked) == {job["metadata"]["name"], waiting[0].metadata.name, "claim"}
    waiting[0].metadata.uid = "another"
    for seconds in range(300, 324, 2):
        clock[0] = seconds
        made.reason(steps[0], running, waiting)
    assert cluster.asked.count(job["metadata"]["name"]) - times == 2  # What is new is looked at more often.
    assert not made.settled(running, [])
    assert not made.settled(running, recorded("dead")["pods"])  # Its node is lost.


@pytest.mark.parametrize(
    ("settled", "succeeded", "pause"), [(True, False, 3.0), (False, False, 2.0), (True, True, 1.0), (False, True, 1.0)]
)
def test_how_often_it_looks(
    pipeline: Pipeline,
    steps: list[plan.Step],
    monkeypatch: pytest.MonkeyPatch,
    settled: bool,
    succeeded: bool,
    pause: float,
) -> None:
    for name, seconds in (("POLL", 1.0), ("SLOW", 2.0), ("IDLE", 3.0)):
        monkeypatch.setattr(conduct, name, seconds)
    conductor = conducted(pipeline, Fake(steps, {}))
    conductor.settled = {"init-model"} if settled else set()
    conductor.succeeded = {"init-model": 0.0} if succeeded else {}
    assert conductor.pause() == pause
