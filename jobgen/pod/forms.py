"""The forms of single values of a pod's template: names, keys, paths, numbers.

A form is a function that says what is valid in place of a value, or nothing where the value is. They are those of Kubernetes
1.36 (apimachinery's `util/validation`, and `pkg/apis/core/validation`), but for the few that say so: there the server lets pass
what no kubelet can run, or what can be the name of nothing.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

from minima.errors import did_you_mean, told

Form = Callable[[Any], str]
SUBDOMAIN = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
NAME_PART = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
LARGEST = 2**31 - 1
CAPABILITIES = tuple(
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH "
    "FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE "
    "NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE "
    "SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM".split()
)
"""Of Linux (capabilities(7)), and all of them."""


def _like(pattern: str, most: int, valid: str) -> Form:
    compiled = re.compile(pattern)
    return lambda value: "" if compiled.fullmatch(value) and len(value) <= most else f"{valid} is valid"


def _within(low: int, high: int, valid: str = "") -> Form:
    return lambda value: "" if low <= value <= high else f"{valid or f'a whole number from {low} to {high}'} is valid"


def or_empty(form: Form) -> Form:
    """As `form`, where an empty string says that there is none."""
    return lambda value: form(value) if value else ""


def one_of(*valid: str) -> Form:
    return lambda value: "" if value in valid else did_you_mean(value, valid)


label_name = _like(
    "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", 63, "a name of a-z, 0-9 and -, of at most 63 characters (DNS-1123 label),"
)
subdomain = _like(
    SUBDOMAIN, 253, "a name of a-z, 0-9, - and ., each part between . beginning and ending with a letter or a digit (DNS-1123),"
)
queue_name = _like(SUBDOMAIN, 63, "a name of a-z, 0-9, - and ., of at most 63 characters, as of a LocalQueue,")
label_value = _like(
    f"(?:{NAME_PART})?",
    63,
    "a label's value, of A-Z, a-z, 0-9, -, _ and ., at most 63 characters, beginning and ending with a letter or a digit,",
)
key = _like(r"(?!\.\.)(?!\.$)[-._A-Za-z0-9]+", 253, "a key of letters, digits, -, _ and .")
port_name = _like(
    r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", 15, "a port's name of a-z, 0-9 and -, of at most 15 characters,"
)
header = _like("[-A-Za-z0-9]+", 2**31, "a header's name, of letters, digits and -,")
variable = _like("[ -<>-~]+", 2**31, "a name of printable ASCII characters without =")
sysctl = _like(
    "(?:[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?",
    253,
    "a kernel setting such as net.core.somaxconn",
)
driver = _like(f"(?i:{SUBDOMAIN})", 63, "the name of a CSI driver such as gcsfuse.csi.storage.gke.io")
_image = _like(
    # A registry may have capitals and a port; the repository has none (OCI distribution specification, "Pull").
    r"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?",
    500,
    "an image such as registry.example.com/minima:train",
)
_OF_IMAGES = {
    "://": "without https:// or the like",
    r"\s": "without blanks",
    "@": "its digest @sha256: and 64 hex digits",
    "[A-Z]": "its repository in small letters",
}
"""What is wrong with a wrong name of an image that holds this."""


def image(value: str) -> str:
    """Stricter than the server, as the kubelet is."""
    wrong = _image(value)
    hint = next((hint for sign, hint in _OF_IMAGES.items() if re.search(sign, value)), "")
    return wrong.replace(" is valid", f", {hint}, is valid") if wrong and hint else wrong


user = _within(0, LARGEST, f"a user's or group's number from 0 to {LARGEST}")
port = _within(1, 65535)
mode = _within(0, 0o777, "a mode from 0 to 511 (octal 0777)")
weight = _within(1, 100)
positive = _within(1, LARGEST)
natural = _within(0, LARGEST)


def qualified(value: str) -> str:
    """A label's key, and all that is named like one."""
    prefix, slash, name = value.rpartition("/")
    good = re.fullmatch(NAME_PART, name) and len(name) <= 63 and (not slash or not subdomain(prefix))
    return "" if good else "a name such as team or example.com/team, of at most 63 characters after the domain, is valid"


def annotation(value: str) -> str:
    return qualified(value.lower())


def port_or_name(value: int | str) -> str:
    return port(value) if isinstance(value, int) else port_name(value)


def address(value: str) -> str:
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return "an IP address is valid"
    plain = "%" not in value and not (isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped)
    return "" if plain else "an IP address, without a zone, of its own version is valid"


def no_steps_back(value: str) -> str:
    return "a path without .. is valid" if ".." in value.split("/") else ""


def inside(value: str) -> str:
    """A path in a volume."""
    return "a relative path is valid" if value.startswith("/") else no_steps_back(value)


def file_inside(value: str) -> str:
    """A file that a kubelet writes, which keeps names that begin with .. for itself."""
    return inside(value) or ("a path that does not begin with .. is valid" if value.startswith("..") else "")


def mount(value: str) -> str:
    """Stricter than the server, as its documentation is: the kubelet and the container's runtime read other paths their way."""
    return "" if value.startswith("/") and ":" not in value else "an absolute path without : is valid"


def capability(value: str) -> str:
    """Stricter than the server, which takes any word; containerd then makes no container of it."""
    name = value.upper()
    if name.removeprefix("CAP_") in CAPABILITIES:
        return f"{name.removeprefix('CAP_')}, without CAP_, is valid" if name.startswith("CAP_") else ""
    return did_you_mean(name, CAPABILITIES)


def medium(value: str) -> str:
    """Stricter than the server; the kubelet knows no other."""
    return (
        ""
        if re.fullmatch("|Memory|HugePages(-[0-9]+[KMG]i)?", value)
        else "Memory, HugePages, HugePages-2Mi or nothing is valid"
    )


def words(value: str) -> str:
    """Stricter than the server: no program can be given others."""
    return "text without a NUL character is valid" if "\0" in value else ""


def hosts(value: str) -> str:
    good = all(re.fullmatch(r"[^\[\]:]*:[^\[\]:]*|\[[^\[\]]*\]:[^\[\]:]*", each) for each in value.split(","))
    return "" if good else "HOST:PORT, or some of them with , between, is valid"


def search(value: str) -> str:
    """A domain that names are looked up in."""
    good = value == "." or re.fullmatch(
        SUBDOMAIN.replace("[-a-z0-9]", "[-a-z0-9_]").replace("[a-z0-9]", "[a-z0-9_]"), value.removesuffix(".")
    )
    return "" if good and len(value) <= 253 else "a domain such as svc.cluster.local is valid"


_secret = _config_map = _claim = _class = subdomain
FIELDS: dict[tuple[str, str], Form] = {
    ("PodSpec", "serviceAccountName"): or_empty(subdomain),
    ("PodSpec", "serviceAccount"): or_empty(subdomain),
    ("PodSpec", "nodeName"): or_empty(subdomain),
    ("PodSpec", "priorityClassName"): or_empty(subdomain),
    ("PodSpec", "runtimeClassName"): subdomain,
    ("PodSpec", "activeDeadlineSeconds"): positive,
    ("PodSpec", "terminationGracePeriodSeconds"): _within(0, 2**63 - 1, "0 or more seconds"),
    ("PodSchedulingGate", "name"): qualified,
    ("PodReadinessGate", "conditionType"): qualified,
    ("PodOS", "name"): lambda value: "" if value == "linux" else "linux is valid, for which the images are",
    ("LocalObjectReference", "name"): or_empty(_secret),
    ("HostAlias", "ip"): address,
    ("HostAlias", "hostnames"): subdomain,
    ("PodDNSConfig", "nameservers"): address,
    ("PodDNSConfig", "searches"): search,
    ("Toleration", "key"): or_empty(qualified),
    ("Toleration", "operator"): or_empty(one_of("Equal", "Exists")),
    ("PodResourceClaim", "name"): label_name,
    ("PodResourceClaim", "resourceClaimName"): subdomain,
    ("PodResourceClaim", "resourceClaimTemplateName"): subdomain,
    ("ResourceClaim", "request"): or_empty(label_name),
    # Affinity and spreading.
    ("NodeSelectorRequirement", "key"): qualified,
    ("LabelSelectorRequirement", "key"): qualified,
    ("LabelSelectorRequirement", "operator"): one_of("In", "NotIn", "Exists", "DoesNotExist"),
    ("LabelSelectorRequirement", "values"): label_value,
    ("PreferredSchedulingTerm", "weight"): weight,
    ("WeightedPodAffinityTerm", "weight"): weight,
    ("PodAffinityTerm", "topologyKey"): qualified,
    ("PodAffinityTerm", "namespaces"): label_name,
    ("PodAffinityTerm", "matchLabelKeys"): qualified,
    ("PodAffinityTerm", "mismatchLabelKeys"): qualified,
    ("TopologySpreadConstraint", "maxSkew"): positive,
    ("TopologySpreadConstraint", "minDomains"): positive,
    ("TopologySpreadConstraint", "matchLabelKeys"): qualified,
    # Who a pod is, and what it may.
    ("PodSecurityContext", "runAsUser"): user,
    ("PodSecurityContext", "runAsGroup"): user,
    ("PodSecurityContext", "fsGroup"): user,
    ("PodSecurityContext", "supplementalGroups"): user,
    ("PodSecurityContext", "seLinuxChangePolicy"): one_of("Recursive"),
    ("Sysctl", "name"): sysctl,
    ("SecurityContext", "runAsUser"): user,
    ("SecurityContext", "runAsGroup"): user,
    ("Capabilities", "add"): capability,
    ("Capabilities", "drop"): capability,
    # Containers.
    ("Container", "name"): label_name,
    ("Container", "image"): or_empty(image),
    ("Container", "restartPolicy"): one_of("Always", "OnFailure", "Never"),
    ("ContainerRestartRule", "action"): one_of("Restart", "RestartAllContainers"),
    ("ContainerRestartRuleOnExitCodes", "operator"): one_of("In", "NotIn"),
    ("ContainerRestartRuleOnExitCodes", "values"): _within(0, 255),
    ("EnvVar", "name"): variable,
    ("EnvVar", "value"): words,
    ("Container", "command"): words,
    ("Container", "args"): words,
    ("ExecAction", "command"): words,
    ("EnvFromSource", "prefix"): or_empty(variable),
    ("ConfigMapEnvSource", "name"): _config_map,
    ("SecretEnvSource", "name"): _secret,
    ("ConfigMapKeySelector", "name"): _config_map,
    ("ConfigMapKeySelector", "key"): key,
    ("SecretKeySelector", "name"): _secret,
    ("SecretKeySelector", "key"): key,
    ("FileKeySelector", "key"): variable,
    ("FileKeySelector", "path"): file_inside,
    ("ContainerPort", "name"): or_empty(port_name),
    ("ContainerPort", "containerPort"): port,
    ("ContainerPort", "hostPort"): or_empty(port),
    ("ContainerResizePolicy", "resourceName"): one_of("cpu", "memory"),
    ("ContainerResizePolicy", "restartPolicy"): one_of("NotRequired", "RestartContainer"),
    ("VolumeMount", "mountPath"): mount,
    ("VolumeMount", "subPath"): inside,
    ("VolumeMount", "subPathExpr"): inside,
    ("VolumeMount", "recursiveReadOnly"): one_of("Disabled", "IfPossible", "Enabled"),
    ("VolumeDevice", "devicePath"): no_steps_back,
    ("HTTPGetAction", "port"): port_or_name,
    ("HTTPHeader", "name"): header,
    ("TCPSocketAction", "port"): port_or_name,
    ("GRPCAction", "port"): port,
    **{
        ("Probe", name): natural
        for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
    },
    ("Probe", "terminationGracePeriodSeconds"): _within(1, 2**63 - 1, "1 or more seconds"),
    # Volumes; the server asks of the names of Secrets, ConfigMaps and claims only that they are not empty.
    ("Volume", "name"): label_name,
    ("EmptyDirVolumeSource", "medium"): medium,
    ("HostPathVolumeSource", "path"): no_steps_back,
    ("SecretVolumeSource", "secretName"): _secret,
    ("SecretVolumeSource", "defaultMode"): mode,
    ("SecretProjection", "name"): _secret,
    ("ConfigMapVolumeSource", "name"): _config_map,
    ("ConfigMapVolumeSource", "defaultMode"): mode,
    ("ConfigMapProjection", "name"): _config_map,
    ("DownwardAPIVolumeSource", "defaultMode"): mode,
    ("ProjectedVolumeSource", "defaultMode"): mode,
    ("KeyToPath", "key"): key,
    ("KeyToPath", "path"): file_inside,
    ("KeyToPath", "mode"): mode,
    ("DownwardAPIVolumeFile", "path"): file_inside,
    ("DownwardAPIVolumeFile", "mode"): mode,
    ("ServiceAccountTokenProjection", "path"): file_inside,
    ("ServiceAccountTokenProjection", "expirationSeconds"): _within(600, 2**32, "from 600 to 2^32 seconds"),
    ("ClusterTrustBundleProjection", "path"): file_inside,
    ("PersistentVolumeClaimVolumeSource", "claimName"): _claim,
    ("PersistentVolumeClaimSpec", "accessModes"): one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"),
    ("PersistentVolumeClaimSpec", "storageClassName"): or_empty(_class),
    ("PersistentVolumeClaimSpec", "volumeAttributesClassName"): or_empty(_class),
    ("TypedLocalObjectReference", "apiGroup"): or_empty(subdomain),
    ("TypedObjectReference", "apiGroup"): or_empty(subdomain),
    ("TypedObjectReference", "namespace"): or_empty(label_name),
    ("NFSVolumeSource", "path"): lambda value: "" if value.startswith("/") else "an absolute path is valid",
    ("CSIVolumeSource", "driver"): driver,
    ("GitRepoVolumeSource", "directory"): inside,
    ("ISCSIVolumeSource", "lun"): _within(0, 255),
    ("FCVolumeSource", "lun"): _within(0, 255),
    ("GCEPersistentDiskVolumeSource", "partition"): _within(0, 255),
    ("AWSElasticBlockStoreVolumeSource", "partition"): _within(0, 255),
    ("QuobyteVolumeSource", "registry"): hosts,
    ("QuobyteVolumeSource", "tenant"): lambda value: "" if len(value) < 65 else "at most 64 characters are valid",
    ("StorageOSVolumeSource", "volumeName"): label_name,
    ("StorageOSVolumeSource", "volumeNamespace"): or_empty(label_name),
}
"""By the definition and the field of the schema; of a list, the form of each of its items."""
MAPS: dict[tuple[str, str], tuple[Form, Form | None]] = {
    ("ObjectMeta", "labels"): (qualified, label_value),
    ("ObjectMeta", "annotations"): (annotation, None),
    ("PodSpec", "nodeSelector"): (qualified, label_value),
    ("LabelSelector", "matchLabels"): (qualified, label_value),
}
"""The forms of a mapping's keys and of its values."""

REQUIRED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("SecretProjection", "ConfigMapProjection", "ConfigMapVolumeSource"), ("name",)),
    **dict.fromkeys(("ConfigMapEnvSource", "SecretEnvSource", "ConfigMapKeySelector", "SecretKeySelector"), ("name",)),
    "SecretVolumeSource": ("secretName",),
    "EphemeralVolumeSource": ("volumeClaimTemplate",),
    "ImageVolumeSource": ("reference",),
    "ScaleIOVolumeSource": ("volumeName",),
    "StorageOSVolumeSource": ("volumeName",),
    "PodDNSConfigOption": ("name",),
    "ContainerRestartRule": ("exitCodes",),
}
"""What the schema lets be missing, and the server does not."""
MAY_BE_EMPTY = ("value",)
"""What is required, if empty."""


def problems(definition: str, field: str, value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the form of a field of the right type, as pairs of where and what."""
    if (definition, field) in FIELDS:
        form = FIELDS[definition, field]
        places = (
            [((*path, str(number)), item) for number, item in enumerate(value)] if isinstance(value, list) else [(path, value)]
        )
        yield from (
            (place, f"found {told(item)}; {valid}") for place, item in places if item is not None and (valid := form(item))
        )
    elif (definition, field) in MAPS:
        of_keys, of_values = MAPS[definition, field]
        for name, item in value.items():
            if name.startswith("$"):
                continue
            if valid := of_keys(name):
                yield (*path, name), f"found {told(name)}; {valid}"
            if of_values and item is not None and (valid := of_values(item)):
                yield (*path, name), f"found {told(item)}; {valid}"
