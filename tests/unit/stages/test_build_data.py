import gzip
import itertools
import json
import os
import pickle
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import sentencepiece

from minima import flags
from minima.data import corpus, documents, duplicates, packing, records, tokenization
from minima.data.documents import Bad, Part
from minima.data.objects import Form
from minima.data.records import Records
from minima.data.shards import Job
from minima.errors import DataError, LostPeerError, NotReadyError, UsageError
from minima.options import BuildData
from minima.process import workers
from minima.stages import build_data
from minima.workspace import artifact
from minima.workspace.artifact import Output
from minima.workspace.inputs import check_input
from minima.workspace.lease import Lease
from minima.workspace.marker import artifact_files
from tests.unit import held
from tests.unit.workspace.test_progress import Told

LENGTH = 96
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


def run(source: Path, llama: Path, out: Path, **changes: Any) -> dict[str, Any]:
    options = settings(source, llama, out, **changes)
    with held.output(options) as output:
        metrics = build_data.run(options, output)
        publish(output)
    return metrics


def publish(output: Output) -> None:
    """As `commit` does with the last shard."""
    assert output.lease is not None
    output.lease.put(*(place.name for place in artifact_files(output.folder)))


def contents(folder: Path) -> dict[str, bytes]:
    """All but markers, leases and such."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("_")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


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


def stream(llama: Path, chosen: list[packing.Document]) -> list[int]:
    """The ids of documents by SentencePiece itself."""
    judge = sentencepiece.SentencePieceProcessor(model_file=str(llama / "sp.model"))
    return [i for d in chosen for i in (*judge.encode(d.text), judge.eos_id(), judge.bos_id())]


def texts(source: Path, span: corpus.Span) -> list[str]:
    found = list(corpus.read(source, span, Form()))
    assert not any(isinstance(one, Bad) for one in found)
    return [str(one) for one in found]


def test_examples_in_order_are_the_permuted_documents_but_for_the_declared_rest(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path
) -> None:
    folder, metrics = built
    spans = corpus.spans(source, "*", 1)
    assert [[p.file for p in s.parts] for s in spans] == [["big.jsonl"], ["big.jsonl", "nothing.txt", "small.txt"]]
    tokens = characters = held = 0
    rests: dict[str, list[int]] = {"train": [], "dev": []}
    for index, span in enumerate(spans):
        sides = packing.divide(texts(source, span), 776, 0.1)
        held += len(sides[1])
        for name, part in zip(("train", "dev"), sides, strict=True):
            examples = indices(folder / f"{name}-{index:05d}-of-00003.tfrecord")
            found = [int(i) for example in examples for i in example]
            expected = stream(llama, part)
            assert found == expected[: len(found)]
            rests[name] += expected[len(found) :]
            assert len(expected) - len(found) == len(expected) % LENGTH
            assert all(len(example) == LENGTH for example in examples)
            tokens += len(expected)
            characters += sum(len(d.text) for d in part)
    for name, rest in rests.items():
        place = folder / f"{name}-00002-of-00003.tfrecord"
        last = [int(i) for example in indices(place) for i in example] if place.exists() else []
        whole = len(rest) if name == "dev" else len(rest) // LENGTH * LENGTH
        assert last == rest[:whole]
    count = {name: len(Records(records.find(f"{folder}/{name}-*.tfrecord"))) for name in ("train", "dev")}
    assert metrics == {
        "documents": 1660,
        "dev_documents": held,
        "bad_documents": 0,
        "duplicate_documents": 0,
        "blank_documents": 0,
        "filtered_documents": 0,
        "train_examples": count["train"],
        "dev_examples": count["dev"],
        "tokens": tokens,
        "dropped_tokens": len(rests["train"]) % LENGTH,
        "characters_per_token": round(characters / (tokens - 2 * 1660), 4),
        "tokenizer": tokenization.fingerprint(packing.load_once(str(llama))),
    }


def test_shuffled_and_not_the_order_of_the_file(source: Path) -> None:
    read = texts(source, corpus.spans(source, "big*", 64)[0])
    place = {text: number for number, text in enumerate(read)}
    train, dev = packing.divide(read, 776, 0.1)
    assert packing.divide(reversed(read), 776, 0.1) == (train, dev)
    ranks = np.array([place[d.text] for d in train]).argsort().argsort()
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.1
    assert 110 < len(dev) < 210  # 160 expected, standard deviation 12
    other, held = packing.divide(read, 777, 0.1)
    assert [d.text for d in other] != [d.text for d in train]
    assert {d.text for d in held} != {d.text for d in dev}
    _, fewer = packing.divide(read, 776, 0.05)
    assert {d.text for d in fewer} < {d.text for d in dev}
    assert packing.divide(read, 776, 0)[1] == []


def test_equal_documents_are_on_one_side_and_do_not_follow_one_another() -> None:
    train, dev = packing.divide([f"{n % 40}" for n in range(400)], 776, 0.2)
    assert {d.text for d in train}.isdisjoint(d.text for d in dev)
    assert len(train) + len(dev) == 400
    assert sum(a.text == b.text for a, b in itertools.pairwise(train)) < 40


def small_source(folder: Path, layout: str, documents: list[str]) -> Path:
    """The same documents in one file, in some, or in one each, and in other forms."""
    folder.mkdir()
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents]
    match layout:
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": documents}), folder / "a.parquet", row_group_size=100)
        case "gz":
            (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
        case _:
            files = int(layout)
            for number in range(files):
                (folder / f"{number:04d}.jsonl").write_text("".join(lines[number::files]))
    return folder


@pytest.mark.parametrize("dev_proportion", [0.1, 0.001, 1e-9])
def test_the_same_text_in_other_files_keeps_its_tokens_and_its_held_out_documents(
    llama: Path, tmp_path: Path, dev_proportion: float
) -> None:
    rng = random.Random(3)
    written = [f"{n} {text(rng, rng.randrange(1, 30))}" for n in range(300)]
    written += written[:20]
    found = {}
    for layout in ("1", "7", "320", "gz", "parquet"):
        source = small_source(tmp_path / layout, layout, written)
        out = tmp_path / f"out-{layout}"
        metrics = run(source, llama, out, dev_proportion=dev_proportion, input_regex="*")
        dev = [int(i) for place in sorted(out.glob("dev-*.tfrecord")) for one in indices(place) for i in one]
        eos = sentencepiece.SentencePieceProcessor(model_file=str(llama / "sp.model")).eos_id()
        ends = [n + 2 for n, one in enumerate(dev) if one == eos]
        held = sorted(tuple(dev[begin:end]) for begin, end in itertools.pairwise([0, *ends]))
        assert len(dev) >= LENGTH
        assert metrics["dev_documents"] == len(held)
        assert metrics["dropped_tokens"] < LENGTH
        train = LENGTH * len(Records(records.find(f"{out}/train-*.tfrecord")))
        assert train + len(dev) + metrics["dropped_tokens"] == metrics["tokens"]
        found[layout] = held, {**metrics, "dropped_tokens": 0, "train_examples": 0, "dev_examples": 0}
    assert all(one == found["1"] for one in found.values())


def test_the_same_with_many_spans_and_small_portions(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at once changes neither the tokens nor who is held out."""
    rng = random.Random(4)
    written = [f"{n} {text(rng, 20)}" for n in range(120)]
    whole = small_source(tmp_path / "whole", "1", written)
    expected = run(whole, llama, tmp_path / "out-whole", dev_proportion=1e-9)
    monkeypatch.setattr(packing, "PORTION", 700)
    in_portions = run(small_source(tmp_path / "gz", "gz", written), llama, tmp_path / "out-gz", dev_proportion=1e-9)
    monkeypatch.setattr(
        corpus, "spans", lambda folder, *_: [corpus.Span((p,)) for p in documents.parts(Path(folder), "0000.jsonl", 900)]
    )
    in_spans = run(whole, llama, tmp_path / "out-spans", dev_proportion=1e-9)
    assert expected["dev_documents"] < 20
    assert in_portions == {**expected, "dropped_tokens": in_portions["dropped_tokens"]}
    assert len(list((tmp_path / "out-spans").glob("train-*.tfrecord"))) > 5
    assert in_spans == {**expected, "dropped_tokens": in_spans["dropped_tokens"]}
    assert len({out: held_out_ids(tmp_path / out) for out in ("out-whole", "out-gz", "out-spans")}.values()) == 3
    assert len({tuple(sorted(held_out_ids(tmp_path / out))) for out in ("out-whole", "out-gz", "out-spans")}) == 1


def held_out_ids(folder: Path) -> tuple[int, ...]:
    return tuple(int(i) for place in sorted(folder.glob("dev-*.tfrecord")) for one in indices(place) for i in one)


def backwards(task: Any, items: list[Any], processes: int) -> Iterator[Any]:
    """`workers.stream` as several processes may end: through pickles, the last item first, its values between the others'."""
    assert processes == 2
    task, copies = pickle.loads(pickle.dumps((task, items)))
    running = [iter(task(item)) for item in reversed(copies)]
    while running:
        for one in list(running):
            try:
                yield pickle.loads(pickle.dumps(next(one)))
            except StopIteration:
                running.remove(one)


def test_two_processes_give_the_same_bytes_in_whatever_order_they_end(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "stream", backwards)
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

    def build(job: Job) -> Iterator[Any]:
        made[local.pod].append(job.index)
        return real(job)

    def pod(index: int) -> None:
        local.pod = index
        with held.output(options, f"lease-{index}" if index else "lease") as output:
            found[index] = build_data.run(options, output)
            if index == 0:
                publish(output)

    monkeypatch.setattr(packing, "build", build)
    monkeypatch.setattr(workers, "pod", lambda: (local.pod, 2))
    threads = [threading.Thread(target=pod, args=(index,)) for index in (1, 0)]
    threads[0].start()
    time.sleep(0.3)
    assert threads[0].is_alive(), "pod 1 may not return before the shards of pod 0 are there"
    threads[1].start()
    for thread in threads:
        thread.join()
    assert made == {0: [0], 1: [1]}
    assert found[0] == built[1], "pod 0 makes the last shard, and the marker"
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

    def build(job: Job) -> Iterator[Any]:
        made.append(job.index)
        return real(job)

    monkeypatch.setattr(packing, "build", build)
    return made


def test_a_restart_goes_on_where_the_lease_was_lost(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = jobs_made(monkeypatch)
    out = tmp_path / "out"
    real = build_data._publish

    def publish(lease: Lease, *rest: Any) -> None:
        if made == [0, 1]:
            (out / f"_lease.{lease.token + 1:08d}.json").write_text("{}")
        real(lease, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(build_data, "_publish", publish)
        with pytest.raises(NotReadyError, match="lost the lease"):
            run(source, llama, out)
    for lease in out.glob("_lease*"):
        lease.unlink()
    there = {p.name for p in artifact_files(out)}
    assert there == {p for p in contents(built[0]) if "00000-of-" in p and not p.startswith(".")}
    made.clear()
    assert run(source, llama, out) == built[1]
    assert made == [1]
    assert contents(out) == contents(built[0])
    made.clear()
    assert run(source, llama, out) == built[1]
    assert made == []


def test_a_frozen_pod_of_a_run_with_more_pods_is_shut_out_before_anything_is_made(
    source: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began to remove what an earlier run left; nobody of this run holds its lease."""
    monkeypatch.setattr("minima.workspace.lease.TTL", 0.6)
    out, inside = tmp_path / "out", list[bool]()
    real = packing.build

    def build(job: Job) -> Iterator[Any]:
        inside.append(frozen.making.is_dir())
        return real(job)

    monkeypatch.setattr(packing, "build", build)
    frozen = Lease(out, "lease-1")
    frozen.__enter__()
    frozen._stop.set()
    frozen._thread.join()
    run(source, llama, out)
    assert inside == [False, False]
    with pytest.raises(NotADirectoryError):
        (out / "train-00000-of-00003.tfrecord").rename(frozen.making / "taken-0")
    frozen.__exit__(None, None, None)


def test_what_a_pod_of_another_run_removed_before_it_was_shut_out_is_missed(source: Path, llama: Path, tmp_path: Path) -> None:
    options = settings(source, llama, tmp_path / "out")
    with held.output(options) as out:
        metrics = build_data.run(options, out)
        with Lease(out.place, "lease-1") as other:
            other.take("train-00000-of-00003.tfrecord")
        with pytest.raises(LostPeerError, match=r"00003\.tfrecord: it was there"):
            out.commit(metrics)
    assert artifact.finished(options) is None


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_seq_length": 192}, {"dev_proportion": 0.2}, {"shard_megabytes": 2}])
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
    for damage in ("train", "dev", "note", "rest"):
        match damage:
            case "train":
                shard = out / "train-00001-of-00003.tfrecord"
                shard.write_bytes(shard.read_bytes()[:-5])
            case "dev":
                (out / "dev-00001-of-00003.tfrecord").unlink()
            case "note":
                (out / ".span-00001-of-00003.json").write_text('{"identity": ')
            case "rest":
                (out / ".rest-00001-of-00003.npz").unlink()
        made.clear()
        assert run(source, llama, out) == built[1]
        assert made == [1]
    assert contents(out) == contents(built[0])


def test_inputs_are_hashed_once_for_all_spans(source: Path, llama: Path, tmp_path: Path) -> None:
    class Counting(dict[str, Any]):
        asked = 0

        def __getitem__(self, key: str) -> Any:
            self.asked += 1
            return super().__getitem__(key)

    options = settings(source, llama, tmp_path)
    spans = corpus.spans(source, "*", 1)
    jobs = [Job(n, len(spans), span, options, "") for n, span in enumerate(spans)]
    seen = []
    for fingerprint in ("a", "a", "b"):
        entry = Counting(key="key", fingerprint=fingerprint)
        seen.append(build_data._identities(jobs, Output(tmp_path, options, {"input_dir": entry})))
        assert entry.asked == 1
    assert seen[0] == seen[1]
    assert not set(seen[0]) & set(seen[2])
    assert len(set(seen[0])) == len(jobs) > 1


def test_changed_text_of_the_same_size(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "text"
    source.mkdir()
    (source / "a.txt").write_text("the of and to\n" * 200)
    out = tmp_path / "out"
    run(source, llama, out, dev_proportion=0.0)
    before = contents(out)
    (source / "a.txt").write_text("and to the of\n" * 200)
    run(source, llama, out, dev_proportion=0.0)
    assert contents(out)["train-00000-of-00002.tfrecord"] != before["train-00000-of-00002.tfrecord"]


def test_too_little_text(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n  \n")
    with pytest.raises(DataError, match="is empty; is it the right folder"):
        run(tmp_path, llama, tmp_path / "out", input_regex="*.txt")
    (tmp_path / "a.txt").write_text("of the\n")
    with pytest.raises(
        DataError, match=rf"tokens in 1 documents fill no training example of {LENGTH}; .* lower --max_seq_length"
    ):
        run(tmp_path, llama, tmp_path / "out", input_regex="*.txt", dev_proportion=0.0)
    (tmp_path / "a.txt").write_text("of the\nand to in\n")
    with pytest.raises(DataError, match=rf"fill no training example of {LENGTH}, beside what is held out \(--dev_proportion\)"):
        run(tmp_path, llama, tmp_path / "out", input_regex="*.txt")
    (tmp_path / "a.txt").write_text("of the and to in he that was\n" * 100)
    metrics = run(tmp_path, llama, tmp_path / "out", input_regex="*.txt", dev_proportion=0.0)
    assert metrics["dev_examples"] == 0
    assert not list((tmp_path / "out").glob("dev-*"))


def test_one_document_cannot_be_held_out_and_trained_on(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = jobs_made(monkeypatch)
    for lines in (1, 300):
        (tmp_path / "a.txt").write_text(f"{'of the and to ' * 100}\n" * lines)
        with pytest.raises(DataError, match=r"all of its text is one document, .* --dev_proportion 0, or give more documents"):
            run(tmp_path, llama, tmp_path / "out", input_regex="*.txt", dev_proportion=0.001)
    assert made == []


def test_the_first_look_at_the_text_ends_where_very_much_of_it_is_bad(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass over all of it has more processes."""
    monkeypatch.setattr(build_data, "MANY", 5)
    read: list[int] = []

    def documents(*_: object) -> Iterator[str | Bad]:
        yield "one"
        for number in range(100):
            read.append(number)
            yield Bad(f"a:{number}", "bad")

    monkeypatch.setattr(corpus, "read", documents)
    span = corpus.Span((Part("a", 0, 10, 10),))
    build_data._check_two([span, span], settings(tmp_path, llama, tmp_path / "out"))
    assert read == [0, 1, 2, 3, 4]


def test_of_bad_documents_only_those_that_are_named_are_held(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PORTION", 3)
    lines = ["x"] * 25 + ['{"text": "one"}'] + ["x"] * 12 + ['{"text": "two"}'] + ["x"] * 2
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    span = corpus.Span(tuple(documents.parts(tmp_path, "a.jsonl", 1 << 20)))
    portions = list(packing._portions(Job(0, 1, span, settings(tmp_path, llama, tmp_path / "out"), "")))
    assert [(p.texts, p.bad, len(p.named), p.last) for p in portions] == [
        (["one"], 37, 10, False),
        (["two"], 2, 2, True),
    ]
    assert [one.where for one in portions[0].named] == [f"{tmp_path}/a.jsonl:{n}" for n in range(1, 11)]


def test_a_folder_without_tokenizer_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match="no tokenizer"):
        run(source, tmp_path / "model", tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_all_bad_documents_are_counted_the_first_named_and_the_rest_is_built_where_that_is_allowed(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    good, bad = '{"text": "of the and to in he that was"}\n', '{"txt": 1}\n'
    (folder / "a.jsonl").write_text(good * 30 + bad + good * 30)
    (folder / "b.jsonl").write_text(bad * 12 + '{"text": "fine"}\n' + "{\n")
    with pytest.raises(DataError) as caught:
        run(folder, llama, tmp_path / "out", dev_proportion=0.0)
    said = str(caught.value).split("\n")
    assert said[0] == f"{folder}: 14 of 75 documents are bad:"
    assert [line.partition(": ")[0] for line in said[1:11]] == [
        f"{folder}/a.jsonl:31",
        *[f"{folder}/b.jsonl:{n}" for n in range(1, 10)],
    ]
    assert said[11] == "and 4 more"
    assert "--max_bad_fraction (now 0)" in said[12]
    assert not list((tmp_path / "out").glob("*.tfrecord"))
    with pytest.raises(DataError, match="14 of 75 documents are bad"):
        run(folder, llama, tmp_path / "out", dev_proportion=0.0, max_bad_fraction=0.1)
    metrics = run(folder, llama, tmp_path / "out", dev_proportion=0.0, max_bad_fraction=0.2)
    assert (metrics["documents"], metrics["bad_documents"]) == (61, 14)
    assert "build-data: left out 14 bad documents, beside 61 good ones" in capsys.readouterr().err


def test_after_a_bad_document_nothing_is_taken_for_finished(
    llama: Path, source: Path, tmp_path: Path, built: tuple[Path, dict[str, Any]]
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.jsonl").write_text("x\n" + (source / "big.jsonl").read_text() + "y\n")
    with pytest.raises(DataError, match=r"(?s): 2 of 1602 documents are bad:.*a\.jsonl:1: .*a\.jsonl:1602: "):
        run(folder, llama, tmp_path / "out")
    assert not [name for name in contents(tmp_path / "out") if "-of-" in name and not name.startswith(".pod")]


def test_what_is_dropped_is_said(llama: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run(source, llama, tmp_path / "out", input_regex="small.txt")
    assert 0 < metrics["dropped_tokens"] < LENGTH
    said = f"build-data: dropped {metrics['dropped_tokens']} of {metrics['tokens']} tokens, which fill no example of {LENGTH}"
    assert said in capsys.readouterr().err


def test_what_is_blank_or_filtered_is_counted_and_said(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    kinds = [("of the and to in he", "zh"), (" ", "zh"), ("", "zh"), ("that was", "en"), (None, "en")]
    written = [json.dumps({"text": text, "lang": lang}) + "\n" for text, lang in kinds]
    (folder / "a.jsonl").write_text("".join(written) * 20)
    metrics = run(folder, llama, tmp_path / "out", filter=("lang=zh",), deduplicate=True, dev_proportion=0.0, max_seq_length=8)
    counted = {name: metrics[name] for name in metrics if name.endswith("documents")}
    assert counted == {
        "documents": 1,
        "dev_documents": 0,
        "bad_documents": 0,
        "duplicate_documents": 19,
        "blank_documents": 40,
        "filtered_documents": 40,
    }
    said = capsys.readouterr().err
    assert "build-data: left out 40 documents whose text is blank" in said
    assert "build-data: left out 40 documents, which are not what --filter asks for" in said
    with pytest.raises(DataError, match=r"is empty, or not lang=fr \(--filter\); is it the right folder"):
        run(folder, llama, tmp_path / "out", filter=("lang=fr",), dev_proportion=0.0)


def test_names_that_are_no_utf8_come_into_the_marker(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / os.fsdecode("中.txt".encode("gbk"))).write_text("of the and to in he\n" * 20)
    options = settings(tmp_path / "text", llama, tmp_path / "out", dev_proportion=0.0)
    with held.output(options) as out:
        out.inputs["input_dir"] = check_input("input_dir", options.input_dir, options.output_dir)
        out.commit(build_data.run(options, out))
    assert artifact.finished(options) is not None


def test_options_that_cannot_work() -> None:
    for wrong, said in (
        ("--encoding=utf-16", "--encoding: utf-16 has other line ends than ASCII"),
        ("--encoding=klingon", "--encoding: 'klingon' is no encoding that Python knows; valid: utf-8"),
        ("--text_key", "--text_key: no key; the key of the text"),
        ("--filter=zh", "--filter: found 'zh'; valid: KEY=VALUE, such as lang=zh"),
        ("--document=page", "--document: found 'page'; valid: file, line, paragraph"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            flags.parse(BuildData, ["--input_dir=a", "--tokenizer_name_or_path=b", "--output_dir=c", wrong])


def test_progress_is_that_of_the_bytes_read(source: Path, llama: Path, tmp_path: Path) -> None:
    options, told = settings(source, llama, tmp_path / "out"), Told()
    with held.output(options) as output:
        metrics = build_data.run(options, replace(output, progress=told))
    end = told.most["tokenising"]
    assert end.step == pytest.approx(end.total, rel=1e-4)
    assert end.total > 1_000_000
    assert end.unit == "bytes"
    assert end.tokens == metrics["tokens"]


def test_commit_lists_shards_and_their_indices_only(
    built: tuple[Path, dict[str, Any]], source: Path, llama: Path, tmp_path: Path
) -> None:
    options = settings(source, llama, tmp_path / "out")
    with held.output(options) as out:
        marker = out.commit(build_data.run(options, out))
    names = [n for n in contents(built[0]) if not n.startswith(".")]
    assert sorted(marker["files"]) == sorted(names)
    assert all(n.endswith((".tfrecord", ".tfrecord.index")) for n in names)
    assert artifact.finished(replace(options, num_processors=7)) is not None


@pytest.fixture
def with_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A corpus of six small spans with copies within and across them, in several forms; and the distinct texts."""
    folder = tmp_path / "text"
    folder.mkdir()
    rng = random.Random(5)
    distinct = [f"{n} {text(rng, 20)}" for n in range(600)]
    written = [*distinct[:300], *distinct[:300:3], *distinct[200:], distinct[7], distinct[7]]
    rng.shuffle(written)
    table = pyarrow.table({"text": written[:200]})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=100)
    lines = [json.dumps({"text": one}) + "\n" for one in written[200:]]
    (folder / "b.jsonl").write_text("".join(lines[:300]) + "\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("".join(lines[300:]).encode()))

    def spans(folder: str, *_: object) -> list[corpus.Span]:
        names = corpus.files(folder, "*")
        return [corpus.Span((part,)) for name in names for part in documents.parts(Path(folder), name, 8000)]

    monkeypatch.setattr(corpus, "spans", spans)
    assert len(spans(str(folder))) == 6
    return folder, distinct


def test_of_equal_documents_one_is_kept_for_any_processes_pods_and_ranges(
    with_copies: tuple[Path, list[str]],
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, distinct = with_copies
    first = run(source, llama, tmp_path / "one", deduplicate=True)
    assert (first["documents"], first["duplicate_documents"]) == (600, 202)
    assert "dropped 202 of 802 documents, since an earlier one has the same text" in capsys.readouterr().err
    assert not list((tmp_path / "one").glob(".hashes-*"))
    # The judge: the same text without its copies, which comes in another order.
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in distinct))
    plain = run(tmp_path / "plain", llama, tmp_path / "judge")
    same = ("documents", "dev_documents", "tokens", "characters_per_token")
    assert {name: first[name] for name in same} == {name: plain[name] for name in same}
    assert Counter(held_out_ids(tmp_path / "one")) == Counter(held_out_ids(tmp_path / "judge"))

    monkeypatch.setattr(duplicates, "RANGE", 50)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "stream", backwards)
        assert run(source, llama, tmp_path / "two", deduplicate=True, num_processors=2) == first
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    options = settings(source, llama, tmp_path / "pods", deduplicate=True)
    local = threading.local()

    def pod(index: int) -> None:
        local.pod = index
        with held.output(options, f"lease-{index}" if index else "lease") as output:
            build_data.run(options, output)
            if index == 0:
                publish(output)

    monkeypatch.setattr(workers, "pod", lambda: (local.pod, 3))
    threads = [threading.Thread(target=pod, args=(index,)) for index in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "pods") == contents(tmp_path / "one")


def test_hashes_of_other_text_are_never_taken(
    with_copies: tuple[Path, list[str]], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = with_copies
    expected = run(source, llama, tmp_path / "one", deduplicate=True)
    before, out = (source / "b.jsonl").read_bytes(), tmp_path / "out"
    (source / "b.jsonl").write_bytes(before[:-1] + b" ")

    def compare(*_: object) -> None:
        raise LostPeerError("as a pod that is deleted between the two passes")

    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "compare", compare)
        with pytest.raises(LostPeerError):
            run(source, llama, out, deduplicate=True)
    assert len(list(out.glob(".hashes-*"))) == 6
    (source / "b.jsonl").write_bytes(before)
    real, looked = duplicates.look, list[int]()

    def look(job: Job) -> Iterator[Job]:
        looked.append(job.index)
        return real(job)

    monkeypatch.setattr(duplicates, "look", look)
    assert run(source, llama, out, deduplicate=True) == expected
    assert looked == [0, 1, 2, 3, 4, 5]
    found, wanted = (
        {name: content for name, content in contents(place).items() if not name.startswith(".span")}
        for place in (out, tmp_path / "one")
    )
    assert found == wanted
