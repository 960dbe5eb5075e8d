"""A node whose kubelet is killed and comes back, under a pipeline that its conductor carries."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import conditions, short, wait
from tests.cluster.test_faults import STEP

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.alone]
DOWN_SECONDS = 5.0


def kubelets() -> list[Path]:
    found = []
    for place in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # It ended meanwhile.
            if place.read_text() == "kubelet\n":
                found.append(place.parent)
    return found


@pytest.fixture
def restart_kubelet() -> Callable[[], None]:
    """Kills the kubelet and starts the same command again in the same network, as its service manager would."""
    found = kubelets()
    if len(found) != 1 or os.getuid() != 0:
        pytest.skip("needs the node's kubelet as a process of this machine, and root")
    (process,) = found

    def restart() -> None:
        command = (process / "cmdline").read_text().split("\0")[:-1]
        environment = dict(word.split("=", 1) for word in (process / "environ").read_text().split("\0")[:-1])
        folder, logged = (process / "cwd").readlink(), (process / "fd" / "1").readlink()
        with (process / "ns" / "net").open() as network, (process / "fd" / "1").open("a") as log:
            os.kill(int(process.name), signal.SIGKILL)
            time.sleep(DOWN_SECONDS)
            # Forked off: it outlives this program.
            words = ["setsid", "--fork", "nsenter", f"--net=/proc/self/fd/{network.fileno()}", *command]
            output: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            subprocess.run(words, env=environment, cwd=folder, pass_fds=[network.fileno()], check=True, **output)
        (again,) = wait("the kubelet is there again", kubelets, 10)
        with contextlib.suppress(FileNotFoundError):
            # Where ../shared/cluster/down looks for it.
            (logged.parent.parent / "kubelet.pid").write_text(f"{again.name}\n")

    return restart


def test_a_pipeline_goes_on(cluster: Any, tmp_path: Path, restart_kubelet: Callable[[], None]) -> None:
    command = [sys.executable, "-m", "jobgen", "run", str(short(tmp_path)), "-v", "--namespace", cluster.namespace]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
        try:
            wait("distill runs", lambda: any("Running" in conditions(j) for j in cluster.jobs("minima/stage=distill")))
            restart_kubelet()
            said, _ = watching.communicate(timeout=300)
        finally:
            watching.kill()
    assert watching.returncode == 0, said
    assert [len(cluster.jobs(f"minima/stage={stage}")) for stage in ("init-model", "build-data", "distill")] == [1, 1, 1]
    steps = [int(number) for number in STEP.findall(said)]
    assert steps == sorted(set(steps)), "each line of the log once"
    assert steps[-1] == 60
