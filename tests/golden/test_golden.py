"""The shipped pipelines' PyTorchJobs, byte for byte. After a wanted change: `--update-golden`, and read the diff."""

from pathlib import Path

import pytest

from jobgen import render, spec

HERE = Path(__file__).parent
UPDATE = "`.venv/bin/pytest tests/golden --update-golden` rewrites them, if that is what you want"


@pytest.mark.parametrize("name", spec.shipped())
def test_the_shipped_pipelines_render_as_before(name: str, update_golden: bool) -> None:
    rendered = {file: text.encode() for file, text in render.files(spec.load(name)).items()}
    folder = HERE / name
    if update_golden:
        folder.mkdir(exist_ok=True)
        for place in folder.iterdir():
            place.unlink()
        for file, content in rendered.items():
            (folder / file).write_bytes(content)
        pytest.skip(f"rewrote {folder}")
    golden = {place.name: place.read_bytes() for place in sorted(folder.glob("*"))}
    assert sorted(golden) == sorted(rendered), f"{folder} holds other files; {UPDATE}"
    changed = [file for file in golden if golden[file] != rendered[file]]
    assert not changed, f"{', '.join(changed)} in {folder} differ from what is rendered; {UPDATE}"


def test_there_are_two_golden_pipelines() -> None:
    assert spec.shipped() == ["minima-3b", "smoke"]
