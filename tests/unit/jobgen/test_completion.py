"""Completion by the shells themselves, in a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
TAB, ALL, HOME, END = "\t", "\x1b*", "\x01", "\x05"
"""What readline does: complete, insert all completions, go to the line's beginning and end."""


class Shell:
    """An interactive bash in a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb", "HISTFILE": ""}
        self.terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=env,
            start_new_session=True,
        )
        os.close(inner)
        self.number = 0
        self.run("bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; source <(jobgen completion bash)")

    def run(self, line: str) -> str:
        """What a line writes, up to a mark after it."""
        self.number += 1
        os.write(self.terminal, f"{line}\necho 'done' {self.number}\n".encode())
        said, deadline = "", time.monotonic() + 60
        while f"done {self.number}\r\n" not in said:
            assert time.monotonic() < deadline, said
            if select.select([self.terminal], [], [], 1)[0]:
                said += os.read(self.terminal, 65536).decode(errors="replace")
        return said

    def words(self, typed: str) -> list[str]:
        """The words of the line that stands there after typing."""
        said = self.run(f"{typed}{HOME}printf '<%s>' {END}")
        shown = said.rpartition("\r\n<")[2].partition("$ ")[0]
        return shown.strip().removesuffix(">").split("><")


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "runs").mkdir()
    subprocess.run([str(BIN / "jobgen"), "init", "mine", "--from", "smoke"], cwd=folder, check=True)
    (folder / "broken.yaml").write_text("{", encoding="utf-8")
    (folder / "notes.txt").write_text("", encoding="utf-8")
    shell = Shell(folder)
    yield shell
    os.close(shell.terminal)
    shell.process.kill()
    shell.process.wait()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (f"jobgen compl{TAB}", ["completion"]),
        (f"jobgen re{ALL}", ["render", "restart"]),
        (f"jobgen run smok{TAB}", ["run", "smoke"]),
        (f"jobgen validate mi{ALL}", ["validate", "mine.yaml", "minima-3b"]),
        (f"jobgen run ru{TAB}", ["run", "runs/"]),
        (f"jobgen run no{TAB}", ["run", "no"]),
        (f"jobgen logs mine.yaml fin{ALL}", ["logs", "mine.yaml", "finetune", "finetune-lora"]),
        (f"jobgen run smoke --local --from dis{TAB}", ["run", "smoke", "--local", "--from", "distill"]),
        (f"jobgen logs broken.yaml fin{TAB}", ["logs", "broken.yaml", "fin"]),
        (f"jobgen render smoke --f{TAB}{TAB} co{TAB}", ["render", "smoke", "--format", "conductor"]),
        (f"jobgen run smoke --wor{TAB}", ["run", "smoke", "--workspace"]),
        (f"jobgen status smoke --namespace mi{TAB}", ["status", "smoke", "--namespace", "mi"]),
        (f"jobgen validate smoke --output js{TAB}", ["validate", "smoke", "--output", "json"]),
    ],
)
def test_bash(bash: Shell, typed: str, expected: list[str]) -> None:
    assert bash.words(typed) == ["jobgen", *expected]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_another_shell_reads_its_script(shell: str, tmp_path: Path) -> None:
    script = subprocess.run([str(BIN / "jobgen"), "completion", shell], capture_output=True, text=True, check=True).stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; argcomplete's own tests are of it")
    (tmp_path / "script").write_text(script, encoding="utf-8")
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    if shell == "fish":
        command = ["fish", "--no-config", "-c", "source script; complete -C 'jobgen run smo'"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["smoke"]
    else:
        command = ["zsh", "-f", "-c", "autoload -U compinit; compinit -u; source ./script; print ${_comps[jobgen]}"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "_python_argcomplete"


def test_completion_imports_nothing_heavy() -> None:
    script = "import sys, jobgen.commands.completion as c; c.parser(); print({'kubernetes', 'yaml'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
