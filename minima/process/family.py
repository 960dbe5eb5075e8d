"""Which processes belong together: the children of one, and that none outlives the one that started it."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

AGENT = "MINIMA_AGENT"
"""Process id of torchrun's agent, for its workers."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


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


def children() -> set[int]:
    """Process ids of the living children of this process."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It ended meanwhile.
            state, parent = place.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(place.parent.name))
    return found
