"""What of YAML is read, and what is said of the rest: never with Python's words, always with the line."""

from pathlib import Path

import pytest

from jobgen.pipeline import source
from minima.errors import UsageError, did_you_mean, told


def error(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        source.parse(text, "p.yaml")
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!!python/object/apply:os.system ['x']", "!!python/object/apply:os.system"),
        ("!!python/name:os.system ''", "!!python/name:os.system"),
        ("!foo bar", "!foo"),
        ("!foo {b: c}", "!foo"),
        ("!foo [b]", "!foo"),
        ("!!set {b}", "!!set"),
        ("!!omap [b: c]", "!!omap"),
        ("!!binary aGk=", "!!binary"),
        ("!!seq {b: c}", "!!seq"),
        ("!include other.yaml", "!include"),
    ],
)
@pytest.mark.parametrize(("text", "place"), [("a: VALUE", "p.yaml:1: a: "), ("x: y\na: [1, {b: VALUE}]", "p.yaml:2: a.1.b: ")])
def test_a_tag_is_refused_wherever_it_stands(value: str, tag: str, text: str, place: str) -> None:
    assert (
        error(text.replace("VALUE", value)) == f"{place}found the tag {tag}; a value without a tag is valid, a string in quotes"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!pipeline\na: b", "p.yaml:1: found the tag !pipeline"),
        ("a: b\n!foo c: d", "p.yaml:2: found c as a key; a string without a tag is valid"),
        ("a: 1\na: 2", "p.yaml:2: a: a repeated key, first on line 1; remove one"),
        ("a: {b: &x {c: d}, e: {<<: *x}}", "p.yaml:1: a.e: found the merge key <<"),
        ("a: on", "p.yaml:1: a: found on; true, false or a string in quotes is valid"),
        ("a: No", "p.yaml:1: a: found No; true, false or a string in quotes is valid"),
        ("on: a", "p.yaml:1: found on as a key; 'on' in quotes is valid"),
        ("a: 010", "found 010; a number in plain decimal or a string in quotes is valid"),
        ("a: 0x1F", "found 0x1F; a number in plain decimal"),
        ("a: 0b1", "found 0b1; a number in plain decimal"),
        ("a: 1_000", "found 1_000; a number in plain decimal"),
        ("a: 1:30", "found 1:30; a number in plain decimal"),
        ("a: 1_0.5", "found 1_0.5; a number in plain decimal"),
        (f"a: {'9' * 19}", "found a number of 19 digits; at most 18 are valid, or a string in quotes"),
        ("a: 2026-11-24", "found 2026-11-24, which YAML 1.1 reads as a date; put it in quotes"),
        ("a: 2026-11-24T10:00:00Z", "which YAML 1.1 reads as a date"),
        ("a: =", "found =, which YAML 1.1 reads as a key's default; put it in quotes"),
        (
            "a: {{ .Values.x }}",
            "found a list or mapping as a key; a string is valid; a template such as {{ … }} must be filled in",
        ),
        ("a:\n\tb: c", "p.yaml:2: not YAML: found a tab; blanks are valid"),
        ("a:\tb", "p.yaml:1: not YAML: found a tab; blanks are valid"),
        ("a: @b", "not YAML: found a value that begins with '@'; put it in quotes"),
        ("a: *.txt", "not YAML: found a value that begins with * or &; put it in quotes"),
        ("a: *b", "not YAML: found an alias of 'b', which no & names; put it in quotes if a text is meant"),
        ("a: &x b\nc: &x d\ne: *x", "p.yaml:2: not YAML: found an anchor of the same name twice"),
        ("a: b: c", "p.yaml:1: not YAML: found a ':' where none can be"),
        ("a: b\n c: d", "p.yaml:2: not YAML: found a ':' where none can be"),
        ("a:\n  b: c\n d: e", "p.yaml:3: not YAML: the line is indented otherwise than those beside it"),
        ("a: 'b\nc: d\n", "not YAML: found the file's end; a closing quote is valid (of what begins on line 1)"),
        ("a: {b: c\nd: e", "p.yaml:2: not YAML: found ':'; ',' or '}' is valid (of what begins on line 1)"),
        ("a: [\n", "not YAML: found the file's end in place of a value"),
        ("a: b\nc: \x1b", "p.yaml:2: not YAML: found the character U+001B; text without control characters is valid"),
        ("- a", "p.yaml:1: found a list; a mapping of keys such as `name: …` is valid"),
        ("hello", "p.yaml:1: found 'hello'; a mapping of keys"),
        ("[1]", "p.yaml:1: found a list; a mapping of keys"),
        ("---\n---\n", "p.yaml: empty; `jobgen init NAME` writes a pipeline to start from"),
    ],
)
def test_what_is_refused(text: str, expected: str) -> None:
    assert expected in error(text)


@pytest.mark.parametrize(
    "text",
    [
        "---\na: b\n",
        "a: b\n...\n",
        "a: b\n---\n",
        "---\n---\na: b\n",
        "%YAML 1.2\n---\na: b\n",
        "\ufeffa: b\n",
        "{'a': 'b'}",
        '? a\n: "b"',
        "a: !!str b",
        "a: >-\n  b\n",
        "a: &x b\n",
    ],
)
def test_what_says_the_same(text: str) -> None:
    (document,) = source.parse(text, "p.yaml")
    assert document.value == {"a": "b"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: b\n".encode("utf-16"), "not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8"),
        ("a: b\n".encode("utf-16-be"), "it holds NUL bytes, as UTF-16 and binary files do"),
        (b"\x7fELF\2\1\1\0\0", "it holds NUL bytes, as UTF-16 and binary files do; a pipeline file is valid"),
        ("a: b\nc: é\n".encode("latin-1"), "p.yaml:2: not UTF-8 text: found the byte 0xe9; save it as UTF-8"),
    ],
)
def test_what_is_no_utf_8(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        source.read(tmp_path / "p.yaml", "p.yaml", "pipeline")
    assert expected in str(caught.value)


def test_ends_of_lines_are_those_of_any_system(tmp_path: Path) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "p.yaml").write_bytes(b"a: b" + end + b"c: d" + end)
        assert source.read(tmp_path / "p.yaml", "p.yaml", "pipeline") == "a: b\nc: d\n"


@pytest.mark.parametrize("name", ["", "-", "https://example.com/p.yaml"])
def test_what_names_no_file(name: str) -> None:
    with pytest.raises(UsageError, match="a file on this machine, or one of smoke, is valid"):
        source.read(Path(name), name, "pipeline", ["smoke"])


def test_what_an_alias_stands_for_has_the_line_where_it_is_written() -> None:
    (document,) = source.parse("a: &x\n  b:\n    c: d\n\ne: *x\nf: {g: *x}\n", "p.yaml")
    place = document.place
    assert place("e") == "p.yaml:5: e"
    assert place("e", "b", "c") == "p.yaml:3: e.b.c"
    assert place("f", "g", "b") == "p.yaml:2: f.g.b"
    assert place.nearest(("f", "g", "b", "no")) == ("f", "g", "b")


def test_values_are_told_in_the_words_of_yaml() -> None:
    values = {
        "null": None,
        "true": True,
        "false": False,
        "3": 3,
        ".inf": float("inf"),
        "-.inf": -float("inf"),
        ".nan": float("nan"),
    }
    assert {told(value) for value in values.values()} == values.keys()
    assert told({"a": [1, "b", None], "c": {"d": False}}) == "{a: [1, 'b', null], c: {d: false}}"
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    assert told(deep) == "[[[[[…]]]]]"
    assert len(told("x" * 1000)) == 80


def test_capitals_hide_no_name() -> None:
    assert did_you_mean("a100", ["A100", "H100"]).startswith("did you mean 'A100'?")
    assert did_you_mean("NoSchedul", ["NoSchedule", "NoExecute"]).startswith("did you mean 'NoSchedule'?")
