"""The state of a pipeline as data: its JSON, when it is written, and what a conductor says in it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobgen.cluster import conduct, state
from jobgen.cluster.state import Keeper, StageState, State
from jobgen.manifests import render
from jobgen.pipeline import plan
from jobgen.pipeline.pipeline import Pipeline
from jobgen.report import Result
from minima.errors import LostPeerError, UsageError
from minima.workspace.progress import Progress, Reporter, file
from tests.unit.jobgen.cluster.test_conduct import Fake, pipeline, run, steps

__all__ = ["pipeline", "steps"]  # Fixtures.

RESULT = Result(verb="evaluate", key="k", seconds=1.5, bytes=10, files=2, folder="/w", metrics={"answer": "是"}, question="?")
FULL = State(
    pipeline="p",
    version="v",
    conductor="c",
    state="failed",
    since=1.0,
    waits_for="a cluster",
    exit_code=65,
    words="b failed",
    stages=(
        StageState(stage="a", state="finished", since=1.0, exit_code=0, result=RESULT),
        StageState(stage="b", state="running", job="j", restarts=2, progress=Progress(phase="training", step=1, loss=2.5)),
        StageState(stage="d", waits_for="b to finish", waits_since=2.0),
    ),
)


def test_a_state_survives_json() -> None:
    text = json.dumps(state.to_json(FULL))
    assert state.parse(text) == FULL
    content = json.loads(text)
    content["more"] = content["stages"][0]["more"] = content["stages"][0]["result"]["more"] = 1  # Of a later version.
    assert state.from_json(content) == FULL


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "stages": 1}'])
def test_what_is_no_state_is_none(text: str | None) -> None:
    assert state.parse(text) is None


def test_it_is_written_when_it_changes_and_not_more_often_than_anybody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], list[str]()
    monkeypatch.setattr(state.time, "monotonic", lambda: now[0])
    kept = Keeper(FULL, [written.append], lambda text: None)

    def at(seconds: float) -> int:
        now[0] = seconds
        kept.write()
        return len(written)

    assert at(0) == 1
    assert at(29) == 1
    assert at(30) == 2  # Nothing changed: it is alive.
    kept.stage("b", progress=Progress(phase="training", step=2))
    assert (at(34), at(35)) == (2, 3)
    kept.stage("b", restarts=3)
    assert (at(36), at(37)) == (3, 4)
    kept.change(state="failed", words="over")
    kept.write(now=True)
    last = state.parse(written[-1])
    assert last is not None
    assert last.words == "over"
    assert last.time > 0


def test_since_says_when_a_state_began_and_waits_since_when_the_waiting_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(state.time, "time", lambda: now[0])
    kept = Keeper(State(pipeline="p", stages=(StageState(stage="a", since=1.0),)), [], lambda text: None)

    def after(seconds: float, **changes: Any) -> tuple[float, float | None]:
        now[0] += seconds
        kept.stage("a", **changes)
        (a,) = kept.state.stages
        return a.since, a.waits_since

    assert after(1, waits_for="a node") == (1.0, 11.0)
    assert after(1, waits_for="a node") == (1.0, 11.0)
    assert after(1, state="running", waits_for="") == (13.0, None)


def test_who_cannot_write_it_says_so_and_goes_on() -> None:
    said: list[str] = []

    def refused(text: str) -> None:
        raise UsageError("write ConfigMap: the cluster refuses (403)")

    Keeper(FULL, [refused], said.append).write()
    assert said == ["its state cannot be written: write ConfigMap: the cluster refuses (403)"]


def last(cluster: Fake) -> State:
    found = state.parse(cluster.notes[-1])
    assert found is not None
    return found


def test_the_conductor_says_what_was_made(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {})
    assert run(pipeline, cluster) == 0
    end = last(cluster)
    assert (end.state, end.exit_code, end.conductor, end.pipeline) == ("finished", 0, "mine", "short")
    assert [(s.state, s.exit_code, s.waits_for) for s in end.stages] == [("finished", 0, "")] * 3
    made = end.stages[2].result
    assert made is not None
    assert (made.folder, made.metrics["dev_perplexity"]) == (steps[2].output_dir, 1.0)


def test_the_conductor_says_what_failed_and_what_waits_for_it(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {"build-data": "Failed"})
    assert run(pipeline, cluster) == 65
    end = last(cluster)
    assert (end.state, end.exit_code) == ("failed", 65)
    assert end.words == "build-data failed with exit code 65: the last words"
    failed = end.stages[1]
    assert (failed.state, failed.exit_code, failed.words) == ("failed", 65, "the last words")
    assert (end.stages[2].state, end.stages[2].waits_for) == ("waiting", "init-model, build-data to finish")


def test_the_conductor_passes_on_what_a_stage_says_and_why_it_waits(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {"init-model": "Running"})
    conductor = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    assert conductor.look() is None
    assert conductor.look() is None
    folder = Path(steps[0].output_dir)
    folder.mkdir(parents=True)
    with Reporter((folder / file()).write_text) as reporter:
        reporter.phase("writing", 4, "files")
    assert conductor.look() is None
    now = conductor.stage(steps[0])
    assert (now.state, now.job, now.progress) == ("running", cluster.there[0]["metadata"]["name"], reporter.now)
    cluster.there[0]["status"] = {"conditions": [{"type": "Suspended", "status": "True"}]}
    cluster.there[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert conductor.look() is None
    now = conductor.stage(steps[0])
    assert (now.state, now.progress) == ("queued", None)
    name = cluster.there[0]["metadata"]["name"]
    assert now.waits_for.startswith(f"{name}: held back for queue gpus, but no Kueue made a Workload of it; ")
    since = now.waits_since
    time.sleep(0.01)
    assert conductor.look() is None
    assert conductor.stage(steps[0]).waits_since == since


def test_a_later_pod_of_the_same_conductor_goes_on_counting(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {})
    job = render.job(pipeline, steps[0], "ns")["metadata"]["name"]
    before = State(pipeline="short", conductor="mine", since=5.0, stages=(StageState(stage="init-model", job=job, restarts=2),))
    cluster.notes = [json.dumps(state.to_json(before))]
    now = conduct._Conductor(pipeline, cluster, "mine").kept.state  # type: ignore[arg-type]
    assert (now.since, now.stages[0].restarts, now.stages[1].restarts) == (5.0, 2, 0)
    other = conduct._Conductor(pipeline, cluster, "other").kept.state  # type: ignore[arg-type]
    assert other.since > 5.0


def test_who_was_followed_by_a_newer_one_leaves_its_state_alone(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {})
    cluster.newest = "other"
    with pytest.raises(Exception, match="took over"):
        run(pipeline, cluster)
    assert cluster.notes == []


def test_a_cluster_that_does_not_answer_is_what_it_waits_for(
    pipeline: Pipeline, steps: list[plan.Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Fake(steps, {})
    answers = iter([LostPeerError("no cluster answers"), None])
    jobs = cluster.jobs

    def broken(selector: str) -> list[dict[str, Any]]:
        if error := next(answers, None):
            raise error
        return jobs(selector)

    monkeypatch.setattr(cluster, "jobs", broken)
    assert run(pipeline, cluster) == 0
    first = state.parse(cluster.notes[0])
    assert first is not None
    assert first.waits_for == "the cluster: no cluster answers; tried again"
    assert last(cluster).waits_for == ""
