"""The commands that look at a namespace as a whole, run a part of a pipeline, stop one, and clear away what is left."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.cluster.objects import ENDED, state
from jobgen.pipeline import plan, spec
from tests.cluster.conftest import execute, short, wait

pytestmark = [pytest.mark.cluster]
Jobgen = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 2000
"""Of `distill`: more than it does until it is stopped."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def pipeline(cluster: Any, folder: Path) -> Path:
    """The short pipeline, of which all but the last stage was run."""
    made = short(folder, max_steps=STEPS)
    command = [sys.executable, "-m", "jobgen", "run", str(made), "-n", cluster.namespace, "--until", "build-data"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def row(jobgen: Jobgen) -> dict[str, Any]:
    (found,) = json.loads(jobgen("list", "--output", "json").stdout)
    assert isinstance(found, dict)
    return found


def alive(cluster: Any) -> list[dict[str, Any]]:
    return [job for job in cluster.jobs("minima/pipeline=short") if state(job) not in ENDED]


def test_until_a_stage(cluster: Any, pipeline: Path, jobgen: Jobgen) -> None:
    assert cluster.jobs("minima/stage=distill") == []
    now = row(jobgen)
    assert (now["pipeline"], now["state"], now["finished"], now["stages"], now["running"]) == ("short", "finished", 2, 3, [])
    rows = json.loads(jobgen("status", str(pipeline), "--output", "json").stdout)
    assert {each["stage"]: each["state"] for each in rows["stages"]}["distill"] == "waiting"
    said = jobgen("run", str(pipeline), "--dry-run").stdout
    assert [line.split()[:2] for line in said.splitlines()[2:5]] == [
        ["init-model", "same"],
        ["build-data", "same"],
        ["distill", "runs"],
    ]


def test_stop_and_one_stage_alone(cluster: Any, pipeline: Path, jobgen: Jobgen) -> None:
    command = [sys.executable, "-m", "jobgen", "run", str(pipeline), "-n", cluster.namespace]
    watching = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait("distill trains", lambda: "step 1" in _logs(cluster, pipeline))
    tail = jobgen("logs", str(pipeline), "distill", "--tail", "2").stdout.splitlines()
    assert len(tail) == 2
    now = row(jobgen)
    assert (now["state"], now["running"]) == ("running", ["distill"])
    other = folder_of(pipeline, "other", temperature=2.0)
    assert "at work for another version" in jobgen("gc", str(other), code=64).stderr
    said = jobgen("stop", "short").stderr
    assert "checkpoints are kept; `jobgen run short" in said
    assert alive(cluster) == []
    assert cluster.pods("minima/stage=distill") == []
    assert row(jobgen)["state"] == "stopped"
    assert watching.wait(60) != 0
    assert "nothing of short is at work" in jobgen("stop", str(pipeline)).stderr
    done = jobgen("run", str(pipeline), "--only", "distill", "--verbose")
    trained = [int(step) for step in re.findall(r"step (\d+)/", done.stdout + done.stderr)]
    assert trained[0] > 1  # From the checkpoint.
    assert row(jobgen)["state"] == "finished"


def _logs(cluster: Any, pipeline: Path) -> str:
    command = [sys.executable, "-m", "jobgen", "logs", str(pipeline), "distill", "-n", cluster.namespace]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def folder_of(pipeline: Path, name: str, **distill: Any) -> Path:
    """The pipeline with other options of `distill`, under its own name, as another file."""
    (pipeline.parent / name).mkdir(exist_ok=True)
    return short(pipeline.parent / name, **distill)


def test_gc(cluster: Any, pipeline: Path, jobgen: Jobgen) -> None:
    other = folder_of(pipeline, "later", max_steps=20)
    old, new = ({step.name: step for step in plan.plan(spec.load(str(place)))} for place in (pipeline, other))
    assert "nothing that" in jobgen("gc", str(pipeline)).stdout  # All of it is the file's.
    shown = jobgen("gc", str(other)).stdout
    gone = Path(old["distill"].output_dir).name
    assert f"/workspace/short/{gone}" in shown
    assert "--yes removes them" in shown
    assert "PyTorchJob" in shown
    assert execute(cluster, "minima:cpu", ["ls", f"/workspace/short/{gone}"])
    said = jobgen("gc", str(other), "--yes").stdout
    assert "removed " in said
    there = execute(cluster, "minima:cpu", ["ls", "/workspace/short"]).split()
    # The leases stay, so that no token is ever given twice.
    left = execute(cluster, "minima:cpu", ["ls", f"/workspace/short/{gone}"]).split() if gone in there else []
    assert all(name.startswith("_lease") for name in left), left
    assert Path(new["build-data"].output_dir).name in there
    assert cluster.jobs("minima/stage=distill") == []
    assert cluster.jobs("minima/stage=build-data") != []
    assert cluster.pods("app.kubernetes.io/component=gc") == []


def test_gc_whose_pod_cannot_begin_leaves_nothing(cluster: Any, pipeline: Path, jobgen: Jobgen) -> None:
    """It says why, and whoever ends it ends all of it."""
    document = yaml.safe_load(pipeline.read_text(encoding="utf-8")) | {"name": "claimless"}
    document["workspace"] = {"claim": "nosuch", "path": "/workspace"}
    place = pipeline.parent / "claimless.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "jobgen", "gc", str(place), "--yes", "-n", cluster.namespace]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert 'persistentvolumeclaim "nosuch" not found' in waiting.stderr.readline()
        assert "claimless" not in {each["pipeline"] for each in json.loads(jobgen("list", "--output", "json").stdout)}
        waiting.terminate()
        assert waiting.wait(30) == 143
    gone = "app.kubernetes.io/component=gc"
    assert cluster.batch.list_namespaced_job(cluster.namespace, label_selector=gone).items == []
    wait("its file goes too", lambda: not cluster.core.list_namespaced_config_map(cluster.namespace, label_selector=gone).items)
