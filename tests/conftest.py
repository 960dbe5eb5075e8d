"""Options of the test program."""

import gc
import os
import signal
import sys

import pytest
from hypothesis import settings

# Before torch is imported, and for all programs that tests start: threads that wait for each other while two test programs
# share two cores took four times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else each of the many programs that tests start compiles the sources anew, which is half of the time that jobgen takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Under nohup and in the background of a script they are ignored, also in all programs that tests start; some tests send them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# An example's time says how busy the machine is, not whether the code is right.
settings.register_profile("minima", deadline=None)
settings.load_profile("minima")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites the golden files instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files instead of comparing with them")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """The name of a test says no bytes: those of an archive hold the second it was made in, and two programs must agree."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """Garbage collection need not look again and again at what libraries and collected tests hold: it lives to the end."""
    gc.freeze()


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))
