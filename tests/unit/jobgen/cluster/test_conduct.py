"""What jobgen makes of a cluster's answers, with a cluster that is a list; the real one is in tests/cluster."""

import dataclasses
import errno
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from jobgen.cluster import conduct, diff, stages
from jobgen.cluster.answers import NoOperatorError, RefusedError
from jobgen.cluster.objects import last_words, state
from jobgen.cluster.state import LABEL
from jobgen.commands import arguments
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, spec
from jobgen.pipeline.estimate import estimates
from jobgen.pipeline.pipeline import Pipeline
from minima.errors import DataError, LostPeerError, NotReadyError
from minima.options import reads
from tests.unit import held

SHORT = Path(__file__).parents[3] / "cluster" / "short.yaml"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Fake:
    """A namespace whose PyTorchJobs do what `behave` says of each stage when they are created."""

    def __init__(self, steps: list[plan.Step], behave: dict[str, str]) -> None:
        self.namespace = "ns"
        self.steps = {step.name: step for step in steps}
        self.behave = behave
        self.there: list[dict[str, Any]] = []
        self.newest = "mine"
        self.log: list[str] = []
        self.notes: list[str] = []
        """What the conductor wrote of its state, one after the other."""

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        return list(self.there)

    def create(self, job: dict[str, Any]) -> bool:
        stage = job["metadata"]["labels"]["minima/stage"]
        ended = self.behave.get(stage, "Succeeded")
        if ended == "Succeeded":
            make(self.steps[stage])
        self.put(job, ended)
        return True

    def put(self, job: dict[str, Any], condition: str) -> None:
        status = {"conditions": [{"type": condition, "status": "True"}]} if condition else {}
        meta = {**job["metadata"], "creationTimestamp": NOW.isoformat(), "uid": f"uid of {job['metadata']['name']}"}
        self.there.append({**job, "metadata": meta, "status": status})

    def delete(self, name: str, *, wait: bool = True) -> None:
        self.there = [job for job in self.there if job["metadata"]["name"] != name]

    def pods(self, selector: str) -> list[Any]:
        failed = [j for j in self.there if state(j) == "Failed" and selector.endswith(j["metadata"]["name"])]
        return [pod(65, "the last words") for _ in failed]

    def events(self, names: Iterable[str]) -> list[Any]:
        return []

    def workload(self, job: dict[str, Any]) -> None:
        return None

    def restarts(self, job: dict[str, Any]) -> int:
        return 0

    def conductors(self, pipeline: str) -> list[Any]:
        return [SimpleNamespace(metadata=SimpleNamespace(name=self.newest, labels={}), status=SimpleNamespace(conditions=None))]

    def note(self, name: str, key: str) -> str | None:
        return self.notes[-1] if self.notes else None

    def write_note(self, name: str, key: str, text: str, labels: dict[str, str]) -> None:
        self.notes.append(text)
        self.labels = labels

    def conductor_pods(self, job: str) -> list[Any]:
        return self.pods(f"batch.kubernetes.io/job-name={job}")

    def lines(self, name: str, **_: Any) -> Iterator[str]:
        yield from self.log

    def follow(self, pod: Any, container: str = "pytorch") -> Iterator[str]:
        yield from self.log


def make(step: plan.Step) -> None:
    """The artifact of a step, as its stage would finish it."""
    files = dict.fromkeys(("text/a.jsonl", "model/config.json", "train-0.tfrecord", "dev-0.tfrecord"), "{}")
    held.commit(step.options, files, {"dev_perplexity": 1.0, "dev_perplexity_start": 2.0})


def pod(code: int, message: str, seconds: int = 0) -> Any:
    over = SimpleNamespace(exit_code=code, message=message, reason="Error", finished_at=NOW + timedelta(seconds=seconds))
    container = SimpleNamespace(state=SimpleNamespace(terminated=over, waiting=None))
    meta = SimpleNamespace(name="pod", uid="uid")
    return SimpleNamespace(metadata=meta, status=SimpleNamespace(container_statuses=[container], phase="Failed"))


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    document = yaml.safe_load(SHORT.read_text())
    document["workspace"]["path"] = "/workspace"
    return spec.parse(yaml.safe_dump(document, sort_keys=False), "short.yaml")


@pytest.fixture
def steps(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[plan.Step]:
    """The steps with their workspace here, for the conductor too."""
    made = plan.plan(pipeline, str(tmp_path))
    monkeypatch.setattr(stages, "plan", lambda _: made)
    for pause in ("POLL", "SLOW", "IDLE"):
        monkeypatch.setattr(conduct, pause, 0.0)
    monkeypatch.setattr(conduct, "Changes", lambda *_: SimpleNamespace(happened=lambda: False))
    return made


def run(pipeline: Pipeline, cluster: Fake) -> int:
    return conduct.conduct(pipeline, cluster, from_stage=None, name="mine", uid="uid")  # type: ignore[arg-type]


def test_stages_run_in_order_and_finished_ones_need_no_job(
    pipeline: Pipeline, steps: list[plan.Step], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Fake(steps, {})
    assert run(pipeline, cluster) == 0
    assert [job["metadata"]["labels"]["minima/stage"] for job in cluster.there] == ["init-model", "build-data", "distill"]
    again = Fake(steps, {})
    assert run(pipeline, again) == 0
    assert again.there == []
    assert capsys.readouterr().err.count("finished already") == 3


def test_a_part_of_a_pipeline(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    def conducted(part: plan.Part) -> tuple[int, list[str]]:
        cluster = Fake(steps, {})
        code = conduct.conduct(pipeline, cluster, from_stage=None, part=part, name="mine", uid="uid")  # type: ignore[arg-type]
        states = {each["stage"]: each["state"] for each in json.loads(cluster.notes[-1])["stages"]}
        assert list(states) == ["init-model", "build-data", "distill"]
        assert states["distill"] == ("finished" if "distill" in (part.until, part.only) else "waiting")
        return code, [job["metadata"]["labels"]["minima/stage"] for job in cluster.there]

    with pytest.raises(NotReadyError, match="--only distill: init-model, which it reads, is not finished"):
        conducted(plan.Part(only="distill"))
    assert conducted(plan.Part(until="build-data")) == (0, ["init-model", "build-data"])
    assert conducted(plan.Part(only="distill")) == (0, ["distill"])


def test_the_job_of_a_part_is_another_one_that_says_so(pipeline: Pipeline) -> None:
    whole, until = (conductor.objects(pipeline, None, None, part)[-1] for part in (plan.ALL, plan.Part(until="build-data")))
    assert whole["metadata"]["name"] != until["metadata"]["name"]
    assert (conductor.PART in whole["metadata"]["labels"], conductor.PART in until["metadata"]["labels"]) == (False, True)
    assert whole["metadata"]["labels"][conductor.VERSION] == until["metadata"]["labels"][conductor.VERSION]
    (container,) = until["spec"]["template"]["spec"]["containers"]
    assert arguments.parse(["conduct", *container["args"]]).until == "build-data"


def test_a_failed_stage_ends_it_with_its_code_and_words(
    pipeline: Pipeline, steps: list[plan.Step], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Fake(steps, {"build-data": "Failed"})
    assert run(pipeline, cluster) == 65
    assert "failed with exit code 65: the last words" in capsys.readouterr().err
    assert len(cluster.there) == 2
    assert cluster.labels == {LABEL: "failed"}
    # The next conductor makes it again, once.
    cluster.behave = {}
    assert run(pipeline, cluster) == 0
    assert "failed before; made again" in capsys.readouterr().err
    assert cluster.labels == {LABEL: "finished"}


def test_a_job_whose_artifact_is_gone_is_made_again(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {})
    cluster.put(render.job(pipeline, steps[0], "ns"), "Succeeded")
    assert run(pipeline, cluster) == 0
    assert len(cluster.there) == 3


def test_succeeded_without_a_marker_is_no_success(
    pipeline: Pipeline, steps: list[plan.Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "PATIENCE", 0.0)
    cluster = Fake(steps, {"init-model": ""})
    one = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    assert one.look() is None
    cluster.there[0]["status"] = {"conditions": [{"type": "Succeeded", "status": "True"}]}
    with pytest.raises(DataError, match=r"Succeeded, but there is no _SUCCESS\.json"):
        one.look()


def test_it_ends_when_a_newer_one_is_there(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {})
    cluster.newest = "other"
    with pytest.raises(NotReadyError, match="a newer conductor took over: other"):
        run(pipeline, cluster)
    assert cluster.there == []


def test_it_goes_on_with_the_running_job_of_another_version(
    pipeline: Pipeline, steps: list[plan.Step], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Fake(steps, {})
    older = render.job(pipeline, steps[0], "ns")
    older["metadata"]["name"] = "older"
    cluster.put(older, "Running")
    one = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    assert one.look() is None
    assert [job["metadata"]["name"] for job in cluster.there] == ["older"]
    assert "goes on as older" in capsys.readouterr().err
    cluster.there[0]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    assert one.look() == 65


def test_it_waits_for_the_pods_of_a_deleted_job(
    pipeline: Pipeline, steps: list[plan.Step], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Fake(steps, {})
    saving = pod(0, "")
    saving.status.phase = "Running"
    cluster.pods = lambda selector: [saving] if f"minima/key={steps[0].key}" in selector else []  # type: ignore[method-assign]
    one = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    assert one.look() is None
    assert cluster.there == []
    assert "waits for pod of an earlier job to end" in capsys.readouterr().err
    saving.status.phase = "Succeeded"
    assert one.look() is None
    assert len(cluster.there) == 1


def test_it_looks_again_for_a_newer_one_before_it_starts_anything(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    """What comes before may have taken minutes, such as the deletion of a job whose pods save."""
    cluster = Fake(steps, {})
    cluster.put(render.job(pipeline, steps[0], "ns"), "Failed")
    cluster.behave = {"init-model": "Failed"}
    delete = cluster.delete

    def slow(name: str, *, wait: bool = True) -> None:
        delete(name)
        cluster.newest = "other"

    cluster.delete = slow  # type: ignore[method-assign]
    conductor = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    assert conductor.look() is None  # It has deleted what failed before.
    cluster.newest = "mine"
    looks = iter(["mine", "other"])
    cluster.conductors = lambda pipeline: Fake.conductors(_named(cluster, next(looks)), "short")  # type: ignore[method-assign]
    with pytest.raises(NotReadyError, match="a newer conductor took over: other"):
        conductor.look()
    assert cluster.there == []


def _named(cluster: Fake, newest: str) -> Fake:
    cluster.newest = newest
    return cluster


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_pods_of_a_deleted_job_hold_its_folder_before_they_run_too(
    pipeline: Pipeline, steps: list[plan.Step], phase: str
) -> None:
    cluster = Fake(steps, {})
    left = pod(0, "")
    left.status.phase = phase
    cluster.pods = lambda selector: [left]  # type: ignore[method-assign]
    conductor = conduct._Conductor(pipeline, cluster, "mine")  # type: ignore[arg-type]
    assert conductor.look() is None
    assert cluster.there == []


def test_from_a_stage_on_once_for_each_job_and_not_before_it(
    pipeline: Pipeline, steps: list[plan.Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second pod of the same Job goes on; jobs of stages that stay, stay."""
    shared = dataclasses.replace(pipeline, workspace=dataclasses.replace(pipeline.workspace, path=str(tmp_path)))
    cluster = Fake(steps, {})

    def go(uid: str) -> int:
        return conduct.conduct(shared, cluster, from_stage="distill", name="mine", uid=uid)  # type: ignore[arg-type]

    assert run(shared, cluster) == 0
    before = [job["metadata"]["labels"]["minima/stage"] for job in cluster.there]
    assert before == ["init-model", "build-data", "distill"]
    deleted: list[str] = []
    delete = cluster.delete

    def noted(name: str, *, wait: bool = True) -> None:
        deleted.append(name)
        delete(name)

    cluster.delete = noted  # type: ignore[method-assign]
    aside = tmp_path / shared.name / "_aside"
    for uid, times in (("a", 1), ("a", 1), ("b", 2)):
        assert go(uid) == 0
        assert len([place for place in aside.iterdir() if place.name.startswith("distill-")]) == times
        assert len(deleted) == times
        assert all("-distill-" in name for name in deleted)


@pytest.mark.parametrize(("code", "verdict"), [(74, 74), (1, 1), (137, 70), (143, 70), (2, 70)])
def test_its_exit_code_is_one_after_which_no_other_conductor_tries(
    pipeline: Pipeline, steps: list[plan.Step], code: int, verdict: int
) -> None:
    cluster = Fake(steps, {"init-model": "Failed"})
    cluster.pods = lambda selector: [pod(code, "words")] if "job-name" in selector else []  # type: ignore[method-assign]
    assert run(pipeline, cluster) == verdict


@pytest.mark.parametrize("error", [LostPeerError("no answer"), RefusedError("403"), NoOperatorError("404"), OSError("stale")])
def test_what_may_pass_is_tried_again_and_counts_only_in_a_row(
    pipeline: Pipeline, steps: list[plan.Step], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct, "RETRIES", 2)
    cluster = Fake(steps, {"init-model": ""})
    answers = iter([error, error, None, error, error, None, error, error, error])
    jobs = cluster.jobs

    def sometimes(selector: str) -> list[dict[str, Any]]:
        if raised := next(answers):
            raise raised
        return jobs(selector)

    cluster.jobs = sometimes  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        run(pipeline, cluster)
    assert next(answers, "all") == "all"


def test_a_full_workspace_is_not_tried_again(pipeline: Pipeline, steps: list[plan.Step]) -> None:
    cluster = Fake(steps, {})
    answers = iter([OSError(errno.ENOSPC, "full")])
    cluster.jobs = lambda selector: _raise(next(answers))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="full"):
        run(pipeline, cluster)


def _raise(error: Exception) -> Any:
    raise error


def test_why_a_stage_would_run_again(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Fake(plan.plan(pipeline), {})
    for step in plan.plan(pipeline):
        cluster.put(render.job(pipeline, step, "ns"), "Succeeded")
    document = yaml.safe_load(SHORT.read_text())
    document["stages"]["build-data"]["options"]["seed"] = 1
    document["stages"]["init-model"]["image"] = "minima:other"
    diff.diff(spec.parse(yaml.safe_dump(document, sort_keys=False), "p.yaml"), cluster, output="table")  # type: ignore[arg-type]
    said = capsys.readouterr().out.splitlines()[2:]
    assert said[0].split()[:3] == ["init-model", "same", "result"]
    assert 'image "minima:cpu" → "minima:other"' in said[0]
    assert said[1].split()[:3] == ["build-data", "runs", "again"]
    assert said[1].endswith("seed 776 → 1")
    assert said[2].endswith("reads build-data, which runs again")
    diff.diff(pipeline, cluster, output="json")  # type: ignore[arg-type]
    rows = json.loads(capsys.readouterr().out)
    assert [tuple(row) for row in rows] == [arguments.DIFF_KEYS] * 3
    assert {row["what"] for row in rows} == {"same"}
    diff.preview(pipeline, cluster, from_stage="distill", part=plan.Part(only="distill"))  # type: ignore[arg-type]
    said = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(maxsplit=1)[1].strip() for line in said[:3]] == [
        *["left out    --only=distill"] * 2,
        "runs again  --from distill",
    ]
    assert said[3].endswith(" would be applied to ns")


def test_what_changes_an_object_and_not_its_result_is_said_by_option(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Fake(plan.plan(pipeline), {})
    for step in plan.plan(pipeline):
        cluster.put(render.job(pipeline, step, "ns"), "Succeeded")
    document = yaml.safe_load(SHORT.read_text())
    document["stages"]["distill"]["options"] |= {"dev_record_path_or_regex": "", "log_interval": 7}
    diff.diff(spec.parse(yaml.safe_dump(document, sort_keys=False), "p.yaml"), cluster, output="table")  # type: ignore[arg-type]
    *same, distill = (line.split(maxsplit=1)[1].strip() for line in capsys.readouterr().out.splitlines()[2:])
    assert same == ["same", "same"]
    assert distill.startswith("same result  ")
    assert re.search(r"dev_record_path_or_regex '/workspace/short/build-data-\w{8}/dev-\*.tfrecord' → '', .* measured", distill)
    assert re.search(r"log_interval \d+ → 7; a finished one stays", distill)


def test_the_last_words_are_those_of_the_cause() -> None:
    assert last_words([]) is None
    assert last_words([pod(134, "lost a peer", 0), pod(65, "bad data", 9)]) == (65, "bad data")
    assert last_words([pod(137, "later", 9), pod(134, "earlier", 0)]) == (134, "earlier")
    assert last_words([pod(1, "", 0)]) == (1, "Error")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "Created"),
        ([("Created", "True"), ("Running", "True")], "Running"),
        ([("Running", "False"), ("Suspended", "True")], "Suspended"),
        ([("Running", "True"), ("Succeeded", "True")], "Succeeded"),
        ([("Restarting", "False"), ("Failed", "True")], "Failed"),
    ],
)
def test_the_state_of_a_job(conditions: list[tuple[str, str]], expected: str) -> None:
    assert state({"status": {"conditions": [{"type": t, "status": s} for t, s in conditions]}}) == expected


def test_what_a_stage_takes_by_the_plan_is_known_when_its_records_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = spec.load("minima-3b")
    steps = plan.plan(made, str(tmp_path))
    monkeypatch.setattr(stages, "plan", lambda _: steps)
    conductor = conduct._Conductor(made, Fake(steps, {}), "mine")  # type: ignore[arg-type]

    def planned() -> dict[str, float | None]:
        conductor.estimate()
        return {stage.stage: stage.planned for stage in conductor.kept.state.stages}

    before = planned()
    assert (before["adapt"], before["build-data"]) == (None, None)
    assert before["prune"]  # Its options say how many examples it takes.
    (records,) = (step for step in steps if step.name == "build-data")
    for place in reads(records.options).values():
        Path(place).mkdir(parents=True)
    held.commit(records.options, {"train-0.tfrecord": ""}, {"train_examples": 10**6})
    (adapt,) = (one for one in estimates(steps, {"build-data": 4096.0 * 10**6}) if one.step.name == "adapt")
    assert adapt.hours
    assert planned()["adapt"] == pytest.approx(3600 * adapt.hours, abs=0.1)
