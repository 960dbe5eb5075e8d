"""What can go wrong, as exit codes that Kubernetes acts on: 1-127 is for a person, 128 and above is tried again.

The numbers are those of BSD's sysexits(3) and of shells for signals (128 + n); `restartPolicy: ExitCode` of a
PyTorchJob retries exactly the second group.
"""

import difflib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

USAGE = 64
DATA = 65
BUG = 70
DISK_FULL = 74
NOT_READY = 75
LOST_PEER = 134
OUT_OF_MEMORY = 137
TERMINATED = 143
EXIT_CODES = {
    0: "done",
    USAGE: "wrong options or pipeline",
    DATA: "bad data",
    BUG: "bug or attempts used up",
    DISK_FULL: "disk full",
    NOT_READY: "input not ready",
    LOST_PEER: "lost peer or device",
    OUT_OF_MEMORY: "out of memory",
    TERMINATED: "stopped",
}
"""What each code means, for help texts, manifests and the README; 128 + n is also the end by a signal n."""
PERMANENT = tuple(code for code in EXIT_CODES if 0 < code < 128)
"""Codes after which trying again without a change is useless."""
NO_FAILURE = (USAGE, DATA, DISK_FULL, TERMINATED)
"""What is for a person to mend, or was ordered by one: no attempt that failed."""


class StageError(Exception):
    """Ends the program with one message and an exit code, never a traceback."""

    exit_code = BUG


class UsageError(StageError):
    """An option or a pipeline file that cannot work; trying again without a change is useless."""

    exit_code = USAGE


class DataError(StageError):
    """An input whose content is wrong: a corrupt record, a malformed conversation, a changed file."""

    exit_code = DATA


class DiskFullError(StageError):
    """The workspace has no room left."""

    exit_code = DISK_FULL


class NotReadyError(StageError):
    """An input that is not there yet, or a folder that somebody else is writing."""

    exit_code = NOT_READY


class AttemptsError(StageError):
    """A stage that failed too often without any progress."""

    exit_code = BUG


class WorkerError(StageError):
    """A worker ended the group; its exit code and its message."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TerminatedError(StageError):
    """SIGTERM or Ctrl-C, after what could be saved was saved."""

    exit_code = TERMINATED


class LostPeerError(StageError):
    """Another process of the group, or the device, is gone; the same command may well work again."""

    exit_code = LOST_PEER


class NoPeerError(LostPeerError):
    """The other pods of the group did not come: their nodes may."""


def exit_codes() -> str:
    """A line about exit codes for a help text."""
    meanings = ", ".join(f"{code} {EXIT_CODES[code]}" for code in (0, *PERMANENT))
    return f"Exit codes: {meanings}; with 128 and above the same command may work again."


def on_a_line(text: str) -> str:
    """A text as it is, or escaped where it would break a message's line."""
    return text if text.isprintable() else repr(text)


def told(value: Any, longest: int = 80) -> str:
    """A found value for an error message, in YAML's words."""
    match value:
        case None:
            text = "null"
        case bool():
            text = "true" if value else "false"
        case float():
            text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
        case dict():
            items = itertools.islice(value.items(), longest)
            text = (
                f"{{{', '.join(f'{on_a_line(str(key))}: {told(item, longest // 2)}' for key, item in items)}}}"
                if longest > 8
                else "{…}"
            )
        case list() | tuple():
            text = f"[{', '.join(told(item, longest // 2) for item in value[:longest])}]" if longest > 8 else "[…]"
        case _:
            text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A closing sentence for an error about an unknown `name`: the nearest valid name, or all of them."""
    names = sorted(valid)
    alike = {each.lower(): each for each in names}
    near = [name] if name in names else difflib.get_close_matches(name.lower(), alike, n=1, cutoff=0.6)
    valid_ones = ", ".join(names)
    return f"did you mean {alike.get(near[0], near[0])!r}? (valid: {valid_ones})" if near else f"valid: {valid_ones}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for an error message, the first `most` of them."""
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "nothing"
