"""`jobgen gc --local` and what sets artifacts aside: never what is written, never what the pipeline refers to."""

from pathlib import Path

import pytest

from jobgen import cli
from jobgen.artifacts import ASIDE, LOGS, set_aside
from jobgen.pipeline import plan, spec
from minima.errors import NotReadyError
from minima.workspace.lease import MAKING, Lease
from minima.workspace.marker import CHECKPOINTS, MARKER

SHORT = Path(__file__).parents[2] / "cluster" / "short.yaml"
OLD, UNFINISHED = "distill-00000000", "init-model-11111111"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the pipeline `short` in a workspace, with artifacts of two versions."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "work" / "short"
    for name in (*(Path(step.output_dir).name for step in plan.plan(spec.load(str(SHORT)))), OLD, UNFINISHED):
        inner = folder / name / (CHECKPOINTS if name == UNFINISHED else "model")
        inner.mkdir(parents=True)
        (inner / "weights").write_bytes(bytes(1000))
        if name != UNFINISHED:
            (folder / name / MARKER).write_text("{}")
        (folder / LOGS).mkdir(exist_ok=True)
        (folder / LOGS / f"{name}.log").write_text("said")
    (folder / ASIDE / f"{OLD}.1").mkdir(parents=True)
    (folder / ASIDE / f"{OLD}.1" / "weights").write_bytes(bytes(10))
    (folder / ASIDE / ".from-uid").touch()
    (folder / "mine").mkdir()
    (folder / "mine" / "notes").write_text("by hand")
    (folder / "_conductor.json").write_text("{}")
    (folder / "link-22222222").symlink_to(folder / "mine")
    (folder / "distill-33333333").mkdir()
    (folder / "distill-33333333" / "_lease.00000001.json").write_text('{"state": "released"}')
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(place.relative_to(folder)): place.read_bytes() for place in sorted(folder.rglob("*")) if place.is_file()}


def test_it_shows_what_and_how_much_and_removes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(work)
    assert cli.run(["gc", str(SHORT), "--local"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [tuple(line.rsplit("  ", 2)[i].strip() for i in (0, 1)) for line in said[2:-1]] == [
        ("artifact", "1,002"),
        ("unfinished artifact", "1,000"),
        ("set aside", "10"),
        ("log", "4"),
        ("log", "4"),
    ]
    assert said[2].endswith(f"/short/{OLD}")
    assert said[-1] == f"2,020 bytes in {work}; --yes removes them"
    assert everything(work) == before


def test_it_removes_what_it_showed_and_nothing_else(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(work)
    assert cli.run(["gc", str(SHORT), "--local", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"removed 2,020 bytes in {work}"
    gone = (OLD, UNFINISHED, f"{LOGS}/{OLD}", f"{LOGS}/{UNFINISHED}", f"{ASIDE}/{OLD}")
    kept = {name: content for name, content in before.items() if not name.startswith(gone)}
    after = {name: content for name, content in everything(work).items() if not name.startswith((OLD, UNFINISHED))}
    assert after == kept
    assert "mine/notes" in after
    assert cli.run(["gc", str(SHORT), "--local"]) == 0
    assert "is nothing that" in capsys.readouterr().out


def test_a_name_alone_makes_no_artifact(work: Path) -> None:
    """A date is eight digits, too."""
    (work / "notes-20251126").mkdir()
    (work / "notes-20251126" / "thoughts").write_text("by hand")
    assert cli.run(["gc", str(SHORT), "--local", "--yes"]) == 0
    assert (work / "notes-20251126" / "thoughts").read_text() == "by hand"


@pytest.mark.parametrize("trace", ["_lease.00000001.json", f"{CHECKPOINTS}/step-1", f"{MAKING}lease.00000001.1a2b/x", MARKER])
def test_any_trace_of_a_stage_makes_one(work: Path, trace: str) -> None:
    folder = work / "prune-44444444"
    (folder / trace).parent.mkdir(parents=True)
    (folder / trace).write_text('{"state": "released"}')
    (folder / "weights").write_bytes(bytes(10))
    assert cli.run(["gc", str(SHORT), "--local", "--yes"]) == 0
    assert not (folder / "weights").exists()  # What fences a dead holder off stays.


@pytest.mark.parametrize("name", ["lease", "lease-3"])
def test_it_removes_nothing_while_somebody_writes_in_any_of_it(
    work: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lease(work / UNFINISHED, name, 0.5):
        before = everything(work)
        assert cli.run(["gc", str(SHORT), "--local", "--yes"]) == 75
        left = everything(work)
    assert "is writing it" in capsys.readouterr().err
    assert all(left[place] == content for place, content in before.items() if "lease" not in place)


@pytest.mark.parametrize("name", ["lease", "lease-3"])
def test_setting_aside_moves_nothing_while_somebody_writes_in_any_of_it(work: Path, name: str) -> None:
    steps = plan.plan(spec.load(str(SHORT)), str(work.parent))
    with Lease(Path(steps[2].output_dir), name, 0.5), pytest.raises(NotReadyError, match="is writing it"):
        set_aside(steps, "init-model", work / ASIDE)
    assert all(Path(step.output_dir).is_dir() for step in steps)
    moved = set_aside(steps, "build-data", work / ASIDE)
    assert [place.name for place in moved] == [f"{Path(step.output_dir).name}.1" for step in steps[1:]]
    assert [(place / "model" / "weights").is_file() for place in moved] == [True, True]
    assert (Path(steps[0].output_dir) / MARKER).is_file()
    assert set_aside(steps, "build-data", work / ASIDE) == [], "what stays of them is no artifact"
