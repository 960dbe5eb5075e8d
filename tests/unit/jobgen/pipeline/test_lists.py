"""What lies over what: a profile's nodes stay what they are, and what Kubernetes leaves out of a list is told."""

from typing import Any

import pytest

from jobgen.pipeline import layers
from jobgen.pipeline.fragment import Layer
from jobgen.pipeline.source import Place
from tests.unit.jobgen.pipeline.test_fragment import BASE, container


def laid(below: list[dict[str, Any]], above: list[dict[str, Any]]) -> tuple[dict[str, Any], list[tuple[str, list[Any]]]]:
    """The base with templates of a profile and of a pipeline over it, and what is gone: by the number of the latter."""
    made = [Layer(template=each, place=Place("p", {}), words={(): ()}, of_profile=True) for each in below]
    for number, each in enumerate(above):
        made.append(Layer(template=each, place=Place(str(number), {}), words={(): ()}))
    states, gone = layers._laid(BASE, made)
    return states[-1], gone


def affinity(*terms: Any, **more: Any) -> dict[str, Any]:
    return {"spec": {"affinity": {"nodeAffinity": {layers.REQUIRED[-1]: {"nodeSelectorTerms": list(terms), **more}}}}}


def term(key: str, **more: Any) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": "Exists"}], **more}


def tolerating(*keys: str) -> dict[str, Any]:
    return {"spec": {"tolerations": [{"key": key, "operator": "Exists"} for key in keys]}}


NAMED = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
BOTH = {"matchExpressions": [*term("site")["matchExpressions"], *term("a")["matchExpressions"]]}
TERMS = layers.REQUIRED[1:]


@pytest.mark.parametrize(
    ("above", "terms", "gone"),
    [
        ([], [term("site")], []),
        ([{"spec": {"affinity": {"podAffinity": {}}}}], [term("site")], []),
        ([affinity(term("a"))], [BOTH], []),
        ([affinity(term("site"))], [term("site")], []),
        ([affinity(term("a"), NAMED)], [BOTH, term("site", **NAMED)], []),
        ([affinity(term("b")), affinity(term("a"))], [BOTH], [("1:1", [term("b")])]),
        ([{"spec": {"affinity": None}}], None, []),
        ([{"spec": {"affinity": None}}, affinity(term("a"))], [term("a")], []),
        ([{"spec": {"affinity": {"$patch": "replace", **affinity(term("a"))["spec"]["affinity"]}}}], [term("a")], []),
        ([affinity(term("a"), **{"$patch": "replace"})], [term("a")], []),
    ],
)
def test_the_nodes_of_a_profile_are_kept_unless_they_are_taken_out(above: list[Any], terms: Any, gone: list[Any]) -> None:
    """A term of its is that of every node where the pod may be, whatever a pipeline wants beside."""
    made, left = laid([affinity(term("site"))], above)
    for key in ("spec", *TERMS):
        made = made.get(key, {})
    assert made == ({} if terms is None else {"nodeSelectorTerms": terms})
    assert left == gone


def test_the_tolerations_of_a_profile_are_kept() -> None:
    keys = [each["key"] for each in laid([tolerating("site")], [tolerating("a")])[0]["spec"]["tolerations"]]
    assert keys == ["site", "a"]
    made, gone = laid([tolerating("site")], [tolerating("a"), tolerating("b", "site")])
    assert [each["key"] for each in made["spec"]["tolerations"]] == ["b", "site"]
    assert gone == [("1:1", tolerating("a")["spec"]["tolerations"])]
    taken = laid([tolerating("site")], [{"spec": {"tolerations": None}}])
    assert "tolerations" not in taken[0]["spec"]


def test_what_kubernetes_leaves_out_of_a_list_is_told() -> None:
    """Where no key tells which entries are the same; a list that is one value, such as a command, is replaced as it should."""
    lock, name = container(securityContext={"capabilities": {"add": ["IPC_LOCK"]}}), container(name="pytorch")
    own = container(securityContext={"capabilities": {"add": ["SYS_PTRACE"]}}, env=[{"name": "A", "value": "x"}])
    made, gone = laid([lock], [name, own, {"spec": {"dnsConfig": {"searches": ["b"]}}}])
    assert gone == [("1:1", ["IPC_LOCK"])]
    assert made["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] == ["SYS_PTRACE"]
    sidecar = [{"spec": {"initContainers": [{"name": "x", "image": "x", "command": [word]}]}} for word in "ab"]
    assert laid(sidecar[:1], sidecar[1:])[1] == []
    assert laid([lock], [container(**own["spec"]["containers"][0], **{"$patch": "replace"})])[1] == []
