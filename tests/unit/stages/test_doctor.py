"""Doctor on this machine, and on file systems that break one promise each."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minima.stages import doctor
from minima.training import link


def test_a_good_machine_and_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.look(str(tmp_path)) == 0
    out = capsys.readouterr().out
    for subject in ("python", "torch", "GPU", "NCCL", "flash-attn", "rename", "fsync", "exclusive creation", "free space"):
        assert subject in out
    assert "FAIL" not in out
    assert list(tmp_path.iterdir()) == []


def test_no_workspace_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.look(None) == 0
    assert "rename" not in capsys.readouterr().out


def test_missing_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.look(str(tmp_path / "none")) == 75
    assert "is not a folder" in capsys.readouterr().out


def test_missing_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "NECESSARY", ("torch", "no-such-package"))
    assert doctor.look(str(tmp_path / "none")) == 70  # A broken installation comes before a missing workspace.
    assert "FAIL no-such-package" in capsys.readouterr().out


def _copies(source: Any, target: Any) -> None:
    Path(target).write_bytes(Path(source).read_bytes())


def _no_sync(descriptor: int) -> None:
    raise OSError(22, "Invalid argument")


def _forgets_exclusive(real: Callable[..., int]) -> Callable[..., int]:
    return lambda path, flags, *rest, **named: real(path, flags & ~os.O_EXCL, *rest, **named)


@pytest.mark.parametrize(
    ("call", "broken", "line"),
    [
        ("replace", lambda real: _copies, "FAIL rename"),
        ("replace", lambda real: lambda source, target: None, "FAIL rename, seen elsewhere"),
        ("fsync", lambda real: _no_sync, "FAIL fsync"),
        ("open", _forgets_exclusive, "FAIL exclusive creation      O_EXCL"),
        ("rename", lambda real: lambda source, target: None, "FAIL fence"),
    ],
)
def test_bad_file_systems(
    call: str,
    broken: Callable[[Any], Any],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor.os, call, broken(getattr(os, call)))
    assert doctor.look(str(tmp_path)) == 75
    monkeypatch.undo()
    assert line in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "capabilities", "devices", "expected"),
    [
        (8 << 20, 0, True, "FAIL InfiniBand, RoCE        this process may lock 8192 KiB of memory"),
        (8 << 20, 0xA80425FB, True, "FAIL InfiniBand"),  # A runtime's defaults, of root without IPC_LOCK.
        (8 << 20, 0xA80465FB, True, "ok   InfiniBand"),
        (resource.RLIM_INFINITY, 0, True, "ok   InfiniBand"),
        (8 << 20, 0, False, "-    InfiniBand"),
    ],
)
def test_infiniband_locks_memory(
    limit: int,
    capabilities: int,
    devices: bool,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """IPC_LOCK counts where the process has it, not where the pod asked for it."""
    (tmp_path / "status").write_text(f"CapPrm:\t0000000000004000\nCapEff:\t{capabilities:016x}\nCapBnd:\t0000000000004000\n")
    if devices:
        (tmp_path / "uverbs0").touch()
    monkeypatch.setattr(link, "DEVICES", tmp_path)
    monkeypatch.setattr(link, "STATUS", tmp_path / "status")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    failed = expected.startswith("FAIL")
    assert doctor.look(None) == (75 if failed else 0)
    out = capsys.readouterr().out
    assert expected in out
    assert ("`LimitMEMLOCK=infinity` of containerd or CRI-O" in out) == failed
