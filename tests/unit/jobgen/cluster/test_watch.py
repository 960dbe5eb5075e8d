"""What `jobgen run --namespace` says, from what the conductor says as data."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from jobgen.cluster import watch
from jobgen.cluster.state import StageState, State, to_json
from jobgen.report import Result
from minima.errors import LostPeerError, UsageError
from minima.workspace.progress import Progress
from tests.unit.jobgen.cluster.test_conduct import Fake, pod

MADE = Result(
    verb="adapt",
    key="k",
    seconds=65.0,
    bytes=10,
    files=2,
    folder="/w/a",
    metrics={"dev_perplexity_start": 40.0, "dev_perplexity": 9.5},
)
BEGIN = State(
    pipeline="p",
    conductor="c",
    since=1000.0,
    time=1000.0,
    stages=(StageState(stage="a"), StageState(stage="bc", waits_for="a to finish")),
)


def with_a(**values: Any) -> State:
    return replace(BEGIN, stages=(replace(BEGIN.stages[0], job="job-a", **values), *BEGIN.stages[1:]))


class Script(Fake):
    """A conductor whose state at each look is as scripted, and which ends as is said at the last one."""

    def __init__(self, states: list[State | None], over: str) -> None:
        super().__init__([], {})
        self.states, self.over = iter(states), over
        self.left = len(states)

    def conductors(self, pipeline: str) -> list[Any]:
        self.left -= 1
        over = [SimpleNamespace(type=self.over, status="True")] if self.left <= 0 else []
        return [
            SimpleNamespace(
                metadata=SimpleNamespace(name="c", creation_timestamp=datetime.now(UTC)),
                status=SimpleNamespace(conditions=over),
            )
        ]

    def note(self, name: str, key: str) -> str | None:
        state = next(self.states)
        return json.dumps(to_json(state)) if state else None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL", 0.0)
    monkeypatch.setattr(time, "strftime", lambda _: "12:00:00")


def watched(states: list[State | None], over: str) -> int:
    return watch.watch(Script(states, over), "p", "c")  # type: ignore[arg-type]


def test_one_line_for_each_change_and_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    training = Progress(phase="training", step=1, total=9)
    end = with_a(state="finished", restarts=1, exit_code=0, result=MADE)
    found = replace(end.stages[1], state="finished", waits_for="", result=replace(MADE, verb="prune", metrics={}))
    code = watched(
        [
            None,
            replace(BEGIN, state="failed"),  # Of an earlier Job of this name.
            BEGIN,
            with_a(state="starting", waits_for="a node"),
            with_a(state="starting", waits_for="a node"),
            with_a(state="running", progress=training),
            with_a(state="running", progress=replace(training, step=2)),
            with_a(state="running", restarts=1),
            replace(end, state="finished", time=1075.0, stages=(end.stages[0], found)),
        ],
        "Complete",
    )
    assert code == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "12:00:00 [1/2] a   starting as job-a",
        "12:00:00 [1/2] a   waits for a node",
        "12:00:00 [1/2] a   running",
        "12:00:00 [1/2] a   a pod was made again (restart 1)",
        "12:00:00 [1/2] a   finished in 1m05s  perplexity 40.0 → 9.500",
        "12:00:00 [2/2] bc  finished already",
        "all 2 stages are finished, after 1m15s",
    ]
    assert said.out.splitlines()[0].split() == ["stage", "seconds", "tokens/s", "MiB", "artifact"]
    assert "/w/a" in said.out


def test_a_failure_has_the_stage_s_code_and_words(capsys: pytest.CaptureFixture[str]) -> None:
    failed = with_a(state="failed", exit_code=65, words="bad data")
    end = replace(failed, state="failed", exit_code=65, words="a failed with exit code 65: bad data")
    assert watched([BEGIN, end], "Failed") == 65
    assert capsys.readouterr().err.splitlines() == [
        "12:00:00 [1/2] a   failed with exit code 65: bad data",
        "c failed: a failed with exit code 65: bad data",
    ]


def test_a_conductor_that_said_nothing_has_its_pod_s_words(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script([None, None], "Failed")
    script.pods = lambda selector: [pod(64, "wrong pipeline")]  # type: ignore[method-assign]
    assert watch.watch(script, "p", "c") == 64  # type: ignore[arg-type]
    assert capsys.readouterr().err == "c failed: wrong pipeline\n"


def test_what_the_conductor_itself_waits_for_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    waits = replace(BEGIN, waits_for="a cluster that answers")
    assert watched([waits, waits, BEGIN, replace(BEGIN, state="failed", exit_code=75, words="over")], "Failed") == 75
    assert capsys.readouterr().err.count("conductor: waits for a cluster that answers") == 1


def test_a_conductor_that_runs_and_is_not_heard_of_is_known_by_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that a NetworkPolicy keeps from the API server: it cannot say so itself."""
    monkeypatch.setattr(watch, "QUIET_SECONDS", -1.0)
    script = Script([None, None, None, BEGIN, replace(BEGIN, state="finished", time=1001.0)], "Complete")
    status = SimpleNamespace(phase="Running", init_container_statuses=[], container_statuses=[], conditions=[])
    meta = SimpleNamespace(name="c-pod", uid="u", creation_timestamp=datetime.now(UTC), deletion_timestamp=None)
    running = SimpleNamespace(metadata=meta, status=status, spec=SimpleNamespace(node_name="n"))
    script.pods = lambda selector: [running]  # type: ignore[method-assign]
    script.log = ["12:00:00 no cluster answers; tried again"]
    assert watch.watch(script, "p", "c") == 0  # type: ignore[arg-type]
    said = [line for line in capsys.readouterr().err.splitlines() if "c-pod" in line]
    assert said == ["c-pod runs, but nothing new is heard of it; its log ends with: 12:00:00 no cluster answers; tried again"]


def test_a_deleted_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([BEGIN, BEGIN], "")
    monkeypatch.setattr(script, "conductors", lambda pipeline: [])
    with pytest.raises(UsageError, match="c was deleted"):
        watch.watch(script, "p", "c")  # type: ignore[arg-type]


def test_a_cluster_that_is_away_for_a_moment_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.0)
    script = Script([BEGIN, replace(BEGIN, state="finished", time=1001.0)], "Complete")
    there, away = script.conductors, iter([True, False])

    def conductors(pipeline: str) -> list[Any]:
        if next(away, False):
            raise LostPeerError("no cluster answers")
        return there(pipeline)

    monkeypatch.setattr(script, "conductors", conductors)
    assert watch.watch(script, "p", "c") == 0  # type: ignore[arg-type]
    assert "no cluster answers; tried again" in capsys.readouterr().err
