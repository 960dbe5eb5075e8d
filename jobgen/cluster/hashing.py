"""Inputs of stages on GPUs, hashed once by the conductor before any of their pods is there: 32 GPUs would wait for it."""

import threading

from jobgen.pipeline.plan import Step
from minima.errors import StageError
from minima.options import reads, split_digest
from minima.workspace.inputs import hash_once


class Hashing:
    """Of one conductor, in threads.

    Args:
        workspace: the folder of which the conductor sees what is in it.
    """

    def __init__(self, workspace: str) -> None:
        self._below = f"{workspace}/"
        self._threads: dict[str, threading.Thread] = {}
        self._errors: dict[str, StageError | OSError] = {}

    def done(self, step: Step) -> bool:
        """Whether a stage may begin, as far as its inputs go; begins to hash them when that is first asked.

        Raises:
            StageError: an input is not what it should be.
            OSError: it cannot be read; to be asked again.
        """
        if not step.pool.gpus or not self._sees(step):
            return True
        if step.name not in self._threads:
            # A daemon: a conductor that is told to end does not wait for it.
            self._threads[step.name] = threading.Thread(target=self._hash, args=(step,), daemon=True)
            self._threads[step.name].start()
            self._threads[step.name].join(1)  # Most often nothing is left to do.
        if self._threads[step.name].is_alive():
            return False
        if error := self._errors.pop(step.name, None):
            del self._threads[step.name]
            raise error
        return True

    def _sees(self, step: Step) -> bool:
        return all(split_digest(path)[0].startswith(self._below) for path in reads(step.options).values())

    def _hash(self, step: Step) -> None:
        try:
            hash_once(step.options)
        except (StageError, OSError) as error:
            self._errors[step.name] = error
