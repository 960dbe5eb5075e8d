"""Runs a program that a model wrote, in a jail of the kernel's own: seccomp, as any process may put on itself.

The program gets a fresh Python, into which the modules that programs need are imported before the door shuts. From then on
the kernel refuses every system call but those for memory, the clock, and the files that are open: one that takes the
verdict, and /dev/null. So there is no other file, network, process, thread or signal to it, whatever it finds in Python;
and its time, memory and output are bounded. It needs no namespaces, no privileges and no other program, so it works in a
pod of the Pod Security level `restricted`, and by the same filter everywhere.
"""

import os
import platform
import secrets
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO

from minima.errors import UsageError

SECONDS = 10.0
MEMORY_BYTES = 1 << 30
OUTPUT_BYTES = 1 << 16
_MODULES = (
    "__future__ abc array ast base64 binascii bisect calendar cmath collections collections.abc contextlib copy csv "
    "dataclasses datetime decimal difflib encodings.ascii encodings.idna encodings.latin_1 encodings.utf_16 encodings.utf_32 "
    "enum fractions functools hashlib heapq inspect io itertools json keyword logging math numbers operator os pathlib pickle "
    "pprint queue random re secrets statistics string struct sys textwrap threading time timeit traceback types typing "
    "unicodedata uuid warnings weakref zlib _strptime"
).split()
"""What a program can import: nothing can be read once the door is shut."""

# For x86-64, from the kernel's table (arch/x86/entry/syscalls/syscall_64.tbl). None of them opens, creates or names
# anything, or reaches another process.
_CALLS = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
    "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28,
    "getpid": 39, "exit": 60, "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131, "time": 201, "futex": 202,
    "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
    "getrandom": 318,
}  # fmt: skip

# Runs inside. A program passes by a token that is written when its last line has run, and by nothing else: not by its exit
# status, nor by what it prints. It has all that Python can reach, which are the frames above it and everything in them and in
# modules, but not what lies on a frame's stack while a call goes on: there, and in no variable, are the token and the two
# functions that are still to be called. So the last expression is one, and looks nothing up when the program has run.
_DRIVER = """
import ctypes, importlib, os, resource, struct, sys
seconds, memory, output, length = map(int, sys.argv[1:5])
calls, modules = sys.argv[5].split(","), sys.argv[6].split(",")
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG: it dies with who asked.
for name in modules:
    importlib.import_module(name)
def read(size):
    found = b""
    while len(found) < size and (part := os.read(0, size - len(found))):
        found += part
    return found
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
def shut():
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, out)
    os.closerange(out + 1, 1024)
    for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, output),
                         (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    # A filter in the kernel's small language: a program of another architecture is killed, a call of the list is let pass,
    # any other gives EPERM.
    LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
    words = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, 0xC000003E), (RETURN, 0, 0, 0x80000000), (LOAD, 0, 0, 0)]
    for call in calls:
        words += [(EQUAL, 0, 1, int(call)), (RETURN, 0, 0, 0x7FFF0000)]
    words.append((RETURN, 0, 0, 0x00050000 | 1))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
    door = Filter(len(words), ctypes.addressof(code))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(door), 0, 0):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        os.write(out, f"no seccomp: {os.strerror(ctypes.get_errno())}".encode())
        os._exit(3)
program, out = read(length), os.dup(1)
del sys.settrace, sys.setprofile  # By a tracer a program may jump over the line that tests it.
try:
    os._exit(os.write(out, (read(32), shut(), exec(compile(program, "program.py", "exec"), {"__name__": "__main__"}))[0]) - 32)
except BaseException as error:
    os.write(out, f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace"))
    os._exit(1)
"""
_MUST_FAIL = {
    "opens a file": "open('/proc/self/status')",
    "starts a process": "import os; os._exit(1) if os.fork() else None",
    "reaches the network": (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.syscall(41, 2, 1, 0) < 0: raise OSError(ctypes.get_errno(), 'socket')"
    ),
}


@dataclass(frozen=True)
class Verdict:
    """How a program ended: `passed` when it ran to its last line without an exception, else why not."""

    passed: bool
    reason: str = ""


def check() -> None:
    """Check that programs can be run here, and that what they must not do is refused.

    Raises:
        UsageError: the system has no such jail.
    """
    machine = (platform.system(), platform.machine())
    if machine != ("Linux", "x86_64"):
        raise UsageError(
            f"humaneval: its programs run in a jail of Linux on x86-64, and this is {' on '.join(machine)}; leave it out"
        )
    verdict = run("assert sum([1, 2]) == 3")
    if not verdict.passed:
        raise UsageError(
            f"humaneval: programs cannot be jailed here ({verdict.reason}); it needs seccomp filters (CONFIG_SECCOMP_FILTER "
            "of the kernel, and prctl let pass by the container's own seccomp profile); leave it out"
        )
    for what, program in _MUST_FAIL.items():
        if "PermissionError" not in (verdict := run(program)).reason:
            raise UsageError(
                f"humaneval: in the jail a program {what} ({verdict}); this kernel's seccomp does not hold; leave it out"
            )


def run(program: str, *, seconds: float = SECONDS) -> Verdict:
    """Run the Python source `program` in a fresh jail, for `seconds` of wall time at most."""
    token, source = secrets.token_hex(16), program.encode("utf-8", "replace")
    with _memory() as out, _memory() as err:
        process = subprocess.Popen(
            _command(seconds, len(source)), stdin=subprocess.PIPE, stdout=out, stderr=err, env={}, cwd="/"
        )
        try:
            process.communicate(source + token.encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return Verdict(False, f"ran longer than {seconds:g} s")
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        said = out.read(1000).decode("utf-8", "replace")
        if process.returncode == 0 and said == token:
            return Verdict(True)
        err.seek(0)
        return Verdict(False, said or err.read(1000).decode("utf-8", "replace").strip() or f"ended with {process.returncode}")


def _memory() -> BinaryIO:
    """A file that is nowhere; unlike a pipe it has a size that the program may not exceed."""
    return open(os.memfd_create("said"), "w+b")


def _command(seconds: float, length: int) -> list[str]:
    limits = (max(1, round(seconds)), MEMORY_BYTES, OUTPUT_BYTES, length)
    lists = (",".join(map(str, _CALLS.values())), ",".join(_MODULES))
    return [os.path.realpath(sys.executable), "-I", "-S", "-c", _DRIVER, *map(str, limits), *lists]
