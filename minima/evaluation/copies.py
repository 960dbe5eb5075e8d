"""Reading offline copies of benchmarks, in the schema of the hub, with every row checked."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minima.benchmarks import OWN_TASKS, Benchmark, Row, instructions
from minima.errors import DataError, NotReadyError


@dataclass(frozen=True)
class Data:
    """An offline copy of a benchmark.

    Attributes:
        benchmark: which one.
        subjects: for each subject that is there, the rows of each split.
        missing: subjects of the benchmark that are not there.
        limited: whether items were left out by `limit`.
    """

    benchmark: Benchmark
    subjects: Mapping[str, Mapping[str, list[Row]]]
    missing: tuple[str, ...]
    limited: bool = False

    @property
    def items(self) -> int:
        """How many items are scored."""
        return sum(len(splits[self.benchmark.splits[0]]) for splits in self.subjects.values())

    @property
    def partial(self) -> bool:
        """Whether the score is not that of the whole benchmark."""
        return self.limited or bool(self.missing)


def find(benchmark: Benchmark, data_dir: str, limit: int = 0) -> Data:
    """Read the offline copy of `benchmark` and check every row.

    Args:
        benchmark: one of BENCHMARKS.
        data_dir: the folder with offline copies; tasks of this package do not need it.
        limit: items at most, spread evenly over the subjects from the first on; 0 for all.

    Raises:
        NotReadyError: the benchmark or a split of a subject is not there.
        DataError: a file cannot be read, or a row has not the schema of the hub.
    """
    if not benchmark.dataset:
        rows = _read([OWN_TASKS / f"{benchmark.name}.jsonl"], benchmark)
        return _limit(Data(benchmark, {"data": {"test": rows}}, ()), limit)
    folder = Path(data_dir) / benchmark.name
    names = benchmark.subjects()
    there = [name for name in names if (folder / name).is_dir()]
    if not there:
        found = "it is not there" if not folder.is_dir() else f"it has none of {', '.join(list(names)[:3])} …"
        raise NotReadyError(
            f"--data_dir: {folder} is no copy of {benchmark.name}: {found}\n{instructions(benchmark, data_dir)}"
        )
    subjects = {}
    for name in there:
        splits = {}
        for split in benchmark.splits:
            files = _files(folder / name, split)
            if not files:
                raise NotReadyError(
                    f"--data_dir: {folder / name} has neither {split}.jsonl nor {split}-*.parquet\n"
                    f"{instructions(benchmark, data_dir)}"
                )
            splits[split] = _read(files, benchmark)
        shots = splits[benchmark.splits[1]] if len(benchmark.splits) > 1 else []
        if len(shots) < benchmark.shot_rows:
            raise DataError(
                f"{folder / name}: the split {benchmark.splits[1]} has {len(shots)} rows; "
                f"{benchmark.shots} shots need {benchmark.shot_rows} at least"
            )
        subjects[name] = splits
    return _limit(Data(benchmark, subjects, tuple(name for name in names if name not in there)), limit)


def _files(folder: Path, split: str) -> list[Path]:
    lines = folder / f"{split}.jsonl"
    return [lines] if lines.is_file() else sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])


def _read(files: list[Path], benchmark: Benchmark) -> list[Row]:
    rows = []
    for place in files:
        for where, raw in _lines(place) if place.suffix == ".jsonl" else _parquet_rows(place):
            rows.append(_checked(raw, benchmark, f"{place}, {where}"))
    if not rows:
        raise DataError(f"{files[0]}: holds no row")
    return rows


def _lines(place: Path) -> Iterator[tuple[str, Any]]:
    with open(place, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:  # also UnicodeDecodeError
                raise DataError(f"{place}, line {number}: not JSON ({error})") from None


def _parquet_rows(place: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(place)
    except (ArrowException, OSError) as error:
        raise DataError(f"{place}: not a Parquet file ({error})") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", row


def _checked(raw: Any, benchmark: Benchmark, where: str) -> Row:
    columns = ", ".join(f"{name} ({kind.__name__})" for name, kind in benchmark.columns.items())
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a {type(raw).__name__}; valid: an object with {columns}")
    for name, kind in benchmark.columns.items():
        if name not in raw:
            raise DataError(
                f"{where}: no key {name!r} (found {', '.join(map(str, raw))}); a row of {benchmark.name} has {columns}"
            )
        if not isinstance(raw[name], kind) or isinstance(raw[name], bool):
            raise DataError(f"{where}: {name!r} is a {type(raw[name]).__name__}; valid: {kind.__name__}")
    if wrong := benchmark.check(raw):
        raise DataError(f"{where}: {wrong}")
    return {name: raw[name] for name in benchmark.columns}


def _limit(data: Data, limit: int) -> Data:
    if not limit or data.items <= limit:
        return data
    split = data.benchmark.splits[0]
    left, kept = limit, dict.fromkeys(data.subjects, 0)
    while left:
        for name, splits in data.subjects.items():
            if left and kept[name] < len(splits[split]):
                kept[name] += 1
                left -= 1
    subjects = {name: {**splits, split: splits[split][: kept[name]]} for name, splits in data.subjects.items() if kept[name]}
    return dataclasses.replace(data, subjects=subjects, limited=True)
