"""What a program may do in the jail, tried by programs that do it; and the refusal where there is none."""

import os
import platform
from pathlib import Path

import pytest

from minima.errors import UsageError
from minima.evaluation import sandbox

needs_jail = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the jail is Linux's on x86-64"
)


@needs_jail
def test_holds_here() -> None:
    sandbox.check()


def test_refuses_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "aarch64")
    with pytest.raises(UsageError, match="a jail of Linux on x86-64, and this is Linux on aarch64; leave it out"):
        sandbox.check()


@needs_jail
def test_refuses_where_the_kernel_has_no_seccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_DRIVER", sandbox._DRIVER.replace("libc.prctl(22, 2,", "libc.prctl(22, 77,"))
    with pytest.raises(UsageError, match=r"cannot be jailed here \(no seccomp: Invalid argument\); .*CONFIG_SECCOMP_FILTER"):
        sandbox.check()


@needs_jail
@pytest.mark.parametrize(
    ("calls", "what"),
    [
        ({"openat": 257}, "opens a file"),
        ({"clone": 56, "fork": 57}, "starts a process"),
        ({"socket": 41}, "reaches the network"),
    ],
)
def test_refuses_a_jail_with_a_hole(calls: dict[str, int], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CALLS", sandbox._CALLS | calls)
    with pytest.raises(UsageError, match=f"in the jail a program {what}"):
        sandbox.check()


@pytest.mark.skipif(not Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").exists(), reason="no headers of the kernel")
def test_the_numbers_are_those_of_the_kernel() -> None:
    text = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text(encoding="utf-8")
    table = {line.split()[1].removeprefix("__NR_"): int(line.split()[2]) for line in text.splitlines() if " __NR_" in line}
    assert {name: table[name] for name in sandbox._CALLS} == sandbox._CALLS


@needs_jail
@pytest.mark.parametrize(
    "program",
    [
        "x = 1",
        f"import {', '.join(sandbox._MODULES)}",
        "print('x' * 10**6)",
        "import hashlib; assert hashlib.md5(b'a').hexdigest().startswith('0cc1')",
        "from datetime import datetime; datetime.strptime('2026-01-02', '%Y-%m-%d'); 'a'.encode('latin-1')",
        "import time; time.sleep(0.01); import random; random.random()",
        "b = bytearray(200 << 20)",
        "def f(n): return n and 1 + f(n - 1)\nassert f(900) == 900",
    ],
)
def test_passes(program: str) -> None:
    assert sandbox.run(program) == sandbox.Verdict(True)


LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@needs_jail
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("import os\nwhile True: os.fork()", "Operation not permitted"),
        ("import threading\nwhile True: threading.Thread(target=print).start()", "Error"),
        ("import os; os.posix_spawn('/bin/true', ['true'], {})", "Operation not permitted"),
        ("import os; os.execv('/bin/true', ['true'])", "Operation not permitted"),
        ("import _socket; _socket.socket()", "Error"),
        ("open('/etc/passwd')", "Operation not permitted"),
        (f"open({__file__!r})", "Operation not permitted"),
        ("import os; os.listdir('/')", "Operation not permitted"),
        ("import os; os.stat('/workspace')", "Operation not permitted"),
        ("open('/tmp/x', 'w')", "Operation not permitted"),
        ("import os; os.unlink('/tmp/x')", "Operation not permitted"),
        ("import os; os.kill(os.getppid(), 9)", "Operation not permitted"),
        ("import os; os.kill(-1, 9)", "Operation not permitted"),
        ("import os; os.memfd_create('x')", "Operation not permitted"),
        ("import os; os.pipe()", "Operation not permitted"),
        ("import socket", "ModuleNotFoundError"),
        # Around Python: the kernel is asked directly.
        (LIBC + "assert libc.syscall(57) >= 0, ctypes.get_errno()", "AssertionError: 1"),
        (LIBC + "assert libc.syscall(41, 2, 1, 0) >= 0, ctypes.get_errno()", "AssertionError: 1"),
        (LIBC + "assert libc.syscall(257, -100, b'/etc/passwd', 0) >= 0, ctypes.get_errno()", "AssertionError: 1"),
        (LIBC + "assert libc.syscall(101, 16, 1, 0, 0) >= 0, ctypes.get_errno()", "AssertionError: 1"),
        (LIBC + "assert libc.syscall(0x40000000 + 41, 2, 1, 0) >= 0, ctypes.get_errno()", "AssertionError: 1"),
        (LIBC + "assert libc.prctl(22, 0, 0, 0, 0) >= 0, ctypes.get_errno()", "AssertionError: 1"),
        ("import os; os.write(1, b'0' * (1 << 20))\nfor i in range(1000): os.write(3, b'0' * 1000)", ""),
        ("b = bytearray(2 << 30)", "MemoryError"),
        ("import os; assert os.environ.get('MINIMA_SECRET'), 'no secret'", "no secret"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended with 0"),
    ],
)
def test_does_not_pass(program: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMA_SECRET", "s")
    verdict = sandbox.run(program)
    assert not verdict.passed
    assert reason in verdict.reason


@needs_jail
def test_a_program_of_another_architecture_is_killed() -> None:
    """`int 0x80` calls the kernel by the numbers of 32 bits, where 2 is fork and 3 on x86-64 is let pass."""
    code = bytes.fromhex("b802000000cd80c3")  # mov eax, 2; int 0x80; ret
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\n"
        "page = libc.mmap(None, 4096, 7, 0x22, -1, 0)\n"
        f"ctypes.memmove(page, {code!r}, {len(code)})\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(page)()\n"
    )
    assert sandbox.run(program) == sandbox.Verdict(False, "ended with -31")  # SIGSYS


@needs_jail
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_ends_what_runs_too_long(program: str) -> None:
    assert sandbox.run(program, seconds=1) == sandbox.Verdict(False, "ran longer than 1 s")


@needs_jail
def test_holds_nothing_open(tmp_path: Path) -> None:
    """What this process has open, also for its children, is shut before the program begins."""
    place = tmp_path / "secret"
    place.write_text("s", encoding="utf-8")
    with open(place, encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)
        assert not sandbox.run(f"import os; assert os.read({file.fileno()}, 1) == b's'").passed
