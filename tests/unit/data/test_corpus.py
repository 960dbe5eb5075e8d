import bz2
import contextlib
import gzip
import itertools
import json
import lzma
import random
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minima.data import containers, conversations, corpus, documents, objects
from minima.data.corpus import Span
from minima.data.documents import Bad
from minima.data.objects import Form, Left
from minima.errors import DataError
from tests.unit import damage

TEXTS = ["one\ntwo", "é\u2028x", "汉字 is text", "😀", 'a "quoted" [one], {two}']
OBJECTS: list[dict[str, Any]] = [{"id": n, "title": f"t{n}", "text": text} for n, text in enumerate(TEXTS)]


def found(folder: Path, pattern: str = "*", megabytes: int = 1, form: Form = Form()) -> list[str | Bad | Left]:  # noqa: B008
    spans = corpus.spans(folder, pattern, megabytes, form.document)
    return [one for span in spans for one in corpus.read(folder, span, form)]


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def zstd(content: bytes) -> bytes:
    packed: bytes = pyarrow.Codec("zstd").compress(content, asbytes=True)
    return packed


def lz4(content: bytes) -> bytes:
    packed: bytes = pyarrow.Codec("lz4").compress(content, asbytes=True)
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": partial(lzma.compress, format=lzma.FORMAT_ALONE),
    ".zst": zstd,
    ".zstd": zstd,
    ".lz4": lz4,
}


def parquet(place: Path, schema: Any = None, **arguments: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(OBJECTS, schema), place, **arguments)


def arrow(place: Path) -> None:
    table = pyarrow.Table.from_pylist(OBJECTS)
    with pyarrow.ipc.new_stream(str(place), table.schema) as out:
        out.write_table(table, max_chunksize=2)


def arrow_file(place: Path) -> None:
    table = pyarrow.Table.from_pylist(OBJECTS)
    with pyarrow.ipc.new_file(str(place), table.schema) as out:
        out.write_table(table, max_chunksize=2)


LINES = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in OBJECTS).encode()
ARRAY = json.dumps(OBJECTS, ensure_ascii=False).encode()
WAYS: dict[str, bytes | Callable[[Path], None]] = {
    "a.jsonl": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\n"),
    "wiki_00": LINES,
    "part.00000": LINES,
    "c4-train.00000-of-01024.json.gz": gzip.compress(LINES) + gzip.compress(b""),
    "b.json": ARRAY,
    "c.json": b"\xef\xbb\xbf" + json.dumps(OBJECTS, indent=2).encode() + b"\n",
    "d.json": b"\n".join(json.dumps(one, indent=1).encode() for one in OBJECTS),
    "no-end": ARRAY,
    "e.json.bz2": bz2.compress(ARRAY),
    "f.jsonl.xz": lzma.compress(LINES),
    "00.jsonl.zst": zstd(LINES[:100]) + zstd(LINES[100:]),
    "train-00000-of-00001.parquet": parquet,
    "groups.parquet": lambda place: parquet(place, row_group_size=2),
    "data-00000-of-00001.arrow": arrow,
    "file.arrow": arrow_file,
    "bytes.parquet": lambda place: parquet(place, schema=pyarrow.schema({"title": "binary", "text": "large_binary"})),
    "A.JSONL": LINES,
    "B.JSONL.GZ": gzip.compress(LINES),
    "a.ndjson": LINES,
    "packed.jsonl": gzip.compress(LINES),
    "packed.json": bz2.compress(ARRAY),
    "packed.ndjson": zstd(LINES),
    "lines.json": lzma.compress(LINES),
    "part-00000": gzip.compress(LINES),
    "part-00001": zstd(LINES),
    "part-00002": bz2.compress(ARRAY),
    "part-00003": lzma.compress(LINES),
    "array.jsonl": ARRAY,
    "pretty.jsonl": json.dumps(OBJECTS, indent=1).encode(),
    "objects.jsonl": b"\n".join(json.dumps(one, indent=1).encode() for one in OBJECTS),
    "commas-first.json": b"[" + b"\n,".join(json.dumps(one).encode() for one in OBJECTS) + b"\n]",
    "old-mac.jsonl": LINES.replace(b"\n", b"\r"),
    "a.jsonlines": LINES,
    "a.pq": parquet,
    "b": parquet,
    "a.feather": arrow_file,
    "c": arrow_file,
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_every_way_in_which_documents_come_gives_the_same(
    tmp_path: Path, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = WAYS[name]
    way(tmp_path / name) if callable(way) else (tmp_path / name).write_bytes(way)
    if ".json" not in name or name == "a.jsonl":  # How little of a file is looked at does not change what it is.
        monkeypatch.setattr(containers, "BLOCK", block)
    assert found(tmp_path) == TEXTS
    several = Form(("title", "text"))
    assert found(tmp_path, form=several) == [f"t{n}\n{text}" for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize("bad", [b'{"text": "x', b"{bad}", b"null", b"garbage", b'{"text": 1}', b"[]"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
def test_a_bad_first_line_spoils_no_other(tmp_path: Path, name: str, bad: bytes) -> None:
    (tmp_path / name).write_bytes(bad + b"\n" + LINES)
    first, *others = found(tmp_path)
    assert isinstance(first, Bad)
    assert others == TEXTS


@pytest.mark.parametrize(
    "first",
    [
        "[Music] Hello there",
        "[[Category:Towns]]",
        "{{Infobox town}}",
        "{| class=wikitable",
        "[1] A footnote",
        '["Quoted," he said]',
        "[",
        "{x}",
        "null",
        '"Quoted"',
    ],
)
@pytest.mark.parametrize("name", ["a", "a.txt"])
def test_text_that_begins_like_json_is_text(tmp_path: Path, name: str, first: str) -> None:
    (tmp_path / name).write_text(f"{first}\nsecond\n{{}}\n")
    assert found(tmp_path) == [first, "second", "{}"]


@pytest.mark.parametrize("size", range(1, 40))
def test_an_array_is_the_same_however_much_of_it_is_read_at_once(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ' [ {"n": 1.5e3, "t": "a\\"]["} ,\n\t12, -3.25, "汉",[1,[2]], null, true,{}]\n'
    (tmp_path / "a.json").write_text(content)
    monkeypatch.setattr(containers, "BLOCK", size)
    read = list(containers.values(tmp_path / "a.json"))
    assert [value for _, value in read] == json.loads(content)
    assert [line for line, _ in read] == [1, *[2] * 7]


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_what_follows_an_array_is_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(containers, "BLOCK", block)
    place = tmp_path / "a.json"
    place.write_text("[\n1,\n2]\n[\n]\n[3]{}\n \n")
    assert list(containers.values(place)) == [(2, 1), (3, 2), (6, 3), (6, {})]
    place.write_text("[\n1]\ngarbage\n")
    with pytest.raises(DataError, match=r"a\.json: the value that begins on line 3 is not JSON"):
        list(containers.values(place))


def test_kinds_of_text(tmp_path: Path) -> None:
    poem = "\n\nfirst line\nsecond line\r\n  \n\nthird line\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + poem.encode())
    assert found(tmp_path) == ["first line", "second line", "third line"]
    assert found(tmp_path, form=Form(document="paragraph")) == ["first line\nsecond line", "third line"]
    assert found(tmp_path, form=Form(document="file")) == [poem.replace("\r", "")]
    (tmp_path / "a.txt").write_bytes("汉字\n".encode("gb18030"))
    assert found(tmp_path, form=Form(encoding="gb18030")) == ["汉字"]
    (tmp_path / "a.txt").rename(tmp_path / "wiki_00")
    (tmp_path / "wiki_00").write_text('<doc id="1" title="A">\nA\n\nabout A\n</doc>\n\n<doc id="2" title="B">\nB\n</doc>\n')
    for document in ("line", "file"):
        assert found(tmp_path, form=Form(document=document)) == ["A\n\nabout A", "B"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_how_lines_end_and_what_is_blank_within_them_is_no_text(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.txt").write_bytes(end.join(["one", "two", "\u3000", "汉字", " \t", "\xa0", "four", ""]).encode("gb18030"))
    for document, texts in (
        ("line", ["one", "two", Left.BLANK, "汉字", Left.BLANK, "four"]),
        ("paragraph", ["one\ntwo", "汉字", "four"]),
        ("file", ["one\ntwo\n\u3000\n汉字\n \t\n\xa0\nfour\n"]),
    ):
        assert found(tmp_path, form=Form(document=document, encoding="gb18030")) == texts


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_articles_of_wikiextractor(tmp_path: Path, end: str) -> None:
    lines = [
        '<doc id="1" url="u" title="a > b">T',
        "body",
        "<doc x> starts a line",
        "</doc>",
        "",
        '<doc id="2" title="7" pipe">one</doc>',
        "<doc id=3>",
        "last",
    ]
    (tmp_path / "wiki_00").write_text("\ufeff" + end.join([*lines, ""]), newline="")
    assert found(tmp_path) == ["T\nbody\n<doc x> starts a line", "one", "last"]


def test_wide_characters_without_a_mark_are_named(tmp_path: Path) -> None:
    """Such a text is ASCII with a NUL behind each character."""
    (tmp_path / "a.txt").write_bytes("the of\nand\n".encode("utf-16-le"))
    hint = "UTF-16 or UTF-32 without a mark at its beginning; convert it: `iconv -f UTF-16LE -t UTF-8 FILE >NEW`"
    (tmp_path / "a.jsonl").write_bytes(jsonl("the", "of").decode().encode("utf-16-le"))
    for name in ("a.txt", "a.jsonl"):
        assert {one.what for one in found(tmp_path, name) if isinstance(one, Bad)} == {hint}
    (tmp_path / "a.json").write_bytes(ARRAY.decode().encode("utf-16-le"))
    with pytest.raises(DataError, match=re.escape(hint)):
        found(tmp_path, "a.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
def test_wide_characters_with_a_mark_are_read_whatever_the_encoding_of_the_others(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    for name, content in (
        ("a.txt", "one\r\n汉字\n"),
        ("b.jsonl", LINES.decode()),
        ("c.json", ARRAY.decode()),
        ("d", ARRAY.decode()),
    ):
        (tmp_path / name).write_bytes((mark + content).encode(encoding))
    (tmp_path / "e.txt").write_bytes("汉字\n".encode("gb18030"))
    assert found(tmp_path, form=Form(encoding="gb18030")) == ["one", "汉字", *TEXTS, *TEXTS, *TEXTS, "汉字"]
    (tmp_path / "a.txt").write_bytes((mark + "one").encode(encoding)[:-1])
    with pytest.raises(DataError, match=r"a\.txt: damaged .*truncated"):
        found(tmp_path)
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress((mark + LINES.decode()).encode(encoding)))
    with pytest.raises(DataError, match=r"f\.jsonl\.gz: UTF-16 or UTF-32 within what is compressed; unpack it"):
        found(tmp_path, "*.gz")


def test_folders_of_the_library_datasets(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(OBJECTS)
    made.save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert found(tmp_path / "one") == TEXTS
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(tmp_path / "splits"))
    assert found(tmp_path / "splits", "train/*") == TEXTS
    assert found(tmp_path / "splits", "**/*") == [TEXTS[0], *TEXTS]


@settings(deadline=None, max_examples=60)
@given(
    lines=st.lists(st.integers(0, 40), max_size=60),
    size=st.integers(1, 50),
    ends=st.booleans(),
    document=st.sampled_from(["line", "paragraph"]),
)
def test_parts_are_the_file_cut_between_documents(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], size: int, ends: bool, document: str
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    content = b"".join(b"x" * n + b"\n" for n in lines) + b"y" * (not ends)
    (folder / "a.txt").write_bytes(content)
    parts = list(documents.parts(folder, "a.txt", size, document))
    assert b"".join(content[p.begin : p.end] for p in parts) == content
    for before, after in itertools.pairwise(parts):
        assert before.end == after.begin
        assert content[before.end - 1 : before.end] == b"\n"
        assert before.end - before.begin >= size
    form = Form(document=document)
    text = content.decode()
    expected = text.split("\n") if document == "line" else [p.strip("\n") for p in re.split(r"\n{2,}", text)]
    assert [d for p in parts for d in documents.read(folder, p, form)] == [one for one in expected if one]


def test_large_files_are_cut_and_small_ones_go_together(tmp_path: Path) -> None:
    line = b"z" * 1000 + b"\n"
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_bytes(line * 2500)
    for number in range(30):
        (tmp_path / f"c{number:02d}.txt").write_bytes(line)
    spans = corpus.spans(tmp_path, "*", 1)
    step = -(-(1 << 20) // 1001) * 1001
    cuts = [(0, step), (step, 2 * step), (2 * step, 2_502_500)]
    assert [(p.file, p.begin, p.end) for s in spans for p in s.parts][:6] == [(n, *c) for n in ("a.txt", "b.txt") for c in cuts]
    assert [[p.file for p in s.parts] for s in spans[:2]] == [["a.txt"], ["a.txt"]]
    assert len(spans) == 5
    assert spans[-1].parts[-1].file == "c29.txt"
    assert sum(span.size for span in spans) == 5030 * 1001
    assert isinstance(spans[0], Span)


DOCUMENTS: list[dict[str, Any]] = [
    {"title": "A", "meta": {"text": "one", "lang": "zh"}, "ok": True, "n": 1},
    {"title": None, "meta": {"text": "two", "lang": "en"}, "ok": True, "n": 2},
    {"title": "C", "meta": {"text": " \n", "lang": "zh"}, "ok": False, "n": 3},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.arrow"])
def test_keys_in_objects_filters_and_what_is_left_out(tmp_path: Path, name: str) -> None:
    table = pyarrow.Table.from_pylist(DOCUMENTS)
    match name:
        case "a.parquet":
            pyarrow.parquet.write_table(table, tmp_path / name)
        case "a.arrow":
            with pyarrow.ipc.new_stream(str(tmp_path / name), table.schema) as out:
                out.write_table(table)
        case _:
            lines = [json.dumps(one) for one in DOCUMENTS]
            (tmp_path / name).write_text("\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]")

    def texts(*keys: str, wanted: dict[str, list[str]] | None = None) -> list[str | Bad | Left]:
        return found(tmp_path, form=Form(keys, wanted=wanted or {}))

    blank, filtered = Left.BLANK, Left.FILTERED
    assert texts("meta.text") == ["one", "two", blank]
    assert texts("title", "meta.text") == ["A\none", "two", "C"]
    assert texts("meta.text", wanted={"meta.lang": ["zh"]}) == ["one", filtered, blank]
    assert texts("meta.text", wanted={"meta.lang": ["zh", "en"], "ok": ["true"]}) == ["one", "two", filtered]
    assert texts("meta.text", wanted={"n": ["2"]}) == [filtered, "two", filtered]
    if name.startswith("a.j"):
        assert texts("meta.text", wanted={"gone": ["x"]}) == [filtered] * 3
        assert "did you mean 'meta.text'? (valid: meta.lang, meta.text, title)" in texts("text")[0].what  # type: ignore[union-attr]
    else:
        for form in (Form(("gone",)), Form(("title",), wanted={"gone": ["x"]})):
            with pytest.raises(
                DataError, match=r"no column 'gone', which --(text_key|filter) names; valid: meta, n, ok, title"
            ):
                found(tmp_path, form=form)


def test_a_text_file_has_no_keys_and_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n")
    with pytest.raises(DataError, match=r"a\.txt: a text file, which has no keys; .* leave out --filter"):
        found(tmp_path, form=Form(wanted={"lang": ["zh"]}))
    (tmp_path / "b.txt").write_bytes(b'a text with JSON:\n{"of": "a program"}\nand more\n')
    assert len(found(tmp_path)) == 4
    long = json.dumps({"text": "x" * (containers.BLOCK + 1)}).encode()
    for content in (
        b'{"of": "a program"}\n',
        b'null\n{"content": "x"}\n',
        LINES,
        ARRAY,
        json.dumps(OBJECTS, indent=1).encode(),
        long,
    ):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.txt: JSON, which would be read as text; rename it to a\.txt\.jsonl"):
            found(tmp_path)
        for name in ("a.txt.jsonl", "a"):
            (tmp_path / "a.txt").rename(tmp_path / name)
            read = [one for one in found(tmp_path, name) if isinstance(one, str)]
            assert all(one in TEXTS or set(one) == {"x"} for one in read)
            (tmp_path / name).rename(tmp_path / "a.txt")


def test_bytes_that_are_no_text_spoil_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"text": "a"},\n{"text": "\xff"}, {"text": "b"}]')
    valid = pyarrow.array([b"c", b"\xff", b"d"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, valid.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "b.parquet")
    read = found(tmp_path)
    assert [one for one in read if isinstance(one, str)] == list("abcd")
    assert [one.where for one in read if isinstance(one, Bad)] == [f"{tmp_path}/a.json:2", f"{tmp_path}/b.parquet, row 1"]


def test_what_lies_beside_data_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "README.md",
        "LICENSE",
        "licence.txt",
        "Thumbs.db",
        ".a.jsonl.crc",
        "a.jsonl.crc",
        "cache-1.arrow",
        "_SUCCESS",
    ):
        (tmp_path / name).write_text("no text of the corpus")
    for name in ("a.jsonl", "license_texts.jsonl", "_b.jsonl"):
        (tmp_path / name).write_bytes(jsonl(name))
    (tmp_path / "_old").mkdir()
    (tmp_path / "empty.jsonl").touch()
    assert found(tmp_path, "**/*") == ["a.jsonl", "license_texts.jsonl"]
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: LICENSE, README.md, Thumbs.db, a.jsonl.crc, cache-1.arrow, licence.txt: beside the data, so left out",
        f"{tmp_path}: _b.jsonl, _old: begin with _, so left out",
        f"{tmp_path}: empty.jsonl: empty",
    ]
    assert found(tmp_path, "licence.txt") == ["no text of the corpus"]
    assert found(tmp_path, "a.jsonl") == ["a.jsonl"]
    assert capsys.readouterr().err == ""


def test_small_files_are_opened_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them may lie far away."""
    opened = Counter[str]()

    def count(place: Path, *words: Any, **named: Any) -> Any:
        opened[Path(place).name] += 1
        return open(place, *words, **named)

    monkeypatch.setattr(containers, "open", count, raising=False)
    for name in ("a.jsonl", "b.txt", "c.json", "d"):
        (tmp_path / name).write_bytes(b"text\n" if name == "b.txt" else LINES)
    assert found(tmp_path) == [*TEXTS, "text", *TEXTS, *TEXTS]
    assert max(opened.values()) <= 6
    (tmp_path / "d").write_bytes(b"now text of another size\n")
    assert found(tmp_path, "d") == ["now text of another size"]


def test_a_file_that_goes_while_it_is_read(tmp_path: Path) -> None:
    for name in ("a.txt", "b.json", "c.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(LINES) if name.endswith("gz") else LINES if name != "a.txt" else b"text\n")
        spans = corpus.spans(tmp_path, "*", 1)
        (tmp_path / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: gone since this began"):
            list(corpus.read(tmp_path, spans[0], Form()))


def test_a_file_of_several_names_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of two revisions in the hub's cache, or of a folder `latest`."""
    top = tmp_path / "datasets--org--name"
    for name in ("blobs/0a1b", "refs/main", "snapshots/1/a", "snapshots/2/a"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
    (top / "blobs" / "0a1b").write_bytes(LINES)
    (top / "refs" / "main").write_text("2")
    for revision in "12":
        (top / "snapshots" / revision / "a.jsonl").symlink_to("../../blobs/0a1b")
    assert found(tmp_path, "**/*") == TEXTS
    said = capsys.readouterr().err
    assert "blobs/0a1b, datasets--org--name/refs/main: beside the data" in said
    assert "snapshots/2/a.jsonl: another name of a file that is read already" in said
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("x")
    (tmp_path / "x" / "b.txt").hardlink_to(tmp_path / "x" / "a.txt")
    (tmp_path / "x" / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "y").symlink_to("x")
    assert found(tmp_path, "*/[ab].txt") == ["x"]
    with pytest.raises(DataError, match=r"x/loop\.txt, y/loop\.txt: links that lead to no file"):
        found(tmp_path, "**/*.txt")


def test_row_groups_are_parts(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", row_group_size=2)
    parts = list(documents.parts(tmp_path, "a.parquet", 1))
    assert [(p.begin, p.end) for p in parts] == [(0, 1), (1, 2), (2, 3)]
    assert [t for p in parts for t in documents.read(tmp_path, p, Form())] == TEXTS


def test_glob_reaches_into_folders_only_if_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "in" / "ner").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "in" / "ner" / "b.txt").write_text("b")
    (tmp_path / "_SUCCESS.json").write_text("{}")
    (tmp_path / ".hidden.txt").write_text("no")
    assert found(tmp_path, "*.txt") == ["a"]
    assert found(tmp_path, "**/*.txt") == ["a", "b"]
    assert corpus.files(tmp_path, "in/*/*.txt") == ["in/ner/b.txt"]
    assert corpus.files(tmp_path, "./**") == ["a.txt", "in/ner/b.txt"]
    with pytest.raises(DataError, match=r"no file matches --input_regex '\*\.jsonl'; the folder holds .*a\.txt, in/ \('\*\*/'"):
        corpus.files(tmp_path, "*.jsonl")
    with pytest.raises(DataError, match="not a folder"):
        corpus.files(tmp_path / "a.txt", "*")
    (tmp_path / "c.csv").write_text("x")
    with pytest.raises(
        DataError, match=r"matches c\.csv; valid kinds of files: \.jsonl, \.json, \.txt, \.parquet, \.arrow, each"
    ):
        corpus.files(tmp_path, "*")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone\.txt: links that lead to no file"):
        corpus.files(tmp_path, "*.txt")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "x"', "not JSON (Expecting ',' delimiter at column 13)"),
        (b'["x"]', "a JSON list, where a document is an object"),
        (b'{"txt": "x", "id": 1}', "no key 'text'; --text_key names the key of the text: did you mean 'txt'? (valid: txt)"),
        (b"{}", "the object is empty"),
        (b'{"text": null}', "'text' is null, not a string"),
        (b'{"text": [1]}', "'text' is a JSON list, not a string"),
        (b'{"text": "\\ud83d"}', "half a surrogate pair"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 0xff at column 11); --encoding"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, what: str, packed: bool) -> None:
    content = jsonl("a", "b") + b"\n" + line + b"\n" + b"\xef\xbb\xbf" + jsonl("c")
    place = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    place.write_bytes(gzip.compress(content) if packed else content)
    read = found(tmp_path)
    assert [read[0], read[1], read[3]] == ["a", "b", "c"]
    assert isinstance(read[2], Bad)
    assert read[2].where == f"{place}:4"
    assert what in read[2].what


def test_where_bad_documents_stand(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("x" * 1000) * 3000 + b"nonsense\n")
    assert len(corpus.spans(tmp_path, "*", 1)) == 3
    (tmp_path / "b.json").write_text('[\n{"text": "x"},\n\n{"text": 1}]')
    (tmp_path / "c.txt").write_bytes(b"fine\n\nfine\nfine\n" + "汉字".encode("gbk") + b"\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", None]}), tmp_path / "d.parquet", row_group_size=1)
    for document, line in (("line", 5), ("paragraph", 3)):
        bad = [one for one in found(tmp_path, form=Form(document=document)) if isinstance(one, Bad)]
        assert [one.where for one in bad] == [
            f"{tmp_path}/a.jsonl:3001",
            f"{tmp_path}/b.json:4",
            f"{tmp_path}/c.txt:{line}",
            f"{tmp_path}/d.parquet, row 2",
        ]
    assert found(tmp_path, "c.txt", form=Form(encoding="gb18030"))[-1] == "汉字"


def test_the_lines_before_a_part_are_counted_once_and_only_for_a_bad_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    real = documents._line_breaks

    def line_breaks(place: Path, end: int) -> int:
        counted.append(end)
        return real(place, end)

    monkeypatch.setattr(documents, "_line_breaks", line_breaks)
    (tmp_path / "a.jsonl").write_bytes(jsonl(*"abc") + b"x\n" * 30 + jsonl("d"))
    parts = list(documents.parts(tmp_path, "a.jsonl", 45))
    read = [list(documents.read(tmp_path, part, Form())) for part in parts]
    bad = [one for found in read for one in found if isinstance(one, Bad)]
    assert [one.where for one in bad] == [f"{tmp_path}/a.jsonl:{n}" for n in range(4, 34)]
    assert len(parts) == 3
    assert counted == [p.begin for p, found in zip(parts, read, strict=True) if any(isinstance(one, Bad) for one in found)]


def flipped(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 255]) + content[61:]


@pytest.mark.parametrize("end", PACK)
@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"no archive", flipped])
def test_damaged_compression(tmp_path: Path, end: str, damage: Callable[[bytes], bytes]) -> None:
    pack = PACK[end]
    if end not in {".gz", ".bz2", ".xz"} and damage is flipped:
        return  # There is no checksum in LZMA, and Arrow writes none into Zstandard and LZ4.
    packed = pack(random.Random(0).randbytes(300).hex().encode() + b"\n")
    (tmp_path / f"a.txt{end}").write_bytes(damage(packed))
    with pytest.raises(DataError, match=rf"a\.txt{end}: damaged"):
        found(tmp_path)


@pytest.mark.parametrize(
    "content", [b'[{"text": "a"}, {"text": "b"', b'[{"text": "a"} x', b'[{"text": "a"},', b'{\n"text": "a"\n', b"[" * 90_000]
)
def test_an_array_that_ends_too_early(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json.*(is not JSON \(|nested too deeply)"):
        found(tmp_path)


def test_columns_and_files_that_are_not_there(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: no column 'txt', which --text_key names; did you mean 'text'"):
        found(tmp_path, form=Form(("txt",)))
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"a\.parquet: Git LFS pointers, not the files; `git lfs pull`"):
        found(tmp_path)
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "a.arrow").write_text("nothing of that sort")
    with pytest.raises(DataError, match=r"a\.arrow: damaged"):
        found(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.jsonl.gz", "a.txt.zst", "a.arrow", "wiki_00"])
def test_git_lfs_pointers_are_no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(damage.POINTER)
    (tmp_path / "b.txt").write_text("In the beginning\n")
    with pytest.raises(DataError, match=rf"{re.escape(name)}: Git LFS pointers, not the files; `git lfs pull`"):
        found(tmp_path)
    for kinds in (containers.KINDS, conversations.KINDS):
        with pytest.raises(DataError, match="Git LFS pointers"):
            corpus.files(tmp_path, "*", kinds)


@pytest.mark.parametrize("end", PACK)
def test_compressed_text_whose_name_does_not_say_so(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.txt").write_bytes(PACK[end](b"one\ntwo\n"))
    (tmp_path / f"a.txt{end}").write_bytes(PACK[end](b"named\n"))
    (tmp_path / "b.txt").write_text("BZh is how bzip2 begins\n")
    assert found(tmp_path) == ["one", "two", "named", "BZh is how bzip2 begins"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("x.jsonl.part0", r"join its parts (`cat x.jsonl.* >x.jsonl`, then remove them), or choose an --input_regex without"),
        ("x.jsonl.gz.part.a", "(`cat x.jsonl.gz.* >x.jsonl.gz`, then remove them)"),
        ("Dr.Strange", "rename Dr.Strange if it is one of them (say Dr.Strange.txt), convert it if it is not"),
        ("a.jsonl.tar.gz", "a.jsonl.tar.gz is an archive: unpack it (`minima fetch` does with --unpack true"),
        ("in.tgz", "in.tgz is an archive"),
        ("data.v1.0", "(say data.v1.0.txt)"),
        ("x.jsonl.br", "x.jsonl.br is compressed in a way that is not read: unpack it"),
    ],
)
def test_files_of_no_kind_get_a_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=re.escape(remedy)):
        corpus.files(tmp_path, "*")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"version": "1", "data": [{"text": "a"}]}, "the list under 'data': `jq -c '.[\"data\"][]' FILE >NEW.jsonl`"),
        ({"texts": ["a"], "txt": "a"}, "--text_key names the key of the text: did you mean 'txt'? (valid: txt)"),
        ({"texts": ["a"]}, "no key 'text'; and no other key holds a text, found texts"),
    ],
)
def test_a_key_that_holds_a_list_is_not_advised(tmp_path: Path, value: dict[str, Any], what: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    (bad,) = found(tmp_path)
    assert isinstance(bad, Bad)
    assert what in bad.what
    assert "--text_key data" not in bad.what


@pytest.mark.parametrize(
    ("value", "key", "texts"),
    [
        ({"0": {"text": "a"}, "1": {"text": "b"}}, "text", ["a", "b"]),
        ({"x": {"content": "a", "id": 1}, "y": {"content": "b", "id": 2}}, "content", ["a", "b"]),
        ({"x": {"text": "a"}, "y": {"text": "b", "id": 2}}, "text", ["a", "b"]),
        ({"text": {"0": "a", "1": "b"}, "id": {"0": 1, "1": 2}}, "text", ["a", "b"]),
        (["a", "b"], "text", ["a", "b"]),
        ({"meta": {"text": ["a", "b"]}}, "meta.text", ["a\nb"]),
    ],
)
def test_the_command_that_is_advised_makes_documents(tmp_path: Path, value: Any, key: str, texts: list[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    wrong = "text" if key == "content" else key
    bad = next(one for one in found(tmp_path, form=Form((wrong,))) if isinstance(one, Bad))
    if shutil.which("jq") is None:
        pytest.skip("no jq here to try the advised command")
    (command,) = re.findall(r"`(jq .*) FILE >NEW\.jsonl`", bad.what)
    made = subprocess.run([*shlex.split(command), tmp_path / "a.json"], check=True, capture_output=True).stdout
    (tmp_path / "new.jsonl").write_bytes(made)
    assert found(tmp_path, "new.jsonl", form=Form((key,))) == texts


def test_a_command_that_mends_many_is_said_once() -> None:
    bad = [Bad(f"a:{n}", "`jq`" if n < 3 else "a number") for n in range(5)]
    with pytest.raises(DataError, match=r"a:0: `jq`\na:1: the same\na:2: the same\na:3: a number\na:4: a number\nmend"):
        documents.check_bad("f", "documents", 5, 5, bad, 0.0)


def test_of_several_keys_one_is_enough() -> None:
    form = Form(("title", "text"))
    assert objects.of_object({"title": "t", "id": 1}, form) == "t"
    assert objects.of_object({"text": "x"}, form) == "x"
    with pytest.raises(ValueError, match="no key 'title'; --text_key names the key of the text: did you mean 'titel'"):
        objects.of_object({"titel": "x"}, form)


def test_files_without_a_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(DataError, match=r"all files .* are empty \(a\.txt, b\.jsonl\)"):
        corpus.spans(tmp_path, "*", 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
LINE = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.text(st.characters(categories=["L", "Cs", "Zs", "Cc"]), max_size=12).map(lambda t: json.dumps({"text": t}).encode()),
)
NAMES = ["a.jsonl", "a.txt", "a.jsonl.gz", "a.json", "a", "a.zst", "a.xz", "a.json.bz2"]


@settings(deadline=None, max_examples=300)
@given(lines=st.lists(LINE, max_size=6), name=st.sampled_from(NAMES), zipped=st.booleans(), array=st.booleans())
def test_any_bytes_give_documents_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], name: str, zipped: bool, array: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    content = b"[" * array + (b",\n" if array else b"\n").join(lines)
    pack = PACK.get(Path(name).suffix, bytes)
    (folder / name).write_bytes(pack(content) if zipped else content)
    with contextlib.suppress(DataError):
        for one in found(folder):
            if isinstance(one, Bad):
                assert one.where.startswith(str(folder / name))
            if not isinstance(one, str):
                continue
            assert one.strip()
            one.encode()
