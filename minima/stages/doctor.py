"""`minima doctor`: what is installed here, what the devices can do, and whether the workspace's file system will do.

As a stage of a pipeline it looks at each pod of a pool, at what one sees of another's rename, and measures their link.
"""

import importlib.util
import json
import os
import platform
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from minima import errors
from minima.errors import NotReadyError, UsageError
from minima.evaluation import sandbox
from minima.options import Doctor
from minima.workspace import trials
from minima.workspace.artifact import PACKAGES, Output

NECESSARY = (*(package for package in PACKAGES if package != "flash-attn"), "accelerate", "datasets", "protobuf", "safetensors")
LITTLE_SPACE = 10 << 30
SEEN_SECONDS = 60.0
"""After which nobody waits any more for a rename to be seen; caches of NFS last half of it by default."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; `exit_code` is 0 unless something necessary is wrong."""

    subject: str
    text: str
    exit_code: int = 0
    there: bool = True


def run(options: Doctor, output: Output) -> dict[str, Any]:
    """Look at all pods of the group, print and write `report.json`, and return its numbers.

    Raises:
        UsageError: the group is one process.
        NotReadyError: a pod's installation is broken, a rename is not seen, or the link is not as `options` want it.
    """
    from minima.models import placement
    from minima.training import link
    from minima.training.group import Group

    with link.nccl_log() as log:
        device = placement.device()
        group = Group(device)
        if group.world == 1:
            raise UsageError("one process has no link; valid: a pool with several pods, or several GPUs")
        output.progress.phase("measuring")
        pods = sorted(set(group.gather(socket.gethostname())))
        wrong = [f"{socket.gethostname()}: {f.subject}: {f.text}" for f in (*_installation(), *_devices()) if f.exit_code]
        if broken := sorted({line for lines in group.gather(wrong) for line in lines}):
            raise NotReadyError("; ".join(broken))
        seen = _seen_by_all(group, output.folder)
        speeds = link.speeds(group, device, options.megabytes)
        told = link.carriers("".join(file.read_text(encoding="utf-8") for file in sorted(log.iterdir())))
    nccl = sorted({carrier for each in group.gather(told) for carrier in each})
    carriers = nccl if device.type == "cuda" else ["gloo"]
    fastest = max(speed.gigabytes_per_second for speed in speeds)
    report = {
        "pods": pods,
        "processes": group.world,
        "device": _name(device),
        "network": carriers,
        "rename_seen_seconds": round(seen, 3),
        "all_reduce": [asdict(speed) for speed in speeds],
    }
    if group.rank == 0:
        (output.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"{group.world} processes in {len(pods)} pods on {report['device']}; between them: {'; '.join(carriers)}")
        print(f"a rename is seen by all after {seen:.2f} s")
        for speed in speeds:
            print(f"all-reduce of {speed.megabytes} MB: {1e3 * speed.seconds:.2f} ms, {speed.gigabytes_per_second:.2f} GB/s")
    check_link(options, carriers, fastest)
    return {"pods": len(pods), "network": "; ".join(carriers), "gigabytes_per_second": fastest, "rename_seen_seconds": seen}


def check_link(options: Doctor, carriers: list[str], fastest: float) -> None:
    """Raises NotReadyError if the link is not what `options` want."""
    if options.network and not all(options.network.lower() in carrier.lower() for carrier in carriers):
        raise NotReadyError(
            f"the pods are linked by {'; '.join(carriers)}, not by {options.network}: give the pool the devices of its network "
            "(`resources`), and the image their libraries (docs/images.md); NCCL_DEBUG=INFO says what it misses"
        )
    if fastest < options.bandwidth:
        raise NotReadyError(f"the pods are linked at {fastest:.2f} GB/s by {'; '.join(carriers)}, below {options.bandwidth}")


def _name(device: Any) -> str:
    """What people call a device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPUs"


def _seen_by_all(group: Any, folder: Path) -> float:
    """Seconds until every process sees a file replaced by the first one.

    Raises:
        NotReadyError: one does not within `SEEN_SECONDS`, or not at all.
    """
    place = Path(group.gather(str(folder))[0]) / "seen"
    if group.rank == 0:
        place.write_text("old", encoding="utf-8")
    group.sum(0.0)
    before = _read(place)  # What another node knows of a file, it may go on to believe.
    if set(group.gather(before)) != {"old"}:
        raise NotReadyError(f"{place}: not all pods see what one wrote; the workspace needs a file system that they share")
    if group.rank == 0:
        (folder / "next").write_text("new", encoding="utf-8")
        os.replace(folder / "next", place)
    group.sum(0.0)
    start = time.monotonic()
    while _read(place) != "new" and time.monotonic() - start < SEEN_SECONDS:
        time.sleep(0.01)
    seen = max(group.gather(time.monotonic() - start))
    if group.rank == 0:
        place.unlink()
    if seen >= SEEN_SECONDS:
        raise NotReadyError(f"a rename was not seen by all pods in {SEEN_SECONDS:.0f} s; the workspace caches for too long")
    return float(seen)


def _read(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8")
    except OSError:
        return ""


def look(workspace: str | None) -> int:
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

    from minima.training import link

    why = link.unlockable()
    there = any(link.DEVICES.glob("uverbs*"))
    text = "devices are there, and may lock memory" if there else f"no devices in {link.DEVICES}"
    yield Finding("InfiniBand, RoCE", why or text, errors.NOT_READY if why else 0, there)
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
        findings = [_tried(subject, check, place) for subject, check in trials.ALL.items()]
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
