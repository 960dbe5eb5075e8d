"""Checkpoints: what is trusted, what is kept, and the count of attempts. That they resume is in test_train.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from minima.errors import DataError
from minima.training import checkpoint
from tests.unit.training import runs


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2 and 4, which went on to step 6."""
    runs.run(runs.options(tmp_path / "run", save_interval=2))
    return tmp_path / "run"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def damage(folder: Path, how: str) -> None:
    file = folder / "process-00000.safetensors"
    content = bytearray(file.read_bytes())
    if how == "flipped bit":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(content[:-100])
    elif how == "missing":
        file.unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text('{"format": 1, "sta')


def test_the_newest_and_those_to_keep_stay(folder: Path, tmp_path: Path) -> None:
    assert names(folder) == ["step-00000002", "step-00000004"]
    runs.run(runs.options(tmp_path / "none", save_interval=1, keep_checkpoints=0))
    assert names(tmp_path / "none") == ["step-00000005"]


def test_what_a_person_put_beside_the_checkpoints_is_none(tmp_path: Path) -> None:
    for name in ("step-00000002", "step-00000100.bak", "step-00000010", "step-old"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [checkpoint.step_of(found) for found in checkpoint.folders(tmp_path)] == [10, 2]


def test_holds_full_precision_weights_and_moments_of_what_is_trained(tmp_path: Path) -> None:
    llama = runs.model()
    llama.model.embed_tokens.weight.requires_grad_(False)
    runs.run(runs.options(tmp_path, save_interval=5), llama=llama)
    manifest = json.loads((tmp_path / "checkpoints/step-00000005/manifest.json").read_text())
    trained = {f"model.{name}": p for name, p in llama.named_parameters() if p.requires_grad}
    assert manifest["adam_step"] == 5
    assert {name: (start, end) for _, name, start, end in manifest["fragments"]} == {
        name: (0, p.numel()) for name, p in trained.items()
    }
    with safe_open(tmp_path / "checkpoints/step-00000005/process-00000.safetensors", framework="pt") as file:
        assert set(file.keys()) == {f"{kind}/{name}" for kind in ("weight", "exp_avg", "exp_avg_sq") for name in trained}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118 not a dict


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing", "no manifest", "half a manifest"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(how: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = runs.weights(runs.run(runs.options(folder.parent / "whole"))[0])
    damage(folder / "checkpoints/step-00000004", how)
    llama, _ = runs.run(runs.options(folder, save_interval=2))
    assert "step-00000004 is not used" in capsys.readouterr().err
    assert all(torch.equal(value, before[name]) for name, value in runs.weights(llama).items())
    assert checkpoint.faults(folder / "checkpoints/step-00000004") is None, "it was written again"
    assert names(folder) == ["step-00000002", "step-00000004"]


def test_all_damaged_begins_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in checkpoint.folders(folder):
        damage(place, "flipped bit")
    runs.run(runs.options(folder, max_steps=6))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_a_half_written_one_is_no_checkpoint(folder: Path) -> None:
    """Killed before the rename."""
    shutil.copytree(folder / "checkpoints/step-00000004", folder / "checkpoints/.step-00000006")
    assert [p.name for p in checkpoint.folders(folder)] == ["step-00000004", "step-00000002"]


def test_a_lost_part_of_a_parameter(folder: Path) -> None:
    place = folder / "checkpoints/step-00000004/manifest.json"
    manifest = json.loads(place.read_text())
    manifest["fragments"][0][3] -= 1
    place.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="lacks a part of"):
        runs.run(runs.options(folder, save_interval=2))
