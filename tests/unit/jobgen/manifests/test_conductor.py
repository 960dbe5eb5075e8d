"""The conductor's objects: what they may hold, and which rights they ask for."""

import json
import re
from pathlib import Path

import pytest
import yaml

from jobgen.manifests import conductor, render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from minima.errors import UsageError

SHORT = (Path(__file__).parents[3] / "cluster" / "short.yaml").read_text(encoding="utf-8")

SSA = "kustomize.toolkit.fluxcd.io/ssa"
GITOPS = Path(__file__).parents[4] / "manifests" / "gitops"


def test_a_pipeline_that_no_config_map_holds_is_refused() -> None:
    """Counted in bytes, as the API server does: a Chinese character has three."""
    for filler in ("#", "字"):
        width = len(filler.encode())
        room = conductor.LARGEST - len(SHORT.encode()) - 1
        text = f"{SHORT}#{filler * (room // width)}"
        text += "#" * (conductor.LARGEST - len(text.encode()))
        assert len(text.encode()) == conductor.LARGEST
        assert conductor.objects(spec.parse(text, "p.yaml"))
        with pytest.raises(UsageError, match=r"p\.yaml: found 1,048,577 bytes; at most 1,048,576, what"):
            conductor.objects(spec.parse(text + "#", "p.yaml"))


def test_a_value_of_the_conductors_pod_is_judged_too() -> None:
    document = yaml.safe_load(SHORT)
    more = {"requests": {"memory": "4Gi"}}
    document["conductor"] = {"image": "x", "pod": {"spec": {"containers": [{"name": "conductor", "resources": more}]}}}
    with pytest.raises(
        UsageError, match=r"conductor\.pod\.spec\.containers\.0\.resources\.requests\.memory: found '4Gi', above the"
    ):
        conductor.check(spec.parse(yaml.safe_dump(document), "p.yaml"))


def test_queues_may_be_looked_at_only_where_a_pool_names_one() -> None:
    """An admin of a namespace may not give away rights to Kueue's objects that they lack."""
    document = yaml.safe_load(SHORT)
    document["pools"] = {"small": {"queue": "gpus"}}
    for text, queued in ((SHORT, False), (yaml.safe_dump(document), True)):
        groups = {group for rule in conductor.rules(spec.parse(text, "p.yaml")) for group in rule["apiGroups"]}
        assert ("kueue.x-k8s.io" in groups) == queued


def test_no_tool_for_git_takes_more_than_the_conductor() -> None:
    """A stage's file in a folder that Flux or Argo CD syncs is left alone, and Argo CD's label of tracking is on nothing."""
    pipeline = spec.parse(SHORT, "p.yaml")
    jobs = [render.job(pipeline, step) for step in plan(pipeline)]
    for job in jobs:
        assert job["metadata"]["annotations"][SSA] == "Ignore"
        assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Skip"
    made = conductor.objects(pipeline)
    notes = {each["kind"]: each["metadata"].get("annotations", {}) for each in made}
    assert "argocd" not in json.dumps(notes)
    assert {kind: each[SSA] for kind, each in notes.items() if SSA in each} == {"Job": "IfNotPresent"}
    for each in [*jobs, *made]:
        assert "app.kubernetes.io/instance" not in json.dumps(each)
    # `${…}` of the pipeline are not Flux's.
    (held,) = [each for each in made if conductor.FILE in each.get("data", {})]
    assert held["metadata"]["annotations"] == {"kustomize.toolkit.fluxcd.io/substitute": "disabled"}


@pytest.mark.parametrize("place", sorted(GITOPS.glob("*.yaml")), ids=lambda place: place.stem)
def test_the_examples_for_git_leave_what_others_change_of_a_conductor_and_remove_the_one_before(place: Path) -> None:
    found = yaml.safe_load(place.read_text(encoding="utf-8"))["spec"]
    pruned = found["prune"] if place.stem == "flux" else found["syncPolicy"]["automated"]["prune"]
    assert pruned is True
    assert "wait" not in found
    if place.stem == "argocd":  # Nothing here runs one: what its documentation says.
        assert found["ignoreDifferences"] == [{"group": "batch", "kind": "Job", "jsonPointers": ["/spec"]}]
        assert found["syncPolicy"]["syncOptions"] == ["RespectIgnoreDifferences=true"]


def test_the_conductor_of_the_page_of_networks_has_what_is_said_there() -> None:
    """Of the whole pipeline's variables, containers and volumes it has none: what it must have stands under `conductor`."""
    page = (Path(__file__).parents[4] / "docs" / "network.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if block.startswith("conductor:")]
    said = {"name": "pytorch", "volumeMounts": [{"name": "other", "mountPath": "/other"}]}
    whole = {"containers": [said], "volumes": [{"name": "other", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}]}
    document = {**yaml.safe_load(SHORT), **yaml.safe_load(example), "env": {"OTHER": "x"}, "pod": {"spec": whole}}
    pod = conductor.objects(spec.parse(yaml.safe_dump(document), "p.yaml"))[-1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert (env["NO_PROXY"], "OTHER" in env) == ("10.0.0.0/8", False)
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert (mounted["ca"], "other" in mounted) == ("/etc/site", False)
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert "ca" in volumes
    assert "other" not in volumes
    assert pod["tolerations"] == [{"operator": "Exists"}]
