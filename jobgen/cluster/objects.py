"""What stands in a cluster's objects: jobs, as the operator and Kubernetes have them, and pods. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubeflow.training.constants import constants

from minima.errors import BUG

ENDED = ("Succeeded", "Failed")


def of_job(name: str) -> str:
    """The label selector of the pods that the operator made for a PyTorchJob."""
    return f"{constants.JOB_NAME_LABEL}={name}"


def seconds(stamp: str) -> float:
    """Seconds since the epoch of an RFC 3339 time, whose fractions may have more digits than Python reads."""
    return datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", stamp).replace("Z", "+00:00")).astimezone(UTC).timestamp()


def state(job: Mapping[str, Any]) -> str:
    """Of a PyTorchJob: Created, Suspended (in a queue), Running, Restarting, Succeeded or Failed."""
    now = [c["type"] for c in job.get("status", {}).get("conditions") or [] if c["status"] == "True"]
    for name in (*ENDED, "Suspended", "Restarting", "Running"):
        if name in now:
            return name
    return "Created"


def label(job: Mapping[str, Any], name: str) -> str:
    """One of jobgen's labels of a PyTorchJob, such as `stage`; empty if it has none."""
    return str(job["metadata"].get("labels", {}).get(f"minima/{name}", ""))


def verdict(job: Any) -> str:
    """Complete or Failed, or nothing while a conductor is at work."""
    conditions = job.status.conditions or []
    return next((c.type for c in conditions if c.status == "True" and c.type in {"Complete", "Failed"}), "")


def last_words(pods: list[Any]) -> tuple[int, str] | None:
    """Exit code and message of the pod that failed, a permanent failure (below 128) before others; None if none did."""
    ended = []
    for pod in pods:
        for status in pod.status.container_statuses or []:
            over = status.state.terminated
            if over and over.exit_code:
                # A lost node leaves no time.
                when = over.finished_at or datetime.max.replace(tzinfo=UTC)
                ended.append((over.exit_code >= 128, when, over.exit_code, (over.message or over.reason or "").strip()))
        if pod.status.phase == "Failed" and not ended:
            said = f"{pod.status.reason or 'Failed'}: {pod.status.message or ''}".rstrip(": ")
            ended.append((True, datetime.max.replace(tzinfo=UTC), BUG, said))
    return min(ended)[2:] if ended else None
