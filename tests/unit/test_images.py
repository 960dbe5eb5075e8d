"""The Dockerfiles and `make release`: one Python everywhere, and a release only of what is known to the byte."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = [ROOT / "Dockerfile", ROOT / "images/cpu.Dockerfile", ROOT / "images/train.Dockerfile"]
DIGEST = "@sha256:" + "ab" * 32


def test_images_have_the_python_of_the_tests() -> None:
    bases = {file.name: re.findall(r"^ARG BASE=(.+)$", file.read_text(), re.MULTILINE) for file in OURS}
    assert len({tuple(found) for found in bases.values()}) == 1, bases
    (base,) = bases["Dockerfile"]
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    makefile = (ROOT / "Makefile").read_text()
    assert base.startswith(f"python:{checked}-")
    assert f"\nBASE ?= {base}\n" in makefile
    assert f"\nPYTHON ?= python{checked}\n" in makefile
    for file in OURS:
        assert set(re.findall(r"python(3\.\d+)", file.read_text())) <= {checked}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is committed here, with this Makefile."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", "--depth", "1", f"file://{ROOT}", tmp_path], check=True)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-am", "t"], cwd=tmp_path)
    return tmp_path


def release(folder: Path, **values: str) -> subprocess.CompletedProcess[str]:
    words = [f"{name}={value}" for name, value in values.items()]
    return subprocess.run(
        ["make", "--silent", "release", "DOCKER=echo", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_release_names_its_base_by_digest_and_its_commit(clone: Path) -> None:
    done = release(clone, REGISTRY="registry.example.com/team", BASE=f"python:3.11-slim-bookworm{DIGEST}")
    assert done.returncode == 0, done.stdout + done.stderr
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True).stdout.strip()
    lines = done.stdout.splitlines()
    assert [line.partition("-t ")[2].split()[0] for line in lines] == [
        f"registry.example.com/team/minima:{name}-{commit}" for name in ("train", "cpu", "jobgen")
    ]
    assert all(f"--build-arg BASE=python:3.11-slim-bookworm{DIGEST}" in line for line in lines)
    assert all(f"--build-arg MINIMA_COMMIT={commit}" in line for line in lines)
    assert all((clone / line.split()[2]).is_file() for line in lines)


def test_nothing_else_is_released(clone: Path) -> None:
    named = {"REGISTRY": "registry.example.com/team", "BASE": f"python:3.11-slim-bookworm{DIGEST}"}
    assert "BASE: found python:3.11-slim-bookworm, which may change" in release(clone, REGISTRY="r").stdout
    assert "REGISTRY: missing" in release(clone, BASE=named["BASE"]).stdout
    (clone / "README.md").write_text("changed")
    done = release(clone, **named)
    assert (done.returncode, "not committed:  M README.md" in done.stdout) == (2, True)
