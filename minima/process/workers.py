"""Processes: which of several pods this one is, worker processes, and that none outlives the one that started it."""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from minima.errors import LostPeerError, StageError, UsageError

POD_INDEX = "MINIMA_POD_INDEX"
POD_COUNT = "MINIMA_POD_COUNT"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
Item = TypeVar("Item")
Value = TypeVar("Value")


def pod() -> tuple[int, int]:
    """This pod's number among those that share an independent stage, and how many there are.

    Raises:
        UsageError: the environment does not say an index below a count.
    """
    words = os.environ.get(POD_INDEX, "0"), os.environ.get(POD_COUNT, "1")
    if not all(word.isdecimal() for word in words) or not int(words[0]) < int(words[1]):
        raise UsageError(f"{POD_INDEX}={words[0]} {POD_COUNT}={words[1]}: valid are a count and an index from 0 below it")
    return int(words[0]), int(words[1])


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, however it ends (prctl(2), PR_SET_PDEATHSIG).

    Args:
        parent: the parent's process id, if known: the parent may already have died before this call.

    Raises:
        OSError: the system has no such call.
    """
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed: stages run on Linux only")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def stream(task: Callable[[Item], Iterable[Value]], items: Sequence[Item], processes: int) -> Generator[Value, None, None]:
    """Yield what `task` yields for each item, in the order of arrival; the values of one item keep theirs.

    Args:
        task: a function of a module, since other processes import it by name.
        items: what to work on; an item goes to the next process that is free.
        processes: how many; with one, or one item, the work is done in this process.

    Raises:
        StageError, OSError: what `task` raises, as it is; everything else it raises is a bug, whose traceback is printed.
        LostPeerError: the kernel killed a process, which is most often for want of memory.
    """
    if processes == 1 or len(items) <= 1:
        for item in items:
            yield from task(item)
        return
    waiting = deque(items)
    running: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(min(processes, len(items))):
            connection, process = _start(task)
            running[connection] = process
            connection.send(waiting.popleft())
        while running:
            ready = wait(list(running))
            for connection in [c for c in running if c in ready]:
                try:
                    done, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _ended(running[connection]) from None
                if isinstance(value, StageError | OSError):
                    raise value
                if not done:
                    yield value
                elif waiting:
                    connection.send(waiting.popleft())
                else:
                    _end(connection, running.pop(connection))
    finally:
        for connection, process in running.items():
            _end(connection, process)


def _start(task: Callable[[Item], Iterable[Value]]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(task, theirs), daemon=True)
    # A terminal sends Ctrl-C to all processes, but only the first has something to say. A blocked signal stays blocked in a
    # process started meanwhile. Python's own tracker process, started with the first, would unblock it: it goes before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _end(connection: Connection, process: SpawnProcess) -> None:
    process.kill()
    process.join()
    connection.close()


def _ended(process: SpawnProcess) -> StageError:
    process.join()
    code = process.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        return LostPeerError(f"a worker process was killed by {name}; if memory ran out, use fewer --num_processors")
    return StageError(f"a worker process ended with exit code {code}, its traceback is above; this is a bug of minima")


def _work(task: Callable[[Any], Iterable[Any]], connection: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    die_with_parent(parent.pid)
    while True:
        item = connection.recv()
        try:
            for value in task(item):
                connection.send((False, value))
        except (StageError, OSError) as error:
            connection.send((True, error))
            return
        connection.send((True, None))
