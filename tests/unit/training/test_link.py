"""What links processes: NCCL's own words for it, and a measurement by two real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minima.errors import NotReadyError
from minima.options import Doctor
from minima.stages.doctor import check_link
from minima.training import link, stage

IB = """node-0:7:7 [0] NCCL INFO NCCL version 2.29.7+cuda13.0
node-0:7:19 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.2<0>
node-0:7:19 [0] NCCL INFO Using network IB
node-0:7:19 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/IB/0/GDRDMA
node-0:7:19 [0] NCCL INFO Channel 01/0 : 3[3] -> 8[0] [send] via NET/IB/0(1)/GDRDMA
node-0:7:19 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM
"""
SOCKET = """node-0:7:7 [0] NCCL INFO NET/IB : No device found.
node-0:7:7 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.2<0>
node-0:7:7 [0] NCCL INFO Using network Socket
node-0:7:7 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [receive] via NET/Socket/0
"""
EFA = """node-0:33:73 [6] NCCL INFO NET/OFI Selected provider is efa, fabric is efa (found 4 nics)
node-0:33:73 [6] NCCL INFO Using network AWS Libfabric
node-0:33:73 [6] NCCL INFO Channel 03 : 15[a01d0] -> 6[a01c0] [receive] via NET/AWS Libfabric/3/GDRDMA
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (IB, {"IB, GDRDMA"}),
        (IB.replace("/GDRDMA", "", 1), {"IB", "IB, GDRDMA"}),
        (SOCKET, {"Socket"}),
        (EFA, {"AWS Libfabric, GDRDMA"}),
        ("node-0:7:7 [0] NCCL INFO Using network Socket\n", {"Socket"}),
        ("", set()),
    ],
)
def test_what_nccl_chose_stands_in_its_log(log: str, expected: set[str]) -> None:
    assert link.carriers(log) == expected


def test_a_link_that_is_not_what_is_wanted() -> None:
    wanted = Doctor(output_dir="", network="libfabric", bandwidth=40)
    check_link(wanted, ["AWS Libfabric, GDRDMA"], 41.0)
    with pytest.raises(NotReadyError, match="linked by AWS Libfabric; Socket, not by libfabric: give the pool the devices"):
        check_link(wanted, ["AWS Libfabric", "Socket"], 41.0)
    with pytest.raises(NotReadyError, match=r"linked at 0\.90 GB/s by AWS Libfabric, below 40"):
        check_link(wanted, ["AWS Libfabric"], 0.9)
    check_link(Doctor(output_dir=""), ["Socket"], 0.1)


def test_two_processes_measure_their_link(tmp_path: Path) -> None:
    folder = tmp_path / "check"
    command = [sys.executable, "-m", "minima", "doctor", "--output_dir", str(folder), "--megabytes", "20"]
    done = subprocess.run(command, env=os.environ | {"PET_NPROC_PER_NODE": "2"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert (report["processes"], report["network"]) == (2, ["gloo"])
    assert [each["megabytes"] for each in report["all_reduce"]] == [1, 16, 20]
    for each in report["all_reduce"]:  # Of two processes each sends and receives the message once.
        assert each["gigabytes_per_second"] == pytest.approx(each["megabytes"] / 1e3 / each["seconds"])
    assert json.loads((folder / "_SUCCESS.json").read_text())["metrics"]["network"] == "gloo"
    assert sorted(place.name for place in folder.iterdir() if place.name[0] not in "._") == ["report.json"]


def test_training_says_once_in_a_pod_that_its_memory_is_not_locked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object) -> None:
        raise NotReadyError("no records")

    monkeypatch.setattr(link, "unlockable", lambda: "too little")
    monkeypatch.setattr(stage, "Group", lambda device: None)
    monkeypatch.setattr(stage.folders, "records", gone)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(NotReadyError):
            stage.run(SimpleNamespace(), SimpleNamespace(progress=SimpleNamespace(phase=print)), tuple)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "too little\n"
