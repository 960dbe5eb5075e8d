"""Offline copies of benchmarks: which file of a folder holds which split of which subject, and the rows of all of them."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from minima.benchmarks import OWN_TASKS, PAPER, Benchmark, Row, instructions, known_as
from minima.data import containers
from minima.errors import DataError, NotReadyError, listed
from minima.evaluation import forms
from minima.workspace.files import walk

_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]{16})?(?=\.|$)|(?<=/)\d{4}(?=\.)")
"""What tells the shards of one table from each other, in names of the hub: `test-00000-of-00001-6b9d1a2c3e4f5a6b.parquet`,
`test/0000.parquet`."""
_OF_THE_HUB = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What lies beside the rows of a data set."""
_BESIDE = re.compile(r"socratic|(^|/)(example|cache)[^/]*$")
"""GSM8K has its questions once more with other answers, and repositories have examples of what their programs read."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_ALL = ""
"""For the subject of a file that holds all of them, each row with its own."""
_DEPTH = 5
"""Folders down that the folder of a benchmark is looked for: FastChat/fastchat/llm_judge/data/vicuna_bench."""


@dataclass(frozen=True)
class Data:
    """An offline copy of a benchmark.

    Attributes:
        benchmark: which one.
        subjects: for each subject that is there, the rows of each split.
        missing: subjects of the benchmark that are not there.
        rows: how many the copy has in the split that is scored.
        limited: whether items were left out by `limited`.
        folder: where it is.
    """

    benchmark: Benchmark
    subjects: Mapping[str, Mapping[str, list[Row]]]
    missing: tuple[str, ...]
    rows: int
    limited: bool = False
    folder: Path = field(default=OWN_TASKS, compare=False)

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
        rows = [row for _, row in _read([OWN_TASKS / f"{benchmark.name}.jsonl"], benchmark, "data")]
        return Data(benchmark, {"data": {"test": rows}}, (), len(rows))
    help_with_it = instructions(benchmark, data_dir)
    folder, files = _files(benchmark, data_dir)
    named = Path(data_dir) / benchmark.name
    if not files and not named.is_dir():
        raise NotReadyError(f"--data_dir: {named} is not there\n{help_with_it}")
    places = _places(folder, files, benchmark)
    _check_once(places, benchmark)
    names = benchmark.subjects()
    there = [name for name in names if any((name, split) in places for split, _ in benchmark.splits)]
    if not there and any((_ALL, split) in places for split, _ in benchmark.splits):
        there = [_ALL]
    if not there:
        archives = [name for name in files if name.lower().endswith(_ARCHIVES) or ".tar." in name.lower()]
        what = f"unpack {listed(archives)} there" if archives else f"it has {listed(files, 3)}"
        raise NotReadyError(f"--data_dir: {folder} has no file of {benchmark.name}: {what}\n{help_with_it}")
    subjects: dict[str, dict[str, list[Row]]] = {}
    for name in there:
        for split in benchmark.reads(protocol):
            if (name, split) not in places:
                found = listed([str(file) for (subject, _), found in places.items() if subject == name for file in found])
                of = f" of {name}" if name != _ALL else ""
                raise NotReadyError(f"--data_dir: {folder} has no {split} split{of}, but {found}\n{help_with_it}")
            for subject, row in _read(places[name, split], benchmark, name):
                subjects.setdefault(subject, {}).setdefault(split, []).append(row)
    for name, splits in subjects.items():
        place = places[there[0] if there == [_ALL] else name, benchmark.scored][0]
        _check(benchmark, protocol, shots, {split: splits.get(split, []) for split in benchmark.reads(protocol)}, place)
    scored = sum(len(splits[benchmark.scored]) for splits in subjects.values())
    missing = tuple(name for name in names if name not in subjects)
    return Data(benchmark, subjects, missing, scored, folder=folder)


def folder_of(name: str, data_dir: str) -> Path | None:
    """The folder of the copy of a benchmark: `data_dir`, or one below it, that has its name or another that it goes by.

    Raises:
        DataError: there are several.
    """
    level = [Path(data_dir)]
    if (level[0] / name).is_dir():
        return level[0] / name
    if known_as(level[0].name) == name and level[0].is_dir():
        return level[0]
    for _ in range(_DEPTH):
        level = [
            place
            for folder in level
            if folder.is_dir()
            for place in sorted(folder.iterdir())
            if place.is_dir() and not place.name.startswith((".", "_"))
        ]
        if found := [place for place in level if known_as(place.name) == name]:
            if len(found) > 1:
                raise DataError(
                    f"--data_dir: {listed([str(place) for place in found])} may be the copy of {name}; name one of them {name}"
                )
            return found[0]
    return None


def _files(benchmark: Benchmark, data_dir: str) -> tuple[Path, list[str]]:
    """The folder of a copy with the files in it; of `data_dir` itself, if it is the copy, those that are no other's."""
    if found := folder_of(benchmark.name, data_dir):
        return found, walk(found)
    folder = Path(data_dir)
    if not folder.is_dir():
        return folder, []
    files = [file for file in walk(folder) if not any(map(known_as, PurePosixPath(file).parent.parts))]
    places = _places(folder, files, benchmark)
    subjects = {subject for subject, split in places if split == benchmark.scored}
    # Two benchmarks have some names of subjects in common, and many files have rows.
    if len(subjects - {_ALL}) * 2 < len(benchmark.subjects()) or not all(
        forms.fits(place, benchmark.name) for found in places.values() for place in found
    ):
        return folder, []
    return folder, files


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
    """For each subject and split its files: one, or the shards of one table (`_check_once`)."""
    places: dict[tuple[str, str], list[Path]] = {}
    subjects = benchmark.subjects()
    whole = False
    for file in files:
        name = PurePosixPath(file)
        ends = [end for end in name.suffixes if end.lower() not in containers.PACKED]
        if not ends or ends[-1].lower() not in forms.KINDS or name.name in _OF_THE_HUB or _BESIDE.search(file.lower()):
            continue
        stem = name.name[: name.name.rindex(ends[-1])]
        words = [re.sub(r"\s", "_", word.lower()) for word in (_SHARD.sub("", stem), *reversed(name.parent.parts))]
        split = next(filter(None, map(benchmark.split_of, words)), benchmark.unnamed_split)
        bare = {re.sub(r"[_-](test|dev|val|validation|train)$", "", word).replace("-", "_") for word in words}
        only = next(iter(subjects)) if len(subjects) == 1 else _ALL
        subject = only or next((word for word in sorted(bare) if word in subjects), _ALL)
        if split:
            places.setdefault((subject, split), []).append(folder / file)
            whole |= subject == _ALL and split == benchmark.scored and "all" in bare
    # The hub has all subjects once more in one file, which counts where only some of them are beside it.
    named = {subject for subject, split in places if subject != _ALL and split == benchmark.scored}
    all_of_them = whole and len(named) < len(subjects)
    if any(subject != _ALL for subject, _ in places):
        places = {key: found for key, found in places.items() if (key[0] == _ALL) == all_of_them}
    return places


def _check_once(places: Mapping[tuple[str, str], list[Path]], benchmark: Benchmark) -> None:
    for (subject, split), found in places.items():
        if len({_SHARD.sub("", str(place)) for place in found}) > 1:
            several = subject != _ALL and len(benchmark.subjects()) > 1
            what = f"the {split} split of {subject}" if several else f"the {split} split"
            raise DataError(f"--data_dir: {what} is there more than once: {listed([str(f) for f in found])}; keep one")


def _read(files: list[Path], benchmark: Benchmark, subject: str) -> list[tuple[str, Row]]:
    """The rows of a split, each with its subject."""
    rows = []
    for place in files:
        for where, named, row in forms.read(place, benchmark.name):
            if subject == _ALL and named not in benchmark.subjects():
                raise DataError(f"{where}: no 'subject' that {benchmark.name} has, but {named!r}")
            rows.append((named if subject == _ALL else subject, row))
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
