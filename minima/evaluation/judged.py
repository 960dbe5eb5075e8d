"""Benchmarks whose answers another model judges: Vicuna-Bench and BELLE-Bench.

The model writes an answer to each question; a judge compares it with the reference answer twice, once in either order.
An answer wins if it is the better one both times, loses if it is the worse one both times, and else is even. All that was
asked and said goes into the samples, and into a file that an ended run leaves, from which the next one goes on.
"""

import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from minima.benchmarks import JUDGED, Row
from minima.errors import DataError, NotReadyError, listed
from minima.evaluation import copies, forms
from minima.evaluation.judge import Judge, RefusedError, messages
from minima.workspace.files import walk

AT_ONCE = 8
"""Requests at a time."""
PART = 40
"""Answers or judgements of a file that keeps them."""
USED = "used"
"""Key of what all runs asked of the judge together: requests, tokens read, tokens written."""


@dataclass(frozen=True)
class Question:
    """A question with the answer to compare with."""

    id: str
    text: str
    category: str
    reference: str


@dataclass
class Kept:
    """Answers and judgements by what was asked, in files that the next run reads: each as soon as it is there.

    Attributes:
        parts: the content of the files that an earlier run left.
        write: makes a text the content of the file of that number.
    """

    parts: list[str]
    write: Callable[[int, str], None]
    found: dict[str, Any] = field(default_factory=dict)
    _new: dict[str, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        for line in "".join(self.parts).splitlines():
            entry = json.loads(line)
            self.found[entry["key"]] = entry["value"]
        self._number = len(self.parts)

    def keep(self, entries: Mapping[str, Any]) -> None:
        """Add entries, and write them; a file that is full is not written again."""
        with self._lock:
            if len(self._new) >= PART:
                self._new, self._number = {}, self._number + 1
            self._new |= entries
            self.found |= entries
            lines = (json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n" for key, value in self._new.items())
            self.write(self._number, "".join(lines))


def questions(name: str, data_dir: str, limit: int) -> tuple[list[Question], int]:
    """The questions of `name` with their reference answers, and how many have none, which are left out.

    Args:
        name: one of JUDGED.
        data_dir: the folder with offline copies.
        limit: questions at most; 0 for all.

    Raises:
        NotReadyError: they are not there.
        DataError: a file cannot be read, or a question or answer is there twice.
    """
    folder = copies.folder_of(name, data_dir) or Path(data_dir) / name
    files = [folder / file for file in walk(folder) if _is_of(name, file)] if folder.is_dir() else []
    asked: dict[str, Row] = {}
    answered: dict[str, str] = {}
    for file in files:
        for number, (where, _, row) in enumerate(forms.read(file, name), start=1):
            key = row["id"] or str(number)
            if (row["question"] and key in asked) or (row["reference"] and key in answered):
                raise DataError(f"{where}: {key} is there a second time; keep one file of questions, and one of answers")
            if row["question"]:
                asked[key] = row
            if row["reference"]:
                answered[key] = row["reference"]
    if not asked or not answered:
        missing = "questions" if not asked else "reference answers"
        raise NotReadyError(
            f"--data_dir: {folder} has no {missing} ({listed([f.name for f in files])} is there); put there {JUDGED[name]}"
        )
    made = [Question(key, row["question"], row["category"], answered[key]) for key, row in asked.items() if key in answered]
    if not made:
        raise DataError(f"--data_dir: {folder}: no reference answer has the id of a question")
    return made[:limit] if limit else made, len(asked) - len(made)


def _is_of(name: str, file: str) -> bool:
    """Whether a file has questions or answers: repositories have the judges' prompts and judgements beside them."""
    place = PurePosixPath(file)
    words = re.split(r"[_.-]", place.name.lower())
    other = {"vicuna": "zh", "belle": "en"}[name]
    beside = {other, "prompt", "reviewer", "review", "model", "judgment"} & {*words}
    return not beside and bool({*map(str.lower, place.suffixes)} & {*forms.KINDS})


def answers(asked: list[Question], write: Callable[[list[str]], list[str]], model: str, kept: Kept) -> list[str]:
    """The model's answers.

    Args:
        asked: the questions.
        write: gives an answer for each question.
        model: what tells this model, and how it is asked, from others.
        kept: what an earlier run wrote.
    """
    keys = [_key(model, question.text) for question in asked]
    left = [i for i, key in enumerate(keys) if key not in kept.found]
    if left:
        kept.keep(dict(zip((keys[i] for i in left), write([asked[i].text for i in left]), strict=True)))
    return [kept.found[key] for key in keys]


def judge(asked: list[Question], said: list[str], by: Judge, kept: Kept, at: Callable[[int], None]) -> list[dict[str, Any]]:
    """Every question with its two judgements.

    Args:
        asked: the questions.
        said: the model's answer to each.
        by: who judges.
        kept: what an earlier run judged.
        at: is told how many judgements are there.

    Returns:
        for each question `rounds`: what the judge was asked and said, with the scores of the model's `own` answer and of the
        `other`; and how it `ended`: "win", "even", "loss", or "unjudged" where the judge refuses.

    Raises:
        UsageError, NotReadyError: the judge cannot be asked; what it judged is kept.
    """
    pairs = [(i, own_first) for i in range(len(asked)) for own_first in (True, False)]
    rounds: dict[tuple[int, bool], dict[str, Any]] = {}

    def one(pair: tuple[int, bool]) -> dict[str, Any]:
        i, own_first = pair
        texts = (said[i], asked[i].reference) if own_first else (asked[i].reference, said[i])
        prompt = messages(asked[i].text, *texts)
        key = _key(by.model, prompt)
        if key in kept.found:
            judged: dict[str, Any] = kept.found[key]
            return judged
        try:
            first, second, reply = by.scores(asked[i].text, *texts)
        except RefusedError as error:  # Not kept: the next run may have more luck.
            return {"prompt": prompt, "own_first": own_first, "refused": str(error)}
        own, other = (first, second) if own_first else (second, first)
        judged = {"prompt": prompt, "own_first": own_first, "reply": reply, "own": own, "other": other}
        kept.keep({key: judged, USED: by.used()})
        return judged

    by.add(*kept.found.get(USED, (0, 0, 0)))
    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        asking = {threads.submit(one, pair): pair for pair in pairs}
        for done in as_completed(asking):
            rounds[asking[done]] = done.result()
            at(len(rounds))
    finally:
        threads.shutdown(wait=True, cancel_futures=True)  # After an error nothing more is begun.
    return [_line(asked[i], said[i], [rounds[i, True], rounds[i, False]]) for i in range(len(asked))]


def summary(lines: Iterable[Mapping[str, Any]], by: Judge, left_out: int) -> dict[str, Any]:
    """Wins and scores over all questions that were judged; `score` counts an even one as half a win.

    Raises:
        DataError: none was judged.
    """
    lines = list(lines)
    judged = [line for line in lines if line["ended"] != "unjudged"]
    if not judged:
        why = next(part["refused"] for line in lines for part in line["rounds"] if "refused" in part)
        raise DataError(f"--judge_model: {by.model} judged none of {len(lines)} questions; of the first it says: {why}")
    points = [{"win": 1.0, "even": 0.5, "loss": 0.0}[line["ended"]] for line in judged]
    rounds = [part for line in judged for part in line["rounds"]]
    mean = math.fsum(points) / len(points)
    spread = math.fsum((point - mean) ** 2 for point in points)
    return {
        "score": mean,
        "stderr": math.sqrt(spread / (len(points) - 1) / len(points)) if len(points) > 1 else None,
        "items": len(judged),
        **{ended: sum(line["ended"] == ended for line in lines) for ended in ("win", "even", "loss", "unjudged")},
        "without_reference": left_out,
        "own_mean": math.fsum(part["own"] for part in rounds) / len(rounds),
        "other_mean": math.fsum(part["other"] for part in rounds) / len(rounds),
        "judge": by.model,
    }


def _line(question: Question, said: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    if any("refused" in part for part in rounds):
        ended = "unjudged"
    else:
        better = {part["own"] > part["other"] for part in rounds}
        worse = {part["own"] < part["other"] for part in rounds}
        ended = "win" if better == {True} else "loss" if worse == {True} else "even"
    return {
        "id": question.id,
        "category": question.category,
        "question": question.text,
        "answer": said,
        "reference": question.reference,
        "rounds": rounds,
        "ended": ended,
    }


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
