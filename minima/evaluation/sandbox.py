"""Runs a program that a model wrote, in a bubblewrap sandbox.

The program sees the Python interpreter and an empty /tmp: no network, no other files, no other processes, no
privileges, no environment, bounded time, memory, processes and file sizes.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from minima.errors import UsageError

SECONDS = 10.0
MEMORY_BYTES = 1 << 30
PROCESSES = 8
FILE_BYTES = 1 << 20
_TRUSTED_PATHS = ("/usr", "/lib", "/lib64", "/bin")

# Runs inside. The token comes first on standard input and only this code holds it: a program that exits early, also
# with status 0, does not count as passed.
_DRIVER = """
import os, resource, sys
seconds, memory, processes, file_bytes = map(int, sys.argv[1:])
for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_NPROC, processes),
                     (resource.RLIMIT_FSIZE, file_bytes), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
    resource.setrlimit(limit, (value, value))
token, _, program = sys.stdin.read().partition("\\n")
out = os.dup(1)
os.set_inheritable(out, False)
null = os.open("/dev/null", os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
try:
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
except BaseException as error:
    os.write(out, f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace"))
    os._exit(1)
os.write(out, token.encode())
os._exit(0)
"""


@dataclass(frozen=True)
class Verdict:
    """How a program ended: `passed` when it ran to its last line without an exception, else why not."""

    passed: bool
    reason: str = ""


def check() -> None:
    """Check that programs can be run here.

    Raises:
        UsageError: bwrap is not installed, or the system does not let it make a sandbox.
    """
    if shutil.which("bwrap") is None:
        raise UsageError(
            "--run_programs_in bubblewrap: bwrap is not installed; install the package bubblewrap "
            "(`apt-get install -y bubblewrap`)"
        )
    verdict = run("assert sum([1, 2]) == 3")
    if not verdict.passed:
        raise UsageError(
            f"--run_programs_in bubblewrap: bwrap cannot make a sandbox here ({verdict.reason}); it needs unprivileged "
            "user namespaces (sysctl user.max_user_namespaces > 0; in a pod a seccomp profile that allows unshare and mount)"
        )


def run(program: str, *, seconds: float = SECONDS) -> Verdict:
    """Run the Python source `program` in a fresh sandbox, for `seconds` of wall time at most."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(_command(seconds), stdin=subprocess.PIPE, stdout=out, stderr=err, env={"PATH": os.defpath})
        try:
            process.communicate(f"{token}\n{program}".encode("utf-8", "replace"), timeout=seconds)
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


def _command(seconds: float) -> list[str]:
    words = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    words += ["--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--hostname", "sandbox", "--clearenv"]
    for place in map(Path, dict.fromkeys((*_TRUSTED_PATHS, sys.base_prefix))):
        if place.is_symlink():
            words += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            words += ["--ro-bind", str(place), str(place)]
    words += ["--dev", "/dev", "--size", str(64 * FILE_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    interpreter = os.path.realpath(sys.executable)
    limits = (max(1, round(seconds)), MEMORY_BYTES, PROCESSES, FILE_BYTES)
    return [*words, "--", interpreter, "-I", "-S", "-c", _DRIVER, *map(str, limits)]
