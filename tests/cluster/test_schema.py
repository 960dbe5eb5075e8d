"""The schema that fragments of pods are checked by is that of the cluster's own API, and of the operator's CRD."""

import json
from typing import Any

import pytest

from jobgen.pipeline import fragment

pytestmark = pytest.mark.cluster
DROPPED = {"description", "default", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"}
CORE = "io.k8s.api.core.v1."


def published(openapi: dict[str, Any], version: str) -> str:
    """The part of a cluster's OpenAPI document that a pod's template leads to, without prose; a definition on each line."""
    everything: dict[str, Any] = openapi["definitions"]
    found: dict[str, Any] = {}

    def bare(node: Any) -> Any:
        if isinstance(node, list):
            return [bare(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return {"$ref": definition(node["$ref"].removeprefix("#/definitions/"))} | {
                key: value for key, value in node.items() if key.startswith("x-kubernetes-patch")
            }
        return {key: bare(value) for key, value in node.items() if key not in DROPPED}

    def definition(full: str) -> str:
        name = full.rpartition(".")[2]
        if name not in found:
            found[name] = None
            made = everything[full]
            properties = {key: bare(value) for key, value in made.get("properties", {}).items() if kept(name, key)}
            rest = {key: bare(value) for key, value in made.items() if key in {"type", "format", "required"}}
            found[name] = rest | ({"properties": properties} if properties else {})
        return name

    def kept(name: str, key: str) -> bool:
        if name == "ObjectMeta":
            return key in {"labels", "annotations"}  # All that the operator's CRD lets a template have, but a name.
        return key != "ephemeralContainers"  # Nobody can create a pod with them.

    definition(f"{CORE}PodTemplateSpec")
    lines = [f"{json.dumps(name)}: {json.dumps(found[name], sort_keys=True)}" for name in sorted(found)]
    return f'{{"kubernetes": "{version}", "definitions": {{\n' + ",\n".join(lines) + "\n}}\n"


def test_the_schema_is_the_clusters(cluster: Any, update_golden: bool) -> None:
    client = cluster.core.api_client
    get = {"response_type": "object", "auth_settings": ["BearerToken"], "_return_http_data_only": True}
    openapi = client.call_api("/openapi/v2", "GET", header_params={"Accept": "application/json"}, **get)
    version = client.call_api("/version", "GET", **get)
    text = published(openapi, f"{version['major']}.{version['minor']}")
    if update_golden:
        fragment.SCHEMA.write_text(text, encoding="utf-8")
        pytest.skip(f"rewrote {fragment.SCHEMA}")
    ours, theirs = json.loads(fragment.SCHEMA.read_text(encoding="utf-8")), json.loads(text)
    if ours["kubernetes"] != theirs["kubernetes"]:
        pytest.skip(f"the schema kept is of Kubernetes {ours['kubernetes']}, the cluster is {theirs['kubernetes']}")
    assert ours == theirs


def test_the_operator_takes_what_the_schema_has(cluster: Any) -> None:
    """A field that its CRD has not would be dropped, or refused."""
    crd = cluster.custom.get_cluster_custom_object(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "pytorchjobs.kubeflow.org"
    )
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    definitions = json.loads(fragment.SCHEMA.read_text(encoding="utf-8"))["definitions"]

    def compare(node: dict[str, Any], theirs: dict[str, Any], path: str) -> None:
        if "$ref" in node:
            node = definitions[node["$ref"]]
        for key, value in node.get("properties", {}).items():
            assert key in theirs["properties"], f"{path}.{key}"
            compare(value, theirs["properties"][key], f"{path}.{key}")
        if node.get("type") == "array":
            compare(node["items"], theirs["items"], f"{path}[]")

    template = spec["pytorchReplicaSpecs"]["additionalProperties"]["properties"]["template"]
    compare({"$ref": "PodTemplateSpec"}, template, "template")
    assert set(fragment.SCHEDULING_POLICY) == set(spec["runPolicy"]["properties"]["schedulingPolicy"]["properties"])
