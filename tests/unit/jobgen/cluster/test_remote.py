"""What is started and restarted in a cluster from outside of it, and what is not."""

from types import SimpleNamespace
from typing import Any

import pytest

from jobgen.cluster import remote
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, spec
from minima.errors import UsageError
from tests.unit.jobgen.cluster.test_conduct import SHORT, Fake

PIPELINE = spec.load(str(SHORT))
STEPS = {step.name: step for step in plan.plan(PIPELINE)}
DISTILL = render.job(PIPELINE, STEPS["distill"], "ns")


class Namespace(Fake):
    """One in which another object of `distill` runs, and a conductor of some version is at work or has ended."""

    context = None

    def __init__(self, *, key: str = "", version: str = "", ended: str = "", name: str = "c") -> None:
        super().__init__(list(STEPS.values()), {"distill": "Running"})
        self.version, self.ended, self.name = version or conductor.version(PIPELINE.text), ended, name
        older = {**DISTILL, "metadata": {**DISTILL["metadata"], "name": "older"}}
        if key:
            older["metadata"]["labels"] = {**older["metadata"]["labels"], "minima/key": key}
        self.put(older, "Running")

    def conductors(self, pipeline: str) -> list[Any]:
        conditions = [SimpleNamespace(type=self.ended, status="True")] if self.ended else []
        meta = SimpleNamespace(name=self.name, labels={conductor.VERSION: self.version})
        return [SimpleNamespace(metadata=meta, status=SimpleNamespace(conditions=conditions))]

    def check_operator(self) -> None:
        """It is there."""


def restarted(there: Namespace) -> list[str]:
    assert remote.restart(PIPELINE, there, "distill") == 0  # type: ignore[arg-type]
    return [job["metadata"]["name"] for job in there.there]


@pytest.mark.parametrize("there", [Namespace(), Namespace(version="another", ended="Failed")])
def test_a_running_stage_is_put_on_its_new_object(there: Namespace) -> None:
    assert restarted(there) == [DISTILL["metadata"]["name"]]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (Namespace(key="00000000"), "older makes another result"),
        (Namespace(version="another"), "c conducts another version, and would put distill on its own object again"),
    ],
)
def test_what_a_restart_would_ruin_is_left_alone(there: Namespace, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        restarted(there)
    assert [job["metadata"]["name"] for job in there.there] == ["older"]


def run(monkeypatch: pytest.MonkeyPatch, there: Namespace, agrees: bool, **options: Any) -> list[str]:
    """What happened, in order."""
    done: list[str] = []

    def confirm() -> None:
        done.append("asked")
        if not agrees:
            raise UsageError("nothing was changed")

    def watch(*_: Any, **__: Any) -> int:
        done.append("watched")
        return 0

    monkeypatch.setattr(remote, "watch", watch)
    monkeypatch.setattr(remote.rights, "apply", lambda cluster, pipeline, objects: done.append("applied"))
    monkeypatch.setattr(remote, "_delete_conductor", lambda *_: done.append("deleted"))
    try:
        assert remote.run_remote(PIPELINE, there, confirm=confirm, **options) == 0  # type: ignore[arg-type]
    except UsageError:
        done.append("refused")
    return done


def test_nothing_changes_before_somebody_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"from_stage": "distill", "part": plan.Part(until="distill")}
    name = conductor.objects(PIPELINE, "ns", "distill", plan.Part(until="distill"))[-1]["metadata"]["name"]
    other = Namespace(ended="Complete")
    assert run(monkeypatch, other, True, **options) == ["asked", "applied", "watched"]
    assert run(monkeypatch, other, False, **options) == ["asked", "refused"]
    ended = Namespace(name=name, ended="Complete")
    assert run(monkeypatch, ended, True, **options) == ["asked", "deleted", "applied", "watched"]
    assert run(monkeypatch, ended, False, **options) == ["asked", "refused"]
    # The same command again only watches.
    assert run(monkeypatch, Namespace(name=name), False, **options) == ["watched"]


def test_nothing_is_started_whose_stage_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its pod would say so, minutes later."""
    text = PIPELINE.text + "    pod: {spec: {volumes: [{name: site, persistentVolumeClaim: {}}]}}\n"
    monkeypatch.setattr("tests.unit.jobgen.cluster.test_remote.PIPELINE", spec.parse(text, "p.yaml"))
    assert run(monkeypatch, Namespace(ended="Complete"), True, from_stage=None) == ["refused"]


@pytest.mark.parametrize("part", [plan.Part(until="distill"), plan.Part(only="distill")])
def test_a_part_does_not_end_another_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: plan.Part
) -> None:
    options = {"from_stage": None, "part": part}
    with pytest.raises(
        UsageError, match=rf"{part.words[0]}: c is at work for short, .*`jobgen stop short --namespace ns` first"
    ):
        remote.run_remote(PIPELINE, Namespace(), **options)  # type: ignore[arg-type]
    assert run(monkeypatch, Namespace(), True, **options) == ["refused"]
    assert run(monkeypatch, Namespace(ended="Complete"), True, **options) == ["asked", "applied", "watched"]
    # All of a pipeline takes over from a part of it, or from an older version, which may be somebody else's.
    capsys.readouterr()
    assert run(monkeypatch, Namespace(), True, from_stage=None) == ["asked", "applied", "watched"]
    assert "c is at work for short, and ends, since the newest conducts; its stages that run go on" in capsys.readouterr().err
