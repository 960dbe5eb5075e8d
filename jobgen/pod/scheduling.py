"""What the API server takes of where a pod may go: tolerations, affinity, spreading, selectors."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobgen.pod import forms
from minima.errors import told

Path_ = tuple[str, ...]
Problems = Iterator[tuple[Path_, str]]


def toleration(value: Mapping[str, Any], path: Path_) -> Problems:
    operator = value.get("operator") or "Equal"
    if not value.get("key") and operator != "Exists":
        yield path, f"found no key and operator {operator}; a key, or operator Exists, which tolerates every taint, is valid"
    if operator == "Exists" and value.get("value"):
        yield (*path, "value"), f"found {told(value['value'])} beside operator Exists; no value, or operator Equal, is valid"
    if operator == "Equal" and (valid := forms.label_value(value.get("value") or "")):
        yield (*path, "value"), f"found {told(value['value'])}; {valid}"
    if value.get("tolerationSeconds") is not None and value.get("effect") != "NoExecute":
        found = value.get("effect") or "no effect"
        yield (
            (*path, "tolerationSeconds"),
            f"found beside {found}; it goes with effect NoExecute alone, of which pods are evicted",
        )


def label_requirement(value: Mapping[str, Any], path: Path_) -> Problems:
    operator, values = value.get("operator"), value.get("values") or []
    if operator in {"In", "NotIn"} and not values:
        yield path, f"found operator {operator} without values; at least one is valid"
    if operator in {"Exists", "DoesNotExist"} and values:
        yield (*path, "values"), f"found values beside operator {operator}, which takes none; In or NotIn take some"


def node_requirement(value: Mapping[str, Any], path: Path_) -> Problems:
    yield from label_requirement(value, path)
    operator, values = value.get("operator"), value.get("values") or []
    if operator in {"Gt", "Lt"}:
        if len(values) != 1:
            yield path, f"found {len(values)} values for operator {operator}; one is valid"
        # The server takes other words, and the scheduler then finds no node.
        elif not re.fullmatch("[+-]?[0-9]{1,18}", values[0]):
            yield (*path, "values", "0"), f"found {told(values[0])} for operator {operator}; a whole number is valid, in quotes"


def node_selector_term(value: Mapping[str, Any], path: Path_) -> Problems:
    for number, each in enumerate(value.get("matchFields") or []):
        here = (*path, "matchFields", str(number))
        if each.get("key") != "metadata.name":
            yield (*here, "key"), f"found {told(each.get('key'))}; metadata.name is valid, the only field of a node to match"
        if each.get("operator") not in {"In", "NotIn"}:
            yield (*here, "operator"), f"found {told(each.get('operator'))}; In or NotIn is valid for a node's name"
        elif len(each.get("values") or []) != 1:
            yield here, f"found {len(each.get('values') or [])} values; one name of a node is valid"
        elif valid := forms.subdomain(each["values"][0]):
            yield (*here, "values", "0"), f"found {told(each['values'][0])}; {valid}"


def node_selector(value: Mapping[str, Any], path: Path_) -> Problems:
    """Of what is required; of what is preferred a value that no label can have is let pass."""
    for number, term in enumerate(value.get("nodeSelectorTerms") or []):
        for place, each in enumerate(term.get("matchExpressions") or []):
            for index, item in enumerate(each.get("values") or []):
                if valid := forms.label_value(item):
                    here = (*path, "nodeSelectorTerms", str(number), "matchExpressions", str(place), "values", str(index))
                    yield here, f"found {told(item)}; {valid}"


def _selected(selector: Mapping[str, Any]) -> set[str]:
    """The keys that a label selector names."""
    return {*(selector.get("matchLabels") or {}), *(each.get("key") for each in selector.get("matchExpressions") or [])}


def _label_keys(value: Mapping[str, Any], path: Path_) -> Problems:
    """Rules of `matchLabelKeys` and `mismatchLabelKeys`."""
    match, mismatch = value.get("matchLabelKeys") or [], value.get("mismatchLabelKeys") or []
    selector = value.get("labelSelector")
    for key, names in (("matchLabelKeys", match), ("mismatchLabelKeys", mismatch)):
        if names and selector is None:
            yield (*path, key), "found without labelSelector, which it narrows; give one"
    for number, name in enumerate(match):
        here = (*path, "matchLabelKeys", str(number))
        if name in _selected(selector or {}):
            yield here, f"found {told(name)}, which labelSelector names too; one of them is valid"
        if name in mismatch:
            yield here, f"found {told(name)} in mismatchLabelKeys too; one of them is valid"


def pod_affinity_term(value: Mapping[str, Any], path: Path_) -> Problems:
    yield from _label_keys(value, path)


def spread(value: Mapping[str, Any], path: Path_) -> Problems:
    yield from _label_keys(value, path)
    if value.get("minDomains") is not None and value.get("whenUnsatisfiable") != "DoNotSchedule":
        found = value.get("whenUnsatisfiable")
        yield (*path, "minDomains"), f"found beside whenUnsatisfiable {found}; it goes with DoNotSchedule alone"


RULES = {
    "Toleration": toleration,
    "LabelSelectorRequirement": label_requirement,
    "NodeSelectorRequirement": node_requirement,
    "NodeSelectorTerm": node_selector_term,
    "NodeSelector": node_selector,
    "PodAffinityTerm": pod_affinity_term,
    "TopologySpreadConstraint": spread,
}
