import contextlib
import gzip
import itertools
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minima.data import corpus
from minima.data.corpus import Document, Span
from minima.errors import DataError


def read(folder: Path, pattern: str = "*", megabytes: int = 1, key: str = "text") -> list[str]:
    return [d.text for s in corpus.spans(folder, pattern, megabytes) for d in corpus.documents(folder, s, key)]


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_kinds_of_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes("第一\r\n\n  \nlast".encode())
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(jsonl("zipped")))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("一\n二\n".encode()))
    (tmp_path / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + jsonl("one\ntwo", "é\u2028x", "", " \n") + b'{"id": 1, "text": "\\ud83d\\ude00"}'
    )
    (tmp_path / "_SUCCESS.json").write_text("{}")
    (tmp_path / ".hidden.txt").write_text("no")
    assert read(tmp_path) == ["one\ntwo", "é\u2028x", "😀", "一", "二", "zipped", "第一", "last"]
    assert read(tmp_path, "*.jsonl") == ["one\ntwo", "é\u2028x", "😀"]


def test_glob_reaches_into_folders_only_if_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "in" / "ner").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "in" / "ner" / "b.txt").write_text("b")
    assert read(tmp_path, "*.txt") == ["a"]
    assert read(tmp_path, "**/*.txt") == ["a", "b"]
    assert corpus.files(tmp_path, "in/*/*.txt") == ["in/ner/b.txt"]
    with pytest.raises(DataError, match=r"no file matches --input_regex '\*\.jsonl'; the folder holds a\.txt, in/ \('\*\*/'"):
        corpus.files(tmp_path, "*.jsonl")
    with pytest.raises(DataError, match="not a folder"):
        corpus.files(tmp_path / "a.txt", "*")
    (tmp_path / "c.parquet").write_text("x")
    with pytest.raises(DataError, match=r"matches c\.parquet; valid kinds of files: \.jsonl, \.txt"):
        corpus.files(tmp_path, "*")


@settings(deadline=None)
@given(lines=st.lists(st.integers(0, 40), max_size=60), size=st.integers(1, 50), ends=st.booleans())
def test_spans_are_the_file_cut_at_the_ends_of_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], size: int, ends: bool
) -> None:
    folder = tmp_path_factory.mktemp("spans")
    content = b"".join(b"x" * n + b"\n" for n in lines) + b"y" * (not ends)
    (folder / "a.txt").write_bytes(content)
    spans = list(corpus._spans(folder, "a.txt", size))
    assert b"".join(content[s.begin : s.end] for s in spans) == content
    for before, after in itertools.pairwise(spans):
        assert before.end == after.begin
        assert content[before.end - 1 : before.end] == b"\n"
        assert before.end - before.begin >= size
    expected = [line for line in content.decode().split("\n") if line]
    found = [d for s in spans for d in corpus.documents(folder, s, "text")]
    assert [d.text for d in found] == expected
    assert all(content[d.offset :].startswith(d.text.encode()) for d in found)


def test_megabytes_and_order_of_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = b"z" * 1000 + b"\n"
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_bytes(line * 2500)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(line * 2500))
    spans = corpus.spans(tmp_path, "*", 1)
    step = -(-(1 << 20) // 1001) * 1001
    cuts = [(0, step), (step, 2 * step), (2 * step, 2_502_500)]
    assert spans[:-1] == [Span(name, *cut) for name in ("a.txt", "b.txt") for cut in cuts]
    assert spans[-1].file == "c.txt.gz"
    assert len(list(corpus.documents(tmp_path, spans[-1], "text"))) == 2500
    real = os.scandir

    class Shuffled(list[os.DirEntry[str]]):
        def __enter__(self) -> "Shuffled":
            return self

        def __exit__(self, *error: object) -> None: ...

    def shuffled(path: str) -> Shuffled:
        entries = Shuffled(real(path))
        random.Random(3).shuffle(entries)
        return entries

    monkeypatch.setattr(os, "scandir", shuffled)
    assert corpus.spans(tmp_path, "*", 1) == spans


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "x"', "not JSON (Expecting ',' delimiter at column 13)"),
        (b'["x"]', "a JSON list, where a document is an object"),
        (b'{"txt": "x", "id": 1}', "no key 'text'; --text_key names the key of the text: did you mean 'txt'? (valid: id, txt)"),
        (b"{}", "the object is empty"),
        (b'{"text": null}', "'text' is null, not a string"),
        (b'{"text": [1]}', "'text' is a JSON list, not a string"),
        (b'{"text": "\\ud83d"}', "half a surrogate pair"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 0xff at column 11)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, what: str, packed: bool) -> None:
    content = jsonl("a", "b") + b"\n" + line + b"\n" + jsonl("c")
    place = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    place.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=rf"^{re.escape(str(place))}:4: .*{re.escape(what)}"):
        read(tmp_path)


def test_line_numbers_count_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("x" * 1000) * 3000 + b"nonsense\n")
    assert len(corpus.spans(tmp_path, "*", 1)) == 3
    with pytest.raises(DataError, match=r"a\.jsonl:3001: not JSON"):
        read(tmp_path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine\n" + "汉字".encode("gbk") + b"\n")
    with pytest.raises(DataError, match=r"a\.txt:2: not UTF-8 \(byte 0xba at column 1\)"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"no gzip", lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:]])
def test_damaged_compression(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    packed = gzip.compress(random.Random(0).randbytes(300).hex().encode() + b"\n")
    (tmp_path / "a.txt.gz").write_bytes(damage(packed))
    with pytest.raises(DataError, match=r"a\.txt\.gz: damaged"):
        read(tmp_path)


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


@settings(deadline=None, max_examples=400)
@given(lines=st.lists(LINE, max_size=6), name=st.sampled_from(["a.jsonl", "a.txt", "a.jsonl.gz"]), zipped=st.booleans())
def test_any_bytes_give_documents_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], name: str, zipped: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    content = b"\n".join(lines)
    (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    with contextlib.suppress(DataError):
        for span in corpus.spans(folder, "*", 1):
            for document in corpus.documents(folder, span, "text"):
                assert isinstance(document, Document)
                assert document.text.strip()
                document.text.encode()
