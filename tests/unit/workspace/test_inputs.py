"""Inputs from outside: hashed once for all that read them, and again when they change."""

import dataclasses
import os
from pathlib import Path

import pytest

from minima.errors import DataError, NotReadyError
from minima.options import Convert
from minima.workspace import files, inputs
from minima.workspace.artifact import Output
from minima.workspace.inputs import check_inputs, hash_once, path_digest
from minima.workspace.lease import Lease


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "model"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are hashed, one after the other."""
    found: list[str] = []

    def noted(place: Path) -> str:
        found.append(place.name)
        return files.file_digest(place)

    monkeypatch.setattr(inputs, "file_digest", noted)
    return found


def options(tmp_path: Path, value: str) -> Convert:
    return Convert(
        model_name_or_path=value, output_dir=str(tmp_path / "pipeline" / "stage"), layer=1, hidden=8, head=1, intermediate=8
    )


@pytest.mark.parametrize("declared", [True, False])
def test_the_conductor_hashes_and_no_pod_does(tmp_path: Path, model: Path, hashed: list[str], declared: bool) -> None:
    value = f"{model}@sha256:{path_digest(str(model))}" if declared else str(model)
    hashed.clear()
    stage = options(tmp_path, value)
    hash_once(stage)
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    hashed.clear()
    hash_once(stage)
    found = [check_inputs(stage) for _pod in range(4)]
    with Lease(Path(stage.output_dir)) as lease:
        marker = Output(lease.making, stage, found[0], lease).commit({})
    assert hashed == []
    assert marker["inputs"]["model_name_or_path"]["digest"] == path_digest(str(model))


def test_what_changed_is_hashed_again_and_refused(tmp_path: Path, model: Path, hashed: list[str]) -> None:
    stage = options(tmp_path, f"{model}@sha256:{path_digest(str(model))}")
    hash_once(stage)
    hashed.clear()
    (model / "config.json").write_text("config.JSON")  # Of the same size.
    with pytest.raises(DataError, match="has not the declared digest"):
        check_inputs(stage)
    assert len(hashed) == 2


def test_an_order_to_verify_hashes_again(tmp_path: Path, model: Path, hashed: list[str]) -> None:
    """Where a file changed that has the size and the time of the one before."""
    stage = options(tmp_path, f"{model}@sha256:{path_digest(str(model))}")
    hash_once(stage)
    place = model / "config.json"
    before = place.stat()
    place.write_text("config.JSON")
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    check_inputs(stage)
    with pytest.raises(DataError, match="has not the declared digest"):
        check_inputs(dataclasses.replace(stage, verify=True))


def test_a_note_of_something_else_counts_for_nothing(tmp_path: Path, model: Path, hashed: list[str]) -> None:
    stage = options(tmp_path, str(model))
    hash_once(stage)
    (note,) = (tmp_path / "pipeline").glob("_digest-*.json")
    for text in ("", "[]", '{"path": "x", "fingerprint": {}, "digest": "y"}'):
        note.write_text(text)
        hashed.clear()
        hash_once(stage)
        assert len(hashed) == 2


def test_nothing_there_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError):
        hash_once(options(tmp_path, str(tmp_path / "nowhere")))


def test_an_artifact_beside_goes_by_its_key_and_one_elsewhere_also_by_its_files(tmp_path: Path, model: Path) -> None:
    """Its marker says what it is; what no key of the pipeline stands for is compared when it is done."""
    made = dataclasses.replace(options(tmp_path, str(model)), output_dir=str(tmp_path / "pipeline" / "made"))
    with Lease(Path(made.output_dir)) as lease:
        (lease.making / "config.json").write_text("{}")
        marker = Output(lease.making, made, check_inputs(made), lease).commit({})
    beside = options(tmp_path, made.output_dir)
    assert check_inputs(beside)["model_name_or_path"] == {"path": made.output_dir, "key": marker["key"]}
    declared = f"{made.output_dir}@sha256:{path_digest(made.output_dir)}"
    assert "fingerprint" in check_inputs(options(tmp_path, declared))["model_name_or_path"]
    elsewhere = dataclasses.replace(beside, output_dir=str(tmp_path / "another" / "stage"))
    assert "fingerprint" in check_inputs(elsewhere)["model_name_or_path"]


def test_the_root_of_a_pattern_below_folders_whose_names_look_like_one(tmp_path: Path) -> None:
    deep = tmp_path / "w[x]" / "y[1-2]"
    deep.mkdir(parents=True)
    for place in (tmp_path / "w[x]" / "a.json", deep / "a.json"):
        place.write_text("{}")
        pattern = str(place.with_name("*.json"))
        assert inputs.glob_root(pattern) == place.parent
        assert inputs.input_files(pattern) == [place]


def test_a_pattern_is_read_as_one_at_any_depth(tmp_path: Path) -> None:
    for name in ("a.json", "b/c.json", "b/d/e.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("{}")
    for pattern, count in (("*.json", 1), ("*/*.json", 1), ("**/*.json", 3)):
        value = f"{tmp_path}/in/{pattern}"
        found = check_inputs(options(tmp_path, value))["model_name_or_path"]
        assert len(found["fingerprint"]) == count, pattern


def test_a_name_on_the_hub_is_fetched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotReadyError, match=r"nothing at meta-llama/Llama-2-7b-hf; .*`minima digest hf://meta-llama/Llama-2-7"):
        check_inputs(options(tmp_path, "meta-llama/Llama-2-7b-hf"))
    (tmp_path / "models").mkdir()
    with pytest.raises(NotReadyError, match=r"nothing at models/seven; check the path, or run the stage that makes it$"):
        check_inputs(options(tmp_path, "models/seven"))
