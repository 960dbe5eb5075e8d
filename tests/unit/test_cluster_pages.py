"""The page of every kind of cluster: three commands to the first job, and each command is run by a test, or said not to be."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobgen.commands.arguments import CLUSTERS
from jobgen.pipeline import profile, spec

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGES = ("gke", "eks", "aks", "openshift", "bare-metal", "kind")
BLOCK = re.compile(r"([^\n]*(?:\n[^\n]+)*)\n\n```(bash|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A paragraph and the block after it."""
OVERLAY = re.compile(r"kubectl apply -k manifests/overlays/([\w-]+)")
"""tests/cluster/test_overlays.py builds and applies all of them, as a dry run."""
RUN = re.compile(r"\.venv/bin/jobgen run \S+ -n minima")
"""tests/cluster runs it, on another pipeline."""


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_run_or_said_not_to_be(name: str, tmp_path: Path) -> None:
    first = 0
    for before, _, block in (found.groups() for found in BLOCK.finditer(page(name)) if found[2] == "bash"):
        commands = block.splitlines()
        if "not run by a test" in before.replace("\n", " "):
            continue
        assert "Three commands to the first job" in before
        assert len(commands) == 3
        first += 1
        init, overlay, run = commands
        done = subprocess.run([str(BIN / "jobgen"), *shlex.split(init)[1:]], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        file = shlex.split(run)[2]
        assert RUN.fullmatch(run)
        assert (matched := OVERLAY.fullmatch(overlay))
        made = spec.load(str(tmp_path / file))
        assert made.profile.name == matched[1] in CLUSTERS
    assert first == 1
    assert f"docs/{name}.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_profile_has_a_page() -> None:
    text = "".join(map(page, PAGES))
    assert [name for name in CLUSTERS if f"`{name}`" not in text] == ["none"]


@pytest.mark.parametrize("name", PAGES)
def test_what_the_pages_show_of_profiles_is_valid(name: str, tmp_path: Path) -> None:
    for found in BLOCK.finditer(page(name)):
        if found[2] == "yaml":
            (tmp_path / "site.yaml").write_text(found[3], encoding="utf-8")
            pools = profile.load("./site.yaml", "", tmp_path).pools.values()
            assert len({pool.gpu_memory for pool in pools if pool.gpus}) == 1


def test_the_operator_is_the_version_that_is_tested() -> None:
    (remote,) = yaml.safe_load((ROOT / "manifests/operator/kustomization.yaml").read_text())["resources"]
    constraints = (ROOT / "constraints.txt").read_text()
    assert remote.endswith("?ref=v" + re.findall(r"^kubeflow-training==(\S+)$", constraints, re.MULTILINE)[0])
