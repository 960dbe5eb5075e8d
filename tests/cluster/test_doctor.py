"""`doctor` as a stage: two pods look at each other's renames, and measure what links them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.pipeline import plan, spec
from tests.cluster.conftest import SHORT, execute

pytestmark = [pytest.mark.cluster]


def test_two_pods_measure_their_link(
    cluster: Any, jobgen: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    document = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    stage = {"verb": "doctor", "pool": "small-pair", "options": {"megabytes": 16}}
    place = tmp_path / "check.yaml"
    place.write_text(yaml.safe_dump(document | {"name": "check", "stages": {"link": stage}}, sort_keys=False))
    jobgen("run", str(place))
    (step,) = plan.plan(spec.load(str(place)))
    report = json.loads(execute(cluster, "minima:cpu", ["cat", f"{step.output_dir}/report.json"]))
    assert len(report["pods"]) == report["processes"] == 2
    assert report["network"] == ["gloo"]
    assert report["all_reduce"][-1]["gigabytes_per_second"] > 0
    said = jobgen("logs", str(place), "link").stdout
    assert "2 processes in 2 pods" in said
    assert "a rename is seen by all after" in said
