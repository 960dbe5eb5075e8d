"""A key at a wrong place is told where it belongs, and a file of another kind what it is."""

import pytest

from jobgen.pipeline import fragment, spec, words
from minima.errors import UsageError
from minima.options import VERBS
from tests.unit.jobgen.pipeline.test_spec import GOOD


def errors(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        spec.parse(text, "p.yaml")
    return str(caught.value).splitlines()


ROOT, STAGE, OPTIONS = "", "    ", "      "
SAID: dict[str, tuple[str, str, str]] = {
    "a pool's at the root": (ROOT, "queue: team", "queue: belongs in a pool, as pools.NAME.queue: move it"),
    "a pool's in a stage": (STAGE, "gpus: 8", "gpus: belongs in a pool, as pools.NAME.gpus: move it"),
    "a pool's, in Kubernetes' letters": (
        STAGE,
        "nodeSelector: {a: b}",
        "belongs in a pool, as pools.NAME.node_selector, or in `pod`, as pod.spec.nodeSelector: move it",
    ),
    "a stage's at the root": (ROOT, "verb: adapt", "verb: belongs in a stage, as stages.NAME.verb: move it"),
    "an option in its stage": (STAGE, "learning_rate: 1.0", "learning_rate: belongs in its `options`: move it"),
    "an option at the root": (ROOT, "seed: 1", "seed: belongs in a stage's options, as stages.NAME.options.seed: move it"),
    "a stage's among its options": (OPTIONS, "env: {}", "options.env: belongs in the stage itself, beside `options`: move it"),
    "a pool's among options": (OPTIONS, "gpus: 1", "options.gpus: belongs in a pool, as pools.NAME.gpus: move it"),
    "another verb's option": (OPTIONS, "lora_r: 8", "options.lora_r: no option of adapt, but of finetune"),
    "the file's in a stage": (STAGE, "cluster: kind", "cluster: belongs at the root of a pipeline's file: move it"),
    "a profile's in the file": (ROOT, "about: x", "about: belongs in a profile, the file that `cluster` names: move it"),
    "the workspace's": (ROOT, "claim: x", "claim: belongs in the workspace, as workspace.claim: move it"),
    "a pod's": (STAGE, "volumes: []", "volumes: belongs in `pod`, as pod.spec.volumes: move it"),
    "a container's": (ROOT, "volumeMounts: []", "volumeMounts: belongs in `pod`, as pod.spec.containers[].volumeMounts"),
    "a short word in Kubernetes' letters": (STAGE, "imagePullSecrets: []", "unknown; did you mean 'image_pull_secrets'?"),
    "a short word by Kubernetes' name": (STAGE, "serviceAccountName: x", "unknown; did you mean 'service_account'?"),
    "a command's": (ROOT, "namespace: x", "namespace: no key of a pipeline's file: `--namespace` of the command says it"),
    "another tool's": (STAGE, "depends_on: [x]", "a stage waits for those to which its options refer, as ${STAGE}"),
    "a pod's field in the wrong part": (
        ROOT,
        "pod: {spec: {securityContext: {capabilities: {}}}}",
        "pod.spec.securityContext.capabilities: belongs in pod.spec.containers[].securityContext.capabilities: move it",
    ),
    "a pod's field above its part": (ROOT, "pod: {nodeSelector: {}}", "pod.nodeSelector: belongs in pod.spec.nodeSelector"),
    "a pod's field below its part": (
        ROOT,
        "pod: {spec: {containers: [{name: pytorch, tolerations: []}]}}",
        "pod.spec.containers.0.tolerations: belongs in pod.spec.tolerations: move it",
    ),
    "an object as a fragment": (ROOT, "pod: {kind: Pod}", "pod.kind: `pod` is no object but the template of one"),
    "of one name in many places": (ROOT, "pod: {metadata: {name: x}}", "metadata.name: unknown; valid: annotations, labels"),
}


@pytest.mark.parametrize("case", SAID)
def test_where_a_key_belongs(case: str) -> None:
    level, key, expected = SAID[case]
    (line,) = errors(f"{GOOD}{level}{key}\n")
    assert line.startswith(f"p.yaml:{len(GOOD.splitlines()) + 1}: ")
    assert expected in line


@pytest.mark.parametrize("place", words.KEYS)
def test_no_place_sends_a_key_to_itself(place: str) -> None:
    """Whatever is valid somewhere else is told to move, and never to where it is, or where it is not valid."""
    for other, keys in words.KEYS.items():
        for key in keys:
            if key in words.valid(place):
                continue
            said = words.unknown(key, place)
            assert "belongs" in said or "no key of" in said or place in {"conductor", "profile"}, (other, key, said)
            assert words.unknown(key, place) == said
            for pool in ("pools.NAME", "stages.NAME"):
                if f"as {pool}." in said:
                    assert f"{pool}.{key}" in said or key in VERBS["fetch"].__dataclass_fields__


def test_a_field_of_kubernetes_is_found_where_the_schema_has_it() -> None:
    assert fragment.places("runtime_class_name") == ["pod.spec.runtimeClassName"]
    assert fragment.places("sizeLimit") == ["pod.spec.volumes[].emptyDir.sizeLimit"]
    assert fragment.places("name") == fragment.places("no such field") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nspec: {}\n", "an object of Kubernetes, a PyTorchJob"),
        ("apiVersion: v1\nkind: ConfigMap\n---\napiVersion: batch/v1\nkind: Job\n", "an object of Kubernetes, a ConfigMap"),
        ("resources: [a.yaml]\npatches: []\n", "resources, patches, as in neither a pipeline nor a profile"),
        ("replicaCount: 1\nimage: {tag: x}\nservice: {}\n", "replicaCount, image, service, as in neither a pipeline nor"),
        ("about: ours\npools: {}\n", "the profile of a cluster, which a pipeline names as its `cluster`"),
    ],
)
def test_a_file_of_another_kind_is_one_error(text: str, what: str) -> None:
    (line,) = errors(text)
    assert line.startswith(f"p.yaml:1: found {what}")


def test_a_mapping_that_is_something_else_is_one_error() -> None:
    for old, new, place in (
        ("workspace: {claim: work, path: /workspace}", "workspace: work", "p.yaml:3: workspace: found 'work'"),
        (
            "pools:\n  pair: {pods: 2, cpu: 100m, memory: 2Gi}",
            "pools: [pair]",
            "p.yaml:6: pools: found ['pair']; a mapping, `KEY",
        ),
        ("inputs:\n  llama: /workspace/inputs/llama", "inputs:\n  llama: [a]", "p.yaml:5: inputs.llama: found ['a']"),
    ):
        assert old in GOOD
        assert errors(GOOD.replace(old, new).replace("pool: pair", "pool: cpu"))[0].startswith(place)
    assert len(errors(GOOD.replace("workspace: {claim: work, path: /workspace}", "workspace: work"))) == 1
    (line,) = errors(GOOD[: GOOD.index("  adapt:")] + "  adapt:\n")
    assert line.startswith("p.yaml:9: stages.adapt: found null; a mapping")
