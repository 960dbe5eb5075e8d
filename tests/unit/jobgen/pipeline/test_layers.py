"""What is wrong with pods once all levels are laid over each other is said where a person wrote it, in whichever file."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests import conductor
from jobgen.pipeline import fragment, level, spec
from jobgen.pipeline.source import Place
from minima.errors import UsageError

SMALL = (Path(__file__).parents[3] / "cluster" / "short.yaml").read_text(encoding="utf-8")
LEVELS = ("profile", "profile's pool", "pipeline", "pool", "stage")


def said(folder: Path, levels: dict[str, dict[str, Any]]) -> list[str]:
    """What jobgen says of the short pipeline with these keys at its levels, each on a line of its own; none may be right."""
    content = yaml.safe_load(SMALL)
    content |= {"cluster": "./site.yaml", **levels.get("pipeline", {})}
    content["pools"] = {"mine": levels.get("pool", {})}
    content["stages"]["distill"] |= {"pool": "mine", **levels.get("stage", {})}
    content["conductor"] = {"image": "minima:jobgen", **levels.get("conductor", {})}
    mine = {"cpu": 1, "memory": "2Gi", **levels.get("profile's pool", {})}
    site = {**levels.get("profile", {}), "pools": {"mine": mine}, "conductor": levels.get("profile's conductor", {})}
    for name, each in (("p", content), ("site", site)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(each, sort_keys=False), encoding="utf-8")
    made = spec.load(str(folder / "p.yaml"))
    with pytest.raises(UsageError) as caught:
        conductor.check(made)
    return str(caught.value).splitlines()


def line_of(place: str) -> str:
    """The text of the line that an error names."""
    file, number = re.match(r"(.*\.yaml):(\d+): ", place).groups()  # type: ignore[union-attr]
    return Path(file).read_text(encoding="utf-8").splitlines()[int(number) - 1]


def container(**fields: Any) -> dict[str, Any]:
    return {"pod": {"spec": {"containers": [{"name": "pytorch", **fields}]}}}


def volume(**fields: Any) -> dict[str, Any]:
    return {"pod": {"spec": {"volumes": [{"name": "data", **fields}]}}}


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "required": (volume(persistentVolumeClaim={"readOnly": True}), "persistentVolumeClaim:", "claimName is missing"),
    "no volume": (container(volumeMounts=[{"name": "ca", "mountPath": "/ca"}]), "name: ca", "no volume 'ca'"),
    "negative": (container(resources={"limits": {"a/b": "-1"}}), "a/b:", "found '-1'; 0 or more"),
    "two amounts": (
        container(resources={"requests": {"a/b": 1}, "limits": {"a/b": 2}}),
        "a/b: 1",
        "found '1', and '2' in `limits`",
    ),
    "too full": (volume(emptyDir={"sizeLimit": "20Gi"}), "name: data", "the volumes data may hold 20.0 GiB"),
    "containers gone": ({"pod": {"spec": {"containers": None}}}, "containers:", "containers would not be what jobgen needs"),
    "all gone": ({"pod": {"spec": None}}, "spec: null", "containers, workspace, tmp, shm would not be"),
    "labels gone": ({"pod": {"metadata": {"labels": None}}}, "labels: null", "minima/pipeline, minima/stage"),
    "variable gone": (container(env=[{"$patch": "delete", "name": "HOME"}]), "$patch: delete", "HOME would not be"),
    "/tmp gone": (container(volumeMounts=[{"$patch": "delete", "mountPath": "/tmp"}]), "$patch: delete", "/tmp would not be"),
    "volume gone": ({"pod": {"spec": {"volumes": [{"$patch": "replace"}]}}}, "volumes:", "workspace, tmp, shm would not be"),
}


@pytest.mark.parametrize("where", LEVELS)
@pytest.mark.parametrize("case", WRONG)
def test_each_error_has_the_line_that_is_wrong(case: str, where: str, tmp_path: Path) -> None:
    keys, text, what = WRONG[case]
    found = said(tmp_path, {where: keys})
    mine = [line for line in found if what in line and not line.endswith("(in the pod of the conductor)")]
    assert mine, found
    for line in mine:
        assert line.startswith(str(tmp_path / ("site.yaml" if "profile" in where else "p.yaml")))
        assert text in line_of(line)
    stages = "init-model" if where in {"profile", "pipeline"} else "distill"
    assert re.search(rf"\(in the pods of .*{stages}.*\)$", "\n".join(mine), re.MULTILINE)


@pytest.mark.parametrize("where", ["profile's conductor", "conductor"])
def test_of_the_conductor_too(where: str, tmp_path: Path) -> None:
    mount = {"name": "conductor", "volumeMounts": [{"name": "ca", "mountPath": "/ca"}]}
    (line,) = said(tmp_path, {where: {"pod": {"spec": {"containers": [mount]}}}})
    assert "no volume 'ca'" in line
    assert "name: ca" in line_of(line)
    assert line.startswith(str(tmp_path / ("site.yaml" if "profile" in where else "p.yaml")))


def test_who_laid_it_last_is_named(tmp_path: Path) -> None:
    """Levels that are right alone, and wrong together."""
    right = volume(persistentVolumeClaim={"claimName": "data"})
    (line,) = said(tmp_path, {"profile": right, "stage": volume(persistentVolumeClaim={"claimName": None, "readOnly": True})})
    assert "claimName is missing" in line
    assert f"{tmp_path / 'p.yaml'}:" in line
    assert ": stages.distill.pod.spec.volumes.0.persistentVolumeClaim: " in line


def test_short_words_have_their_place() -> None:
    """A path of the template that they make is the key that was written."""
    values = {
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
        "env": {"A": "1", "B": {"secret": "s", "key": "k"}},
        "image_pull_secrets": ["one", "two"],
        "service_account": "me",
        "priority_class": "high",
    }
    lines: dict[tuple[str, ...], int] = {("stages", "x", key): number for number, key in enumerate(values)} | {
        ("stages", "x", "env", "B"): 9
    }
    made, problems = level.read(values, ("stages", "x"), Place("p.yaml", lines), container="pytorch")
    assert problems == []
    short, _ = made.layers
    for path, key in (
        (("metadata", "labels", "team"), "labels"),
        (("metadata", "annotations", "note"), "annotations"),
        (("spec", "imagePullSecrets", "1", "name"), "image_pull_secrets"),
        (("spec", "serviceAccountName"), "service_account"),
        (("spec", "priorityClassName"), "priority_class"),
        (("spec", "containers", "0", "env", "1", "valueFrom"), "env.B"),
    ):
        assert fragment.said(short.template, short.template, path) == path
        assert short.written(path).endswith(f": stages.x.{key}")
