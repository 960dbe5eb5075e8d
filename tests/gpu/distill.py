"""`distill` at true widths."""

from collections.abc import Iterator

from tests.gpu import shapes
from tests.gpu.part import Place, Row


def run(place: Place) -> Iterator[Row]:
    yield from shapes.measure("distill", place)
