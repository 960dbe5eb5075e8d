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


FAKES = {
    "ways out": """
import os, sys
try:
    sys.exit(0)
except SystemExit:
    pass
print("PASSED"); os.write(2, b"PASSED"); os._exit(0)
""",
    "what it finds": """
import gc, os, re, sys
frames = [sys._getframe()]
try:
    1 / 0
except ZeroDivisionError as error:
    frames.append(error.__traceback__.tb_frame)
frames += sys._current_frames().values()
for frame in frames:
    while frame:
        frame = frame.f_back and (frames.append(frame.f_back) or frame.f_back)
found = gc.get_referents(frames, *frames, *gc.get_objects())
found += [part for frame in frames for part in (*frame.f_locals.values(), *frame.f_globals.values())]
for token in found:
    token = token.encode("utf-8", "replace") if isinstance(token, str) else token
    if isinstance(token, bytes) and len(token) == 32 and token.startswith(b"efac"[::-1]):
        for descriptor in range(3, 64):
            try:
                os.lseek(descriptor, 0, 0); os.write(descriptor, token)
            except OSError:
                pass
os._exit(0)
""",
    "what it changes": """
import builtins, os, sys
write = os.write
os.write = lambda descriptor, text: write(descriptor, text) if len(text) == 32 else 32
os._exit = sys.exit = builtins.exit = lambda *_: None
builtins.Exception = builtins.AssertionError = KeyError
check = lambda candidate: None
def check(candidate): assert candidate
check(None)
""",
    "a tracer that jumps": """
import importlib, sys, threading
def trace(frame, event, _):
    if frame.f_code.co_name == "<module>" and event == "line" and frame.f_lineno == 12:
        frame.f_lineno = 13
    return trace
sys._getframe().f_trace = trace
threading.settrace(trace)
tracer = getattr(importlib.reload(sys), "settrace", lambda _: None)
tracer(trace)
no = 0
assert no
yes = 1
""",
}


@needs_jail
@pytest.mark.parametrize("program", FAKES.values(), ids=FAKES)
def test_nothing_but_its_last_line_passes(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program knows how it is run, and what a token looks like, and would like to have passed."""
    monkeypatch.setattr(sandbox.secrets, "token_hex", lambda size: "cafe" * 8)
    assert not sandbox.run(program).passed


@needs_jail
def test_every_other_call_is_refused() -> None:
    """All of the kernel's, by number: ptrace, process_vm_readv, io_uring_setup, sockets of every kind, … and those of x32."""
    program = LIBC + (
        # 335 and 336 are the kernel's own returns from probes, which no filter sees: from anywhere else they end the process.
        f"calls = set(range(640)) - {{335, 336}} - set({sorted(sandbox._CALLS.values())})\n"
        "calls |= {0x40000000 + call for call in range(640)}\n"
        "let = [call for call in calls if libc.syscall(call, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1]\n"
        "assert not let, let"
    )
    assert sandbox.run(program) == sandbox.Verdict(True)


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
