import contextlib
import hashlib
import json
import multiprocessing
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tfrecord import example_pb2, reader
from tfrecord.tools.tfrecord2idx import create_index
from tfrecord.writer import TFRecordWriter

from minima.data import framing, records
from minima.data.records import Records
from minima.errors import DataError, UsageError

INT64 = st.integers(-(2**63), 2**63 - 1)
TOKEN = st.integers(0, 2**17)
EDGES = [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**35, 2**63 - 1, -1, -(2**63)]
FEATURES = st.dictionaries(
    st.sampled_from(["indices", "mask", "labels", "中"]),
    st.one_of(st.lists(TOKEN, max_size=300), st.lists(st.one_of(INT64, st.sampled_from(EDGES)), max_size=20)),
    max_size=3,
)


def example(number: int, length: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {"indices": rng.integers(0, 50_000, length), "mask": rng.integers(0, 2, length)}


def protobuf(features: Mapping[str, list[int]]) -> bytes:
    message = example_pb2.Example()
    for name, values in features.items():
        message.features.feature[name].int64_list.value.extend(values)
    return bytes(message.SerializeToString(deterministic=True))


def equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(x.dtype == np.int64 and np.array_equal(x, b[name]) for name, x in a.items())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "a.tfrecord"
    assert records.write(place, map(example, range(7))) == 7
    return place


@settings(deadline=None)
@given(features=FEATURES)
def test_encoder_gives_protobuf_bytes_and_decoding_them_the_values(features: dict[str, list[int]]) -> None:
    arrays = {name: np.array(values, np.int64) for name, values in features.items()}
    message = framing.encode(arrays)
    assert message == protobuf(features)
    assert equal(framing.decode(message), arrays)


@pytest.mark.parametrize("value", EDGES)
def test_encoder_at_the_edges_of_varints(value: int) -> None:
    assert framing.encode({"indices": np.array([value, 5, value])}) == protobuf({"indices": [value, 5, value]})


def test_one_feature_is_what_serialize_to_string_gives_by_itself() -> None:
    ids = np.arange(0, 60_000, 7)
    assert framing.encode({"indices": ids}) == TFRecordWriter.serialize_tf_example({"indices": (ids, "int")})


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((2, 2), np.int64), np.array(["a"]), np.array([2**63], np.uint64)])
def test_other_features_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a vector of int64 is valid"):
        framing.encode({"indices": wrong})


def test_round_trip_over_several_files_in_any_order(tmp_path: Path) -> None:
    sizes = [3, 0, 5, 1]
    places = [tmp_path / f"{n}.tfrecord" for n in range(4)]
    numbers = iter(range(9))
    for place, size in zip(places, sizes, strict=True):
        assert records.write(place, [example(next(numbers)) for _ in range(size)]) == size
    read = Records(places)
    assert len(read) == 9
    order = list(range(9))
    random.Random(0).shuffle(order)
    for number in order:
        assert equal(read[number], example(number))
    for outside in (-1, 9):
        with pytest.raises(IndexError):
            read[outside]
    assert equal(read[np.int64(4)], example(4))  # type: ignore[index]


def test_index_is_tfrecord2idx_s(file: Path) -> None:
    create_index(str(file), f"{file}.judge")
    assert Path(f"{file}.index").read_bytes() == Path(f"{file}.judge").read_bytes()


def test_tfrecord_package_reads_it_and_writes_the_same_file(file: Path) -> None:
    found = list(reader.tfrecord_loader(str(file), None, {"indices": "int", "mask": "int"}))
    assert all(equal(row, example(number)) for number, row in enumerate(found))
    assert len(found) == 7
    writer = TFRecordWriter(f"{file}.judge")
    for number in range(7):
        writer.write({"indices": (example(number)["indices"], "int")})
    writer.close()
    records.write(file, [{"indices": example(number)["indices"]} for number in range(7)])
    assert file.read_bytes() == Path(f"{file}.judge").read_bytes()


TENSORFLOW_S = Path(__file__).with_name("tensorflow.tfrecord")
READ_BY_TENSORFLOW = "27598ebad2defc4489c4d2b67b8c576b52f32d664a90abf675aa42e5cbdb898d"
"""SHA-256 of the fixture `file`."""
TENSORFLOW = """
import sys, json, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
ours, theirs = sys.argv[1:]
rows = []
with tf.io.TFRecordWriter(theirs) as writer:
    for raw in tf.data.TFRecordDataset([ours]):  # It verifies both checksums.
        example = tf.train.Example.FromString(raw.numpy())
        rows.append({name: list(f.int64_list.value) for name, f in example.features.feature.items()})
        example.features.feature["note"].bytes_list.value.append(b"x")
        example.features.feature["weight"].float_list.value.append(0.5)
        writer.write(example.SerializeToString())
print(json.dumps(rows))
"""


def from_tensorflow(file: Path) -> None:
    """What TensorFlow wrote, which has no index, and features of other types, is read as it is in ours."""
    read = Records([file])
    assert len(read) == 7
    assert all(equal(read[number], example(number)) for number in range(7))


def test_tensorflow_s_file_is_read_and_ours_is_the_one_that_it_has_read(file: Path) -> None:
    """The files of the test below, kept: TensorFlow takes 5 s to import."""
    from_tensorflow(TENSORFLOW_S)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == READ_BY_TENSORFLOW


@pytest.mark.long
def test_tensorflow_reads_ours_and_we_read_tensorflow_s(file: Path) -> None:
    assert hashlib.sha256(file.read_bytes()).hexdigest() == READ_BY_TENSORFLOW
    theirs = file.with_name("theirs.tfrecord")
    call = [sys.executable, "-c", TENSORFLOW, str(file), str(theirs)]
    run = subprocess.run(call, capture_output=True, text=True, check=True)
    rows = json.loads(run.stdout.strip().splitlines()[-1])
    assert rows == [{name: values.tolist() for name, values in example(number).items()} for number in range(7)]
    from_tensorflow(theirs)
    assert theirs.stat().st_size == TENSORFLOW_S.stat().st_size  # The order of an example's features is not stated.


def test_every_flipped_bit_of_a_record_is_found(file: Path) -> None:
    clean = file.read_bytes()
    begin, size = (int(word) for word in Path(f"{file}.index").read_text().splitlines()[3].split())
    for position in range(begin, begin + size):
        broken = bytearray(clean)
        broken[position] ^= 1 << position % 8
        file.write_bytes(broken)
        read = Records([file])
        with pytest.raises(DataError, match=rf"a\.tfrecord: record 3 at byte {begin}: .*checksum") as caught:
            read[3]
        assert str(file) in str(caught.value)
        assert equal(read[2], example(2))
        assert equal(read[4], example(4))


def test_a_flipped_bit_is_found_on_every_read_not_only_the_first(file: Path) -> None:
    read = Records([file])
    assert equal(read[3], example(3))
    begin = int(Path(f"{file}.index").read_text().splitlines()[3].split()[0])
    with open(file, "r+b") as out:
        out.seek(begin + 20)
        byte = out.read(1)[0]
        out.seek(begin + 20)
        out.write(bytes([byte ^ 4]))
    with pytest.raises(DataError, match="record 3"):
        read[3]


@pytest.mark.parametrize("indexed", [True, False])
def test_a_truncated_file_is_found_at_once(file: Path, indexed: bool) -> None:
    clean = file.read_bytes()
    lines = Path(f"{file}.index").read_text().splitlines()
    begin, size = map(int, lines[6].split())
    if not indexed:
        Path(f"{file}.index").unlink()
    for kept in range(begin + 1, begin + size):
        file.write_bytes(clean[:kept])
        with pytest.raises(DataError, match=f"record 6 at byte {begin}"):
            Records([file])
    if indexed:
        file.write_bytes(clean[:begin])
        with pytest.raises(DataError, match="record 6"):
            Records([file])


def test_garbage_behind_the_last_record_is_found(file: Path) -> None:
    with open(file, "ab") as out:
        out.write(b"x" * 30)
    end = file.stat().st_size - 30
    with pytest.raises(DataError, match="its index"):
        Records([file])
    Path(f"{file}.index").unlink()
    with pytest.raises(DataError, match=f"record 7 at byte {end}: the checksum of its length"):
        Records([file])


@settings(deadline=None, max_examples=200)
@given(junk=st.binary(max_size=60), at=st.integers(0, 60), cut=st.integers(0, 60))
def test_no_index_gives_wrong_records(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int, cut: int) -> None:
    place = tmp_path_factory.mktemp("index") / "a.tfrecord"
    records.write(place, map(example, range(4)))
    index = Path(f"{place}.index")
    clean = index.read_bytes()
    index.write_bytes(clean[:at] + junk + clean[at + cut :])
    with contextlib.suppress(DataError):
        read = Records([place])
        assert [equal(read[n], example(n)) for n in range(len(read))] == [True] * 4


def test_index_of_another_file_is_found(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.tfrecord"
    records.write(other, [example(n, 19) for n in range(7)])
    Path(f"{other}.index").replace(f"{file}.index")
    with pytest.raises(DataError, match=r"a\.tfrecord"):
        Records([file])


def test_what_is_no_example_is_refused(file: Path) -> None:
    for message, what in [
        (b"\xff\xff", "not a tf.train.Example"),
        (framing.encode({"ids": np.arange(3)}), "'indices', only ids"),
    ]:
        file.write_bytes(framing.frame(message))
        Path(f"{file}.index").unlink(missing_ok=True)
        with pytest.raises(DataError, match=f"record 0 at byte 0: .*{what}"):
            Records([file])[0]
    records.write(file, [{"indices": np.arange(3), "mask": np.arange(2)}])
    with pytest.raises(DataError, match="'mask' has 2 values, 'indices' 3"):
        Records([file])[0]


def test_few_maps_stay_open_over_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_OPEN", 3)
    places = [tmp_path / f"{n:03d}.tfrecord" for n in range(40)]
    for number, place in enumerate(places):
        records.write(place, [example(number)])
    read = Records(places)

    def mapped() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    assert mapped() == 0
    for number in [*range(40), 0, 39, 7, 39]:
        assert equal(read[number], example(number))
        assert 1 <= mapped() <= 3


def test_a_file_that_is_replaced_while_open_is_refused(file: Path) -> None:
    read = Records([file])
    records.write(file, [example(0)])
    with pytest.raises(DataError, match="do not change records while they are read"):
        read[0]


def _read_often(read: Records, seed: int) -> bool:
    numbers = np.random.default_rng(seed).integers(0, len(read), 300)
    return all(equal(read[int(n)], example(int(n))) for n in numbers)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_forked_processes_share_an_open_instance(tmp_path: Path) -> None:
    place = tmp_path / "a.tfrecord"
    records.write(place, map(example, range(50)))
    read = Records([place])
    assert equal(read[0], example(0))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=lambda seed=seed: sys.exit(not _read_often(read, seed))) for seed in range(4)]
    for worker in workers:
        worker.start()
    assert _read_often(read, 9)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_an_open_instance_can_be_pickled(file: Path) -> None:
    read = Records([file])
    read[0]
    assert _read_often(pickle.loads(pickle.dumps(read)), 0) if len(read) == 7 else False


def test_find(tmp_path: Path) -> None:
    for name in ("b-1", "a-2", "a-1"):
        records.write(tmp_path / f"{name}.tfrecord", [example(0)])
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in records.find(tmp_path)] == ["a-1.tfrecord", "a-2.tfrecord", "b-1.tfrecord"]
    assert [p.name for p in records.find(f"{tmp_path}/a-*")] == ["a-1.tfrecord", "a-2.tfrecord"]
    assert records.find(tmp_path / "b-1.tfrecord") == [tmp_path / "b-1.tfrecord"]
    with pytest.raises(DataError, match=r"which holds a-1\.tfrecord, a-1\.tfrecord\.index, .*notes\.txt"):
        records.find(f"{tmp_path}/c-*.tfrecord")
    with pytest.raises(DataError, match="which does not exist"):
        records.find(tmp_path / "nowhere" / "*.tfrecord")
    (tmp_path / "empty[1]").mkdir()
    with pytest.raises(DataError, match="which holds nothing"):
        records.find(tmp_path / "empty[1]")
    with pytest.raises(DataError, match="no such record file"):
        Records([tmp_path / "gone.tfrecord"])


def made(folder: Path, **files: list[int]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, numbers in files.items():
        records.write(folder / f"{name.replace('_', '-')}.tfrecord", [example(number) for number in numbers])
    return folder


def test_a_dev_side_of_train_shards_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "data", train_0=[1], train_1=[2])
    for place in (folder, folder / "train-0.tfrecord"):
        assert records.find(place, "train")
        assert not capsys.readouterr().err
        assert records.find(place, "dev")
        assert "train-0.tfrecord" in (said := capsys.readouterr().err)
        assert "made to be trained on, and no dev-*" in said


@pytest.mark.parametrize("form", ["{}", "{}/*", "{}/*.tfrecord", "{}/**/*.tfrecord"])
def test_the_train_side_of_a_folder_or_glob_is_its_train_shards(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(tmp_path / "data", train_0=[1], train_1=[2], dev_0=[3], dev_1=[4])
    path = form.format(folder)
    assert [p.stem for p in records.find(path, "train")] == ["train-0", "train-1"]
    assert "dev-0.tfrecord, dev-1.tfrecord: held out, so left out here" in capsys.readouterr().err
    assert [p.stem for p in records.find(path, "dev")] == ["dev-0", "dev-1"]
    assert len(records.find(path)) == 4
    assert [p.stem for p in records.find(f"{folder}/dev-*.tfrecord", "train")] == ["dev-0", "dev-1"], "asked for by name"
    other = made(tmp_path / "other", part_0=[1])
    assert [p.stem for p in records.find(other, "dev")] == ["part-0"]


def test_no_file_in_two_sources(tmp_path: Path) -> None:
    folder, other = made(tmp_path / "data", train_0=[1, 2], train_1=[3, 4]), made(tmp_path / "other", a=[5], b=[3, 4, 6])
    sources = [records.find(place) for place in (folder, other)]
    records.check_distinct(sources, "record_path_or_regex")
    made(tmp_path / "copy", a=[3, 4])
    (tmp_path / "link.tfrecord").symlink_to(folder / "train-1.tfrecord")
    for name in ("data/*1.tfrecord", "copy", "link.tfrecord"):
        again = [*sources, records.find(tmp_path / name)]
        with pytest.raises(UsageError, match=r"--record_path_or_regex: .* is in two of its sources; name each file once"):
            records.check_distinct(again, "record_path_or_regex")


def test_no_record_on_both_sides(tmp_path: Path) -> None:
    folder = made(tmp_path / "data", train_0=[1, 2], train_1=[3, 4], dev_0=[5, 6])
    train, dev = records.find(folder, "train"), records.find(folder, "dev")
    records.check_apart(train, dev, "record_path_or_regex")
    (tmp_path / "link.tfrecord").symlink_to(folder / "train-1.tfrecord")
    made(tmp_path / "copy", a=[3, 4])
    made(tmp_path / "part", a=[7, 4])
    for name, said in (
        ("link.tfrecord", r"train-1\.tfrecord is in --record_path_or_regex too"),
        ("copy/a.tfrecord", r"train-1\.tfrecord is in --record_path_or_regex too"),
        ("part/a.tfrecord", r"record 3 of --record_path_or_regex is among its records"),
    ):
        with pytest.raises(UsageError, match=rf"--dev_record_path_or_regex: .*{said}; .*name train-\*\.tfrecord"):
            records.check_apart(train, [tmp_path / name], "record_path_or_regex")
