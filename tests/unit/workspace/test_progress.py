"""What a stage writes of itself while it runs."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from minima.workspace import progress
from minima.workspace.lease import Lease
from minima.workspace.progress import Progress, Reporter


class Told(Reporter):
    """Remembers the most that was done of each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[str, Progress] = {}

    def phase(self, name: str, total: int = 0, unit: str = "", *, step: int = 0) -> None:
        super().phase(name, total, unit, step=step)
        self.most[name] = self.now

    def at(self, step: int, **values: Any) -> None:
        super().at(step, **values)
        self.most[self.now.phase] = self.now


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    with Reporter((tmp_path / progress.file()).write_text, started=5.0) as reporter:
        reporter.phase("training", 60, "steps", step=10)
        reporter.at(20, tokens=4096, loss=5.5)
    found = progress.read(tmp_path)
    assert found == reporter.now
    assert (found.phase, found.step, found.total, found.unit, found.since) == ("training", 20, 60, "steps", 5.0)
    assert (found.tokens, found.loss) == (4096, 5.5)
    assert found.tokens_per_second > 0
    assert found.eta is not None
    assert found.eta >= 0
    assert [place.name for place in tmp_path.iterdir()] == ["_progress.json"]


def test_whatever_the_pace_it_writes_once_an_interval_and_each_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    over, torn = threading.Event(), list[str]()

    def write(text: str) -> None:
        written.append(text)
        lease.write(progress.file(), text, durable=False)

    def read() -> None:
        while not over.is_set():
            place = tmp_path / progress.file()
            if place.exists() and progress.read(tmp_path) is None:
                torn.append(place.read_text())

    reading = threading.Thread(target=read)
    reading.start()
    began = time.monotonic()
    with Lease(tmp_path) as lease, Reporter(write) as reporter:
        reporter.phase("reading", 1_000_000, "bytes")
        step = 0
        while time.monotonic() < began + 0.5:
            step += 1
            reporter.at(step)
    over.set()
    reading.join()
    assert not torn
    assert 2 <= len(written) <= (time.monotonic() - began) / 0.05 + 2
    assert step > 10 * len(written)
    assert progress.read(tmp_path) == reporter.now


def test_who_lost_the_lease_writes_nothing(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        (tmp_path / "_lease.00000001.json").unlink()
        with Reporter(lambda text: lease.write(progress.file(), text, durable=False)) as reporter:
            reporter.phase("training", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_others_speak_for_writes_nothing_and_starts_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with Reporter() as reporter:
        assert list(reporter.track("abc", "reading", 3, "letters")) == ["a", "b", "c"]
        assert threading.active_count() == before
    assert reporter.now.step == 3


def put(folder: Path, pod: int, **values: object) -> None:
    (folder / progress.file(pod)).write_text(json.dumps(progress.to_json(Progress(**values))))  # type: ignore[arg-type]


def test_several_pods_are_one(tmp_path: Path) -> None:
    shared = {"total": 10, "unit": "bytes"}
    put(tmp_path, 0, phase="waiting", step=3, total=4, unit="shards", tokens=100, tokens_per_second=9.0, time=3.0, since=1.0)
    put(tmp_path, 1, phase="reading", step=5, tokens=50, tokens_per_second=2.0, eta=7.0, time=5.0, since=2.0, **shared)
    put(tmp_path, 2, phase="reading", step=6, tokens=70, tokens_per_second=3.0, eta=4.0, time=4.0, since=2.0, **shared)
    (tmp_path / progress.file(3)).write_text("")  # After a crash of its machine.
    found = progress.read(tmp_path)
    assert found is not None
    assert (found.phase, found.step, found.total, found.unit) == ("reading", 11, 20, "bytes")
    assert (found.tokens, found.tokens_per_second, found.eta, found.time, found.since) == (220, 5.0, 7.0, 5.0, 1.0)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 99, "phase": "training"}', '{"format": 1}', "\xff"])
def test_what_is_no_progress_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / progress.file()).write_bytes(text.encode("latin-1"))
    assert progress.read(tmp_path) is None


def test_a_later_version_may_say_more() -> None:
    assert progress.from_json({**progress.to_json(Progress(phase="saving")), "more": 1}) == Progress(phase="saving")


def test_the_pace_is_that_of_this_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = Reporter()
    reporter.phase("training", 100, "steps", step=50)
    now[0] = 110.0
    reporter.at(60, tokens=1000)
    reporter.phase("evaluating", 4, "batches")
    now[0] = 120.0
    reporter.at(2)
    assert reporter.now.eta == 10.0
    reporter.phase("training", 100, "steps", step=60)
    reporter.at(70)
    assert reporter.now.eta == 30.0  # 20 steps in 20 s, an evaluation among them.


LINE = Progress(
    phase="training", step=1200, total=6000, unit="steps", tokens=5, tokens_per_second=43210.0, loss=3.14159, eta=3725.0
)


def test_a_line_fits_and_says_what_matters_most() -> None:
    assert progress.line(LINE, 100) == ("training  ████░░░░░░░░░░░░░░░░  1,200/6,000  1h02m left  loss 3.142  43,210 tokens/s")
    for width in range(1, 120):
        assert len(progress.line(LINE, width)) <= width
    assert progress.line(LINE, 60) == "training  ███░░░░░░░░░░  1,200/6,000  1h02m left  loss 3.142"
    assert progress.line(LINE, 50) == "training  ███░░░░░░░░░░░░  1,200/6,000  1h02m left"
    assert progress.line(LINE, 40) == "training  1,200/6,000  1h02m left"
    assert progress.line(Progress(phase="reading", step=1_500_000, total=9_000_000, unit="bytes"), 40, bar=0) == (
        "reading  1.5/9.0 MB"
    )
    assert progress.line(Progress(phase="loading"), 80) == "loading"
    assert progress.line(Progress(phase="loading", phase_since=time.time() - 65), 80) == "loading  1m05s"
    assert progress.line(Progress(phase="reading", step=1500, unit="rows"), 80) == "reading  1,500 rows"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (273600, "3d04h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
