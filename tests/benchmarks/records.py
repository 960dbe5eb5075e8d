"""Speed of writing and reading records, side by side with the tfrecord package and TensorFlow: a Markdown table.

    python -m tests.benchmarks.records [--examples N] [--length S] [--repeat R]

Every contestant turns int64 arrays into a TFRecord file and back into int64 arrays; the file lies in the page cache.
Ours also writes the index, syncs to the disk, and verifies both checksums of every record; TensorFlow verifies them too,
the tfrecord package none. TensorFlow runs in a process of its own, since both packages define the same messages.
The fastest of the repetitions counts; ratios are relative to ours, above 1 means slower.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tfrecord import reader
from tfrecord.writer import TFRecordWriter

from minima.data import records

TENSORFLOW = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
place, rows, repeat = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])

def write():
    with tf.io.TFRecordWriter(place) as writer:
        for row in rows:
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
            example = tf.train.Example(features=tf.train.Features(feature={"indices": feature}))
            writer.write(example.SerializeToString())

def parse(raw):
    return tf.io.parse_single_example(raw, {"indices": tf.io.FixedLenFeature([rows.shape[1]], tf.int64)})

def read():
    for example in tf.data.TFRecordDataset([place]).map(parse).as_numpy_iterator():
        assert example["indices"].dtype == np.int64

def best(call):
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)

print(json.dumps([best(write), best(read)]))
"""


def arrays(examples: int, length: int) -> np.ndarray:
    """Token ids of a vocabulary of 49,216: `[examples, length]`."""
    return np.random.default_rng(0).integers(0, 49_216, (examples, length))


def best(repeat: int, call: Callable[[], object]) -> float:
    """The least time of several calls, in seconds."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def package_write(place: Path, rows: np.ndarray) -> None:
    writer = TFRecordWriter(str(place))
    for row in rows:
        writer.write({"indices": (row, "int")})
    writer.close()


def package_read(place: Path) -> None:
    for example in reader.tfrecord_loader(str(place), None, {"indices": "int"}):
        assert example["indices"].dtype == np.int64


def our_read(place: Path, order: np.ndarray) -> None:
    read = records.Records([place])
    for number in order:
        assert read[number]["indices"].dtype == np.int64


def tensorflow(place: Path, rows: np.ndarray, repeat: int) -> tuple[float, float]:
    """Seconds that TensorFlow takes to write and to read."""
    source = place.with_suffix(".npy")
    np.save(source, rows)
    call = [sys.executable, "-c", TENSORFLOW, str(place), str(source), str(repeat)]
    run = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    write, read = json.loads(run.stdout.splitlines()[-1])
    return write, read


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rows = arrays(options.examples, options.length)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.tfrecord", Path(folder) / "theirs.tfrecord"
        shuffled = np.random.default_rng(1).permutation(options.examples)
        written = best(options.repeat, lambda: records.write(ours, ({"indices": row} for row in rows)))
        table = {
            "minima": (written, best(options.repeat, lambda: our_read(ours, np.arange(options.examples)))),
            "minima, random order": (written, best(options.repeat, lambda: our_read(ours, shuffled))),
            "tfrecord": (
                best(options.repeat, lambda: package_write(theirs, rows)),
                best(options.repeat, lambda: package_read(theirs)),
            ),
        }
        assert ours.read_bytes() == theirs.read_bytes()
        table["TensorFlow"] = tensorflow(theirs, rows, options.repeat)
        assert ours.read_bytes() == theirs.read_bytes()
    print(f"{options.examples} examples of {options.length} ids, best of {options.repeat}\n")
    print("| | write, examples/s | ratio | read, examples/s | ratio |")
    print("|---|---|---|---|---|")
    base_write, base_read = table["minima"]
    for name, (write, read) in table.items():
        rates = [f"{options.examples / s:,.0f} | {s / base:.2f}" for s, base in ((write, base_write), (read, base_read))]
        print(f"| {name} | {rates[0]} | {rates[1]} |")


if __name__ == "__main__":
    main()
