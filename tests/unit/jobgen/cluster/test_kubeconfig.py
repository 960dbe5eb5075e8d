"""Which cluster and namespace is meant, as kubectl has it."""

from pathlib import Path

import pytest

from jobgen.cluster import kubeconfig
from minima.errors import UsageError

FIRST = """\
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: c, user: u, namespace: team}}
- {name: two, context: {cluster: c, user: u}}
"""
SECOND = "contexts: [{name: three, context: {cluster: d, user: u, namespace: far}}]\n"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, as in KUBECONFIG."""
    (tmp_path / "a").write_text(FIRST)
    (tmp_path / "b").write_text(SECOND)
    monkeypatch.setattr(kubeconfig, "KUBE_CONFIG_DEFAULT_LOCATION", f"{tmp_path / 'a'}:{tmp_path / 'b'}:{tmp_path / 'nowhere'}")
    monkeypatch.setattr(kubeconfig, "OF_THIS_POD", tmp_path / "pod")
    return tmp_path


@pytest.mark.parametrize(
    ("namespace", "context", "expected"),
    [
        (None, None, ("team", "one")),
        ("mine", None, ("mine", "one")),
        (None, "two", ("default", "two")),
        (None, "three", ("far", "three")),
        ("mine", "three", ("mine", "three")),
    ],
)
def test_what_is_meant(there: Path, namespace: str | None, context: str | None, expected: tuple[str, str]) -> None:
    assert kubeconfig.choose(namespace, context) == expected


def test_in_a_pod_its_own_namespace_is_meant(there: Path) -> None:
    (there / "pod").write_text("mine\n")
    assert kubeconfig.choose(None, None) == ("mine", "")
    assert kubeconfig.choose("other", None) == ("other", "")
    assert kubeconfig.choose(None, "two") == ("default", "two")


@pytest.mark.parametrize(
    ("content", "context", "expected"),
    [
        (FIRST, "ons", "--context: found 'ons' in no kubeconfig; did you mean 'one'?"),
        (
            FIRST.replace("current-context: one", "current-context: gone"),
            None,
            "current-context: found 'gone' in no kubeconfig",
        ),
        (FIRST.replace("current-context: one", "current-context: ''"), None, "no cluster is configured; set KUBECONFIG"),
        ("", None, "no kubeconfig (Invalid kube-config."),
        ("{", None, "no kubeconfig (while parsing a flow node)"),
        ("[]", None, "no kubeconfig (list indices must be integers"),
        ("contexts: 3", None, "no kubeconfig ('int' object"),
    ],
)
def test_what_is_wrong_is_said(there: Path, content: str, context: str | None, expected: str) -> None:
    (there / "a").write_text(content)
    with pytest.raises(UsageError) as error:
        kubeconfig.choose(None, context)
    assert expected in str(error.value)


def test_without_any_file(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfig, "KUBE_CONFIG_DEFAULT_LOCATION", str(there / "nowhere"))
    with pytest.raises(UsageError, match="no cluster is configured; set KUBECONFIG"):
        kubeconfig.choose(None, None)
