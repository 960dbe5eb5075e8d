"""The images that the Dockerfiles make: the conductor from one carries stages of the other through a cluster."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import short

ROOT = Path(__file__).parents[2]
BUILD = ROOT.parent / "shared" / "cluster" / "build-image"
"""Builds as `docker build` does, where there is no Docker, and loads what it built into the cluster."""
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.skipif(not BUILD.exists(), reason=f"needs {BUILD}, which builds images without Docker"),
]


def test_the_built_images_carry_a_pipeline(
    cluster: Any, jobgen: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for name, file in (("built:jobgen", "Dockerfile"), ("built:cpu", "images/cpu.Dockerfile")):
        subprocess.run([str(BUILD), name, "-f", file, "."], cwd=ROOT, check=True, capture_output=True)
    pipeline = short(tmp_path, "built")
    text = pipeline.read_text()
    pipeline.write_text(text.replace("minima:cpu", "built:cpu").replace("minima:jobgen", "built:jobgen"))
    assert re.search(r"\[3/3\] distill +finished in ", jobgen("run", str(pipeline)).stderr)
    images = {container.image for pod in cluster.pods("") for container in pod.spec.containers}
    assert images == {"built:cpu", "built:jobgen"}
