"""Fragments of a pod's template: how a pipeline says any field of a pod, checked by Kubernetes' schema, merged by its rules.

The schema is the published OpenAPI document, kept as data (`pod_schema.json`, which a test compares with a cluster's). The
rules are those of strategic merge patches: maps are merged, lists that have a merge key by it, all others replaced; null
removes, `$patch: delete` empties a map or removes a list's entry, `$patch: replace` forgets what stands below. One
difference: where a volume or a variable gets another source the old one goes, for which Kubernetes wants `$retainKeys`.
"""

import copy
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobgen.pipeline.source import Place
from jobgen.pod import forms
from jobgen.pod.quantities import QUANTITY
from jobgen.pod.template import RULES
from minima.errors import did_you_mean, told

SCHEMA = Path(__file__).with_name("pod_schema.json")
SCHEDULING_POLICY: dict[str, Any] = {
    "minAvailable": {"type": "integer", "format": "int32"},
    "minResources": {"type": "object", "additionalProperties": {"$ref": "Quantity"}},
    "priorityClass": {"type": "string"},
    "queue": {"type": "string"},
    "scheduleTimeoutSeconds": {"type": "integer", "format": "int32"},
}
"""Fields of the operator's `runPolicy.schedulingPolicy`, which some schedulers read."""
DIRECTIVE = "$patch"
DIRECTIVES = ("delete", "replace", "merge")
VALUES = ("command", "args")
"""Lists that are one value rather than a set: another one is meant to take its place."""
Path_ = tuple[str, ...]
Problems = Iterator[tuple[Path_, str]]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A template that a level lays over those below, and where its parts are written.

    Attributes:
        template: of pods.
        place: in the level's file.
        words: for parts of the template, the keys that say them there; below a part both go on alike.
        of_profile: whether a cluster's profile says it.
    """

    template: Mapping[str, Any]
    place: Place
    words: Mapping[Path_, Path_]
    of_profile: bool = False

    def written(self, path: Path_) -> str:
        """The place of what says a path of the template, or the nearest part above it."""
        part = max((each for each in self.words if path[: len(each)] == each), key=len)
        return self.place(*self.place.nearest((*self.words[part], *path[len(part) :])))


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """What one level of a pipeline (all of it, a pool, a stage, the conductor) adds to its objects.

    Attributes:
        labels: of the object and of its pods.
        annotations: likewise.
        layers: of its pods' template: what its short words mean, and its `pod`; each is merged on its own, so that what it
            removes is removed from all below.
        scheduling_policy: the operator's `runPolicy.schedulingPolicy`.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    scheduling_policy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> bool:
        """Whether it adds anything to a pod."""
        templates = [layer.template for layer in self.layers]
        return any(each.get("spec") or any((each.get("metadata") or {}).values()) for each in templates)


@functools.cache
def _definitions() -> dict[str, Any]:
    definitions: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))["definitions"]
    return {**definitions, "SchedulingPolicy": {"type": "object", "properties": SCHEDULING_POLICY}}


def problems(value: Any, path: Path_, definition: str = "PodTemplateSpec") -> Problems:
    """What is wrong with a fragment by the schema, as pairs of where and what; what is required may be elsewhere."""
    yield from _all(value, {"$ref": definition}, path, whole=False)


def lacks(value: Any, path: Path_ = (), definition: str = "PodTemplateSpec") -> Problems:
    """What is wrong with a merged template, or another complete value: what the API server would refuse, all included."""
    yield from _all(value, {"$ref": definition}, path, whole=True)


def _all(value: Any, node: Mapping[str, Any], path: Path_, *, whole: bool) -> Problems:
    """What is wrong with types, names and forms; if nothing is, with what values are together."""
    found = list(_problems(value, node, path, whole=whole))
    yield from found or _rules(value, node, path, whole=whole)


def _rules(value: Any, node: Mapping[str, Any], path: Path_, *, whole: bool) -> Problems:
    """What the rules of Kubernetes say of complete values: of all that is merged, and of items of lists that are not."""
    node = _resolved(node)
    if isinstance(value, dict):
        if whole and node.get("is") in RULES:
            yield from RULES[node["is"]](value, path)
        properties = node.get("properties")
        for key, item in value.items():
            if key != DIRECTIVE:
                below = properties[key] if properties is not None else node.get("additionalProperties", {})
                yield from _rules(item, below, (*path, key), whole=whole)
    elif isinstance(value, list):
        complete = whole or "x-kubernetes-patch-merge-key" not in node
        for number, item in enumerate(value):
            yield from _rules(item, node["items"], (*path, str(number)), whole=complete)


def _resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node of the schema, or the definition that it refers to with the node's own rules of merging."""
    if "$ref" not in node:
        return node
    return {**_definitions()[node["$ref"]], **{k: v for k, v in node.items() if k != "$ref"}, "is": node["$ref"]}


def _problems(value: Any, node: Mapping[str, Any], path: Path_, *, whole: bool) -> Problems:
    node = _resolved(node)
    if value is None and not whole:
        return  # Removes what is there.
    expected = _expected(value, node)
    if expected:
        yield path, f"found {told(value)}; {expected}"
        return
    if isinstance(value, dict):
        yield from _of_mapping(value, node, path, whole=whole)
    elif isinstance(value, list):
        key = node.get("x-kubernetes-patch-merge-key")
        for number, item in enumerate(value):
            here = (*path, str(number))
            if item is None:
                yield here, "found null; take the entry out"
                continue
            if key and isinstance(item, dict) and item.get(DIRECTIVE) != "replace":
                if item.get(key) is None:
                    yield here, f"found no {key}, by which entries of this list are merged; give one"
                elif any(isinstance(old, dict) and old.get(key) == item[key] for old in value[:number]):
                    yield here, f"found {key} {item[key]} twice in this list; take one out"
            yield from _problems(item, node["items"], here, whole=whole or not key)


def _of_mapping(value: Mapping[str, Any], node: Mapping[str, Any], path: Path_, *, whole: bool) -> Problems:
    properties = node.get("properties")
    for key, item in value.items():
        here = (*path, key)
        if key == DIRECTIVE and not whole:
            if item not in DIRECTIVES:
                yield here, f"found {told(item)}; {did_you_mean(str(item), DIRECTIVES)}"
        elif key == DIRECTIVE:
            yield here, "found in a list without merge key, which takes the place of the other as a whole; take it out"
        elif key.startswith("$"):
            yield here, f"unknown directive; {DIRECTIVE} is valid"
        elif properties is not None and key not in properties:
            yield here, _unknown(key, node)
        else:
            below = properties[key] if properties is not None else node.get("additionalProperties", {})
            wrong = list(_problems(item, below, here, whole=whole))
            yield from wrong
            if not wrong and item is not None:
                yield from forms.problems(node.get("is", ""), key, item, here)
    if whole:
        for key in (*node.get("required", ()), *forms.REQUIRED.get(node.get("is", ""), ())):
            if value.get(key) is None or (value[key] in ("", []) and key not in forms.MAY_BE_EMPTY):
                yield path, f"{key} is missing"


def bare(word: str) -> str:
    """A word without what tells apart the ways to write it: nodeSelector, node_selector."""
    return re.sub("[-_]", "", word).lower()


@functools.cache
def _fields() -> dict[str, list[str]]:
    """By their bare names, where a pod's template has fields: from the root, each kind of object once, where it comes first."""
    found: dict[str, list[str]] = {}
    kinds = {"PodTemplateSpec": "pod"}
    for kind in (waiting := [*kinds]):
        for name, node in _definitions()[kind].get("properties", {}).items():
            below = node.get("items", node).get("$ref")
            path = f"{kinds[kind]}.{name}"
            found.setdefault(bare(name), []).append(path)
            if below in _definitions() and below not in kinds:
                kinds[below] = path + "[]" * ("items" in node)
                waiting.append(below)
    return found


def places(name: str) -> list[str]:
    """Where a pod's template has a field of this name, nearest to its root; none if that says nothing, for there are many."""
    found = _fields().get(bare(name), [])
    nearest = [path for path in found if path.count(".") == found[0].count(".")]
    return nearest if len(nearest) in {1, 2} and found[0].count(".") < 5 else []


def _unknown(key: str, node: Mapping[str, Any]) -> str:
    """What to say of a field that an object of the schema has not."""
    if node.get("is") == "PodTemplateSpec" and key in {"apiVersion", "kind", "status", "template"}:
        return "`pod` is no object but the template of one: its `metadata` and `spec` alone are valid"
    alike = [each for each in node["properties"] if bare(each) == bare(key)]
    if not alike and (found := places(key)):
        return f"belongs in {' or '.join(found)}: move it"
    return f"unknown; {did_you_mean(alike[0] if alike else key, node['properties'])}"


def _expected(value: Any, node: Mapping[str, Any]) -> str:
    """What is valid in place of `value`; empty if it is of the right type."""
    if node.get("is") == "Quantity":
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        good = isinstance(text, str) and QUANTITY.fullmatch(text) is not None
        return "" if good else "a quantity such as 500m or 64Gi is valid"
    if node.get("is") == "IntOrString" or node.get("format") == "int-or-string":
        good = isinstance(value, int | str) and not isinstance(value, bool)
        return "" if good else "a whole number or a string is valid"
    match node.get("type"):
        case "string":
            if not isinstance(value, str):
                return "a string is valid, in quotes if need be"
            return did_you_mean(value, node["enum"]) if "enum" in node and value not in node["enum"] else ""
        case "integer":
            if not isinstance(value, int) or isinstance(value, bool):
                return "a whole number is valid"
            bits = 31 if node.get("format") == "int32" else 63
            return "" if -(2**bits) <= value < 2**bits else f"a whole number from -2^{bits} to 2^{bits} - 1 is valid"
        case "boolean":
            return "" if isinstance(value, bool) else "true or false is valid"
        case "array":
            return "" if isinstance(value, list) else "a list is valid"
        case "object":
            return "" if isinstance(value, dict) else "a mapping is valid"
    return ""


def merge(template: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's template with a fragment laid over it by strategic merge; neither is changed."""
    merged = _merged(copy.deepcopy(dict(template)), fragment, {"$ref": "PodTemplateSpec"})
    assert isinstance(merged, dict)
    return merged


def said(template: Any, merged: Any, path: Path_) -> Path_:
    """As much of a path of a merged template as one of its layers' says; entries of lists by their numbers there."""
    node: Mapping[str, Any] = {"$ref": "PodTemplateSpec"}
    found: list[str] = []
    for step in path:
        node = _resolved(node)
        if isinstance(template, list):
            key = node.get("x-kubernetes-patch-merge-key")
            entry = merged[int(step)] if isinstance(merged, list) and int(step) < len(merged) else None
            same = [
                n for n, each in enumerate(template) if (each.get(key) == entry.get(key) if key and entry else each == entry)
            ]
            if not same:
                break
            step, node = str(same[0]), node["items"]
            template, merged = template[same[0]], entry
        elif isinstance(template, dict) and step in template:
            template, merged = template[step], merged.get(step) if isinstance(merged, dict) else None
            node = (node.get("properties") or {}).get(step) or node.get("additionalProperties", {})
        else:
            break
        found.append(step)
    return tuple(found)


def replaced(base: Any, patch: Any) -> Iterator[tuple[Path_, list[Any]]]:
    """The lists without merge key, by their path in a fragment, that it replaces in a template, and what it does not repeat."""
    yield from _replaced(base, patch, {"$ref": "PodTemplateSpec"}, ())


def _replaced(base: Any, patch: Any, node: Mapping[str, Any], path: Path_) -> Iterator[tuple[Path_, list[Any]]]:
    node = _resolved(node)
    if isinstance(base, dict) and isinstance(patch, dict) and DIRECTIVE not in patch:
        for key in patch:
            if key in base and key not in VALUES:
                below = (node.get("properties") or {}).get(key) or node.get("additionalProperties", {})
                yield from _replaced(base[key], patch[key], below, (*path, key))
    elif isinstance(base, list) and isinstance(patch, list):
        if "merge" not in node.get("x-kubernetes-patch-strategy", ""):
            if items := [item for item in base if item not in patch]:
                yield path, items
            return
        key = node["x-kubernetes-patch-merge-key"]
        there = {item[key]: item for item in base}
        for number, item in enumerate(patch):
            if DIRECTIVE not in item and item[key] in there:
                yield from _replaced(there[item[key]], item, node["items"], (*path, str(number)))


def mounts(layers: Iterable[Layer]) -> list[str]:
    """Where layers, merged in their order, mount volumes in the stage's container."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.template)
    containers = (merged.get("spec") or {}).get("containers") or []
    return [mount["mountPath"].rstrip("/") for one in containers for mount in one.get("volumeMounts") or []]


def _merged(base: Any, patch: Any, node: Mapping[str, Any]) -> Any:
    node = _resolved(node)
    if isinstance(patch, dict):
        if not isinstance(base, dict) or patch.get(DIRECTIVE) == "replace":
            base = {}
        properties = node.get("properties") or {}
        for key, value in patch.items():
            if key == DIRECTIVE:
                continue
            if value is None:
                base.pop(key, None)
            elif isinstance(value, dict) and value.get(DIRECTIVE) == "delete":
                base[key] = {}
            else:
                base[key] = _merged(base.get(key), value, properties.get(key) or node.get("additionalProperties", {}))
        return base
    if node.get("is") == "Quantity" and not isinstance(patch, str):
        return str(patch)
    if isinstance(patch, list) and "merge" in node.get("x-kubernetes-patch-strategy", ""):
        return _merged_list(base if isinstance(base, list) else [], patch, node)
    return copy.deepcopy(patch)


def _merged_list(base: list[Any], patch: list[Any], node: Mapping[str, Any]) -> list[Any]:
    """A list merged by its key, in the order that Kubernetes' own code gives it: what is new goes before the old."""
    key = node["x-kubernetes-patch-merge-key"]
    if any(item.get(DIRECTIVE) == "replace" for item in patch):
        base = []
    order = [old[key] for old in base]
    gone = {item[key] for item in patch if item.get(DIRECTIVE) == "delete"}
    left = {old[key]: old for old in base if old[key] not in gone}
    right = []
    for item in patch:
        if DIRECTIVE in item and item[DIRECTIVE] != "merge":
            continue
        old = left.pop(item[key], {})
        if "retainKeys" in node["x-kubernetes-patch-strategy"]:  # A volume has one source: another takes its place.
            old = {name: value for name, value in old.items() if name in item}
        if node["items"].get("$ref") == "EnvVar" and (item.get("value") is not None or item.get("valueFrom") is not None):
            old = {}  # So has a variable.
        right.append(_merged(old, item, node["items"]))
    merged, rest = [], list(left.values())
    for item in right:
        while rest and item[key] in order and order.index(rest[0][key]) < order.index(item[key]):
            merged.append(rest.pop(0))
        merged.append(item)
    return merged + rest
