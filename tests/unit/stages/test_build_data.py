import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from minima.data import corpus, packing, records, tokenization
from minima.data.records import Records
from minima.errors import DataError, NotReadyError, UsageError
from minima.options import BuildData
from minima.process import workers
from minima.stages import build_data
from minima.workspace import artifact
from minima.workspace.artifact import Output
from minima.workspace.inputs import check_inputs
from minima.workspace.marker import artifact_files
from tests.unit.workspace.test_progress import Told

LENGTH = 32
WORDS = [*"theofandtoinhethatwas", *"红楼梦三国演义", "the", "and", "with", "水浒传", "▁", "</s>", "<s>", "…", "naïve"]


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    rng = random.Random(0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text(rng, 30) for _ in range(200)]),
        model_prefix=str(folder / "sp"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenization.write(folder / "sp.model", folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text in several spans of 1 MiB: one large file, one small, one compressed."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(1)
    lines = [json.dumps({"text": f"{n} {text(rng, rng.randrange(1, 400))}"}) + "\n" for n in range(1600)]
    assert sum(map(len, lines)) > 1 << 20
    (folder / "big.jsonl").write_text("".join(lines))
    (folder / "small.txt").write_text("\n".join(text(rng, 40) for _ in range(60)))
    (folder / "nothing.txt").write_text("\n\n \n")
    return folder


def settings(source: Path, llama: Path, out: Path, **changes: Any) -> BuildData:
    values: dict[str, Any] = {
        "input_dir": str(source),
        "input_regex": "*",
        "tokenizer_name_or_path": str(llama),
        "output_dir": str(out),
        "max_seq_length": LENGTH,
        "dev_proportion": 0.1,
        "shard_megabytes": 1,
    }
    return BuildData(**{**values, **changes})


def output(options: BuildData) -> Output:
    folder = Path(options.output_dir)
    folder.mkdir(exist_ok=True)
    return Output(folder, options, check_inputs(options), lambda: None)


def run(source: Path, llama: Path, out: Path, **changes: Any) -> dict[str, Any]:
    options = settings(source, llama, out, **changes)
    return build_data.run(options, output(options))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def built(source: Path, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("out") / "built"
    return folder, run(source, llama, folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_data, "POLL", 0.05)


def indices(place: Path) -> list[np.ndarray]:
    read = Records([place])
    return [read[number]["indices"] for number in range(len(read))]


def stream(llama: Path, documents: list[corpus.Document]) -> list[int]:
    """The ids of documents by SentencePiece itself."""
    judge = sentencepiece.SentencePieceProcessor(model_file=str(llama / "sp.model"))
    return [i for d in documents for i in (*judge.encode(d.text), judge.eos_id(), judge.bos_id())]


def test_examples_in_order_are_the_permuted_documents_but_for_the_declared_rest(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path
) -> None:
    folder, metrics = built
    spans = corpus.spans(source, "*", 1)
    assert [s.file for s in spans] == ["big.jsonl", "big.jsonl", "nothing.txt", "small.txt"]
    dropped = tokens = characters = 0
    originals: list[tuple[str, str]] = []
    for index, span in enumerate(spans):
        documents = list(corpus.documents(source, span, "text"))
        originals += [(span.file, d.text) for d in documents]
        split = packing.divide(documents, span.file, 776, 0.1)
        assert sorted(d.offset for part in split for d in part) == [d.offset for d in documents]
        for name, part in zip(("train", "dev"), split, strict=True):
            place = folder / f"{name}-{index:05d}-of-00004.tfrecord"
            examples = indices(place) if place.exists() else []
            found = [int(i) for example in examples for i in example]
            expected = stream(llama, part)
            assert found == expected[: len(found)]
            assert len(expected) - len(found) == len(expected) % LENGTH
            assert place.exists() == (len(expected) >= LENGTH)
            assert all(len(example) == LENGTH for example in examples)
            dropped += len(expected) - len(found)
            tokens += len(expected)
            characters += sum(len(d.text) for d in part)
    count = {name: len(Records(records.find(f"{folder}/{name}-*.tfrecord"))) for name in ("train", "dev")}
    assert metrics == {
        "documents": 1660,
        "train_examples": count["train"],
        "dev_examples": count["dev"],
        "tokens": tokens,
        "dropped_tokens": dropped,
        "characters_per_token": round(characters / (tokens - 2 * 1660), 4),
    }
    assert tokens == LENGTH * (count["train"] + count["dev"]) + dropped
    assert len(originals) == 1660


def test_shuffled_and_not_the_order_of_the_file(source: Path) -> None:
    documents = list(corpus.documents(source, corpus.spans(source, "big*", 64)[0], "text"))
    train, dev = packing.divide(documents, "big.jsonl", 776, 0.1)
    again, _ = packing.divide(reversed(documents), "big.jsonl", 776, 0.1)
    assert train == again
    ranks = np.array([d.offset for d in train]).argsort().argsort()
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.1
    assert 110 < len(dev) < 210  # 160 expected, standard deviation 12
    other, held = packing.divide(documents, "big.jsonl", 777, 0.1)
    assert [d.offset for d in other] != [d.offset for d in train]
    assert {d.offset for d in held} != {d.offset for d in dev}
    _, fewer = packing.divide(documents, "big.jsonl", 776, 0.05)
    assert {d.offset for d in fewer} < {d.offset for d in dev}
    assert packing.divide(documents, "big.jsonl", 776, 0)[1] == []


def test_held_out_documents_do_not_depend_on_the_size_of_shards(source: Path) -> None:
    held = []
    for megabytes in (1, 64):
        spans = corpus.spans(source, "big*", megabytes)
        parts = [packing.divide(corpus.documents(source, s, "text"), s.file, 776, 0.1)[1] for s in spans]
        held.append(sorted(d for part in parts for d in part))
    assert held[0] == held[1]


def test_two_processes_give_the_same_bytes(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path
) -> None:
    metrics = run(source, llama, tmp_path / "two", num_processors=2)
    assert metrics == built[1]
    assert contents(tmp_path / "two") == contents(built[0])


def test_two_pods_give_the_same_bytes_and_each_makes_its_part(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = settings(source, llama, tmp_path / "pods")
    made: dict[int, list[int]] = {0: [], 1: []}
    found: dict[int, dict[str, Any]] = {}
    real = packing.build
    local = threading.local()

    def build(job: packing.Job) -> Iterator[Any]:
        made[local.pod].append(job.index)
        return real(job)

    def pod(index: int) -> None:
        local.pod = index
        found[index] = build_data.run(options, output(options))

    monkeypatch.setattr(packing, "build", build)
    monkeypatch.setattr(workers, "pod", lambda: (local.pod, 2))
    threads = [threading.Thread(target=pod, args=(index,)) for index in (1, 0)]
    threads[0].start()
    time.sleep(0.3)
    assert threads[0].is_alive(), "pod 1 may not return before the shards of pod 0 are there"
    threads[1].start()
    for thread in threads:
        thread.join()
    assert made == {0: [0, 2], 1: [1, 3]}
    assert found == {0: built[1], 1: built[1]}
    assert contents(tmp_path / "pods") == contents(built[0])


def test_pod_numbers(source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, count in (("2", "2"), ("x", "2"), ("0", "0"), ("-1", "2")):
        monkeypatch.setenv("MINIMA_POD_INDEX", index)
        monkeypatch.setenv("MINIMA_POD_COUNT", count)
        with pytest.raises(UsageError, match=f"MINIMA_POD_INDEX={index} MINIMA_POD_COUNT={count}"):
            run(source, llama, tmp_path / "out")
    monkeypatch.setenv("MINIMA_POD_INDEX", "1")
    monkeypatch.setenv("MINIMA_POD_COUNT", "3")
    assert workers.pod() == (1, 3)


def jobs_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    real = packing.build

    def build(job: packing.Job) -> Iterator[Any]:
        made.append(job.index)
        return real(job)

    monkeypatch.setattr(packing, "build", build)
    return made


def test_a_restart_goes_on_where_the_lease_was_lost(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = jobs_made(monkeypatch)
    options = settings(source, llama, tmp_path / "out")
    checks = iter([True])

    def check() -> None:
        if not next(checks, False):
            raise NotReadyError("lost the lease")

    first = output(options)
    first.check_lease = check
    with pytest.raises(NotReadyError):
        build_data.run(options, first)
    assert made == [0, 1]
    there = {p.name for p in artifact_files(first.folder)}
    assert there == {p for p in contents(built[0]) if "00000-of-" in p and not p.startswith(".")}
    made.clear()
    assert build_data.run(options, output(options)) == built[1]
    assert made == [1, 2, 3]
    assert contents(first.folder) == contents(built[0])
    made.clear()
    assert build_data.run(options, output(options)) == built[1]
    assert made == []


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_seq_length": 16}, {"dev_proportion": 0.2}, {"shard_megabytes": 2}])
def test_shards_of_other_options_are_never_taken(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    run(source, llama, out, **change)
    assert contents(out) != contents(built[0])
    assert run(source, llama, out) == built[1]
    assert contents(out) == contents(built[0])


def test_shards_of_other_text_or_damaged_ones_are_made_again(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(source, llama, out)
    made = jobs_made(monkeypatch)
    shard = out / "train-00001-of-00004.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-5])
    (out / "dev-00000-of-00004.tfrecord").unlink()
    (out / ".span-00003-of-00004.json").write_text('{"identity": ')
    assert run(source, llama, out) == built[1]
    assert made == [0, 1, 3]
    assert contents(out) == contents(built[0])


def test_changed_text_of_the_same_size(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "text"
    source.mkdir()
    (source / "a.txt").write_text("the of and to\n" * 200)
    out = tmp_path / "out"
    run(source, llama, out)
    before = contents(out)
    (source / "a.txt").write_text("and to the of\n" * 200)
    run(source, llama, out)
    assert contents(out)["train-00000-of-00001.tfrecord"] != before["train-00000-of-00001.tfrecord"]


def test_too_little_text(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n  \n")
    with pytest.raises(DataError, match="is empty; is it the right folder"):
        run(tmp_path, llama, tmp_path / "out", input_regex="*.txt")
    (tmp_path / "a.txt").write_text("of the\n")
    with pytest.raises(DataError, match=r"no shard fills one training example of 32 tokens .* lower --max_seq_length"):
        run(tmp_path, llama, tmp_path / "out", input_regex="*.txt", dev_proportion=0.0)
    (tmp_path / "a.txt").write_text("of the and to in he that was\n" * 100)
    with pytest.raises(DataError, match=r"held out of 100 fill no example .* raise --dev_proportion \(1e-09\)"):
        run(tmp_path, llama, tmp_path / "out", input_regex="*.txt", dev_proportion=1e-9)
    metrics = run(tmp_path, llama, tmp_path / "out", input_regex="*.txt", dev_proportion=0.0)
    assert metrics["dev_examples"] == 0
    assert not list((tmp_path / "out").glob("dev-*"))


def test_a_folder_without_tokenizer_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match="no tokenizer"):
        run(source, tmp_path / "model", tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_a_bad_line_ends_the_stage_with_its_place(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "fine"}\n')
    (folder / "b.jsonl").write_text('{"text": "fine"}\n{"txt": 1}\n')
    with pytest.raises(DataError, match=r"b\.jsonl:2: no key 'text'"):
        run(folder, llama, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*00001-of-*"))


def test_progress_is_that_of_the_bytes_read(source: Path, llama: Path, tmp_path: Path) -> None:
    options, told = settings(source, llama, tmp_path / "out"), Told()
    metrics = build_data.run(options, replace(output(options), progress=told))
    end = told.most["tokenising"]
    assert end.step == pytest.approx(end.total, rel=1e-4)
    assert end.total > 1_000_000
    assert end.unit == "bytes"
    assert end.tokens == metrics["tokens"]


def test_commit_lists_shards_and_their_indices_only(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path
) -> None:
    options = settings(source, llama, tmp_path / "out")
    out = output(options)
    marker = out.commit(build_data.run(options, out))
    names = [n for n in contents(built[0]) if not n.startswith(".")]
    assert sorted(marker["files"]) == sorted(names)
    assert all(n.endswith((".tfrecord", ".tfrecord.index")) for n in names)
    assert artifact.finished(replace(options, num_processors=7)) is not None
