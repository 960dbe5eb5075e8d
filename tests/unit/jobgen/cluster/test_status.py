"""Where a pipeline is: by its conductor's word, by jobs and pods, and as a table."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from jobgen.cluster import status
from jobgen.cluster.refusals import Wait
from jobgen.cluster.state import StageState, State, parse, to_json
from jobgen.commands import arguments
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan
from jobgen.pipeline.pipeline import Pipeline
from minima.workspace.progress import Progress
from tests.unit.jobgen.cluster.test_conduct import Fake, pipeline, pod
from tests.unit.jobgen.cluster.test_state import RESULT

__all__ = ["pipeline"]  # A fixture.
WHY = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"


class Seen(Fake):
    """A namespace with a conductor Job and what it said."""

    def __init__(self, pipeline: Pipeline, *, over: str = "", said: State | None = None) -> None:
        super().__init__(plan.plan(pipeline), {})
        version = conductor.version(pipeline.text)
        conditions = [SimpleNamespace(type=over, status="True")] if over else []
        meta = SimpleNamespace(name="c", labels={conductor.VERSION: version}, creation_timestamp=datetime.now(UTC), uid="c")
        self.jobs_of_conductors = [SimpleNamespace(metadata=meta, status=SimpleNamespace(conditions=conditions))]
        if said:
            self.notes = [json.dumps(to_json(replace(said, version=said.version or version, time=said.time or time.time())))]

    def conductors(self, pipeline: str) -> list[Any]:
        return self.jobs_of_conductors


SAID = State(
    pipeline="short",
    conductor="c",
    since=1.0,
    stages=(
        StageState(stage="init-model", state="finished", job="a", result=RESULT),
        StageState(stage="build-data", state="starting", job="b", waits_for=WHY),
        StageState(stage="distill", waits_for="init-model, build-data to finish"),
    ),
)


def look(pipeline: Pipeline, cluster: Fake) -> State:
    return status.look(pipeline, cluster)  # type: ignore[arg-type]


def states(found: State) -> list[str]:
    return [stage.state for stage in found.stages]


def test_a_conductor_at_work_is_believed(pipeline: Pipeline) -> None:
    found = look(pipeline, Seen(pipeline, said=SAID))
    assert found.stages == SAID.stages
    assert (found.state, found.conductor) == ("working", "c")


@pytest.mark.parametrize(
    "said",
    [
        replace(SAID, conductor="older"),
        replace(SAID, version="older"),
        replace(SAID, time=5.0),
        replace(SAID, state="failed"),  # Of an earlier Job of this name, since this one works.
    ],
)
def test_a_silent_one_or_another_is_not(pipeline: Pipeline, said: State) -> None:
    cluster = Seen(pipeline, said=said)
    cluster.put(render.job(pipeline, cluster.steps["distill"], "ns"), "Running")
    found = look(pipeline, cluster)
    assert states(found) == ["finished", "finished", "running"]
    assert found.state == "working"
    assert found.waits_for


def test_what_goes_on_after_a_conductor_failed_is_seen(pipeline: Pipeline) -> None:
    failed = replace(SAID.stages[0], state="failed", exit_code=65, words="bad", result=None)
    said = replace(SAID, state="failed", exit_code=65, words="init-model failed", stages=(failed, *SAID.stages[1:]))
    cluster = Seen(pipeline, over="Failed", said=said)
    cluster.put(render.job(pipeline, cluster.steps["build-data"], "ns"), "Running")
    found = look(pipeline, cluster)
    assert (found.state, found.exit_code, found.words) == ("failed", 65, "init-model failed")
    assert states(found) == ["failed", "running", "waiting"]


def test_a_complete_one_has_its_results(pipeline: Pipeline) -> None:
    said = replace(SAID, state="finished", exit_code=0, stages=SAID.stages[:1])
    assert look(pipeline, Seen(pipeline, over="Complete", said=said)).stages[0].result == RESULT
    unheard = look(pipeline, Seen(pipeline, over="Complete"))
    assert (unheard.state, states(unheard)) == ("finished", ["finished"] * 3)


@pytest.mark.parametrize("label", [conductor.VERSION, conductor.PART])
def test_one_that_completed_another_version_or_a_part_says_nothing_of_the_rest(pipeline: Pipeline, label: str) -> None:
    cluster = Seen(pipeline, over="Complete")
    cluster.jobs_of_conductors[0].metadata.labels[label] = "another"
    assert states(look(pipeline, cluster)) == ["waiting"] * 3


def test_a_conductor_that_does_not_start_says_why(pipeline: Pipeline) -> None:
    """In the cluster's words, which test_waits.py reads; here it is only who is asked."""
    cluster = Seen(pipeline)
    asked: list[str] = []
    cluster.events = lambda names: asked.extend(names) or []  # type: ignore[method-assign, func-returns-value]
    pending = pod(0, "")
    pending.status.phase = "Pending"
    cluster.pods = lambda selector: [pending] if "batch" in selector else []  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status.waits, "of_batch_job", lambda job, pods, events, now: Wait(words=f"{pods[0].metadata.name}: why"))
        found = look(pipeline, cluster)
    assert (found.state, found.waits_for) == ("working", "pod: why")
    assert asked == ["c", "pod"]


def test_without_a_conductor_jobs_and_pods_tell(pipeline: Pipeline) -> None:
    cluster = Seen(pipeline)
    cluster.jobs_of_conductors = []
    first = look(pipeline, cluster)
    assert (first.state, states(first)) == ("none", ["waiting"] * 3)
    assert first.stages[2].waits_for == "init-model, build-data to finish"
    cluster.put(render.job(pipeline, cluster.steps["build-data"], "ns"), "Failed")
    then = look(pipeline, cluster)
    assert states(then) == ["finished", "failed", "waiting"]
    assert (then.stages[1].exit_code, then.stages[1].words) == (65, "the last words")


def test_the_keys_of_json_are_those_of_the_help() -> None:
    made = to_json(SAID)
    assert (*made, *(f"stages[].{key}" for key in made["stages"][0])) == arguments.STATUS_KEYS


def test_json_is_the_state(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Seen(pipeline, said=SAID)
    assert status.status(pipeline, cluster, output="json", watch=False) == 0  # type: ignore[arg-type]
    found = parse(capsys.readouterr().out)
    assert found is not None
    assert found.stages == SAID.stages


def test_the_table_fits_and_wraps_what_is_long() -> None:
    running = StageState(
        stage="distill", state="running", restarts=2, progress=Progress(phase="training", step=5, total=10, eta=65.0)
    )
    found = replace(SAID, state="failed", exit_code=65, words="build-data failed: " + "long words " * 9)
    found = replace(found, stages=(*SAID.stages[:2], running))
    lines = status.rows(found, 79)
    assert max(map(len, lines)) <= 79
    assert lines[0].split() == ["stage", "state", "for", "what"]
    assert lines[2].split()[:2] == ["conductor", "failed"]
    text = " ".join(" ".join(lines).split())
    assert "exit code 65: build-data failed: " + " ".join(["long words"] * 9) in text
    assert f"waits for {WHY}" in text
    assert "5/10 1m05s left; 2 restarts" in text
    late = replace(running, planned=400.0)
    row = status.rows(replace(found, stages=(late,)), None)[-1]
    assert row.endswith("5/10  1m05s left; 2 restarts; 6m40s in all by the plan")
    waits = replace(late, state="waiting", restarts=0, progress=None, waits_for="a to finish")
    assert status.rows(replace(found, stages=(waits,)), None)[-1].endswith("for a to finish; 6m40s in all by the plan")
    wide = status.rows(found, None)
    assert len(wide) == 2 + 1 + 3  # Where nobody says how wide, as in a pipe, a row is a line.


def test_watching_ends_when_nothing_is_under_way(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.0)
    cluster = Seen(pipeline, over="Complete", said=replace(SAID, state="finished", stages=SAID.stages[:1]))
    idle = (SAID.stages[0], replace(SAID.stages[1], state="waiting"))  # Between two stages only the conductor is at work.
    looks = iter([replace(SAID, state="working"), replace(SAID, state="working", stages=idle)])
    over = status.look
    monkeypatch.setattr(status, "look", lambda *_: next(looks, None) or over(pipeline, cluster))  # type: ignore[arg-type]
    assert status.status(pipeline, cluster, output="table", watch=True) == 0  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("conductor")] == ["working", "working", "finished"]
