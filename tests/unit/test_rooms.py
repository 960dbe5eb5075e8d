"""What may import what: each package says so in a sentence, and this holds it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND_LINE = {"options", "flags", "errors", "benchmarks", "addresses"}
"""The modules beside the packages; `flags` reads `options`, which reads `addresses`, `benchmarks` and `errors`."""
BELOW = {
    "errors": set(),
    "benchmarks": {"errors"},
    "addresses": {"errors"},
    "options": {"addresses", "benchmarks", "errors"},
    "flags": {"options", "errors"},
    "workspace": {"addresses", "options", "errors"},
    "process": COMMAND_LINE | {"workspace"},
    "data": COMMAND_LINE | {"workspace", "process"},
    "sources": COMMAND_LINE | {"workspace"},
    "models": COMMAND_LINE | {"workspace", "process", "data"},
    "training": COMMAND_LINE | {"workspace", "process", "data", "models"},
    "evaluation": COMMAND_LINE | {"workspace", "process", "data", "models"},
    "stages": COMMAND_LINE | {"workspace", "process", "data", "models", "training", "evaluation", "sources"},
}
JOBGEN_BELOW = {
    "report": set(),
    "screen": set(),
    "pod": set(),
    "pipeline": {"pod"},
    "artifacts": {"pipeline", "report"},
    "garbage": {"pipeline", "artifacts", "report"},
    "preview": {"pipeline", "artifacts", "report"},
    "manifests": {"pipeline", "pod"},
    "cluster": {"pipeline", "manifests", "artifacts", "report", "screen"},
    "local": {"pipeline", "artifacts", "report", "screen"},
}
OF_MINIMA = COMMAND_LINE | {"workspace", "process", "models.shape"}
"""What jobgen may import of minima: nothing that needs torch."""


def arrows(program: str) -> Iterator[tuple[Path, list[str], list[str]]]:
    """File, the parts of its name, and the parts of each module of ours that it imports."""
    for place in sorted((ROOT / program).rglob("*.py")):
        own = place.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(place.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] in {"minima", "jobgen"}:
                    yield place, list(own), name.split(".")


@pytest.mark.parametrize(("program", "below"), [("minima", BELOW), ("jobgen", JOBGEN_BELOW)])
def test_imports_go_one_way(program: str, below: dict[str, set[str]]) -> None:
    seen = 0
    for place, own, name in arrows(program):
        if own[1] in {"__main__", "cli", "commands"} or name[0] != program:
            continue
        seen += 1
        allowed = below[own[1]] | {own[1]}
        assert name[1] in allowed, f"{place}: imports {'.'.join(name)}; {own[1]} may import {', '.join(sorted(allowed))}"
    assert seen > 20


def test_jobgen_imports_nothing_heavy_of_minima() -> None:
    for place, own, name in arrows("jobgen"):
        if name[0] == "minima" and own[1] != "__main__":
            assert name[1] in OF_MINIMA or ".".join(name[1:3]) in OF_MINIMA, f"{place}: imports {'.'.join(name)}"
    assert not any(name[0] == "jobgen" for _, _, name in arrows("minima"))


@pytest.mark.parametrize("program", ["minima", "jobgen"])
def test_every_package_says_what_it_is_and_what_it_may_import(program: str) -> None:
    packages = [place for place in (ROOT / program).iterdir() if (place / "__init__.py").is_file()]
    assert packages
    for package in packages:
        said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert "import" in said, package
