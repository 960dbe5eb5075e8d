"""Whatever is in a pipeline file, jobgen gives objects or one of our errors, never anything else."""

import random
import string
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobgen.manifests import conductor
from jobgen.pipeline import profile, spec
from minima.errors import UsageError

SHIPPED = {name: spec.read(name) for name in spec.shipped()}
PROFILES = {name: (profile.SHIPPED / f"{name}.yaml").read_text(encoding="utf-8") for name in profile.shipped()}
WORDS = sorted(
    {word for text in SHIPPED.values() for line in text.splitlines() for word in line.replace(":", " ").split()}
    | {
        "&a",
        "*a",
        "<<",
        "!!int",
        "!!python/object:os.system",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "? ",
        "|",
        ">",
        "\t",
        "---",
        "...",
    }
    | {
        "3e-4",
        "~",
        "null",
        ".inf",
        "0x1F",
        "1:30",
        "2026-11-24",
        "no",
        "'",
        '"',
        "\\U0010FFFF",
        "${",
        "${adapt}/..",
        "@sha256:",
    }
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(string.printable, max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def judged(text: str) -> bool:
    """Whether `text` is a pipeline; fails on anything but objects or an error with a message."""
    try:
        conductor.check(spec.parse(text, "p.yaml"))
        return True
    except UsageError as error:
        lines = str(error).splitlines()
    assert lines
    assert all(line.startswith("p.yaml") for line in lines)
    return False


@given(st.text(max_size=200) | st.lists(st.sampled_from([*WORDS, "\n", "\n  ", " "]), max_size=30).map("".join))
@settings(max_examples=150, deadline=None)
@example('"\\UFFFFFFFF"')
@example("%YAML " + "9" * 5000 + ".1\n--- a")
@example("&a [*a]")
@example("name: !!float x")
@example("name: !!int ''")
@example("\ufeffname: x")
@example("name: 2026-13-45")
def test_any_text(text: str) -> None:
    judged(text)


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_any_value(value: Any) -> None:
    judged(yaml.safe_dump({"name": "x", "image": "x", "workspace": {"claim": "x", "path": "/x"}, "stages": value}))


@given(st.sampled_from(sorted(SHIPPED)), st.integers(0, 2**32), st.integers(1, 3), VALUES)
@settings(max_examples=40, deadline=None)
def test_mutations_of_the_tree(name: str, seed: int, count: int, value: Any) -> None:
    """Replace, remove, rename and move parts of a shipped pipeline."""
    document = yaml.safe_load(SHIPPED[name])
    mutate(document, random.Random(seed), count, value)
    judged(yaml.safe_dump(document, sort_keys=False))


def mutate(document: Any, choose: random.Random, count: int, value: Any) -> None:
    """Change a tree in some places."""
    for _ in range(count):
        if not document:
            return
        holder: Any = document
        while True:
            key = choose.choice(list(holder)) if isinstance(holder, dict) else choose.randrange(len(holder))
            inner = holder[key]
            if isinstance(inner, dict | list) and inner and choose.random() < 0.8:
                holder = inner
                continue
            break
        match choose.randrange(4):
            case 0:
                holder[key] = value
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[choose.choice(WORDS)] = holder.pop(key)
            case _:
                holder[key] = choose.choice(WORDS)


BASE = """name: tiny
image: minima:cpu
cluster: ./site.yaml
conductor: minima:jobgen
workspace: {claim: work, path: /workspace}
stages:
  one:
    verb: doctor
    pool: cpu
"""
POD = """
metadata: {labels: {team: a}, annotations: {note: b}}
spec:
  nodeSelector: {rack: a}
  tolerations: [{key: a, operator: Exists}]
  securityContext: {runAsUser: 20000, supplementalGroups: [1]}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
    {matchExpressions: [{key: a, operator: In, values: [b]}]}]}}}
  volumes: [{name: data, persistentVolumeClaim: {claimName: c}}, {name: ca, configMap: {name: ca}}]
  initContainers: [{name: side, image: x, restartPolicy: Always, env: [{name: A, value: b}]}]
  containers:
    - {name: pytorch, env: [{name: A, value: b}], volumeMounts: [{name: data, mountPath: /data}], resources: {limits: {a/b: 1}}}
"""


@given(st.sampled_from(sorted(PROFILES)), st.integers(0, 2**32), st.integers(1, 3), VALUES)
@settings(max_examples=40, deadline=None)
def test_mutations_of_a_profile(name: str, seed: int, count: int, value: Any) -> None:
    document = yaml.safe_load(PROFILES[name])
    mutate(document, random.Random(seed), count, value)
    judged(f"{BASE}---\n{yaml.safe_dump(document, sort_keys=False)}")


@given(st.sampled_from(["site", "root", "pool", "stage", "conductor"]), st.integers(0, 2**32), st.integers(0, 3), VALUES)
@settings(max_examples=60, deadline=None)
def test_mutations_of_a_fragment(level: str, seed: int, count: int, value: Any) -> None:
    """At each level, in either file."""
    pod = yaml.safe_load(POD)
    if level == "conductor":
        pod["spec"]["containers"][0]["name"] = "conductor"
    mutate(pod, random.Random(seed), count, value)
    root, site = yaml.safe_load(BASE), {"about": "ours"}
    match level:
        case "site":
            site["pod"] = pod
        case "root":
            root["pod"] = pod
        case "pool":
            root["pools"] = {"cpu": {"pod": pod}}
        case "stage":
            root["stages"]["one"]["pod"] = pod
        case _:
            root["conductor"] = {"image": "minima:jobgen", "pod": pod}
    right = judged(yaml.safe_dump_all([root, site], sort_keys=False))
    assert right or count


@given(st.sampled_from(sorted(SHIPPED)), st.data())
@settings(max_examples=40, deadline=None)
def test_mutations_of_the_text(name: str, data: st.DataObject) -> None:
    text = SHIPPED[name]
    start = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 40))
    judged(text[:start] + data.draw(st.sampled_from(WORDS) | st.text(max_size=5)) + text[start + length :])


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_judge_accepts_what_is_right(name: str) -> None:
    assert judged(SHIPPED[name])
    assert not judged(SHIPPED[name] + "extra: 1\n")
