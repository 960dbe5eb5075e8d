"""One list of files: what a stage may read in a folder is what its digest is made of."""

import json
import os
from pathlib import Path

import pytest

from minima.data import corpus, records
from minima.workspace.files import matching, walk, write_atomically
from minima.workspace.inputs import fingerprint, input_files, path_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus with a linked folder, a link to a file, a link back up, and what a download leaves."""
    for name in ("text/in/ner/b.jsonl", "text/a.jsonl", "volume/c.jsonl", "other/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    (tmp_path / "text" / "linked").symlink_to("../volume")
    (tmp_path / "text" / "d.jsonl").symlink_to("../other/d.jsonl")
    (tmp_path / "text" / "in" / "up").symlink_to("..")
    for name in (".cache/huggingface/download/a.jsonl", "_old/x.jsonl", "in/.git/x.jsonl", "_SUCCESS.json", ".hidden.jsonl"):
        (tmp_path / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "text" / name).write_text("{}")
    return tmp_path / "text"


def test_links_are_followed_once_and_hidden_things_are_left_out(folder: Path) -> None:
    assert walk(folder) == ["a.jsonl", "d.jsonl", "in/ner/b.jsonl", "linked/c.jsonl"]
    assert corpus.files(folder, "**/*.jsonl") == walk(folder)
    assert matching(walk(folder), "**/.cache/**") == []
    assert [str(p.relative_to(folder)) for p in input_files(str(folder))] == walk(folder)
    assert [p.name for p in input_files(f"{folder}/**/*.jsonl")] == ["a.jsonl", "d.jsonl", "b.jsonl", "c.jsonl"]


@pytest.mark.parametrize("changed", ["volume/c.jsonl", "other/d.jsonl", "text/in/ner/b.jsonl", "volume/new/e.jsonl"])
def test_a_change_of_what_is_read_changes_the_digest(folder: Path, changed: str) -> None:
    before, times = path_digest(str(folder)), fingerprint(str(folder))
    place = folder.parent / changed
    place.parent.mkdir(exist_ok=True)
    place.write_text('{"text": "another"}\n')
    assert path_digest(str(folder)) != before
    assert fingerprint(str(folder)) != times


@pytest.mark.parametrize("changed", [".cache/huggingface/download/a.jsonl", "_SUCCESS.json", "in/.git/x.jsonl", ".new/y.jsonl"])
def test_a_change_of_what_is_not_read_does_not(folder: Path, changed: str) -> None:
    before = path_digest(str(folder)), fingerprint(str(folder))
    (folder / changed).parent.mkdir(exist_ok=True)
    (folder / changed).write_text("another")
    assert (path_digest(str(folder)), fingerprint(str(folder))) == before


def test_names_that_are_no_utf8_and_links_to_themselves(folder: Path) -> None:
    """Archives of other systems leave such names."""
    (folder / os.fsdecode("中.txt".encode("gbk"))).write_text("text")
    (folder / "loop").symlink_to("loop")
    before = path_digest(str(folder))
    (folder / os.fsdecode("中.txt".encode("gbk"))).write_text("other")
    assert path_digest(str(folder)) != before
    write_atomically(folder / "names.json", json.dumps(walk(folder), ensure_ascii=False))
    assert json.loads((folder / "names.json").read_text(encoding="utf-8")) == [n for n in walk(folder) if n != "names.json"]


def test_records_are_found_among_what_is_digested(folder: Path) -> None:
    for name in ("train-0.tfrecord", "_old.tfrecord", ".tmp.tfrecord"):
        records.write(folder / name, [])
    (folder / "train-1.tfrecord").symlink_to("../volume/far.tfrecord")
    records.write(folder.parent / "volume" / "far.tfrecord", [])
    for path in (str(folder), f"{folder}/*.tfrecord", f"{folder}/**/train-*"):
        assert set(records.find(path)) <= set(input_files(str(folder)))
        assert [p.name for p in records.find(path)] == ["train-0.tfrecord", "train-1.tfrecord"]
