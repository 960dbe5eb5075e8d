"""The levels' layers over a template of jobgen's: what they give, what of its own they may not reach, and where they stand."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobgen.pipeline import fragment
from jobgen.pipeline.fragment import Layer, Path_
from jobgen.pipeline.level import IN_CONTAINER, IN_POD, MAY_GO, OF_POOL, OUR_LABELS
from jobgen.pipeline.pipeline import CONTAINER
from jobgen.pipeline.pools import OURS

REQUIRED = ("spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
TERMS = "nodeSelectorTerms"
"""Of those above: a node must meet one of them."""
KEPT = "$kept"
"""Marks, while layers are merged, what none of them took out."""
Wrong = list[tuple[str, str]]
"""Where something is written, as `file:line: keys`, and what is wrong with it."""


def over(own: Mapping[str, Any], layers: Sequence[Layer], container: str) -> tuple[dict[str, Any], Wrong]:
    """A template of jobgen's with layers over it, and what of that which jobgen decides one of them changed or removed: a null
    or a directive reaches anywhere.

    Args:
        own: the template.
        layers: in the order of merging.
        container: the name of jobgen's container in it.
    """
    states, _ = _laid(own, layers)
    decided = _decided(own, own, container)
    last = _decided(states[-1], own, container)
    lost = [path for path in decided if decided[path] != last[path]]
    wrong: dict[str, list[str]] = {}
    for path in lost:
        if any(path[:length] in lost for length in range(1, len(path))):
            continue  # With the part above it.
        first = next(n for n, state in enumerate(states) if _decided(state, own, container)[path] != decided[path])
        layer = layers[first - 1]
        wrong.setdefault(layer.written(fragment.said(layer.template, own, path)), []).append(decided[path][0])
    what = "would not be what jobgen needs; leave it as it is"
    return states[-1], [(place, f"{', '.join(names)} {what}") for place, names in wrong.items()]


def replaced(own: Mapping[str, Any], layers: Sequence[Layer]) -> Wrong:
    """What is gone of lists since a later layer says another, which Kubernetes does not merge: where, and in words."""
    return [
        (place, f"without {', '.join(map(json.dumps, items))}, which is said below it: Kubernetes merges no such list")
        for place, items in _laid(own, layers)[1]
    ]


def _laid(own: Mapping[str, Any], layers: Sequence[Layer]) -> tuple[list[dict[str, Any]], list[tuple[str, list[Any]]]]:
    """A template as each layer leaves it, and what is gone of lists: where, and the entries.

    Kubernetes replaces a list without merge key. What the nodes of a profile need is needed all the same: in the end its
    tolerations stay beside a pipeline's, and its terms of node affinity hold together with a pipeline's, unless null or a
    directive took them out.
    """
    states, gone = [dict(own)], []
    below = [layer for layer in layers if layer.of_profile]
    for layer in below:
        states.append(fragment.merge(states[-1], layer.template))
    tolerations = list(_at(states[-1], ("spec",)).get("tolerations") or [])
    terms = list(_at(states[-1], REQUIRED).get(TERMS) or [])
    if terms:
        _at(states[-1], REQUIRED)[KEPT] = True
    for layer in layers[len(below) :]:
        gone += [(layer, path, items) for path, items in fragment.replaced(states[-1], layer.template)]
        states.append(fragment.merge(states[-1], layer.template))
    required, spec = _at(states[-1], REQUIRED), _at(states[-1], ("spec",))
    kept = required.pop(KEPT, False)
    if kept and required.get(TERMS) != terms:
        required[TERMS] = [_both(one, other) for one in terms for other in required.get(TERMS) or []]
    if now := spec.get("tolerations"):
        spec["tolerations"] = [*(each for each in tolerations if each not in now), *now]
    there = {("spec", "tolerations"): spec.get("tolerations") or [], (*REQUIRED, TERMS): terms if kept else []}
    left = [(layer, path, [item for item in items if item not in there.get(path, [])]) for layer, path, items in gone]
    return states, [(layer.written(path), items) for layer, path, items in left if items]


def _at(template: Any, path: Path_) -> dict[str, Any]:
    """The mapping at a place of a template; an empty one that is not part of it where there is none."""
    for key in path:
        template = template.get(key) if isinstance(template, dict) else None
    return template if isinstance(template, dict) else {}


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A term of node affinity that holds where two do: all expressions of a term must."""
    return {
        key: [*one.get(key, []), *(each for each in other.get(key, []) if each not in one.get(key, []))]
        for key in dict.fromkeys((*one, *other))
    }


def located(layers: Sequence[Layer], merged: Mapping[str, Any], path: Path_, what: str) -> tuple[str, str]:
    """What is wrong with a part of a merged template, as a pair of where that is written (empty if no layer says it) and what.

    Args:
        layers: in the order of merging.
        merged: what they give.
        path: of the part, or of one that is missing; entries of lists by their number.
        what: to say of it.
    """
    place, most = "", 2  # All of them have a `spec`.
    for layer in layers:
        said = fragment.said(layer.template, merged, path)
        if len(said) >= most:  # Who laid over a value, or took it out, is later.
            place, most = layer.written(said), len(said)
    return place, what if place else f"pod.{'.'.join(path)}: {what}"


def _decided(template: Mapping[str, Any], ours: Mapping[str, Any], container: str) -> dict[Path_, tuple[str, Any]]:
    """What jobgen decides of a template whose own form is `ours`, by its path there: its name, and what it is."""
    spec, own = template.get("spec") or {}, ours["spec"]["containers"][0]
    containers = spec.get("containers") or []
    one: Mapping[str, Any] = next((each for each in containers if each.get("name") == container), {})
    box = ("spec", "containers", "0")
    found: dict[Path_, tuple[str, Any]] = {box[:2]: ("containers", [each.get("name") for each in containers])}
    labels = (template.get("metadata") or {}).get("labels") or {}
    for name in filter(OUR_LABELS.fullmatch, ours["metadata"]["labels"]):
        found["metadata", "labels", name] = name, labels.get(name)
    for name in (*IN_POD, *(["serviceAccountName"] if container != CONTAINER else [])):
        found["spec", name] = name, spec.get(name)
    for name in IN_CONTAINER:
        found[*box, name] = name, one.get(name)
    # Of some, such as /tmp and HOME, another one is as good, but none is not.
    for number, volume in enumerate(ours["spec"]["volumes"]):
        name = volume["name"]
        there = [each for each in spec.get("volumes") or [] if each.get("name") == name]
        found["spec", "volumes", str(number)] = name, bool(there) if name == "tmp" else there
    for number, mount in enumerate(own["volumeMounts"]):
        path = mount["mountPath"]
        there = [each for each in one.get("volumeMounts") or [] if each.get("mountPath", "").rstrip("/") == path]
        found[*box, "volumeMounts", str(number)] = path, bool(there) if mount["name"] == "tmp" else there
    variables = {each.get("name"): each for each in one.get("env") or []}
    for number, variable in enumerate(own["env"]):
        name = variable["name"]
        if OURS.fullmatch(name) or "valueFrom" in variable:
            found[*box, "env", str(number)] = name, variables.get(name)
        elif name not in MAY_GO:
            found[*box, "env", str(number)] = name, name in variables
    resources = one.get("resources") or {}
    for side in ("requests", "limits") if container == CONTAINER else ():
        for name in OF_POOL:
            found[*box, "resources", side, name] = f"{side}.{name}", (resources.get(side) or {}).get(name)
    return found
