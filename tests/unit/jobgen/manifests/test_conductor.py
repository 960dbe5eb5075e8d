"""The conductor's objects: what they may hold, and which rights they ask for."""

from pathlib import Path

import pytest
import yaml

from jobgen.manifests import conductor
from jobgen.pipeline import spec
from minima.errors import UsageError

SHORT = (Path(__file__).parents[3] / "cluster" / "short.yaml").read_text(encoding="utf-8")


def test_a_pipeline_that_no_config_map_holds_is_refused() -> None:
    """Counted in bytes, as the API server does: a Chinese character has three."""
    for filler in ("#", "字"):
        width = len(filler.encode())
        room = conductor.LARGEST - len(SHORT.encode()) - 1
        text = f"{SHORT}#{filler * (room // width)}"
        text += "#" * (conductor.LARGEST - len(text.encode()))
        assert len(text.encode()) == conductor.LARGEST
        assert conductor.objects(spec.parse(text, "p.yaml"))
        with pytest.raises(UsageError, match=r"p\.yaml: found 1,048,577 bytes; at most 1,048,576, what"):
            conductor.objects(spec.parse(text + "#", "p.yaml"))


def test_queues_may_be_looked_at_only_where_a_pool_names_one() -> None:
    """An admin of a namespace may not give away rights to Kueue's objects that they lack."""
    document = yaml.safe_load(SHORT)
    document["pools"] = {"small": {"queue": "gpus"}}
    for text, queued in ((SHORT, False), (yaml.safe_dump(document), True)):
        groups = {group for rule in conductor.rules(spec.parse(text, "p.yaml")) for group in rule["apiGroups"]}
        assert ("kueue.x-k8s.io" in groups) == queued
