"""Lines that stay and lines that change, as a terminal of 24 columns shows them in the end."""

import io
import re

import pytest

from jobgen import screen
from jobgen.screen import Screen


class Terminal(io.StringIO):
    """What a terminal shows of what is written to it: of its controls, up, the beginning of a line, and clear below."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        lines, row = [""], 0
        for part in re.split(r"(\x1b\[\d*[AJ]|\r|\n)", self.getvalue()):
            if part == "\n":
                row += 1
                lines[row:] = lines[row:] or [""]
            elif part.endswith("A"):
                row -= int(part[2:-1])
            elif part.endswith("J"):
                del lines[row + 1 :]
                lines[row] = ""
            elif part != "\r":
                lines[row] += part
        return lines[:-1] if lines[-1] == "" else lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("LINES", "5")
    return Terminal()


def test_lines_that_change_stay_below_those_that_stay(terminal: Terminal) -> None:
    made = Screen(terminal)
    made.show("one 1/2", "two 1/2")
    made.show("one 2/2", "two 2/2")
    made.say("one is done")
    made.show("two 2/2")
    assert terminal.shown() == ["one is done", "two 2/2"]
    made.show()
    made.say("two is done")
    assert terminal.shown() == ["one is done", "two is done"]


def test_they_fit_so_that_the_way_back_is_known(terminal: Terminal) -> None:
    made = Screen(terminal)
    made.show(*(f"{number} {'x' * 100}" for number in range(9)))
    assert terminal.shown() == [f"{number} {'x' * 21}" for number in range(4)]
    made.say("done")
    assert terminal.shown() == ["done"]


def test_without_a_terminal_they_come_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    made = Screen(out)
    for second in range(150):
        now[0] = float(second)
        made.show(f"{second} s", "another")
    made.say("done")
    assert out.getvalue().splitlines() == ["60 s", "120 s", "done"]
