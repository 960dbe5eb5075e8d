"""`jobgen list`, `stop` and `gc` on a namespace that is a list; the real one is in tests/cluster."""

import json
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from jobgen.cluster import garbage, pipelines
from jobgen.cluster.state import KEY, StageState, State, to_json
from jobgen.commands.arguments import LIST_KEYS
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, spec
from minima.errors import UsageError
from tests.unit.jobgen.cluster.test_conduct import NOW, SHORT

PIPELINE = spec.load(str(SHORT))
STEPS = plan.plan(PIPELINE)
VERSION = conductor.version(PIPELINE.text)


def job(
    stage: str, condition: str = "", *, pipeline: str = "short", key: str = "", hours: int = 0, **marks: str
) -> dict[str, Any]:
    """A PyTorchJob."""
    step = next(step for step in STEPS if step.name == stage)
    labels = {"minima/pipeline": pipeline, "minima/stage": stage, "minima/key": key or step.key}
    made = (NOW + timedelta(hours=hours)).isoformat()
    meta = {"name": f"{pipeline}-{stage}-{key or step.key}", "labels": labels, "annotations": marks, "creationTimestamp": made}
    return {"metadata": meta, "status": {"conditions": [{"type": condition, "status": "True"}] if condition else []}}


def conducting(
    name: str, ended: str = "", *, pipeline: str = "short", version: str = VERSION, mounts: str = "file", **marks: str
) -> Any:
    """A conductor's Job."""
    labels = {"minima/pipeline": pipeline, conductor.VERSION: version}
    volume = SimpleNamespace(config_map=SimpleNamespace(name=mounts))
    inner = SimpleNamespace(volumes=[volume, SimpleNamespace(config_map=None)])
    return SimpleNamespace(
        metadata=SimpleNamespace(name=name, labels=labels, annotations=marks, creation_timestamp=NOW),
        status=SimpleNamespace(conditions=[SimpleNamespace(type=ended, status="True")] if ended else None),
        spec=SimpleNamespace(template=SimpleNamespace(spec=inner)),
    )


def note(pipeline: str, conductor: str, state: str = "working", words: str = "", *stages: StageState) -> State:
    return State(pipeline=pipeline, conductor=conductor, state=state, words=words, stages=stages)


class Namespace:
    """A namespace whose pods end when their job is deleted, one look later."""

    namespace = "ns"

    def __init__(self, jobs: Sequence[dict[str, Any]] = (), conductors: Sequence[Any] = (), maps: Sequence[Any] = ()) -> None:
        self.there, self.conducted, self.maps = list(jobs), list(conductors), list(maps)
        self.log: list[str] = []
        self.batch = self.core = self
        self.leaving = -1

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        return list(self.there)

    def conductors(self, pipeline: str) -> list[Any]:
        return [each for each in self.conducted if each.metadata.labels["minima/pipeline"] == pipeline]

    def pods(self, selector: str) -> list[Any]:
        self.leaving -= 1
        running = SimpleNamespace(status=SimpleNamespace(phase="Running"), metadata=SimpleNamespace(name="pod"))
        return [running] if self.leaving >= 0 else []

    def delete(self, *names: str) -> None:
        assert self.leaving < 0, "a conductor might still create a job"
        self.log += [f"job {name}" for name in names]

    def delete_namespaced_job(self, name: str, *_: Any, **__: Any) -> None:
        self.log.append(f"conductor {name}")
        self.leaving = 2

    def delete_namespaced_config_map(self, name: str, *_: Any, **__: Any) -> None:
        self.log.append(f"map {name}")

    def list_namespaced_job(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(items=self.conducted)

    def list_namespaced_config_map(self, *_: Any, label_selector: str, **__: Any) -> Any:
        assert label_selector.endswith("app.kubernetes.io/component=conductor")  # A map of gc's is no pipeline.
        return SimpleNamespace(items=self.maps)


def held(name: str, data: dict[str, str], pipeline: str = "short") -> Any:
    labels = {"minima/pipeline": pipeline}
    return SimpleNamespace(metadata=SimpleNamespace(name=name, labels=labels), data=data)


def test_the_pipelines_of_a_namespace() -> None:
    waits = StageState(stage="distill", state="queued", waits_for="queue team")
    jobs = [
        job("distill", pipeline="a"),
        job("distill", "Failed", pipeline="e"),
        job("distill", "Succeeded", pipeline="f", hours=-1),
    ]
    conductors = [
        conducting("old", "Failed", pipeline="a"),
        conducting("a1", pipeline="a"),
        conducting("b1", "Complete", pipeline="b"),
        conducting("c1", "Failed", pipeline="c"),
        conducting("d0", "Failed", pipeline="d"),
    ]
    notes = {
        "a": note("a", "a1", "working", "", StageState(stage="init-model", state="finished"), waits),
        "b": note("b", "b1", "finished", "", StageState(stage="init-model", state="finished")),
        "c": note("c", "c1", "failed", "distill failed with exit code 65: bad"),
        "d": note("d", "d1"),  # Whose conductor `jobgen stop` deleted.
        "g": None,  # Of which a ConfigMap is left.
    }
    found = {row.pipeline: row for row in pipelines.rows(jobs, conductors, notes, NOW.timestamp() + 90)}
    states = {"a": "running", "b": "finished", "c": "failed", "d": "stopped", "e": "failed", "f": "finished", "g": "stopped"}
    assert {name: row.state for name, row in found.items()} == states
    a = found["a"]
    assert (a.finished, a.stages, a.running, a.conductor, a.age) == (1, 2, ("distill",), "a1", 90.0)
    assert a.words == "distill: queue team"
    assert found["c"].words == "distill failed with exit code 65: bad"
    assert found["d"].words == ""
    assert found["f"].age == 3690.0


def test_list_prints_a_table_or_rows_with_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps(to_json(note("short", "c", "working", "", StageState(stage="init-model", state="finished"))))
    there = Namespace([job("distill")], [conducting("c")], [held("file", {}), held("state", {KEY: text})])
    assert pipelines.show(there, output="json") == 0  # type: ignore[arg-type]
    (row,) = json.loads(capsys.readouterr().out)
    assert tuple(row) == LIST_KEYS
    assert (row["pipeline"], row["finished"], row["running"]) == ("short", 1, ["distill"])
    assert pipelines.show(there, output="table") == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines()[2].split()[:4] == ["short", "running", "1/1", "distill"]
    assert pipelines.show(Namespace(), output="table") == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == "no pipeline in namespace ns\n"


def test_stop_ends_the_conductor_first_and_then_what_it_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipelines.time, "sleep", lambda _: None)
    jobs = [job("init-model", "Succeeded"), job("build-data", "Failed"), job("distill", "Running")]
    there = Namespace(jobs, [conducting("old", "Failed"), conducting("now", **{pipelines.FLUX: "team"})])
    assert pipelines.stop("short", there, again="jobgen run short") == 0  # type: ignore[arg-type]
    assert there.log == ["conductor now", f"job {jobs[2]['metadata']['name']}"]
    said = capsys.readouterr().err
    assert "checkpoints are kept; `jobgen run short` goes on from them" in said
    assert "Flux would make this again; suspend Kustomization team there" in said
    for mark in ({pipelines.ARGO: "team:batch/Job:ns/now"}, {pipelines.ARGO_LABEL: "team"}):
        there = Namespace([], [conducting("now", **mark)])
        assert pipelines.stop("short", there, again="jobgen run short") == 0  # type: ignore[arg-type]
        assert "Argo CD would make this again; suspend Application team there" in capsys.readouterr().err
    idle = Namespace(jobs[:2], [conducting("old", "Failed")])
    assert pipelines.stop("short", idle, again="x") == 0  # type: ignore[arg-type]
    assert idle.log == []
    assert "nothing of short is at work in namespace ns" in capsys.readouterr().err


def collected(there: Namespace, monkeypatch: pytest.MonkeyPatch, *, yes: bool, code: int = 0) -> int:
    def in_the_workspace(*_: Any, yes: bool) -> int:
        there.log.append(f"workspace {yes}")
        return code

    monkeypatch.setattr(garbage, "_in_the_workspace", in_the_workspace)
    return garbage.collect(PIPELINE, there, yes=yes)  # type: ignore[arg-type]


def namespace() -> Namespace:
    return Namespace(
        [job("distill", "Succeeded", key="00000000"), job("distill", "Failed"), job("init-model", "Running")],
        [conducting("old", "Failed", version="x", mounts="file-old"), conducting("now", mounts="file-now")],
        [
            held("file-old", {conductor.FILE: "old"}),
            held("file-older", {conductor.FILE: "older"}),
            held("file-now", {conductor.FILE: PIPELINE.text}),
            held("state", {KEY: "{}"}),
        ],
    )


def test_gc_removes_ended_objects_of_other_versions_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = namespace()
    assert collected(there, monkeypatch, yes=False) == 0
    assert there.log == ["workspace False"]
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert shown == [
        ["PyTorchJob", "short-distill-00000000"],
        ["Job", "old"],
        ["ConfigMap", "file-old"],
        ["ConfigMap", "file-older"],
    ]
    assert collected(there, monkeypatch, yes=True) == 0
    removed = ["job short-distill-00000000", "conductor old", "map file-old", "map file-older"]
    assert there.log[1:] == ["workspace True", *removed]
    refused = namespace()
    assert collected(refused, monkeypatch, yes=True, code=75) == 75  # A stage writes there.
    assert refused.log == ["workspace True"]


@pytest.mark.parametrize("what", ["job", "conductor"])
def test_gc_is_refused_while_another_version_is_at_work(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = namespace()
    if what == "job":
        there.there.append(job("distill", "Running", key="22222222"))
    else:
        there.conducted.append(conducting("other", version="x"))
    with pytest.raises(UsageError, match="at work for another version of short"):
        collected(there, monkeypatch, yes=True)
    assert there.log == []


def test_what_the_pod_of_gc_says_is_read_from_its_own_container(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Namespace()
    made = garbage.objects(PIPELINE, "short-gc-1", yes=False)[0]["spec"]["template"]["spec"]["containers"]
    ended = SimpleNamespace(status=SimpleNamespace(phase="Succeeded"), metadata=SimpleNamespace(name="pod"))
    monkeypatch.setattr(there, "conductor_pods", lambda name: [ended], raising=False)
    monkeypatch.setattr(there, "follow", lambda pod, container: iter([f"said by {container}"]), raising=False)
    monkeypatch.setattr(there, "patch_namespaced_job", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(there, "read_namespaced_job", lambda *_, **__: conducting("x", "Complete"), raising=False)
    assert garbage._watch(there, "short-gc-1") == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [f"said by {made[0]['name']}"]


def test_the_pod_of_gc_is_the_conductors_without_its_rights() -> None:
    conducted = conductor.objects(PIPELINE)[-1]["spec"]["template"]["spec"]
    for yes in (False, True):
        made, text = garbage.objects(PIPELINE, "short-gc-1", yes=yes)
        pod = made["spec"]["template"]["spec"]
        (container,), (other,) = pod["containers"], conducted["containers"]
        assert "serviceAccountName" not in pod
        assert pod["automountServiceAccountToken"] is False
        assert container["image"] == other["image"]
        assert [container["securityContext"], pod["securityContext"]] == [render.CONTAINER_SECURITY, render.POD_SECURITY]
        assert container["args"][1:4] == ["--local", "--workspace", "/workspace"]
        assert container["args"][4:] == (["--yes"] if yes else [])
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts["workspace"].get("readOnly", False) is not yes
        assert text["data"] == {conductor.FILE: PIPELINE.text}
        assert {"name": "pipeline", "configMap": {"name": "short-gc-1"}} in pod["volumes"]
        # Nothing takes it for a conductor.
        labels = [made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"], text["metadata"]["labels"]]
        assert [each["app.kubernetes.io/component"] for each in labels] == ["gc"] * 3


def test_the_conductors_own_volume_cannot_be_another() -> None:
    """From which gc's pod takes its file."""
    other = "conductor:\n  image: minima:jobgen\n  pod: {spec: {volumes: [{name: pipeline, emptyDir: {}}]}}\n"
    pipeline = spec.parse(PIPELINE.text.replace("conductor: minima:jobgen\n", other), "short.yaml")
    with pytest.raises(UsageError, match=r"conductor\.pod\.spec\.volumes\.0: pipeline would not be what jobgen needs"):
        garbage.objects(pipeline, "short-gc-1", yes=False)
