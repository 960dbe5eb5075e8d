"""Pools: named sets of equal pods. A pipeline takes them as they are, changes their fields, or adds its own.

Names of nodes and of RDMA resources differ in every cluster, so no built-in pool has any: the profile of a cluster states them,
or the pipeline's `pools`, as `node_selector` and `resources`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from jobgen.pipeline.fragment import Fragment, lacks
from jobgen.pipeline.speed import KINDS
from jobgen.pod import forms, quantities
from minima.errors import UsageError, did_you_mean, told

UNITS = ("", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti")
QUANTITY = re.compile(rf"[0-9]{{1,12}}(\.[0-9]{{1,6}})?({'|'.join(UNITS)})")
"""What people write of the forms that Kubernetes takes."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OURS = re.compile(r"PET_.*|MINIMA_.*|MASTER_(ADDR|PORT)|(LOCAL_)?RANK|(LOCAL_)?WORLD_SIZE")
"""Variables that the operator, torchrun, jobgen and minima set."""
GPU = "nvidia.com/gpu"
DISK = "ephemeral-storage"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Equal pods, and what each of them gets."""

    name: str
    like: str = ""
    """The pool, of those below the file, that this one began as; empty for one that began with nothing."""
    pods: int = 1
    processes: int = 0
    """Training processes in each pod; 0 for one per GPU, or one without GPUs."""
    gpus: int = 0
    gpu: str = ""
    """Kind of the GPUs, from which `jobgen plan` knows their speed: A100 or H100; empty, or null in a file, for any other."""
    gpu_memory: str = ""
    """Memory of one GPU; empty leaves the memory plan out."""
    cpu: str = ""
    cpu_limit: str = ""
    """Empty for the same as `cpu`."""
    memory: str = ""
    shm: str = "1Gi"
    """Size of /dev/shm; it counts against `memory`."""
    disk: str = "10Gi"
    """What a pod may fill of its node's own disk, by /tmp and its log; the node must have as much."""
    disk_request: str = ""
    """Empty for the same as `disk`; 0 for nodes that do not count their disk, as a kubelet without root does not."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """More of what the nodes offer, by its name there, such as RDMA devices."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    image: str = ""
    """Empty for the pipeline's; one that a profile says is below that."""
    queue: str = ""
    """Kueue's LocalQueue; empty for none."""
    fragment: Fragment = field(default_factory=Fragment)
    """What pods of this pool, and their objects, have beside that."""


KEYS = tuple(f.name for f in fields(Pool) if f.name not in {"name", "fragment"})
_A100 = Pool(
    name="a100-8",
    gpus=8,
    gpu="A100",
    gpu_memory="80Gi",
    cpu="80",
    memory="900Gi",
    shm="64Gi",
    tolerations=({"key": GPU, "operator": "Exists", "effect": "NoSchedule"},),
)
_SMALL = Pool(name="small", cpu="100m", cpu_limit="2", memory="3Gi", shm="256Mi", disk="2Gi", disk_request="0")
BUILT_IN = {
    pool.name: replace(pool, like=pool.name)
    for pool in (
        replace(_A100, name="a100-32", pods=4),
        replace(_A100, name="a100-16", pods=2),
        _A100,
        replace(_A100, name="a100-1", gpus=1, cpu="10", memory="110Gi", shm="8Gi", disk="5Gi"),
        Pool(name="cpu", cpu="16", memory="64Gi", shm="2Gi"),
        Pool(name="cpu-8", pods=8, cpu="36", memory="128Gi"),
        _SMALL,
        replace(_SMALL, name="small-pair", pods=2),
    )
}
"""For nodes with 96 CPUs and 1 TiB, less what their own pods take; the profiles of clusters have the sizes of real ones."""


def amount(quantity: str) -> float:
    """A Kubernetes quantity as a number: cores, or bytes.

    Raises:
        UsageError: it is none.
    """
    if not quantities.QUANTITY.fullmatch(quantity):
        raise UsageError(f"found {quantity!r}; a quantity such as 16, 500m or 64Gi is valid")
    return float(quantities.number(quantity))


def find(name: str, pools: Mapping[str, Pool]) -> Pool:
    """The pool called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in pools:
        raise UsageError(f"no such pool; {did_you_mean(name, pools)}")
    return pools[name]


def build(below: Pool, values: Mapping[str, Any], place: Callable[..., str]) -> Pool:
    """The pool `below` with `values` laid over it.

    Args:
        below: a built-in pool, one of a cluster's profile, or a new one of which only the name is said.
        values: field to value of `KEYS`, without `like`, as YAML gives them; a `node_selector` is
            merged by its labels, `tolerations` are added.
        place: for a field's name, and those of its parts, where it stands.

    Raises:
        UsageError: a wrong type or value; one line for each.
    """
    errors: list[str] = []
    checked: dict[str, Any] = {}
    for key, value in values.items():
        try:
            checked[key] = _checked(key, value)
        except UsageError as error:
            errors.append(f"{place(key, *(error.path if isinstance(error, _WrongPartError) else ()))}: {error}")
    if errors:
        raise UsageError("\n".join(errors))
    # What the nodes of the pool below need is needed still: a label gets another value, but is not lost, and no toleration is.
    if "node_selector" in checked:
        checked["node_selector"] = {**below.node_selector, **checked["node_selector"]}
    if "tolerations" in checked:
        more = (each for each in checked["tolerations"] if each not in below.tolerations)
        checked["tolerations"] = (*below.tolerations, *more)
    # A size that the kind below does not have tells of other GPUs; who means the kind all the same says it beside the size.
    kind = KINDS.get(below.gpu)
    if kind and "gpu_memory" in checked and "gpu" not in checked and not kind.has(amount(checked["gpu_memory"])):
        checked["gpu"] = ""
    pool = replace(below, **checked)
    for key, problem in _problems(pool):
        raise UsageError(f"{place(*([key] if key in values else []))}: {problem}")
    return pool


def settled(pool: Pool) -> Pool:
    """The pool, of which nobody says more, with its number of processes."""
    return replace(pool, processes=pool.processes or pool.gpus or 1)


def _problems(pool: Pool) -> Iterator[tuple[str, str]]:
    """What does not go together, by the field that a person would change."""
    for key in ("cpu", "memory"):
        if not getattr(pool, key):
            such = f"{key}: {'64Gi' if key == 'memory' else 16}"
            yield key, f"{key} is missing; how much each pod asks for, such as {such}, or `like: POOL`, a pool to begin as"
    if pool.gpus and pool.processes not in (0, pool.gpus):
        yield (
            "processes",
            f"{pool.processes} processes on {pool.gpus} GPUs; one process per GPU is valid, leave `processes` out",
        )
    if amount(pool.cpu_limit or pool.cpu) < amount(pool.cpu):
        yield "cpu_limit", f"cpu_limit {pool.cpu_limit} is below cpu {pool.cpu}; it is at least as much"
    if amount(pool.disk_request or pool.disk) > amount(pool.disk):
        yield "disk_request", f"disk_request {pool.disk_request} is above disk {pool.disk}; it is at most as much"
    if amount(pool.shm) >= amount(pool.memory):
        yield "shm", f"shm {pool.shm} counts against memory {pool.memory}; it must be smaller"


def _checked(key: str, value: Any) -> Any:
    match key:
        case "pods" | "processes" | "gpus":
            low = 1 if key == "pods" else 0
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10_000:
                hint = ", without quotes," if isinstance(value, str) and value.isdecimal() else ""
                raise UsageError(f"found {told(value)}; a whole number from {low} to 10000{hint} is valid")
            return value
        case "cpu" | "cpu_limit":
            return _quantity(value, "cpu")
        case "memory" | "shm" | "gpu_memory" | "disk":
            size = _quantity(value, "memory")
            if amount(size) < 2**20:
                meant = f"did you mean {size}Gi?" if size.isdecimal() else "a size such as 64Gi is valid"
                raise UsageError(f"found {told(value)}, which is {amount(size):,g} bytes; {meant}")
            return size
        case "disk_request":
            return "0" if str(value) == "0" else _quantity(value, DISK)
        case "gpu":
            if value is None:
                return ""
            if value not in KINDS:
                kinds = did_you_mean(str(value), KINDS)
                raise UsageError(f"found {told(value)}, whose speed is not known; {kinds}; or null, for any other kind")
            return value
        case "image":
            return image(value)
        case "queue":
            return _formed(value, forms.queue_name)
        case "node_selector":
            return {_part(k, _formed, k, forms.qualified): _part(k, _formed, v, forms.label_value) for k, v in _pairs(value)}
        case "resources":
            return {_part(k, _resource, k): _part(k, _quantity, v, k) for k, v in _pairs(value)}
    if not isinstance(value, list):
        raise UsageError(f"found {told(value)}; a list of tolerations is valid")
    return tuple(_part(str(number), _toleration, one) for number, one in enumerate(value))


class _WrongPartError(UsageError):
    """Of a field, with the keys that lead to it from there."""

    def __init__(self, message: str, path: tuple[str, ...]) -> None:
        super().__init__(message)
        self.path = path


def _part(key: str, check: Callable[..., Any], *values: Any) -> Any:
    """What `check` gives of the values; an error says that it is of the part `key`."""
    try:
        return check(*values)
    except UsageError as error:
        raise _WrongPartError(str(error), (key, *(error.path if isinstance(error, _WrongPartError) else ()))) from None


def image(value: Any) -> str:
    """The name of a container image, checked."""
    return _formed(value, forms.image)


def _quantity(value: Any, resource: str) -> str:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not QUANTITY.fullmatch(text) or not amount(text):
        near = f"; did you mean {_nearest(text)}?" if isinstance(text, str) and _nearest(text) else ""
        raise UsageError(f"found {told(value)}; a quantity above 0 such as 16, 500m or 64Gi is valid{near}")
    if problem := quantities.amount_problem(resource, text):
        raise UsageError(problem)
    return text


def _nearest(text: str) -> str:
    """The quantity that a text such as 64GB, 64 Gi or 64gib most likely means; empty if there is none."""
    match = re.fullmatch(r"([0-9.]+) ?([kmgt]i?)b?(?:ytes)?", text.lower())
    near = match[1] + next(unit for unit in UNITS if unit.lower() == match[2] and unit != "m") if match else ""
    return near if QUANTITY.fullmatch(near) else ""


def _formed(value: Any, form: forms.Form) -> str:
    if not isinstance(value, str):
        hint = "" if isinstance(value, dict | list) or value is None else ", in quotes,"
        raise UsageError(f"found {told(value)}; a string{hint} is valid")
    if valid := form(value):
        raise UsageError(f"found {told(value)}; {valid}")
    return value


def _pairs(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise UsageError(f"found {told(value)}; a mapping is valid")
    return list(value.items())


def _resource(name: str) -> str:
    if name in {"cpu", "memory", GPU, DISK}:
        raise UsageError(f"{name} is the pool's own field {name.replace(GPU, 'gpus').replace(DISK, 'disk')}")
    if problem := quantities.name_problem(name):
        raise UsageError(problem)
    return name


def _toleration(value: Any) -> dict[str, Any]:
    for path, what in lacks(value, (), "Toleration"):
        raise _WrongPartError(what, path)
    return dict(value)
