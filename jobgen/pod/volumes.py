"""What the API server takes as a volume of a pod."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobgen.pod import forms
from jobgen.pod.quantities import number
from minima.errors import told

Path_ = tuple[str, ...]
Problems = Iterator[tuple[Path_, str]]
FIELDS_OF_PODS = ("metadata.name", "metadata.namespace", "metadata.uid")
FIELDS_OF_FILES = (*FIELDS_OF_PODS, "metadata.labels", "metadata.annotations")
FIELDS_OF_VARIABLES = (
    *FIELDS_OF_PODS,
    *("spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
)
UNITS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
DIVISORS = {"cpu": ("1", "1m"), "memory": UNITS, "ephemeral-storage": UNITS}


def sources(value: Mapping[str, Any], besides: tuple[str, ...] = ()) -> list[str]:
    """The keys of a mapping of which one is to be there."""
    return [key for key, item in value.items() if item is not None and key not in besides]


def volume(value: Mapping[str, Any], path: Path_) -> Problems:
    """The server makes an empty folder of a volume that says no source; who wrote none meant another."""
    found = sources(value, ("name",))
    if not found:
        yield path, "found no source; one of persistentVolumeClaim, configMap, secret, emptyDir, … is valid"
    elif len(found) > 1:
        yield path, f"found {' and '.join(found)}; one source is valid"
    initiator, portal = (value.get("iscsi") or {}).get("initiatorName"), (value.get("iscsi") or {}).get("targetPortal")
    if initiator and len(f"{value.get('name')}:{portal}") > 64:
        yield path, "found a name and a targetPortal of more than 63 characters together; fewer are valid with initiatorName"


def empty_dir(value: Mapping[str, Any], path: Path_) -> Problems:
    if value.get("sizeLimit") is not None and number(value["sizeLimit"]) < 0:
        yield (*path, "sizeLimit"), f"found {told(value['sizeLimit'])}; 0 or more is valid"


def projected(value: Mapping[str, Any], path: Path_) -> Problems:
    files: set[str] = set()
    for place, source in enumerate(value.get("sources") or []):
        here = (*path, "sources", str(place))
        if len(found := sources(source)) > 1:
            yield here, f"found {' and '.join(found)}; one is valid, others are entries of `sources` of their own"
        for kind in ("secret", "configMap", "downwardAPI"):
            for index, item in enumerate((source.get(kind) or {}).get("items") or []):
                if item.get("path") in files:
                    yield (*here, kind, "items", str(index), "path"), f"found {told(item['path'])} twice; one file is valid"
                files.add(item.get("path"))


def trust_bundle(value: Mapping[str, Any], path: Path_) -> Problems:
    named = [key for key in ("name", "signerName") if value.get(key) is not None]
    if len(named) != 1:
        yield path, f"found {' and '.join(named) or 'neither name nor signerName'}; one of name and signerName is valid"
    elif named == ["name"] and value.get("labelSelector") is not None:
        yield (*path, "labelSelector"), "found beside name; it goes with signerName"


def downward_file(value: Mapping[str, Any], path: Path_) -> Problems:
    found = [key for key in ("fieldRef", "resourceFieldRef") if value.get(key) is not None]
    if len(found) != 1:
        yield path, f"found {' and '.join(found) or 'neither fieldRef nor resourceFieldRef'}; one of them is valid"
    if value.get("fieldRef") is not None:
        yield from field_reference(value["fieldRef"], (*path, "fieldRef"), FIELDS_OF_FILES)
    if value.get("resourceFieldRef") is not None:
        yield from resource_reference(value["resourceFieldRef"], (*path, "resourceFieldRef"))
        if not value["resourceFieldRef"].get("containerName"):
            yield (*path, "resourceFieldRef"), "containerName is missing"


def field_reference(value: Mapping[str, Any], path: Path_, valid: tuple[str, ...]) -> Problems:
    """A field of the pod, as the value of a variable or of a file."""
    found = value.get("fieldPath") or ""
    if value.get("apiVersion") not in {None, "", "v1"}:
        yield (*path, "apiVersion"), f"found {told(value['apiVersion'])}; v1 is valid"
    holder, bracket, rest = found.partition("['")
    if bracket and rest.endswith("']"):
        form = {"metadata.labels": forms.qualified, "metadata.annotations": forms.annotation}.get(holder)
        if form is None or form(rest.removesuffix("']")):
            yield (*path, "fieldPath"), f"found {told(found)}; metadata.labels['KEY'] or metadata.annotations['KEY'] is valid"
    elif found not in valid:
        keyed = "" if "metadata.labels" in valid else ", metadata.labels['KEY'], metadata.annotations['KEY']"
        yield (*path, "fieldPath"), f"found {told(found)}; valid: {', '.join(valid)}{keyed}"


def resource_reference(value: Mapping[str, Any], path: Path_) -> Problems:
    """What a container asks for, as the value of a variable or of a file."""
    found = value.get("resource") or ""
    side, _, name = found.partition(".")
    if side not in {"limits", "requests"} or (name not in DIVISORS and not name.startswith("hugepages-")):
        valid = ", ".join(f"{side}.{name}" for side in ("limits", "requests") for name in DIVISORS)
        yield (*path, "resource"), f"found {told(found)}; valid: {valid}"
        return
    divisor = value.get("divisor")
    valid_ones = DIVISORS.get(name, UNITS)
    if divisor is not None and number(divisor) != 0 and number(divisor) not in {number(each) for each in valid_ones}:
        yield (*path, "divisor"), f"found {told(divisor)}; valid: {', '.join(valid_ones)}"


def claim(value: Mapping[str, Any], path: Path_) -> Problems:
    modes = value.get("accessModes") or []
    if not modes:
        yield path, "accessModes is missing; such as [ReadWriteOnce]"
    if "ReadWriteOncePod" in modes and len(set(modes)) > 1:
        yield (*path, "accessModes"), "found ReadWriteOncePod and others; it is valid alone"
    resources = value.get("resources") or {}
    storage = (resources.get("requests") or {}).get("storage")
    if storage is None:
        yield path, "resources.requests.storage is missing; how much the claim is to hold, such as 100Gi"
    elif number(storage) <= 0:
        yield (*path, "resources", "requests", "storage"), f"found {told(storage)}; a size above 0, such as 100Gi, is valid"
    source, reference = value.get("dataSource"), value.get("dataSourceRef")
    for key, each in (("dataSource", source), ("dataSourceRef", reference)):
        if each and not each.get("apiGroup") and each.get("kind") != "PersistentVolumeClaim":
            yield (
                (*path, key),
                f"found kind {told(each.get('kind'))} without apiGroup; PersistentVolumeClaim, or an apiGroup, is valid",
            )
    if source and reference:
        same = all(source.get(key) == reference.get(key) for key in ("apiGroup", "kind", "name"))
        if reference.get("namespace") or not same:
            yield (*path, "dataSource"), "found beside another dataSourceRef; one of them is valid"


def named_secret(value: Mapping[str, Any], path: Path_) -> Problems:
    """Of drivers whose reference to a Secret must name one."""
    for key in ("nodePublishSecretRef", "secretRef"):
        if value.get(key) is not None and not value[key].get("name"):
            yield (*path, key), "name is missing"


def iscsi(value: Mapping[str, Any], path: Path_) -> Problems:
    for key in ("iqn", "initiatorName"):
        if value.get(key) is not None and not value[key].startswith(("iqn", "eui", "naa")):
            yield (*path, key), f"found {told(value[key])}; a name that begins with iqn, eui or naa is valid"
    if (value.get("chapAuthDiscovery") or value.get("chapAuthSession")) and value.get("secretRef") is None:
        yield path, "secretRef is missing; who logs in by CHAP has a secret"


def fibre_channel(value: Mapping[str, Any], path: Path_) -> Problems:
    found = [key for key in ("targetWWNs", "wwids") if value.get(key)]
    if len(found) != 1:
        yield path, f"found {' and '.join(found) or 'neither targetWWNs nor wwids'}; one of them is valid"
    if found == ["targetWWNs"] and value.get("lun") is None:
        yield path, "lun is missing; it goes with targetWWNs"


def azure_disk(value: Mapping[str, Any], path: Path_) -> Problems:
    start = "/subscriptions/" if value.get("kind") == "Managed" else "https://"
    if value.get("kind") and not (value.get("diskURI") or "").startswith(start):
        yield (
            (*path, "diskURI"),
            f"found {told(value.get('diskURI'))}; one that begins with {start} is valid for kind {value['kind']}",
        )


def flex(value: Mapping[str, Any], path: Path_) -> Problems:
    for name in value.get("options") or {}:
        if f".{name.partition('/')[0].lower()}".endswith((".kubernetes.io", ".k8s.io")):
            yield (*path, "options", name), "found a name of Kubernetes' own domains; another is valid"


def flocker(value: Mapping[str, Any], path: Path_) -> Problems:
    found = [key for key in ("datasetName", "datasetUUID") if value.get(key)]
    if len(found) != 1 or "/" in (value.get("datasetName") or ""):
        yield path, "found not one of datasetName, without /, and datasetUUID; one is valid"


RULES = {
    "Volume": volume,
    "EmptyDirVolumeSource": empty_dir,
    "ProjectedVolumeSource": projected,
    "ClusterTrustBundleProjection": trust_bundle,
    "DownwardAPIVolumeFile": downward_file,
    "PersistentVolumeClaimSpec": claim,
    "CSIVolumeSource": named_secret,
    "CinderVolumeSource": named_secret,
    "StorageOSVolumeSource": named_secret,
    "ISCSIVolumeSource": iscsi,
    "FCVolumeSource": fibre_channel,
    "AzureDiskVolumeSource": azure_disk,
    "FlexVolumeSource": flex,
    "FlockerVolumeSource": flocker,
}
