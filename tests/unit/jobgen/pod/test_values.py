"""What the API server would refuse is refused first, with its place and what is valid; what it takes is let pass."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests import conductor
from jobgen.pipeline import fragment as fragments
from jobgen.pipeline import spec
from minima.errors import UsageError
from tests.unit.jobgen.pod.cases import REFUSED, STRICTER, TAKEN, fragment
from tests.unit.jobgen.pod.odd import EVERYTHING

SHORT = yaml.safe_load((Path(__file__).parents[3] / "cluster" / "short.yaml").read_text(encoding="utf-8"))


def made(pod: dict[str, Any]) -> None:
    """All objects of the short pipeline's last stage, with a fragment of its own."""
    stage = {**SHORT["stages"]["init-model"], "pod": pod}
    document = {**SHORT, "stages": {"init-model": stage}}
    document.pop("conductor", None)
    conductor.check(spec.parse(yaml.safe_dump(document, sort_keys=False), "p.yaml"))


ALL = {**REFUSED, **STRICTER}


@pytest.mark.parametrize("case", ALL)
def test_what_is_refused(case: str) -> None:
    place, what = ALL[case]
    with pytest.raises(UsageError) as caught:
        made(fragment(case))
    said = str(caught.value)
    assert any(place in line and what in line for line in said.splitlines()), said
    assert all(line.startswith("p.yaml:") for line in said.splitlines()), said


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken(case: str) -> None:
    made(fragment(case))


def test_a_template_that_says_everything_is_taken() -> None:
    assert list(fragments.lacks(EVERYTHING)) == []


@pytest.mark.parametrize(
    "quantity", ["9" * 5000, "1e" + "9" * 5000, f"0.{'0' * 5000}1"], ids=["digits", "exponent", "fraction"]
)
def test_thousands_of_digits_are_no_quantity(quantity: str) -> None:
    """Python refuses to read them as a number."""
    with pytest.raises(UsageError, match="a quantity such as"):
        made({"spec": {"containers": [{"name": "pytorch", "resources": {"limits": {"rdma/ib": quantity}}}]}})
