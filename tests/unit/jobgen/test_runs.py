"""`jobgen run --local` of a part of a pipeline, its dry run, and what it asks before work is set aside."""

import io
from pathlib import Path

import pytest

from jobgen import cli, local
from jobgen.artifacts import ASIDE
from jobgen.pipeline import plan, spec
from jobgen.pipeline.plan import Step
from minima.workspace.marker import CHECKPOINTS, MARKER
from tests.unit.jobgen.cluster.test_conduct import SHORT, make

RUN = ["run", str(SHORT), "--local"]


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Step]:
    """The steps of the short pipeline in ./work; a stage that runs is finished at once."""
    monkeypatch.chdir(tmp_path)

    def run(program: str, step: Step, *_: object, **__: object) -> tuple[int, float, str]:
        make(step)
        return 0, 0.0, ""

    monkeypatch.setattr(local, "_run", run)
    monkeypatch.setattr(local, "_program", lambda: "minima")
    return {step.name: step for step in plan.plan(spec.load(str(SHORT)), str(tmp_path / "work"))}


def finished(steps: dict[str, Step]) -> list[str]:
    return [name for name, step in steps.items() if (Path(step.output_dir) / MARKER).exists()]


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[2:]]
    return {line[0]: (line[1], line[2]) for line in lines}


def test_until_a_stage_and_then_that_one_alone(steps: dict[str, Step], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*RUN, "--only", "distill"]) == 75
    assert "--only distill: init-model, which it reads, is not finished; --until distill makes" in capsys.readouterr().err
    assert finished(steps) == []
    assert cli.run([*RUN, "--until", "build-data"]) == 0
    assert finished(steps) == ["init-model", "build-data"]
    said = capsys.readouterr()
    assert "[2/2] build-data" in said.err
    assert cli.run([*RUN, "--only", "distill"]) == 0
    assert "[1/1] distill" in capsys.readouterr().err
    assert finished(steps) == list(steps)


def test_a_dry_run_says_what_and_why_and_changes_nothing(steps: dict[str, Step], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*RUN, "--dry-run"]) == 0
    assert shown(capsys) == {
        "init-model": ("runs", "no artifact of it is there"),
        "build-data": ("runs", "reads init-model, which runs"),
        "distill": ("runs", "reads init-model, which runs; reads build-data, which runs"),
    }
    assert not Path("work").exists()
    make(steps["init-model"])
    make(steps["build-data"])
    (Path(steps["distill"].output_dir) / CHECKPOINTS / "step-00000020").mkdir(parents=True)
    (Path(steps["distill"].output_dir) / CHECKPOINTS / "step-00000010").mkdir()
    assert cli.run([*RUN, "--dry-run"]) == 0
    assert shown(capsys) == {
        "init-model": ("kept", "finished"),
        "build-data": ("kept", "finished"),
        "distill": ("runs", "goes on from step-00000020"),
    }
    changed = Path("changed.yaml")
    changed.write_text(SHORT.read_text().replace("dev_proportion: 0.2", "dev_proportion: 0.1\n      seed: 1"))
    assert cli.run(["run", "changed.yaml", "--local", "--dry-run", "--until", "build-data"]) == 0
    rows = shown(capsys)
    assert rows["build-data"] == ("runs", "dev_proportion 0.2 → 0.1; seed 776 → 1")
    assert rows["distill"][0] == "left"
    assert cli.run([*RUN, "--dry-run", "--from", "build-data"]) == 0
    assert shown(capsys)["build-data"] == ("runs", "--from build-data")
    assert finished(steps) == ["init-model", "build-data"]


def test_work_is_set_aside_only_when_somebody_agrees(
    steps: dict[str, Step], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [*RUN, "--from", "distill"]
    aside = Path("work/short") / ASIDE
    assert cli.run(again) == 0  # There is nothing to set aside yet.
    capsys.readouterr()
    assert cli.run(again) == 64
    said = capsys.readouterr().err
    assert said.startswith("jobgen: --from distill sets aside work/short/distill-")
    assert "--yes agrees to that" in said
    for answer, code, moved in (("\n", 64, 0), ("n\n", 64, 0), ("", 64, 0), ("y\n", 0, 1)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)
        assert cli.run(again) == code
        assert len(list(aside.glob("distill-*"))) == moved
        assert "Go on? [y/N]" in capsys.readouterr().err
    assert cli.run([*again, "--yes"]) == 0
    assert len(list(aside.glob("distill-*"))) == 2
    assert finished(steps) == list(steps)


def test_what_a_stage_alone_needs_is_not_set_aside_under_it(steps: dict[str, Step], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(RUN) == 0
    assert cli.run([*RUN, "--from", "build-data", "--only", "distill", "--yes"]) == 75
    assert "build-data, which it reads, is not finished" in capsys.readouterr().err
    assert finished(steps) == list(steps)
