"""The words of the files that people write, by the places where each is valid, and what to say of one that stands elsewhere."""

from collections.abc import Mapping
from typing import Any

from jobgen.pipeline import fragment, level, pools
from jobgen.pipeline.pools import GPU
from minima import options
from minima.errors import did_you_mean, listed, on_a_line
from minima.options import REFUSED, VERBS, Options

SHAPE = ("layer", "hidden", "head", "kv_head", "intermediate", "vocab_size")
KEYS: dict[str, tuple[str, ...]] = {
    "file": ("name", "image", "cluster", "conductor", "workspace", "inputs", "pools", "stages"),
    "profile": ("about", "gpus", "conductor", "workspace", "pools"),
    "pool": pools.KEYS,
    "stage": ("verb", "pool", "image", "options"),
    "conductor": ("image",),
    "workspace": ("claim", "path"),
    "input": ("path", *SHAPE),
}
"""Those of each place beside those of every level."""
EVERY = (*level.KEYS, level.SCHEDULING)
_NAMES = {
    "file": "a pipeline's file",
    "profile": "a cluster's profile",
    "pool": "a pool",
    "stage": "a stage",
    "conductor": "the conductor",
    "workspace": "the workspace",
    "input": "an input",
}
_LEVELS = {"file": EVERY, "profile": EVERY, "pool": EVERY, "stage": EVERY, "conductor": level.KEYS}
_WHERE = {
    "pool": "in a pool, as pools.NAME.{}",
    "stage": "in a stage, as stages.NAME.{}",
    "workspace": "in the workspace, as workspace.{}",
    "input": "in an input, as inputs.NAME.{}",
    "file": "at the root of a pipeline's file",
}
_ORDER = "a stage waits for those to which its options refer, as ${STAGE}"
_INSTEAD: dict[str, dict[str, str]] = {
    "": {
        "namespace": "`--namespace` of the command says it",
        "replicas": "a pool's `pods` says it",
        "nodes": "a pool's `pods` says it",
        "dependson": _ORDER,
        "needs": _ORDER,
        "after": _ORDER,
    },
    "stage": {
        "inputs": "the stage's `options` say what it reads",
        "command": "the stage's `verb` says it",
        "args": "the stage's `options` say them",
        "resources": "the stage's pool says how much each pod gets: `cpu`, `memory`, `gpus`, `resources`",
    },
    "workspace": {
        **dict.fromkeys(
            ("size", "storage", "storageclass", "storageclassname", "accessmode", "accessmodes"),
            "the claim has it, which you make",
        ),
        **dict.fromkeys(
            ("subpath", "subpathexpr", "subdir"), "the claim is mounted as a whole, and a pipeline's folder in it is its `name`"
        ),
        "mountpath": "the key `path` says it",
        "claimname": "the key `claim` says it",
        "readonly": "stages write their artifacts there",
    },
    "pool": {GPU: "the pool's `gpus` says it"},
    "conductor": {
        "schedulingpolicy": "it is of PyTorchJobs, and the conductor is a Job",
        "queue": "the label kueue.x-k8s.io/queue-name says it: `labels`",
        **dict.fromkeys(
            ("cpu", "memory", "disk", "resources"), "pod.spec.containers: [{name: conductor, resources: …}] says it"
        ),
    },
}
"""What other tools say elsewhere, by places; the first for all of them."""


def valid(place: str) -> tuple[str, ...]:
    """All keys of a place."""
    return (*KEYS[place], *_LEVELS.get(place, ()))


def unknown(key: str, place: str) -> str:
    """What to say of a key that a place has not: where it belongs, or what is valid."""
    known = valid(place)
    bare = fragment.bare(key)
    instead = _INSTEAD.get(place, {}).get(bare) or _INSTEAD[""].get(bare)
    if instead:
        return f"no key of {_NAMES[place]}: {instead}; take it out"
    alike = [each for each in known if fragment.bare(each) == bare or level.IN_SPEC.get(each) == key]
    elsewhere = [] if alike else belongs(key, place)
    if elsewhere:
        return f"belongs {', or '.join(elsewhere)}: move it"
    if "/" in key and place == "pool":
        return f"unknown; `resources: {{{on_a_line(key)}: …}}` is valid for what nodes offer"
    return f"unknown; {did_you_mean(alike[0] if alike else key, known)}"


def belongs(key: str, place: str) -> list[str]:
    """Where a key is valid, or the same one in other letters, but for the place itself; at most two of them."""
    pod = [] if place == "workspace" else fragment.places(key)  # There jobgen alone mounts it.
    if place == "conductor":  # It has no pool and no options.
        return [f"in `pod`, as {path}" for path in pod]
    bare = fragment.bare(key)
    skipped = {place, *(("stage", "input") if place == "profile" else ())}
    found = [
        _WHERE[other].format(each)
        for other in _WHERE
        if other not in skipped
        for each in KEYS[other]
        if fragment.bare(each) == bare
    ] or ["in a profile, the file that `cluster` names" for each in KEYS["profile"] if fragment.bare(each) == bare]
    if place not in {"profile", "workspace"} and any(key in _options(cls) for cls in VERBS.values()):
        found.insert(0, "in its `options`" if place == "stage" else f"in a stage's options, as stages.NAME.options.{key}")
    if len(found) < 2:
        found += [f"in `pod`, as {path}" for path in pod if path.count(".") < (3 if found else 5)]
    return found[:2]


def option(key: str, verb: str) -> str:
    """What to say of an option that a stage's verb has not, but something else of a pipeline has; empty if nothing has it."""
    if key in REFUSED or key in {f.name for f in options.fields(VERBS[verb])}:
        return ""
    verbs = [name for name, cls in VERBS.items() if key in _options(cls)]
    if verbs:
        return f"no option of {verb}, but of {listed(verbs)}; {did_you_mean(key, _options(VERBS[verb]))}"
    if key in valid("stage"):
        return "belongs in the stage itself, beside `options`: move it"
    found = belongs(key, "options")
    return f"belongs {', or '.join(found)}: move it" if found else ""


def _options(cls: type[Options]) -> list[str]:
    return [field.name for field in options.fields(cls) if field.name != "output_dir"]


def foreign(root: Mapping[str, Any], place: str) -> str:
    """What a file is that was read as a pipeline's or a profile's; empty if it may be one."""
    wanted = f"{_NAMES[place]} with keys such as {', '.join(KEYS[place][-3:])} is valid"
    if "apiVersion" in root and "kind" in root:
        return f"found an object of Kubernetes, a {on_a_line(str(root['kind'])[:60])}; {wanted}"
    if place == "profile" and "stages" in root:
        return f"found a pipeline; {wanted}"
    if (
        place == "file"
        and "stages" not in root
        and not {"name", "image", "inputs"} & root.keys()
        and {"pools", "about"} & root.keys()
    ):
        return "found the profile of a cluster, which a pipeline names as its `cluster`; name the pipeline's file"
    if 3 * len(root.keys() & {*valid(place)}) <= len(root):
        return f"found {listed([*map(on_a_line, root)], 4)}, as in neither a pipeline nor a profile; {wanted}"
    return ""
