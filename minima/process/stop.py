"""The one stop: what SIGTERM, Ctrl-C and a closed terminal do to a process of this program, at any moment.

Python runs the handler of a signal in the main thread between two of its instructions: late while C code runs; and an
exception that it raises may be lost in a finaliser, or in a library that catches everything. So the handler does nothing.
The interpreter itself tells a thread of every signal (`signal.set_wakeup_fd`), whoever has put a handler of his own there,
and the thread ends the process: at once, by 143, without unwinding. A process that has something to save says `remember`,
and looks at `requested` itself; one that has workers says `pass_on`.
"""

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NoReturn

from minima.errors import TERMINATED
from minima.process import words
from minima.process.family import children

SAVING_SECONDS = 540
"""For workers to write a checkpoint when they are told to stop; then they are killed."""
_ACTS_SECONDS = 5.0
"""For what is done before the end: a file system that hangs must not keep the process."""
_LEAVE_SECONDS = 30.0
"""For torchrun's agent to end when its workers have."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Way(Enum):
    END = auto()
    REMEMBER = auto()
    PASS_ON = auto()


_way = _Way.END
_requested: signal.Signals | None = None
_verb = ""
_acts: list[Callable[[], object]] = []


def watch(verb: str) -> None:
    """Be ready for a stop from here on. To be called first of all: the kernel drops SIGTERM for a PID 1 without a handler.

    Args:
        verb: for the last words.
    """
    global _verb
    _verb = verb
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    threading.Thread(target=_watch, args=(reading,), name="stop", daemon=True).start()
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) ignores it on purpose.
            signal.signal(number, _nothing)


def remember() -> None:
    """From here on a stop is only remembered: the caller looks at `requested`, saves, and ends."""
    global _way
    _way = _Way.REMEMBER


def pass_on() -> None:
    """From here on the children are told to stop first, and to pause (Ctrl-Z) and go on: they are in sessions of their own."""
    global _way
    _way = _Way.PASS_ON
    signal.signal(signal.SIGTSTP, _nothing)
    signal.signal(signal.SIGCONT, _nothing)


def requested() -> signal.Signals | None:
    """The signal that told this process to stop; None if none did."""
    return _requested


@contextlib.contextmanager
def before_the_end(act: Callable[[], object] | None) -> Iterator[None]:
    """Within it, a stop that ends the process calls `act` first, in another thread: nothing is unwound."""
    acts = [act] if act else []
    _acts.extend(acts)
    try:
        yield
    finally:
        del _acts[len(_acts) - len(acts) :]


def leave_terminals() -> None:
    """Let what is said from now on go nowhere where it went to a terminal: writing to one that is closed is an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):  # One that was never open.
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # Of one that is closed isatty(3) says no.
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _nothing(number: int, frame: object) -> None:
    """A handler, so that the interpreter tells the thread."""


def _watch(reading: int) -> None:
    global _requested
    while True:
        number = os.read(reading, 1)[0]
        if number == signal.SIGTSTP:
            for child in children():
                _kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            for child in children():
                _kill(child, signal.SIGCONT)
        elif number in _SIGNALS:
            if number == signal.SIGHUP:
                leave_terminals()
            first = _requested is None
            _requested = _requested or signal.Signals(number)
            if _way is _Way.END:
                _end()
            elif _way is _Way.PASS_ON and first:
                threading.Thread(target=_stop_children, args=(signal.Signals(number),), name="stopping", daemon=True).start()


def _stop_children(number: signal.Signals) -> NoReturn:
    told: set[int] = set()
    deadline = time.monotonic() + SAVING_SECONDS
    while there := children():
        late = time.monotonic() - deadline
        if late > _LEAVE_SECONDS:
            break  # What not even SIGKILL ends waits for a device.
        for child in there:
            if late > 0:
                _kill(child, signal.SIGKILL)
            elif child not in told:
                _kill(child, signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)
        told |= there
        time.sleep(0.05)
    if told and not there:
        time.sleep(_LEAVE_SECONDS)  # The main thread has seen it too, and ends with what they said.
    _end()


def _end() -> NoReturn:
    try:
        threading.Timer(_ACTS_SECONDS, os._exit, [TERMINATED]).start()
        for act in reversed(_acts):
            with contextlib.suppress(Exception):
                act()
        name = _requested.name if _requested else "a signal"
        words.say(_verb, f"stopped by {name}; the same command goes on")
    finally:
        os._exit(TERMINATED)


def _kill(child: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
