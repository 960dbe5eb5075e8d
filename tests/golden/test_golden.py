"""The shipped pipelines in every form, byte for byte. After a wanted change: `--update-golden`, and read the diff."""

import shutil
from pathlib import Path

import pytest

from jobgen.manifests import conductor, document, network, render
from jobgen.pipeline import spec

HERE = Path(__file__).parent
UPDATE = "`.venv/bin/pytest tests/golden --update-golden` rewrites them, if that is what you want"


def of(name: str, form: str) -> dict[str, bytes]:
    """The files of a form, as bytes."""
    pipeline = spec.load(name)
    made = render.files(pipeline)
    if form == "conductor":
        made = {"conductor.yaml": document.text(pipeline, conductor.objects(pipeline, "minima"))}
    if form == "network":
        made = {"network.yaml": document.text(pipeline, network.objects(pipeline, "minima", "10.0.0.1:6443"))}
    return {file: text.encode() for file, text in made.items()}


@pytest.mark.parametrize("form", ["files", "conductor", "network"])
@pytest.mark.parametrize("name", spec.shipped())
def test_the_shipped_pipelines_render_as_before(name: str, form: str, update_golden: bool) -> None:
    rendered = of(name, form)
    folder = HERE / name / form
    if update_golden:
        shutil.rmtree(folder, ignore_errors=True)
        for file, content in rendered.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        pytest.skip(f"rewrote {folder}")
    golden = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert sorted(golden) == sorted(rendered), f"{folder} holds other files; {UPDATE}"
    changed = [file for file in golden if golden[file] != rendered[file]]
    assert not changed, f"{', '.join(changed)} in {folder} differ from what is rendered; {UPDATE}"


def test_there_are_two_golden_pipelines() -> None:
    assert spec.shipped() == ["minima-3b", "smoke"]
