"""Every command of the README is run here, or is one of those that another test runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from minima.errors import EXIT_CODES, PERMANENT, TERMINATED

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
ELSEWHERE = {
    "make smoke": "tests/smoke runs the command of this target; the targets are checked below",
    "make test": "is what runs this",
    "make test-cluster": "the same tests by another marker",
    "kubectl apply -k manifests/overlays/none": "tests/cluster/test_overlays.py",
}
NOT_RUN = {"kubectl apply --server-side -k manifests/operator"}
"""Needs the public internet; the README says that it was not run."""
IN_A_CLUSTER = re.compile(r"\.venv/bin/jobgen (run|status|logs|diff|restart|stop|gc|list) .*-n ")
"""tests/cluster runs these commands, on another pipeline too."""


DOCS = {
    "gitops": {"kubectl create ": "cluster/test_gitops.py", "kubectl wait ": "cluster/test_gitops.py"},
    "queues": {"kubectl apply -f manifests/queues/example.yaml": "cluster/test_queue.py"},
}
"""Pages of docs: how the commands begin that another test runs, and which; those of jobgen run here."""


def commands(text: str = README) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_is_known() -> None:
    for command in commands():
        known = (
            command in ELSEWHERE
            or any(command.startswith(start) for start in NOT_RUN)
            or command.startswith(".venv/bin/jobgen")
        )
        assert known, f"README.md: {command!r} is run by no test"
    assert set(ELSEWHERE) <= set(commands())


@pytest.mark.parametrize("page", DOCS)
def test_the_commands_of_a_page(page: str, tmp_path: Path) -> None:
    for command in commands((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        if command.startswith(".venv/bin/jobgen"):
            words = [str(BIN / "jobgen"), *shlex.split(command)[1:]]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        else:
            (test,) = [test for start, test in DOCS[page].items() if command.startswith(start)]
            assert (ROOT / "tests" / test).exists()


def test_the_commands_of_jobgen_run_in_their_order(tmp_path: Path) -> None:
    run = [shlex.split(c) for c in commands() if c.startswith(".venv/bin/jobgen") and not IN_A_CLUSTER.match(c)]
    assert len(run) >= 4
    for words in run:
        done = subprocess.run([str(BIN / "jobgen"), *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "jobs").glob("*.yaml"))) == 15
    assert len(list((tmp_path / "repository" / "my-run").glob("*.yaml"))) == 1


@pytest.mark.parametrize(
    "target", ["venv", "smoke", "test", "test-cluster", "test-long", "lint", "format", "golden", "gpu-wheels", "gpu"]
)
def test_the_targets_of_make_are_there(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if target == "smoke":
        assert ".venv/bin/jobgen run smoke --local --workspace ./work" in done.stdout


def test_every_module_is_in_the_map() -> None:
    rows = {row.split("|")[1].strip(" `/"): row for row in README.splitlines() if re.match(r"\| `\w+/`", row)}
    for program in ("minima", "jobgen"):
        for place in (ROOT / program).rglob("*.py"):
            room = place.parent.relative_to(ROOT / program).as_posix()
            if not place.name.startswith("__"):
                row = README if room == "." else rows[room]
                assert f"`{place.name}`" in row, f"README.md: the map lacks {place.relative_to(ROOT)}"


def test_the_map_names_no_module_that_is_gone() -> None:
    there = {place.name for program in ("minima", "jobgen", "tests") for place in (ROOT / program).rglob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", README)) <= there


def test_exit_codes_are_those_of_the_program() -> None:
    """One table in `errors`; help texts derive from it, and the README's words are its words."""
    assert ", ".join(f"{EXIT_CODES[code]} {code}" for code in PERMANENT) in README
    assert f"| {TERMINATED}, " in README
