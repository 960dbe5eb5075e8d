"""Logs of a cluster whose streams break, pods go and conductors follow each other, as scripted."""

import itertools
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from jobgen.cluster import logs, namespace, watch
from jobgen.cluster.namespace import Cluster
from jobgen.cluster.state import StageState, State, to_json
from jobgen.pipeline import spec
from minima.errors import LostPeerError, StageError, UsageError
from tests.unit.jobgen.cluster.test_conduct import NOW, SHORT, Fake, pod


def played(script: Sequence[str | StageError]) -> Iterator[str]:
    """The lines of a script, up to an error in it, which is raised."""
    for line in script:
        if isinstance(line, StageError):
            raise line
        yield line


def stamped(*seconds: int) -> list[str]:
    return [f"2026-11-24T12:00:{s:02}.000000000Z line {s}" for s in seconds]


class Broken(Cluster):
    """A namespace with one pod, whose phase and log at each look are as scripted: lines, or an error after them."""

    def __init__(self, looks: Iterable[tuple[str, Sequence[str | StageError]]], leaving: bool = False) -> None:
        self.looks, self.leaving = iter(looks), leaving
        self.log: Sequence[str | StageError] = []
        self.asked: list[dict[str, Any]] = []

    def _again(self, pod: Any) -> Any:
        phase, self.log = next(self.looks)
        leaving = NOW if self.leaving else None
        over = SimpleNamespace(name="pytorch", state=SimpleNamespace(terminated=phase == "Kept"))
        status = SimpleNamespace(phase="Running" if phase == "Kept" else phase, container_statuses=[over])
        meta = SimpleNamespace(deletion_timestamp=leaving)
        return SimpleNamespace(status=status, metadata=meta) if phase else None

    def lines(self, pod: str, **options: Any) -> Iterator[str]:
        self.asked.append(options)
        yield from played(self.log)


LOST, REFUSED = LostPeerError("the stream broke"), UsageError("the cluster refuses (404: not found)")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "PAUSE", 0.0)


@pytest.mark.usefixtures("_quick")
def test_a_broken_log_is_opened_again_and_each_line_comes_once() -> None:
    kubelet = "failed to create fsnotify watcher: too many open files"
    broken = Broken(
        [
            ("Pending", []),
            ("Running", [*stamped(1, 2), LOST]),
            *[("Running", [LOST])] * 100,  # A node that is away.
            *[("Running", [REFUSED])] * 5,
            ("Running", [*stamped(1, 2, 3), kubelet]),
            ("Running", [*stamped(2, 3), kubelet, *stamped(4)]),
            ("Succeeded", stamped(4, 5)),
        ]
    )
    assert list(broken.follow(pod(0, ""))) == ["line 1", "line 2", "line 3", kubelet, "line 4", "line 5"]
    assert broken.asked[0] == {"container": "pytorch", "follow": True, "timestamps": True, "whole": True}
    assert not broken.asked[-1]["whole"]
    assert all(options["since_seconds"] >= 60 for options in broken.asked[1:])


@pytest.mark.usefixtures("_quick")
def test_a_log_ends_with_its_container_though_another_keeps_the_pod() -> None:
    assert list(Broken([("Running", stamped(1)), ("Kept", stamped(1, 2))]).follow(pod(0, ""))) == ["line 1", "line 2"]


@pytest.mark.usefixtures("_quick")
def test_a_pod_that_is_gone_or_another_of_its_name_is_not_read() -> None:
    broken = Broken([("Running", stamped(1)), ("", stamped(2))])
    assert list(broken.follow(pod(0, ""))) == ["line 1"]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("look", "leaving", "error"),
    [
        (("Running", [REFUSED]), False, UsageError),
        (("Succeeded", [LOST]), False, LostPeerError),
        (("Running", [LOST]), True, LostPeerError),  # Of a node that is gone.
    ],
)
def test_a_log_that_cannot_be_had_is_an_error(
    look: tuple[str, list[StageError]], leaving: bool, error: type[StageError]
) -> None:
    with pytest.raises(error):
        list(Broken(itertools.repeat(look), leaving).follow(pod(0, "")))


class Conducted(Fake):
    """A namespace in which conductors' pods, oldest first, wrote what is given of each."""

    def __init__(self, *logs: Sequence[str | StageError]) -> None:
        super().__init__([], {})
        self.logs = logs
        self.phase = "Succeeded"

    def pods(self, selector: str) -> list[Any]:
        if "component=conductor" not in selector and "job-name" not in selector:
            return []
        metas = [SimpleNamespace(name=str(number), uid=str(number)) for number in range(len(self.logs))]
        return [SimpleNamespace(metadata=meta, status=SimpleNamespace(phase=self.phase)) for meta in metas]

    def conductors(self, pipeline: str) -> list[Any]:
        over = SimpleNamespace(type="Complete", status="True")
        return [SimpleNamespace(metadata=SimpleNamespace(name="c"), status=SimpleNamespace(conditions=[over]))]

    def lines(self, name: str, **_: Any) -> Iterator[str]:
        yield from played(self.logs[int(name)])

    def follow(self, pod: Any, container: str = "pytorch", after: str = "") -> Iterator[str]:
        return self.lines(pod.metadata.name)

    def so_far(self, pod: Any, container: str = "pytorch", *, timestamps: bool = False) -> Iterator[str]:
        for number, line in enumerate(self.lines(pod.metadata.name)):
            yield f"{NOW + timedelta(minutes=number):%Y-%m-%dT%H:%M:%S}.000000000Z {line}" if timestamps else line


OLD = ["distill/a-worker-0 | step 1/9 loss 5", "12:00:00 [3/3] distill: finished (…)"]
NEW = ["distill/a-worker-0 | step 1/9 loss 5", "distill/b-worker-0 | step 2/9 loss 4", "12:00:09 [3/3] distill: finished (…)"]


@pytest.mark.parametrize("follow", [True, False])
def test_logs_of_a_stage_over_conductors_each_line_once(follow: bool, capsys: pytest.CaptureFixture[str]) -> None:
    there = Conducted([LOST], OLD, NEW)
    assert logs.logs(spec.load(str(SHORT)), there, "distill", follow=follow) == 0  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out.splitlines() == ["a-worker-0 | step 1/9 loss 5", "b-worker-0 | step 2/9 loss 4"]
    assert "(the stream broke)" in said.err  # A node that is gone hides nothing of the others.


LONG = [f"distill/a-worker-0 | step {number}/9" for number in range(1, 6)]


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    ("begin", "steps"),
    [
        (logs.Beginning(tail=2), [4, 5]),
        (logs.Beginning(tail=0), []),
        (logs.Beginning(tail=9), [1, 2, 3, 4, 5]),
        (logs.Beginning(since=150.0), [3, 4, 5]),
        (logs.Beginning(since=150.0, tail=1), [5]),
        (logs.Beginning(since=1.0), []),
    ],
)
def test_logs_begin_where_they_are_asked_to_and_go_on_from_there(
    begin: logs.Beginning, steps: list[int], follow: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs.time, "time", lambda: NOW.timestamp() + 270)
    there = Conducted([*LONG, "12:00:00 [2/3] build-data: finished (…)"])
    there.phase = "Running"  # So that it is followed after what is there already.
    monkeypatch.setattr(there, "follow", lambda *_: iter([*there.logs[0], "distill/a-worker-0 | step 6/9"]))
    assert logs.logs(spec.load(str(SHORT)), there, "distill", follow=follow, begin=begin) == 0  # type: ignore[arg-type]
    expected = [*steps, 6] if follow else steps
    assert capsys.readouterr().out.splitlines() == [f"a-worker-0 | step {number}/9" for number in expected]


class Working(Conducted):
    """One whose conductor is at work, and whose log stays open."""

    def conductors(self, pipeline: str) -> list[Any]:
        meta = SimpleNamespace(name="c", creation_timestamp=datetime.now(UTC))
        return [SimpleNamespace(metadata=meta, status=SimpleNamespace(conditions=[]))]

    def follow(self, pod: Any, container: str = "pytorch", after: str = "") -> Iterator[str]:
        yield from self.lines(pod.metadata.name)
        threading.Event().wait()


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_following_ends_when_the_conductor_says_that_the_stage_is_over(
    state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LAST_SECONDS", 0.3)
    monkeypatch.setattr(logs, "POLL", 0.05)
    there = Working(NEW)
    said = [
        State(pipeline="short", conductor="older", stages=(StageState(stage="distill", state=state),)),
        State(pipeline="short", conductor="c", stages=(StageState(stage="distill", state="running"),)),
        State(pipeline="short", conductor="c", stages=(StageState(stage="distill", state=state),)),
    ]
    asked = iter(said)
    there.note = lambda name, key: json.dumps(to_json(next(asked, said[-1])))  # type: ignore[method-assign]
    assert logs.logs(spec.load(str(SHORT)), there, "distill", follow=True) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == ["a-worker-0 | step 1/9 loss 5", "b-worker-0 | step 2/9 loss 4"]
    assert next(asked, None) is None


def test_what_stops_the_following_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Conducted(OLD)
    monkeypatch.setattr(there, "pods", lambda selector: next(iter(played([REFUSED]))))
    with pytest.raises(UsageError, match="the cluster refuses"):
        logs.logs(spec.load(str(SHORT)), there, "distill", follow=True)  # type: ignore[arg-type]


def test_verbose_watching_goes_on_after_a_pod_whose_log_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch.watch(Conducted([REFUSED], OLD, NEW), "short", "c", verbose=True) == 0  # type: ignore[arg-type]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if " | " in line] == [OLD[0], NEW[1]]
