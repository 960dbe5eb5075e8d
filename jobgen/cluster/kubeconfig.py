"""Which cluster and namespace a command means when it does not say so: what kubectl would mean."""

from pathlib import Path

from kubernetes.config import ConfigException
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger
from yaml import YAMLError

from minima.errors import UsageError, did_you_mean

OF_THIS_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def choose(namespace: str | None, context: str | None) -> tuple[str, str]:
    """Namespace and context.

    Args:
        namespace: as it was given; None for the context's, which is `default` if that names none.
        context: as it was given; None for the current one.

    Returns:
        The namespace, and what the context is called; in a pod, whose cluster needs no kubeconfig, that is empty.

    Raises:
        UsageError: no kubeconfig says which cluster, or it has no such context.
    """
    if OF_THIS_POD.is_file() and context is None:
        return namespace or OF_THIS_POD.read_text(encoding="utf-8").strip(), ""
    try:
        merged = KubeConfigMerger(KUBE_CONFIG_DEFAULT_LOCATION).config
        found = merged.value if merged else {}
        contexts = {each["name"]: each.value["context"] or {} for each in found.get("contexts", [])}
    except (ConfigException, YAMLError, TypeError, KeyError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{KUBE_CONFIG_DEFAULT_LOCATION}: no kubeconfig ({reason}); `kubectl config view` shows it") from None
    chosen = context or found.get("current-context")
    if not chosen:
        raise UsageError("no cluster is configured; set KUBECONFIG, `kubectl config use-context`, or give --context")
    if chosen not in contexts:
        option = "--context" if context else "current-context"
        raise UsageError(f"{option}: found {chosen!r} in no kubeconfig; {did_you_mean(chosen, contexts)}")
    return namespace or contexts[chosen].get("namespace") or "default", chosen
