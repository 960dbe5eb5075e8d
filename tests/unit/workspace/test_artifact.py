"""Keys, markers, lineage, and what counts as finished."""

import dataclasses
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from minima.errors import DataError, NotReadyError, UsageError
from minima.options import Adapt, Convert, Distill, Evaluate, ExpandVocab, Finetune, Options, reads
from minima.workspace import artifact
from minima.workspace.inputs import check_input, check_inputs, input_files, input_key, path_digest
from minima.workspace.lease import Lease
from minima.workspace.marker import CHECKPOINTS, MARKER
from tests.unit import held

OUT = "/elsewhere/out"
STUDENT = {"layer": 2, "hidden": 8, "head": 2, "intermediate": 16}


def make(folder: Path, options: Options) -> dict[str, object]:
    """What a stage does around its work, with a file of two lines as its work."""
    return held.commit(
        dataclasses.replace(options, output_dir=str(folder)), {"model.safetensors": "weights"}, {"parameters": 7}
    )


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def options(tmp_path: Path, outside: Path) -> Convert:
    return Convert(output_dir=str(tmp_path / "out"), model_name_or_path=str(outside), **STUDENT)  # type: ignore[arg-type]


def test_the_marker_is_found_and_says_what_was_made(tmp_path: Path, options: Convert) -> None:
    marker = make(tmp_path / "out", options)
    assert artifact.finished(options) == marker
    assert marker["metrics"] == {"parameters": 7}
    assert set(marker["execution"]) == {"output_dir", "verify", "max_attempts"}  # type: ignore[call-overload]
    assert list(marker["files"]) == ["model.safetensors"]  # type: ignore[call-overload]
    assert marker["key"] == artifact.key(options, {"model_name_or_path": f"${{workspace}}/{tmp_path.name}/llama"})


def test_execution_does_not_change_the_key_and_identity_does() -> None:
    def key(**changes: object) -> str:
        base = {
            "output_dir": "/o",
            "teacher_model_name_or_path": "/t",
            "student_model_name_or_path": "/s",
            "record_path_or_regex": "/r",
        }
        return artifact.key(Distill(**{**base, **changes}), {"teacher_model_name_or_path": "/t"})  # type: ignore[arg-type]

    assert key() == key(output_dir="/elsewhere", zero_stage=2, per_device_train_batch_size=4, log_interval=1)
    assert len({key(), key(seed=1), key(temperature=2.0), key(use_bf16=True), key(global_batch_size=8)}) == 5


def test_several_sources_and_their_weights_are_identity_and_none_are_nothing() -> None:
    base: Any = {"output_dir": "/o", "model_name_or_path": "/m"}
    one = Adapt(**base, record_path_or_regex=("/a",))
    assert "mixture" not in artifact.identity(one), "a key from before there were mixtures stays"
    both = Adapt(**base, record_path_or_regex=("/a", "/b"))
    mixed = [dataclasses.replace(both, mixture=weights) for weights in ((), (0.7, 0.3), (0.3, 0.7))]
    assert list(reads(both).values()) == ["/m", "/a", "/b"]
    keys = [artifact.key(each, reads(each)) for each in (one, dataclasses.replace(one, record_path_or_regex=("/b",)), *mixed)]
    keys.append(artifact.key(both, reads(dataclasses.replace(both, record_path_or_regex=("/b", "/a")))))
    assert len(set(keys)) == 6


def test_an_artifact_of_several_sources_is_that_of_these_sources_alone(tmp_path: Path, outside: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    a, b, c = (str(tmp_path / name) for name in "abc")
    options = Adapt(output_dir=str(tmp_path / "out"), model_name_or_path=str(outside), record_path_or_regex=(a, b))
    marker = make(tmp_path / "out", options)
    assert artifact.finished(options) == marker
    for others in ((a,), (a, c), (b, a), (a, b, c)):
        with pytest.raises(UsageError, match="was made of record_path_or_regex"):
            artifact.finished(dataclasses.replace(options, record_path_or_regex=others))
    with pytest.raises(UsageError, match="mixture None there"):
        artifact.finished(dataclasses.replace(options, mixture=(1.0, 2.0)))
    (tmp_path / "b").write_text("changed")
    with pytest.raises(DataError, match=r"--record_path_or_regex\[2\]: .*/b changed since"):
        artifact.finished(options)
    (tmp_path / "b").unlink()
    with pytest.raises(NotReadyError, match=r"--record_path_or_regex\[2\]: nothing at .*/b"):
        check_inputs(options)


def test_the_key_is_the_same_everywhere() -> None:
    """Golden: a change of this value makes every workspace start again, so it needs a reason."""
    options = ExpandVocab(output_dir="/o", llama_tokenizer_dir="/l", chinese_sp_path="/c")
    assert artifact.key(options, {"llama_tokenizer_dir": "/l", "chinese_sp_path": "/c"}) == "89718615"


def test_input_keys_follow_the_chain(tmp_path: Path, options: Convert) -> None:
    marker = make(tmp_path / "out", options)
    next_one = f"{tmp_path}/next"
    assert input_key(f"{tmp_path}/out", next_one) == marker["key"]
    assert input_key(f"{tmp_path}/out/text/*.jsonl", next_one) == f"{marker['key']}/text/*.jsonl"
    assert input_key("/nowhere/model", next_one) == "/nowhere/model"
    assert input_key("/nowhere/model@sha256:" + "a" * 64, next_one) == "sha256:" + "a" * 64


def test_an_artifact_of_another_pipeline_goes_by_its_path_and_may_not_change(tmp_path: Path, options: Convert) -> None:
    """As jobgen has it, which cannot look at what lies there."""
    made = tmp_path / "other" / "out"
    make(made, options)
    mine = dataclasses.replace(options, output_dir=f"{tmp_path}/mine/next", model_name_or_path=str(made))
    entry = check_inputs(mine)["model_name_or_path"]
    assert entry["key"] == "${workspace}/other/out" == input_key(str(made), mine.output_dir)
    held.commit(mine, {}, {})
    assert artifact.finished(mine) is not None
    (made / "model.safetensors").write_text("weighTs")
    with pytest.raises(DataError, match="changed since"):
        artifact.finished(mine)


@pytest.mark.parametrize("damage", ["cut", "remove", "flip"])
def test_a_damaged_artifact_is_an_error_and_not_finished(tmp_path: Path, options: Convert, damage: str) -> None:
    make(tmp_path / "out", options)
    victim = tmp_path / "out" / "model.safetensors"
    match damage:
        case "cut":
            victim.write_text("weight")
        case "remove":
            victim.unlink()
        case "flip":
            victim.write_text("weighTs")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        artifact.finished(dataclasses.replace(options, verify=True))
    if damage == "flip":  # Same size: found by its first reader.
        with pytest.raises(DataError, match="content changed"):
            check_input("x", str(tmp_path / "out"), OUT)


def test_the_first_reader_hashes_and_the_next_looks_at_sizes(tmp_path: Path, options: Convert) -> None:
    make(tmp_path / "out", options)
    check_input("x", str(tmp_path / "out"), OUT)
    (tmp_path / "out" / "model.safetensors").write_text("weighTs")
    check_input("x", str(tmp_path / "out"), OUT)
    with pytest.raises(DataError, match="content changed"):
        check_input("x", str(tmp_path / "out"), OUT, verify=True)


def test_other_options_in_the_same_folder_are_refused(tmp_path: Path, options: Convert) -> None:
    make(tmp_path / "out", options)
    with pytest.raises(UsageError, match="hidden 8 there, 4 now"):
        artifact.finished(dataclasses.replace(options, hidden=4))
    with pytest.raises(UsageError, match="was made of model_name_or_path"):
        artifact.finished(dataclasses.replace(options, model_name_or_path=str(tmp_path)))


def test_a_result_of_an_earlier_revision_is_another_result(
    tmp_path: Path, options: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", options)
    before = Convert.revision
    monkeypatch.setattr(Convert, "revision", 7)
    with pytest.raises(UsageError, match=f"revision {before} there, 7 now"):
        artifact.finished(options)
    monkeypatch.undo()
    monkeypatch.setattr(ExpandVocab, "revision", 7)
    assert artifact.finished(options) is not None


@pytest.mark.parametrize("patience", [0, 2])
def test_held_out_records_that_only_measured_leave_a_result_finished(tmp_path: Path, outside: Path, patience: int) -> None:
    for name in ("train", "first", "second"):
        (tmp_path / name).write_text(name)
    options = Finetune(
        output_dir=str(tmp_path / "out"),
        model_name_or_path=str(outside),
        train_record_path_or_regex=(str(tmp_path / "train"),),
        dev_record_path_or_regex=str(tmp_path / "first"),
        num_patience_epochs=patience,
    )
    marker = make(tmp_path / "out", options)
    assert "minima evaluate" not in artifact.summary(marker, options)
    assert marker["inputs"]["dev_record_path_or_regex"]["path"] == str(tmp_path / "first")  # type: ignore[index]
    other = dataclasses.replace(options, dev_record_path_or_regex=str(tmp_path / "second"))
    without = dataclasses.replace(options, dev_record_path_or_regex="")
    if patience:  # They said which weights are the best.
        for changed in (other, without):
            with pytest.raises(UsageError, match="dev_record_path_or_regex"):
                artifact.finished(changed)
        (tmp_path / "first").write_text("changed")
        with pytest.raises(DataError, match="changed since"):
            artifact.finished(options)
        return
    assert artifact.finished(other) == artifact.finished(without) == marker
    told = artifact.summary(marker, other)
    assert re.search(r"; dev_record_path_or_regex was .*/first, `minima evaluate` measures on another$", told)
    (tmp_path / "first").write_text("changed")
    assert artifact.finished(options) == marker


def test_a_changed_input_under_the_same_path_is_an_error(tmp_path: Path, options: Convert, outside: Path) -> None:
    make(tmp_path / "out", options)
    (outside / "config.json").write_text('{"changed": 1}')
    with pytest.raises(DataError, match="changed since"):
        artifact.finished(options)


def test_a_touched_input_with_the_same_content_is_not(tmp_path: Path, options: Convert, outside: Path) -> None:
    make(tmp_path / "out", options)
    os.utime(outside / "config.json", (1, 1))
    assert artifact.finished(options) is not None


def test_an_input_that_is_gone_does_not_make_its_result_wrong(tmp_path: Path, options: Convert, outside: Path) -> None:
    marker = make(tmp_path / "out", options)
    shutil.rmtree(outside)
    assert artifact.finished(options) == marker


def test_a_declared_digest_is_checked(outside: Path) -> None:
    good = f"{outside}@sha256:{path_digest(str(outside))}"
    assert check_input("x", good, OUT)["path"] == str(outside)
    (outside / "config.json").write_text('{"other": 1}')
    with pytest.raises(DataError, match="declared digest"):
        check_input("x", good, OUT)


def test_a_digest_does_not_depend_on_the_place(tmp_path: Path, outside: Path) -> None:
    moved = tmp_path / "moved"
    before = path_digest(str(outside)), path_digest(f"{outside}/*.json")
    outside.rename(moved)
    assert (path_digest(str(moved)), path_digest(f"{moved}/*.json")) == before


def test_an_input_that_is_not_there_is_not_ready(tmp_path: Path, options: Convert) -> None:
    with pytest.raises(NotReadyError, match="--x: nothing at"):
        check_input("x", str(tmp_path / "missing"), OUT)
    make(tmp_path / "out", options)
    with pytest.raises(NotReadyError, match="no such path"):
        check_input("x", str(tmp_path / "out" / "*.tfrecord"), OUT)


def test_what_a_stage_has_not_finished_is_not_ready(tmp_path: Path) -> None:
    with Lease(tmp_path / "out"):
        (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(NotReadyError, match="not finished"):
        check_input("x", str(tmp_path / "out"), OUT)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "files": {}}', '{"format": 1}', '{"format": 1, "files": {}}'])
def test_a_broken_marker_is_never_taken_for_finished(tmp_path: Path, options: Convert, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text(text)
    with pytest.raises(DataError, match=r"_SUCCESS\.json"):
        artifact.finished(options)


def test_logs_leases_and_checkpoints_are_not_part_of_the_artifact(tmp_path: Path, options: Convert) -> None:
    folder = tmp_path / "out"
    for name in ("checkpoints/step-1/x", "tensorboard/events", "metrics.jsonl", "_attempts.json", ".cache/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    marker = held.commit(options, {"config.json": "{}", ".cache": "x"}, {})
    assert list(marker["files"]) == ["config.json"]
    left = sorted(place.name for place in folder.iterdir())
    assert left == [".cache", MARKER, "_lease.00000001.json", "config.json", "metrics.jsonl", "tensorboard"]


def test_what_an_attempt_left_that_ended_among_its_renames_is_removed(tmp_path: Path, options: Convert) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "old.safetensors").write_text("x")
    (tmp_path / "out" / "half.safetensors").write_text("x")
    marker = held.commit(options, {"model/config.json": "{}"}, {})
    assert list(marker["files"]) == ["model/config.json"]
    assert [place.name for place in (tmp_path / "out" / "model").iterdir()] == ["config.json"]
    assert not (tmp_path / "out" / "half.safetensors").exists()


def test_a_lost_lease_leaves_no_marker(tmp_path: Path, options: Convert) -> None:
    def stage() -> None:
        with held.output(options) as output:
            (output.folder / "weights").write_text("x")
            (tmp_path / "out" / "_lease.00000002.json").write_text("{}")
            output.commit({})

    with pytest.raises(NotReadyError, match="lost the lease"):
        stage()
    assert artifact.finished(options) is None
    assert not (tmp_path / "out" / "weights").exists()


def test_checkpoints_stay_until_the_marker_is_there(tmp_path: Path, options: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while the result comes into place must not cost the training."""
    (tmp_path / "out" / CHECKPOINTS).mkdir(parents=True)

    def killed(self: Lease, *names: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lease, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            held.commit(options, {}, {})
    assert (tmp_path / "out" / CHECKPOINTS).exists()
    held.commit(options, {}, {})
    assert not (tmp_path / "out" / CHECKPOINTS).exists()


def test_an_input_that_changes_while_it_is_read_leaves_no_marker(tmp_path: Path, options: Convert, outside: Path) -> None:
    with held.output(options) as output:
        (outside / "config.json").write_text('{"other": 1}')
        with pytest.raises(DataError, match="changed while"):
            output.commit({})
    assert artifact.finished(options) is None


def test_the_marker_is_json_with_its_time(tmp_path: Path, options: Convert) -> None:
    with held.output(options) as output:
        output.started = time.time() - 5
        output.commit({})
    assert 5 <= json.loads((tmp_path / "out" / MARKER).read_text())["seconds"] < 60


def test_without_an_optional_input_it_is_another_result(tmp_path: Path, outside: Path) -> None:
    options = Evaluate(output_dir=f"{tmp_path}/out", model_name_or_path=str(outside), dev_record_path_or_regex=str(outside))
    held.commit(options, {}, {})
    with pytest.raises(UsageError, match="dev_record_path_or_regex"):
        artifact.finished(dataclasses.replace(options, dev_record_path_or_regex=""))


def test_a_path_with_the_characters_of_a_glob_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "w[x]"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert input_files(str(folder)) == [folder / "config.json"]
    assert check_input("x", str(folder), OUT)["path"] == str(folder)
