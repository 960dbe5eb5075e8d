"""Addresses: what is one, what pins it, and what is never repeated."""

import pytest

from minima import addresses
from minima.errors import UsageError

COMMIT, DIGEST = "a" * 40, "b" * 64


@pytest.mark.parametrize(
    ("text", "kind", "identity"),
    [
        (f"hf://org/name@{COMMIT}", "hub", f"hf://org/name@{COMMIT}"),
        (f"hf://datasets/org/name@{COMMIT}", "hub", f"hf://datasets/org/name@{COMMIT}"),
        (f"hf://spaces/org/name@{COMMIT}", "hub", f"hf://spaces/org/name@{COMMIT}"),
        (f"hf://name@{COMMIT}@sha256:{DIGEST}", "hub", f"sha256:{DIGEST}"),
        (f"s3://bucket/a/b/@sha256:{DIGEST}", "bucket", f"sha256:{DIGEST}"),
        (f"gs://bucket@sha256:{DIGEST}", "bucket", f"sha256:{DIGEST}"),
        (f"https://host:8443/a%20b/c.model?raw=1@sha256:{DIGEST}", "web", f"sha256:{DIGEST}"),
        (f"/mnt/corpus@sha256:{DIGEST}", "folder", f"sha256:{DIGEST}"),
        (f"mmlu=hf://datasets/cais/mmlu@{COMMIT}", "hub", f"mmlu=hf://datasets/cais/mmlu@{COMMIT}"),
        (f"a=/x=y@sha256:{DIGEST}", "folder", f"a=sha256:{DIGEST}"),
    ],
)
def test_an_address_is_taken_apart(text: str, kind: str, identity: str) -> None:
    found = addresses.parse(text)
    assert (found.kind, found.identity) == (kind, identity)


def test_ports_are_those_of_the_servers_and_of_a_pods_account() -> None:
    for text, ports in (
        (f"hf://name@{COMMIT}", {443}),
        (f"s3://bucket/x@sha256:{DIGEST}", {80, 443}),
        (f"a=gs://bucket/x@sha256:{DIGEST}", {80, 443, 987, 988, 8080}),
        (f"https://host:8443/x@sha256:{DIGEST}", {8443}),
        (f"/mnt@sha256:{DIGEST}", set()),
    ):
        assert addresses.parse(text).ports == ports, text


@pytest.mark.parametrize(
    "text",
    [
        f"s3://my.bucket-1/x@sha256:{DIGEST}",
        f"gs://my_bucket/x@sha256:{DIGEST}",
        f"hf://org_1/Name.v2-chat@{COMMIT}",
        f"https://10.0.0.5:8443/x@sha256:{DIGEST}",
        f"https://[2001:db8::1]/x@sha256:{DIGEST}",
        f"http://Files.default.svc.cluster.local.:80/x@sha256:{DIGEST}",
        f"https://xn--mnchen-3ya.de/x@sha256:{DIGEST}",
    ],
)
def test_names_that_may_be(text: str) -> None:
    assert addresses.parse(text)


def test_a_mirror_of_the_same_content_is_the_same_identity() -> None:
    one, other = (addresses.parse(f"{url}@sha256:{DIGEST}") for url in ("s3://bucket/x", "https://mirror/y"))
    assert one.identity == other.identity


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "hf://org/name",
            "which commit is missing; a commit of 40 hex digits is valid: `minima digest hf://org/name` prints it",
        ),
        ("hf://org/name@main", "'main' is a branch or a tag, which moves; a commit of 40 hex digits is valid"),
        (f"hf://org/name@{COMMIT[:7]}", "`minima digest hf://org/name@aaaaaaa` prints it"),
        ("s3://bucket/x", "its digest is missing, for what lies there may change; `minima digest s3://bucket/x` prints it"),
        ("https://host/x@sha256:1234", "a digest is @sha256: and 64 hex digits"),
        (f"ftp://host/x@sha256:{DIGEST}", "valid: hf://ORG/NAME@COMMIT, "),
        ("corpus", "valid: hf://ORG/NAME@COMMIT, "),
        (
            f"hf://org/name/config.json@{COMMIT}",
            "of the hub hf://ORG/NAME, hf://datasets/ORG/NAME and hf://spaces/ORG/NAME are valid, files by `include`",
        ),
        (f"/mnt/../etc@sha256:{DIGEST}", "without empty parts, '.' and '..'"),
        (f"/mnt/a b@sha256:{DIGEST}", "without blanks"),
        (f"https://@sha256:{DIGEST}", "valid: hf://"),
        (f"https://host:99999/x@sha256:{DIGEST}", "valid: hf://"),
        (f"s3:///x@sha256:{DIGEST}", "valid"),
        *(
            (f"s3://{name}/x@sha256:{DIGEST}", f"'{name}' is no bucket's name; one of 3 to 63 characters")
            for name in ("Bucket_", "my_bucket", "ab", "-ab", "ab-", "a..b", "a.-b", "192.168.5.4", "b" * 64, "bucket:9000")
        ),
        (f"gs://Bucket/x@sha256:{DIGEST}", "'Bucket' is no bucket's name; one of a-z, 0-9, -, _ and ."),
        (f"gs://goog-x/y@sha256:{DIGEST}", "and not Google's"),
        *(
            (f"hf://{name}@{COMMIT}", "the hub has no name")
            for name in (
                "org/-name",
                "org/name.",
                "org/a--b",
                "org/a..b",
                "org/name.git",
                ".org/name",
                f"org/{'n' * 97}",
                "org/né",
            )
        ),
        *(
            (f"https://{host}/x@sha256:{DIGEST}", "is no host's name; one of a-z, 0-9, - and ., or an IP address, is valid")
            for host in (
                "-a",
                "a-.example.com",
                "a..b",
                "my_host",
                "münchen.de",
                "1.2.3",
                "999.1.1.1",
                "a" * 64,
                "*.example.com",
            )
        ),
    ],
)
def test_what_is_wrong_with_an_address_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        addresses.parse(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://joe:hunter2@host/x",
        "https://hunter2@host/x",
        "https://host/x?X-Amz-Credential=a&X-Amz-Signature=hunter2",
        "https://host/x?sv=1&sig=hunter2",
        "https://host/x?token=hunter2",
        "https://host/x?access_token=hunter2",
        "s3://key:hunter2@bucket/x",
    ],
)
def test_a_credential_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as error:
        addresses.parse(f"{url}@sha256:{DIGEST}")
    assert "a credential in" in str(error.value)
    assert "hunter2" not in str(error.value)
