"""What a program may do in the sandbox, tried by programs that do it; and the refusal where there is no sandbox."""

import os

import pytest

from minima.errors import UsageError
from minima.evaluation import sandbox


def _why_not() -> str:
    try:
        sandbox.check()
    except UsageError as error:
        return str(error)
    return ""


WHY_NOT = _why_not()
needs_bubblewrap = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "bubblewrap works")


def test_refuses_without_bwrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match=r"bwrap is not installed; .*apt-get install -y bubblewrap"):
        sandbox.check()


def test_refuses_where_bwrap_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_command", lambda seconds: ["sh", "-c", "echo no namespaces >&2; exit 1"])
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/usr/bin/bwrap")
    with pytest.raises(UsageError, match=r"cannot make a sandbox here \(no namespaces\); .*user namespaces"):
        sandbox.check()


@needs_bubblewrap
@pytest.mark.parametrize(
    "program",
    ["x = 1", "import math, hashlib, typing, re, collections", "open('/tmp/x', 'w').write('a')", "print('x' * 10**6)"],
)
def test_passes(program: str) -> None:
    assert sandbox.run(program) == sandbox.Verdict(True)


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "Network is unreachable"),
        ("open('/etc/passwd')", "No such file"),
        (f"open({__file__!r})", "No such file"),
        ("open('/x', 'w')", "Read-only file system"),
        ("open('/usr/x', 'w')", "Read-only file system"),
        ("open('/tmp/x', 'wb').write(b'0' * (2 << 20))", "File too large"),
        ("b = bytearray(2 << 30)", "MemoryError"),
        ("import os; assert os.environ.get('MINIMA_SECRET'), 'no secret'", "no secret"),
        ("import os; assert os.getuid() == 0, 'no root'", "no root"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended with 0"),
        ("import os; assert os.fork() == 0", ""),
    ],
)
def test_does_not_pass(program: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMA_SECRET", "s")
    verdict = sandbox.run(program)
    assert not verdict.passed
    assert reason in verdict.reason


@needs_bubblewrap
def test_ends_what_runs_too_long_with_its_children() -> None:
    verdict = sandbox.run("import os\nos.fork()\nwhile True: pass", seconds=1)
    assert verdict == sandbox.Verdict(False, "ran longer than 1 s")


@needs_bubblewrap
@pytest.mark.skipif(os.geteuid() == 0, reason="Linux does not count the processes of root")
def test_bounds_processes() -> None:
    assert "BlockingIOError" in sandbox.run("import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(9)").reason
