"""Offline copies of benchmarks: which file of a folder holds which split of which subject, and the rows of all of them."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from minima.benchmarks import OWN_TASKS, PAPER, Benchmark, Row, instructions
from minima.data import containers
from minima.errors import DataError, NotReadyError, listed
from minima.evaluation import forms
from minima.workspace.files import walk

_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.|$)")
_OF_THE_HUB = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What lies beside the rows of a data set."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class Data:
    """An offline copy of a benchmark.

    Attributes:
        benchmark: which one.
        subjects: for each subject that is there, the rows of each split.
        missing: subjects of the benchmark that are not there.
        rows: how many the copy has in the split that is scored.
        limited: whether items were left out by `limited`.
    """

    benchmark: Benchmark
    subjects: Mapping[str, Mapping[str, list[Row]]]
    missing: tuple[str, ...]
    rows: int
    limited: bool = False

    @property
    def items(self) -> int:
        """How many items are scored."""
        return sum(len(splits[self.benchmark.scored]) for splits in self.subjects.values())

    @property
    def partial(self) -> bool:
        """Whether the score is not that of the whole benchmark."""
        return self.limited or bool(self.missing) or self.rows < self.benchmark.whole


def find(benchmark: Benchmark, data_dir: str, protocol: str, shots: int) -> Data:
    """Read the offline copy of `benchmark` and check every row.

    Args:
        benchmark: one of BENCHMARKS.
        data_dir: the folder with offline copies, that of each benchmark below its name; those of this package need none.
        protocol: by which it will be scored; not every one reads every split.
        shots: solved examples in a prompt.

    Raises:
        NotReadyError: the benchmark or a split of a subject is not there.
        DataError: a file cannot be read, a row has no known form, a split is there twice, or has too few rows.
    """
    if not benchmark.dataset:
        rows = _read([OWN_TASKS / f"{benchmark.name}.jsonl"], benchmark)
        return Data(benchmark, {"data": {"test": rows}}, (), len(rows))
    folder = Path(data_dir) / benchmark.name
    help_with_it = instructions(benchmark, data_dir)
    if not folder.is_dir():
        raise NotReadyError(f"--data_dir: {folder} is not there\n{help_with_it}")
    files = walk(folder)
    places = _places(folder, files, benchmark)
    names = benchmark.subjects()
    there = [name for name in names if any((name, split) in places for split, _ in benchmark.splits)]
    if not there:
        archives = [name for name in files if name.lower().endswith(_ARCHIVES) or ".tar." in name.lower()]
        what = f"unpack {listed(archives)} there" if archives else f"it has {listed(files, 3)}"
        raise NotReadyError(f"--data_dir: {folder} has no file of {benchmark.name}: {what}\n{help_with_it}")
    subjects = {}
    for name in there:
        splits = {}
        for split in benchmark.reads(protocol):
            if (name, split) not in places:
                found = listed([str(file) for (subject, _), found in places.items() if subject == name for file in found])
                raise NotReadyError(f"--data_dir: {folder} has no {split} split of {name}, but {found}\n{help_with_it}")
            splits[split] = _read(places[name, split], benchmark)
        subjects[name] = splits
        _check(benchmark, protocol, shots, splits, places[name, benchmark.scored][0])
    scored = sum(len(splits[benchmark.scored]) for splits in subjects.values())
    return Data(benchmark, subjects, tuple(name for name in names if name not in there), scored)


def limited(data: Data, limit: int) -> Data:
    """`data` with `limit` items at most, spread evenly over the subjects from the first on; with 0 all of them."""
    if not limit or data.items <= limit:
        return data
    split = data.benchmark.scored
    left, kept = limit, dict.fromkeys(data.subjects, 0)
    while left:
        for name, splits in data.subjects.items():
            if left and kept[name] < len(splits[split]):
                kept[name] += 1
                left -= 1
    subjects = {name: {**splits, split: splits[split][: kept[name]]} for name, splits in data.subjects.items() if kept[name]}
    return dataclasses.replace(data, subjects=subjects, limited=True)


def _places(folder: Path, files: list[str], benchmark: Benchmark) -> dict[tuple[str, str], list[Path]]:
    """For each subject and split its files: one, or the shards of one table."""
    places: dict[tuple[str, str], list[Path]] = {}
    subjects = benchmark.subjects()
    for file in files:
        name = PurePosixPath(file)
        suffixes = [end for end in name.suffixes if end not in containers.PACKED]
        # GSM8K has the same questions once more as `socratic`, with other answers.
        if not suffixes or suffixes[-1] not in forms.KINDS or name.name in _OF_THE_HUB or "socratic" in file:
            continue
        stem = name.name[: name.name.rindex(suffixes[-1])]
        words = [_SHARD.sub("", stem), *reversed(name.parent.parts)]
        split = next(filter(None, map(benchmark.split_of, words)), benchmark.unnamed_split)
        bare = {re.sub(r"[_-](test|dev|val|validation|train)$", "", word) for word in words}
        subject = next(iter(subjects)) if len(subjects) == 1 else next((word for word in sorted(bare) if word in subjects), "")
        if split and subject:
            places.setdefault((subject, split), []).append(folder / file)
    for (subject, split), found in places.items():
        if len({_SHARD.sub("", str(place)) for place in found}) > 1:
            what = f"the {split} split of {subject}" if len(subjects) > 1 else f"the {split} split"
            raise DataError(f"--data_dir: {what} is there more than once: {listed([str(f) for f in found])}; keep one")
    return places


def _read(files: list[Path], benchmark: Benchmark) -> list[Row]:
    rows = [row for place in files for _, row in forms.read(place, benchmark.name)]
    if not rows:
        raise DataError(f"{files[0]}: holds no row")
    return rows


def _check(benchmark: Benchmark, protocol: str, shots: int, splits: Mapping[str, list[Row]], place: Path) -> None:
    if protocol != PAPER and any(row.get("answer", "") is None for rows in splits.values() for row in rows):
        raise DataError(
            f"{place.parent}: this copy has all answers of a question in one list (`answers_spans`), and the standard protocol "
            f"must know which belong together; use {benchmark.tutorial} or {benchmark.dataset}, or --protocol paper"
        )
    split = benchmark.shot_split(protocol)
    # lm-evaluation-harness draws one more than it shows (DROP); shots of the scored split must leave some to score.
    wanted = shots + (split in {"train", benchmark.scored})
    if shots and split and len(splits[split]) < wanted:
        raise DataError(
            f"{place.parent}: the split {split} has {len(splits[split])} rows; {shots} shots need {wanted} at least"
        )
