"""Rows of benchmarks in the forms that people have, told by their keys, and made into the one form that is scored.

A file is CSV, JSON (one document or lines), Parquet or Arrow, plain or compressed; what it holds is that of the hub
(https://huggingface.co/datasets) or of the repositories that the MiniMA tutorial links.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minima.benchmarks import Row
from minima.data import containers
from minima.errors import DataError

CSV = ".csv"
KINDS = (CSV, containers.JSON_LINES, containers.JSON, containers.PARQUET, containers.ARROW)
LETTERS = ("A", "B", "C", "D")
_ALSO = {"input": "question", "target": "answer"}


class WrongRowError(Exception):
    """What is wrong with a row; who knows the place says it."""


def read(place: Path, name: str) -> Iterator[tuple[str, str, Row]]:
    """The rows of a file of the benchmark `name`, each with its place for a message, and the subject that it names, if any.

    Raises:
        DataError: the file cannot be read, or a row has none of the forms of the benchmark.
    """
    for where, raw in _raw(place):
        try:
            yield where, str(raw.get("subject", "")) if isinstance(raw, dict) else "", FORMS[name](raw)
        except WrongRowError as error:
            raise DataError(f"{where}: {error}") from None


def fits(place: Path, name: str) -> bool:
    """Whether the first row of a file has a form of the benchmark `name`."""
    try:
        return next(read(place, name), None) is not None
    except DataError:
        return False


def _raw(place: Path) -> Iterator[tuple[str, Any]]:
    kind = CSV if CSV in map(str.lower, place.suffixes) else containers.kind(place)
    if kind == CSV:
        yield from _csv(place)
    elif kind in (containers.PARQUET, containers.ARROW):
        with containers.damage(place):
            for number, row in enumerate(containers.rows(place, kind), start=1):
                where = f"{place}, row {number}"
                if isinstance(row, UnicodeDecodeError):
                    raise DataError(f"{where}: not UTF-8 ({row.reason} at byte {row.start} of a text); fetch the file again")
                yield where, row
    else:
        with containers.damage(place):
            for line, value in containers.values(place):
                for name, row in _unfolded(value):
                    yield f"{place}, {name}" if name else f"{place}:{line}", row


def _csv(place: Path) -> Iterator[tuple[str, Any]]:
    with containers.damage(place), containers.opened(place) as binary:
        reader = csv.reader(io.TextIOWrapper(binary, encoding="utf-8-sig", newline=""))
        header: list[str] | None = None
        line = 1
        try:
            for cells in reader:
                names = [_column(cell) for cell in cells] if line == 1 else []
                if "question" in names and ("answer" in names or {*LETTERS} <= {*names}):
                    header = names
                elif cells:
                    yield f"{place}:{line}", _named(header, cells, f"{place}:{line}")
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            way = f"`iconv -f latin1 -t utf-8 {place.name} >NEW`, or -f gb18030, whichever it is in"
            raise DataError(f"{place}:{line}: not CSV in UTF-8 ({error}); convert it: {way}") from None
        except csv.Error as error:
            raise DataError(f"{place}:{line}: not CSV in UTF-8 ({error})") from None


def _column(name: str) -> str:
    """The name of a column of questions with four choices: some copies have `input` and `target` for them."""
    name = name.strip()
    return _ALSO.get(name.lower(), name.upper() if name.lower() in "abcd" else name.lower())


def _named(header: list[str] | None, cells: list[str], where: str) -> Any:
    if header is None:
        return cells
    if len(cells) != len(header):
        raise DataError(f"{where}: {len(cells)} cells; the first line names {len(header)} ({', '.join(header)})")
    return dict(zip(header, cells, strict=True))


def _unfolded(value: Any) -> Iterator[tuple[str, Any]]:
    """The rows of one JSON document: of BIG-Bench-Hard, of DROP, or the one that it is."""
    if isinstance(value, dict) and isinstance(value.get("examples"), list):
        yield from ((f"example {number}", row) for number, row in enumerate(value["examples"], start=1))
    elif isinstance(value, dict) and value and all(isinstance(p, dict) and "qa_pairs" in p for p in value.values()):
        for passage, part in value.items():
            for number, pair in enumerate(part["qa_pairs"], start=1):
                row = {"passage": part.get("passage"), **pair} if isinstance(pair, dict) else pair
                yield f"question {number} of {passage!r}", row
    else:
        yield "", value


def _texts(raw: Any, *names: str) -> Row:
    """The columns `names` of a row, each a text."""
    if not isinstance(raw, dict):
        raise WrongRowError(f"a {type(raw).__name__}; valid: an object with {', '.join(names)}")
    for name in names:
        if name not in raw:
            raise WrongRowError(f"no key {name!r} (found {', '.join(map(str, raw))}); valid: {', '.join(names)}")
        if not isinstance(raw[name], str):
            raise WrongRowError(f"{name!r} is a {type(raw[name]).__name__}; valid: a text")
    return {name: raw[name] for name in names}


def _four(raw: Any) -> tuple[str, list[str], int]:
    """A question with four choices, by the cells of a CSV file, by the keys A to D, or by `choices` as on the hub."""
    if isinstance(raw, list):
        if len(raw) != 6 or not all(isinstance(cell, str) for cell in raw):
            raise WrongRowError(f"{len(raw)} cells; valid: six, the question, four choices and the letter of the right one")
        return raw[0], raw[1:5], _right(raw[5])
    if isinstance(raw, dict):
        raw = {_column(str(name)): value for name, value in raw.items()}
    if isinstance(raw, dict) and "choices" in raw:
        question, choices = _texts(raw, "question")["question"], raw["choices"]
        if not isinstance(choices, list) or len(choices) != 4 or not all(isinstance(text, str) for text in choices):
            raise WrongRowError(f"'choices' is {choices!r}; valid: four texts")
        if "answer" not in raw:
            raise WrongRowError(f"no key 'answer' (found {', '.join(map(str, raw))})")
        return question, choices, _right(raw["answer"])
    row = _texts(raw, "question", *LETTERS, "answer")
    return row["question"], [row[letter] for letter in LETTERS], _right(row["answer"])


def _right(answer: Any) -> int:
    if isinstance(answer, str) and answer.strip().upper() in LETTERS:
        return LETTERS.index(answer.strip().upper())
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < 4:
        return answer
    raise WrongRowError(f"the answer is {answer!r}; valid: A, B, C, D, or 0, 1, 2, 3")


def _mmlu(raw: Any) -> Row:
    question, choices, answer = _four(raw)
    return {"question": question, "choices": choices, "answer": answer}


def _ceval(raw: Any) -> Row:
    question, choices, answer = _four(raw)
    return {"question": question, **dict(zip(LETTERS, choices, strict=True)), "answer": LETTERS[answer]}


def _drop(raw: Any) -> Row:
    """A question of DROP with its answers; `spans` are all valid ones in a list, as `ucinlp/drop` has them on the hub.

    `answer` is None where the copy has only that list: which of them belong together is not in it.
    """
    row = _texts(raw, "query_id", "passage", "question")
    if isinstance(joined := raw.get("answers_spans"), dict):
        spans = joined.get("spans")
        if not isinstance(spans, list) or not all(isinstance(span, str) for span in spans):
            raise WrongRowError("'answers_spans' has not the form {spans: [texts], types: [texts]}")
        return {**row, "answer": None, "validated_answers": None, "spans": spans}
    answer = _answer(raw.get("answer"))
    others = raw.get("validated_answers") or []
    if isinstance(others, dict):  # The hub turns a list of objects into an object of lists.
        parts = [others.get(name) for name in ("number", "date", "spans")]
        if any(not isinstance(part, list) or len(part) != len(parts[0] or []) for part in parts):
            raise WrongRowError("'validated_answers' has not the form {number: [...], date: [...], spans: [...]}, equally long")
        others = [dict(zip(("number", "date", "spans"), part, strict=True)) for part in zip(*parts, strict=True)]
    valid = [_answer(other) for other in others]
    return {
        **row,
        "answer": answer,
        "validated_answers": {name: [other[name] for other in valid] for name in ("number", "date", "spans")},
        "spans": [span for other in valid or [answer] for span in _spans(other)],
    }


def _answer(raw: Any) -> Row:
    wrong = WrongRowError("an answer has not the form {number: text, date: {day, month, year}, spans: [texts]}")
    if not isinstance(raw, dict) or not isinstance(raw.get("spans"), list) or not isinstance(raw.get("number"), str):
        raise wrong
    date = raw.get("date") or {}
    if not isinstance(date, dict) or not all(isinstance(span, str) for span in raw["spans"]):
        raise wrong
    return {
        "number": raw["number"],
        "date": {part: str(date.get(part) or "") for part in ("day", "month", "year")},
        "spans": raw["spans"],
        # The harness's shots show the names of these columns where the answer should stand; so all must be there, in order.
        **{name: str(raw.get(name) or "") for name in ("worker_id", "hit_id")},
    }


def _spans(answer: Row) -> list[str]:
    date = " ".join(answer["date"].values()).strip()
    return [text for text in (answer["number"], date) if text] + answer["spans"]


def _gsm8k(raw: Any) -> Row:
    row = _texts(raw, "question", "answer")
    if not re.search(r"#### -?[.,]*[0-9]", row["answer"]):
        raise WrongRowError("'answer' does not end in '#### NUMBER'")
    return row


def _vicuna(raw: Any) -> Row:
    """A question of FastChat's files, or an answer of a model to one: the first turn of it."""
    if not isinstance(raw, dict) or not isinstance(raw.get("question_id"), int | str):
        raise WrongRowError(
            "no 'question_id'; valid: {question_id, category, text or turns} or {question_id, model_id, text or choices}"
        )
    is_answer = bool({"choices", "model_id", "answer_id"} & raw.keys())
    turned = raw
    if "choices" in raw:
        turned = raw["choices"][0] if isinstance(raw["choices"], list) and raw["choices"] else {}
    turns = turned.get("turns", [turned.get("text")]) if isinstance(turned, dict) else None
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
        raise WrongRowError(f"{raw['question_id']!r} has no text; valid: 'text', 'turns', or 'choices' with 'turns'")
    return {
        "id": str(raw["question_id"]),
        "category": str(raw.get("category", "")),
        "question": "" if is_answer else turns[0],
        "reference": turns[0] if is_answer else "",
    }


def _belle(raw: Any) -> Row:
    """A question of BELLE's own file, or one of a file as FastChat's, or an answer of a model to one."""
    if isinstance(raw, dict) and "question_id" in raw:
        return _vicuna(raw)
    row = _texts(raw, "question", "std_answer")
    return {
        "id": "",
        "category": str(raw.get("class", "")),
        "question": row["question"],
        "reference": row["std_answer"].strip(),
    }


def _own(raw: Any) -> Row:
    return {**_texts(raw, "context"), **_mmlu({**raw, "question": ""})}


FORMS: dict[str, Callable[[Any], Row]] = {
    "mmlu": _mmlu,
    "ceval": _ceval,
    "drop": _drop,
    "humaneval": lambda raw: _texts(raw, "task_id", "prompt", "test", "entry_point"),
    "bbh": lambda raw: _texts(raw, "input", "target"),
    "gsm8k": _gsm8k,
    "vicuna": _vicuna,
    "belle": _belle,
    "smoke_english": _own,
    "smoke_chinese": _own,
}
"""For each benchmark what makes a row of it."""
