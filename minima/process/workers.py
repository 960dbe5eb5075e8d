"""Worker processes of a stage in one pod, and which of several pods this one is."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from minima.errors import LostPeerError, StageError, UsageError
from minima.process.family import die_with_parent

POD_INDEX = "MINIMA_POD_INDEX"
POD_COUNT = "MINIMA_POD_COUNT"
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


def stream(task: Callable[[Item], Iterable[Value]], items: Sequence[Item], processes: int) -> Generator[Value, None, None]:
    """Yield what `task` yields for each item, in the order of arrival; the values of one item keep theirs.

    Args:
        task: a function of a module other than `__main__`, since other processes import it by name.
        items: what to work on; an item goes to the next process that is free.
        processes: how many; with one, or one item, the work is done in this process.

    Raises:
        StageError, OSError, MemoryError: what `task` raises, as it is; all else it raises is a bug, whose traceback is printed.
        LostPeerError: the kernel killed a process, which is most often for want of memory.
    """
    if processes == 1 or len(items) <= 1:
        for item in items:
            yield from task(item)
        return
    waiting = deque(items)
    running: dict[Connection, subprocess.Popen[bytes]] = {}
    try:
        for _ in range(min(processes, len(items))):
            connection, process = _start()
            running[connection] = process
            _send(connection, process, sys.path, task, waiting.popleft())
        while running:
            ready = wait(list(running))
            for connection in [c for c in running if c in ready]:
                try:
                    done, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _ended(running[connection]) from None
                if isinstance(value, StageError | OSError | MemoryError):
                    raise value
                if not done:
                    yield value
                elif waiting:
                    _send(connection, running[connection], waiting.popleft())
                else:
                    _end(connection, running.pop(connection))
    finally:
        for connection, process in running.items():
            _end(connection, process)


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start a process on this module: it binds its life to ours first of all, and only then imports what its task needs."""
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(theirs.fileno())]
    # A terminal sends its signals to all processes, but only the first acts on a stop: what it started ends with it.
    # A blocked signal stays blocked in a process started meanwhile, from its first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _send(connection: Connection, process: subprocess.Popen[bytes], *values: Any) -> None:
    try:
        for value in values:
            connection.send(value)
    except BrokenPipeError:
        raise _ended(process) from None


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    connection.close()


def _ended(process: subprocess.Popen[bytes]) -> StageError:
    code = process.wait()
    if code < 0:
        name = signal.Signals(-code).name
        return LostPeerError(f"a worker process was killed by {name}; if memory ran out, use fewer --num_processors")
    return StageError(f"a worker process ended with exit code {code}, its traceback is above; this is a bug of minima")


def _work(connection: Connection) -> None:
    sys.path[:] = connection.recv()
    task: Callable[[Any], Iterable[Any]] = connection.recv()
    while True:
        item = connection.recv()
        try:
            for value in task(item):
                connection.send((False, value))
        except (StageError, OSError, MemoryError) as error:
            connection.send((True, error))
            return
        connection.send((True, None))


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    _work(Connection(int(sys.argv[2])))
