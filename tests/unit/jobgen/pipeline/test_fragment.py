"""Fragments of pods: checked by the published schema, merged as Kubernetes merges."""

import copy
import json
import os
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobgen.pipeline import fragment

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "b", "c": "d"}},
    "spec": {
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "containers": [
            {
                "name": "pytorch",
                "image": "x",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "work", "persistentVolumeClaim": {"claimName": "w"}}],
    },
}


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "pytorch", **fields}]}}


PATCHES: dict[str, dict[str, Any]] = {
    "labels": {"metadata": {"labels": {"c": None, "e": "f"}, "annotations": {"x": "y"}}},
    "left to the platform": {"spec": {"securityContext": {"runAsUser": None}}},
    "an atomic list": {
        "spec": {"tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]}
    },
    "a new variable": container(env=[{"name": "D", "value": "4"}]),
    "variables, new, old and in another order": container(
        env=[{"name": "C", "value": "x"}, {"name": "D", "value": "y"}, {"name": "B", "valueFrom": None}]
    ),
    "a variable less": container(env=[{"name": "B", "$patch": "delete"}]),
    "other variables": container(env=[{"$patch": "replace"}, {"name": "Z", "value": "0"}]),
    "a capability": container(securityContext={"capabilities": {"add": ["IPC_LOCK"]}}),
    "a sidecar": {"spec": {"initContainers": [{"name": "proxy", "image": "p", "restartPolicy": "Always"}]}},
    "the size of /tmp": {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}},
    "a claim": {
        "spec": {
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data.v1", "readOnly": True}}],
            **container(volumeMounts=[{"name": "data", "mountPath": "/data"}])["spec"],
        }
    },
    "a map replaced": {"spec": {"nodeSelector": {"$patch": "replace", "pool": "b"}}},
    "a map deleted": {"spec": {"nodeSelector": {"$patch": "delete"}}},
    "secrets and hosts": {
        "spec": {"imagePullSecrets": [{"name": "registry"}], "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["h"]}]}
    },
}


def kubectls(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """What kubectl makes of it, without a server."""
    place = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": base}
    words = [
        "kubectl",
        "patch",
        "--local",
        "--type",
        "strategic",
        "-o",
        "json",
        "-f",
        "-",
        "-p",
        json.dumps({"template": patch}),
    ]
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    done = subprocess.run(words, input=json.dumps(place), capture_output=True, text=True, check=True, env=env)
    merged: dict[str, Any] = json.loads(done.stdout)["template"]
    return merged


def judged(base: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((base, patch))
    assert fragment.merge(base, patch) == kubectls(base, patch)
    assert (base, patch) == before


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which judges, is not installed")
@pytest.mark.parametrize("name", PATCHES)
def test_merges_as_kubectl_does(name: str) -> None:
    assert list(fragment.problems(PATCHES[name], ())) == []
    judged(BASE, PATCHES[name])


def test_the_parts_that_matter() -> None:
    merged = BASE
    for patch in PATCHES.values():
        merged = fragment.merge(merged, patch)
    (one,) = merged["spec"]["containers"]
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert one["env"] == [{"name": "Z", "value": "0"}]
    assert merged["spec"]["securityContext"] == {"fsGroup": 1000}
    assert [volume["name"] for volume in merged["spec"]["volumes"]] == ["data", "tmp", "work"]
    assert merged["spec"]["nodeSelector"] == {}
    assert merged["metadata"]["labels"] == {"a": "b", "e": "f"}


def test_another_source_of_a_volume_takes_its_place() -> None:
    """Two would be refused by the server. Kubernetes' own word for it is `$retainKeys`, which a person would not know."""
    patch = {"spec": {"volumes": [{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}}
    volumes = fragment.merge(BASE, patch)["spec"]["volumes"]
    assert next(volume for volume in volumes if volume["name"] == "tmp") == patch["spec"]["volumes"][0]


NAMES = st.sampled_from("abcdef")
ENVIRONMENTS = st.lists(st.tuples(NAMES, st.text("xyz", max_size=2)), unique_by=lambda pair: pair[0], max_size=6)


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_merging_again_changes_nothing_more(below: list[tuple[str, str]], above: list[tuple[str, str]]) -> None:
    base = container(env=[{"name": name, "value": value} for name, value in below])
    patch = container(env=[{"name": name, "value": value} for name, value in above])
    once = fragment.merge(base, patch)
    assert {e["name"]: e["value"] for e in once["spec"]["containers"][0]["env"]} == {**dict(below), **dict(above)}
    names = [e["name"] for e in fragment.merge(once, patch)["spec"]["containers"][0]["env"]]
    assert sorted(names) == sorted(e["name"] for e in once["spec"]["containers"][0]["env"])


@pytest.mark.parametrize(
    ("pod", "where", "what"),
    [
        ({"spec": {"nodeSelektor": {}}}, "spec.nodeSelektor", "unknown; did you mean 'nodeSelector'?"),
        ({"spek": {}}, "spek", "unknown; did you mean 'spec'?"),
        ({"spec": {"tolerations": [{"key": 1}]}}, "spec.tolerations.0.key", "found 1; a string is valid, in quotes"),
        ({"spec": {"tolerations": {"key": "a"}}}, "spec.tolerations", "found {key: 'a'}; a list is valid"),
        ({"spec": {"dnsPolicy": "Clusterfirst"}}, "spec.dnsPolicy", "found 'Clusterfirst'; did you mean 'ClusterFirst'?"),
        ({"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork", "found 'yes'; true or false is valid"),
        ({"spec": {"priority": 1.5}}, "spec.priority", "found 1.5; a whole number is valid"),
        ({"spec": {"priority": True}}, "spec.priority", "found true; a whole number is valid"),
        ({"spec": {"affinity": {"nodeAffinty": {}}}}, "spec.affinity.nodeAffinty", "did you mean 'nodeAffinity'?"),
        (
            {"spec": {"volumes": [{"emptyDir": {}}]}},
            "spec.volumes.0",
            "found no name, by which entries",
        ),
        (
            {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1 GB"}}]}},
            "spec.volumes.0.emptyDir.sizeLimit",
            "found '1 GB'; a quantity such as 500m or 64Gi is valid",
        ),
        ({"metadata": {"name": "x"}}, "metadata.name", "unknown; valid: annotations, labels"),
        ({"metadata": {"labels": {"a": 1}}}, "metadata.labels.a", "found 1; a string is valid"),
        (
            {"spec": {"tolerations": [{"$patch": "replace"}, {"key": "a"}]}},
            "spec.tolerations.0.$patch",
            "takes the place of the other as a whole",
        ),
        (
            {"spec": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}},
            "spec.tolerations.0.tolerationSeconds",
            "NoExecute",
        ),
        ({"spec": {"$retainKeys": []}}, "spec.$retainKeys", "unknown directive; $patch is valid"),
        ({"spec": {"nodeSelector": {"$patch": "remove"}}}, "spec.nodeSelector.$patch", "valid: delete, merge, replace"),
        ([], "", "found []; a mapping is valid"),
    ],
)
def test_what_is_wrong_has_its_place(pod: Any, where: str, what: str) -> None:
    ((path, said),) = fragment.problems(pod, ())
    assert ".".join(path) == where
    assert what in said


def test_what_is_required_is_missed_in_the_merged_template_only() -> None:
    patch = {"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {}}]}}
    assert list(fragment.problems(patch, ())) == []
    ((path, said),) = fragment.lacks(fragment.merge(BASE, patch))
    assert (path[:3], said) == (("spec", "volumes", "0"), "claimName is missing")
    assert list(fragment.lacks(BASE)) == []
