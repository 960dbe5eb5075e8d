"""The conductor's hashing of inputs, beside its looks."""

import dataclasses
import threading
from pathlib import Path

import pytest

from jobgen.cluster import conduct, hashing
from jobgen.cluster.hashing import Hashing
from jobgen.pipeline import plan
from jobgen.pipeline.pipeline import Pipeline
from minima.errors import DataError
from minima.options import Options
from tests.unit.jobgen.cluster.test_conduct import Fake, pipeline, steps

__all__ = ["pipeline", "steps"]


def on_gpus(step: plan.Step) -> plan.Step:
    return dataclasses.replace(step, pool=dataclasses.replace(step.pool, gpus=8))


def test_a_stage_on_gpus_begins_when_its_inputs_are_hashed(
    pipeline: Pipeline,
    steps: list[plan.Step],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", lambda *_: None)
    goes_on, asked = threading.Event(), []

    def slow(options: Options) -> None:
        asked.append(options.verb)
        goes_on.wait(60)

    monkeypatch.setattr(hashing, "hash_once", slow)
    steps[2] = on_gpus(steps[2])
    cluster = Fake(steps, {})
    conductor = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    conductor.hashing = Hashing(str(tmp_path))
    for _ in range(6):
        assert conductor.look() is None
    assert [job["metadata"]["labels"]["minima/stage"] for job in cluster.there] == ["init-model", "build-data"]
    assert "distill: waits for its inputs to be hashed, once for all its pods" in capsys.readouterr().err
    assert asked == ["distill"]
    goes_on.set()
    join(conductor.hashing._threads["distill"])
    assert conductor.look() is None
    assert len(cluster.there) == 3


def test_a_wrong_input_is_an_error_and_asked_again(
    steps: list[plan.Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([OSError("stale"), DataError("changed")])

    def wrong(options: Options) -> None:
        raise next(errors)

    monkeypatch.setattr(hashing, "hash_once", wrong)
    made = Hashing(str(tmp_path))
    for kind in (OSError, DataError):
        with pytest.raises(kind):
            made.done(on_gpus(steps[2]))


def test_what_the_conductor_cannot_see_is_for_the_pods(steps: list[plan.Step], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "hash_once", lambda _: pytest.fail("it lies elsewhere"))
    assert Hashing("/elsewhere").done(on_gpus(steps[2]))
    assert Hashing("/").done(steps[2])  # On CPUs.
