"""`minima doctor`: what is installed here, what the devices can do, and whether the workspace's file system will do.

The contracts of artifacts and leases stand on a shared POSIX file system: atomic rename, fsync, exclusive creation, and
other processes that see a rename at once. Each is tried out, not looked up.
"""

import contextlib
import importlib.util
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from minima import errors
from minima.evaluation import sandbox
from minima.workspace.artifact import PACKAGES

NECESSARY = (*(package for package in PACKAGES if package != "flash-attn"), "accelerate", "datasets", "protobuf", "safetensors")
LITTLE_SPACE = 10 << 30
SLOW_CLOCK = 2.0
"""Seconds that the file system's clock may differ from this machine's before it is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; `exit_code` is 0 unless something necessary is wrong."""

    subject: str
    text: str
    exit_code: int = 0
    there: bool = True


def run(workspace: str | None) -> int:
    """Print the table for this machine and, if given, the folder `workspace`.

    Returns:
        0 if all that is necessary is fine, 70 if the installation is not, else 75 if the workspace is not. A machine
        without a GPU is fine.
    """
    findings = [*_installation(), *_devices(), _jail()]
    if workspace is not None:
        findings += _workspace(Path(workspace))
    for finding in findings:
        mark = "FAIL" if finding.exit_code else "ok" if finding.there else "-"
        print(f"{mark:<5}{finding.subject:<24}{finding.text}")
    codes = {finding.exit_code for finding in findings} - {0}
    failed = [f.subject for f in findings if f.exit_code]
    print(f"\n{len(failed)} of {len(findings)} are wrong: {', '.join(failed)}" if failed else "\nall that is necessary is fine")
    return min(codes, default=0)


def _installation() -> Iterator[Finding]:
    version = platform.python_version()
    right = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding("python", version if right else f"{version}; needs 3.11 or 3.12", 0 if right else errors.BUG)
    for package in NECESSARY:
        try:
            yield Finding(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, "not installed; `pip install 'minima[train]'` brings it", errors.BUG)


def _devices() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", f"not there; {os.cpu_count()} CPUs", there=False)
        yield Finding("NCCL", "not there: no GPU", there=False)
        yield Finding("flash-attn", "not there: no GPU; attention is sdpa", there=False)
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if properties.major >= 8 else "no bf16"
        text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}, {bf16}"
        yield Finding(f"GPU {number}", text)
    if torch.distributed.is_nccl_available():
        yield Finding("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    else:
        yield Finding("NCCL", "not in this torch; several GPUs cannot work together", errors.BUG)
    yield _flash_attention()


def _flash_attention() -> Finding:
    if importlib.util.find_spec("flash_attn") is None:
        return Finding("flash-attn", "not there; attention is sdpa", there=False)
    import torch

    try:
        from flash_attn import flash_attn_func

        heads = torch.ones(1, 8, 2, 64, device="cuda", dtype=torch.bfloat16)
        flash_attn_func(heads, heads, heads, causal=True)
        torch.cuda.synchronize()
    except (ImportError, OSError, RuntimeError) as error:
        remedy = "compile it for this torch and GPU, or uninstall it"
        return Finding("flash-attn", f"does not run ({str(error).splitlines()[0]}); {remedy}", errors.BUG)
    return Finding("flash-attn", f"{metadata.version('flash-attn')}, runs")


def _jail() -> Finding:
    try:
        sandbox.check()
    except errors.UsageError as error:
        return Finding("jail", f"only for HumanEval: {str(error).partition(': ')[2]}", there=False)
    return Finding("jail", "of programs that a model writes (HumanEval): seccomp, holds")


def _workspace(folder: Path) -> list[Finding]:
    if not folder.is_dir():
        return [Finding("workspace", f"{folder} is not a folder; make or mount it", errors.NOT_READY)]
    place = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        place.mkdir()
    except OSError as error:
        return [Finding("workspace", f"cannot write in {folder}: {error.strerror}", errors.NOT_READY)]
    try:
        tries: tuple[tuple[str, Callable[[Path], str]], ...] = (
            ("rename", _rename),
            ("rename, seen elsewhere", _rename_seen),
            ("fsync", _fsync),
            ("exclusive creation", _exclusive),
            ("fence", _fence),
            ("modification times", _times),
        )
        findings = [_tried(subject, check, place) for subject, check in tries]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    little = "; little for checkpoints" if free < LITTLE_SPACE else ""
    return [*findings, Finding("free space", f"{free / 2**30:.1f} GiB{little}", 0 if free else errors.NOT_READY)]


def _tried(subject: str, check: Callable[[Path], str], place: Path) -> Finding:
    try:
        return Finding(subject, check(place))
    except (OSError, ValueError) as error:
        return Finding(subject, f"{error}; the workspace needs a file system with POSIX semantics", errors.NOT_READY)


def _rename(place: Path) -> str:
    old, new = place / "old", place / "new"
    old.write_text("old", encoding="utf-8")
    new.write_text("new", encoding="utf-8")
    with open(old, encoding="utf-8") as reader:
        os.replace(new, old)
        if old.read_text(encoding="utf-8") != "new" or new.exists():
            raise ValueError("a rename over an existing file did not replace it")
        if reader.read() != "old":
            raise ValueError("a rename changed a file that was open")
    return "replaces an existing file; open files keep their content"


def _rename_seen(place: Path) -> str:
    """Another process, started first, must see a rename right after it, in the same and in a new folder."""
    target = place / "seen"
    target.write_text("old", encoding="utf-8")
    program = "import sys\nfor line in sys.stdin: print(open(line.strip()).read(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for content in ("old", "new"):
            if content == "new":
                (place / "next").write_text("new", encoding="utf-8")
                os.replace(place / "next", target)
            print(target, file=reader.stdin, flush=True)
            said = reader.stdout.readline().strip()
            if said != content:
                raise ValueError(f"another process read {said!r} where {content!r} had been renamed to")
        reader.stdin.close()
    return "another process sees it at once (try it from another node too)"


def _fsync(place: Path) -> str:
    start = time.perf_counter()
    with open(place / "synced", "wb") as file:
        file.write(b"0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return f"file and folder in {1000 * (time.perf_counter() - start):.1f} ms"


def _exclusive(place: Path) -> str:
    target = place / "exclusive"
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with contextlib.suppress(FileExistsError):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        raise ValueError("O_EXCL succeeded although the file was there")
    return "O_EXCL refuses an existing file"


def _fence(place: Path) -> str:
    """What shuts out a process that lost its lease: its folder is taken away, and a file put there."""
    own, fence = place / "own", place / "fence"
    (own / "made").mkdir(parents=True)
    own.rename(place / "taken")
    fence.touch()
    fence.rename(own)
    tries = ((own / "made", place / "made"), (place / "taken", own / "taken"))
    for old, new in tries:
        with contextlib.suppress(NotADirectoryError):
            old.rename(new)
            raise ValueError(f"a rename from {old} to {new} worked where {own} is a file")
    return "no rename goes through a folder that was taken away"


def _times(place: Path) -> str:
    """The finest step seen in modification times, and how far the file system's clock is from this machine's."""
    target = place / "times"
    stamps: list[int] = []
    end = time.monotonic() + 1.0
    while len(set(stamps)) < 3 and time.monotonic() < end:
        target.write_text("x", encoding="utf-8")
        stamps.append(target.stat().st_mtime_ns)
        time.sleep(0.001)
    differ = abs(time.time() - stamps[-1] / 1e9)
    steps = [b - a for a, b in pairwise(stamps) if b > a]
    step = f"steps of {min(steps) / 1e6:.0f} ms or less" if steps else "steps of 1 s or more"
    return f"{step}{f'; its clock is {differ:.1f} s off' if differ > SLOW_CLOCK else ''}"
