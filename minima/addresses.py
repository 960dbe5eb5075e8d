"""Where `fetch` takes content from, as one line of text: an address and the pin that makes its content one and the same.

What an artifact is made of must follow from its options alone, so an address that may lead to something else tomorrow, such
as a branch, is none: it ends in `@` and a commit, or in `@sha256:` and the digest that `minima digest` prints.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from minima.errors import UsageError

Kind = Literal["hub", "bucket", "web", "folder"]
FORMS = (
    "hf://ORG/NAME@COMMIT, hf://datasets/ORG/NAME@COMMIT, hf://spaces/ORG/NAME@COMMIT, s3://BUCKET/PREFIX@sha256:…, "
    "gs://BUCKET/PREFIX@sha256:…, https://HOST/FILE@sha256:… or /FOLDER@sha256:…"
)
KINDS: dict[str, Kind] = {"hf": "hub", "s3": "bucket", "gs": "bucket", "https": "web", "http": "web"}
ENDPOINTS = {"HF_ENDPOINT": "hf", "AWS_ENDPOINT_URL": "s3", "AWS_ENDPOINT_URL_S3": "s3"}
"""Variables that name another server, by URL, for the addresses of a scheme."""
_INTO = re.compile(r"(?P<into>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<rest>[a-z0-9]+://.*|/.*)", re.DOTALL)
_DIGEST = re.compile(r"(?P<rest>.+)@sha256:(?P<digest>[0-9a-f]{64})")
_COMMIT = re.compile(r"(?P<rest>.+)@(?P<commit>[^/@:]+)")
_HUB = re.compile(r"(?:datasets/|spaces/)?(?:[\w.-]+/)?[\w.-]+")
_REPOSITORY = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
"""As the hub's own client checks it (`huggingface_hub.utils.validate_repo_id`)."""
_LIKE_IP = re.compile(r"[0-9.]+")
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_BUCKETS = {
    "s3": (re.compile(rf"(?=.{{3,63}}$){_LABEL}(?:\.{_LABEL})*"), "of 3 to 63 characters a-z, 0-9, - and ."),
    "gs": (
        re.compile(r"(?=.{3,222}$)(?!goog|.*google)[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?"),
        "of a-z, 0-9, -, _ and ., and not Google's",
    ),
}
"""What S3 and GCS have as names of buckets (docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html,
cloud.google.com/storage/docs/buckets#naming)."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Ends of the names of archives that `unpack` reads."""
GKE_ACCOUNTS = (987, 988, 8080)
"""Ports to which nodes of GKE lead what a pod asks of its account on 80, before policies see it: 988, by Dataplane V2 too, 987
by older versions, and 8080, which policies there open beside them (github.com/gke-labs/kube-agents/pull/676)."""
_SECRET = re.compile(r"(?i).*(?:signature|credential|token|secret|password|passwd|apikey|api_key|access_?key).*|sig|key|pwd")
_HOW = "HF_TOKEN, AWS_* or a NETRC file from a Secret, by `env` and `pod` of the stage, say who asks"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A source, taken apart.

    Attributes:
        into: the folder of the artifact that its files go to; empty for the artifact itself.
        url: without the pin.
        kind: what speaks there.
        commit: of the hub, or a branch's name where that was allowed; empty for none.
        digest: SHA-256 of the content, in hex; empty for none.
    """

    into: str
    url: str
    kind: Kind
    commit: str
    digest: str

    @property
    def rest(self) -> str:
        """What follows the scheme."""
        return self.url.partition("://")[2] or self.url

    @property
    def ports(self) -> frozenset[int]:
        """The ports of the servers that speak there, if no variable names others; of a cloud's accounts too."""
        match self.kind:
            case "hub":
                return frozenset({443})
            case "bucket" if self.url.startswith("gs:"):
                return frozenset({443, 80, *GKE_ACCOUNTS})
            case "bucket":
                return frozenset({443, 80})  # A machine's or a pod's account answers on 80.
            case "web":
                parts = urlsplit(self.url)
                return frozenset({parts.port or (443 if parts.scheme == "https" else 80)})
            case _:
                return frozenset()

    @property
    def identity(self) -> str:
        """What says what its content is, and where that goes: a mirror of the same content makes the same artifact."""
        content = f"sha256:{self.digest}" if self.digest else f"{self.url}@{self.commit}"
        return f"{self.into}={content}" if self.into else content

    def __str__(self) -> str:
        return f"{self.url}@{self.commit}" if self.commit else self.url


def parse(text: str, *, pinned: bool = True) -> Address:
    """The address that `text` is.

    Args:
        text: such as `hf://datasets/ORG/NAME@COMMIT`, or `FOLDER=…` of the same.
        pinned: whether it must say which content it leads to.

    Raises:
        UsageError: it is none, carries a credential, or may lead to another content tomorrow.
    """
    into, rest = "", text
    if match := _INTO.fullmatch(text):
        into, rest = match["into"], match["rest"]
    if any(ord(c) <= 32 or ord(c) == 127 for c in rest):
        raise UsageError(f"found {text!r}; an address without blanks and control characters is valid")
    digest = commit = ""
    if match := _DIGEST.fullmatch(rest):
        rest, digest = match["rest"], match["digest"]
    elif "@sha256:" in rest:
        raise UsageError(f"found {text!r}; a digest is @sha256: and 64 hex digits; `minima digest SOURCE` prints it")
    scheme, separator, place = rest.partition("://")
    kind = KINDS.get(scheme) if separator else "folder" if rest.startswith("/") else None
    place = place if separator else rest
    if kind is None:
        raise UsageError(f"found {text!r}; valid: {FORMS}")
    if kind == "hub":
        if match := _COMMIT.fullmatch(rest):
            rest, commit = match["rest"], match["commit"]
            place = rest.partition("://")[2]
        if not _HUB.fullmatch(place):
            raise UsageError(
                f"found {text!r}; of the hub hf://ORG/NAME, hf://datasets/ORG/NAME and hf://spaces/ORG/NAME are valid, "
                "files by `include`"
            )
        if wrong := [part for part in place.split("/") if not _REPOSITORY.fullmatch(part)]:
            raise UsageError(
                f"found {text!r}: the hub has no name {wrong[0]!r}; letters, digits, -, _ and . are valid, at most 96, and "
                "neither -- nor .. nor one of - and . at an end"
            )
    elif kind != "folder":
        _check_url(rest)
    if kind != "web" and any(part in {"", ".", ".."} for part in place.strip("/").split("/")):
        raise UsageError(f"found {text!r}; a path without empty parts, '.' and '..' is valid")
    address = Address(into=into, url=rest.rstrip("/") if kind != "web" else rest, kind=kind, commit=commit, digest=digest)
    if pinned and not digest and not _is_commit(commit):
        raise UsageError(_unpinned(address, text))
    return address


def _is_commit(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port_is_wrong = parts.port == 0
    except ValueError as error:
        raise UsageError(f"found no address ({error}); valid: {FORMS}") from None
    where = f"{parts.scheme}://{parts.hostname}"
    if "@" in parts.netloc or any(_SECRET.fullmatch(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise UsageError(f"found a credential in {where}/…, where Git and logs would keep it; {_HOW}")
    if not parts.hostname or port_is_wrong or parts.fragment:
        raise UsageError(f"found {url!r}; valid: {FORMS}")
    if parts.scheme in _BUCKETS:
        pattern, valid = _BUCKETS[parts.scheme]
        if not pattern.fullmatch(parts.netloc) or _is_ip(parts.netloc):
            raise UsageError(
                f"found {url!r}: {parts.netloc!r} is no bucket's name; one {valid}, a letter or digit at both ends, is valid"
            )
    elif not is_host(parts.hostname):
        raise UsageError(
            f"found {url!r}: {parts.hostname!r} is no host's name; one of a-z, 0-9, - and ., or an IP address, is valid"
        )


def is_host(name: str) -> bool:
    """Whether a name, in small letters, can be that of a host (RFC 1123), or is an IP address."""
    return _is_ip(name) or (_HOST.fullmatch(name.removesuffix(".")) is not None and not _LIKE_IP.fullmatch(name))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _unpinned(address: Address, text: str) -> str:
    if address.kind == "hub":
        found = f"{address.commit!r} is a branch or a tag, which moves" if address.commit else "which commit is missing"
        return f"found {text!r}: {found}; a commit of 40 hex digits is valid: `minima digest {address}` prints it"
    return f"found {text!r}: its digest is missing, for what lies there may change; `minima digest {address}` prints it"
