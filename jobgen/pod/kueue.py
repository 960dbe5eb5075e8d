"""What the webhooks of Kueue take of labels and annotations (0.17 to 0.19, `pkg/controller/jobframework`)."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobgen.pod import forms
from minima.errors import told

DOMAIN = "kueue.x-k8s.io/"
TOPOLOGY = tuple(f"{DOMAIN}podset-{kind}-topology" for kind in ("required", "preferred", "unconstrained"))
SLICE, SIZE, GROUP = (f"{DOMAIN}podset-{name}" for name in ("slice-required-topology", "slice-size", "group-name"))


def label(name: str, value: str) -> str:
    """What is valid in place of the value of a job's label, or nothing."""
    match name.removeprefix(DOMAIN) if name.startswith(DOMAIN) else "":
        case "queue-name" | "prebuilt-workload-name":
            return forms.queue_name(value)
        case "max-exec-time-seconds":
            return (
                ""
                if value.isascii() and value.isdecimal() and int(value)
                else "a whole number of seconds above 0 is valid, in quotes"
            )
    return ""


def annotations(found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with those of a pod's template that ask for a topology, as pairs of which and what."""
    asked = [name for name in TOPOLOGY if name in found]
    if len(asked) > 1:
        yield asked[1], f"found beside {asked[0]}; one of them is valid"
    for name in (*TOPOLOGY[:2], SLICE):
        if name in found and (valid := forms.qualified(found[name])):
            yield name, f"found {told(found[name])}; the label of a topology's level: {valid}"
    unconstrained = TOPOLOGY[2]
    if unconstrained in found and found[unconstrained] not in "1 t T TRUE true True 0 f F FALSE false False".split():
        yield unconstrained, f"found {told(found[unconstrained])}; true or false is valid, in quotes"
    if SIZE in found and not (found[SIZE].isascii() and found[SIZE].isdecimal() and 0 < int(found[SIZE]) < 2**31):
        yield SIZE, f"found {told(found[SIZE])}; a whole number above 0 is valid, in quotes"
    if (SIZE in found) != (SLICE in found):
        one, other = (SIZE, SLICE) if SIZE in found else (SLICE, SIZE)
        yield one, f"found without {other}; they go together"
    if GROUP in found:
        if found[GROUP].isdecimal():
            yield GROUP, f"found {told(found[GROUP])}; a name that is no number is valid"
        if not any(name in found for name in TOPOLOGY[:2]):
            yield GROUP, f"found without {TOPOLOGY[0]}, or {TOPOLOGY[1]}; one of them goes with it"
        yield from ((GROUP, f"found beside {name}; one of them is valid") for name in (SLICE, SIZE) if name in found)


def too_large(template: Mapping[str, Any], pods: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """What asks for more pods together than a job has, as pairs of where and what; of a template that is right in itself."""
    size = ((template.get("metadata") or {}).get("annotations") or {}).get(SIZE, "0")
    if size.isdecimal() and int(size) > pods:
        what = f"found {told(size)}, more than {pods}, the pods of the job; at most as many are valid"
        yield ("metadata", "annotations", SIZE), what
