"""How a training run goes on after a break: which checkpoints belong to it, and when they are written and read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from minima.errors import DataError, UsageError
from minima.options import Training, decides
from minima.training import checkpoint
from minima.training.group import Group
from minima.training.state import State
from minima.workspace import artifact
from minima.workspace.artifact import Output
from minima.workspace.marker import CHECKPOINTS, STEP


class Recovery:
    """The checkpoints of one run.

    Args:
        engine: of DeepSpeed.
        options: of the stage.
        output: its artifact.
        group: its processes; all of them make each call.
        keeps_best: whether the checkpoint of the best epoch stays too.

    Attributes:
        saved: step of the newest checkpoint, 0 without one.
    """

    def __init__(self, engine: Any, options: Training, output: Output, group: Group, *, keeps_best: bool) -> None:
        self.saved = 0
        self._engine, self._output, self._group = engine, output, group
        self._keeps_best, self._newest = keeps_best, options.keep_checkpoints
        self._meaning = {
            "identity": artifact.identity(options),
            "inputs": {name: _content(entry) for name, entry in output.inputs.items() if decides(options, name)},
        }
        self._measured = {name: _content(entry) for name, entry in output.inputs.items() if not decides(options, name)}

    def resume(self) -> State:
        """Where the run goes on: at the newest valid checkpoint, whose weights and moments are then in the engine, or at 0.

        Raises:
            UsageError: it is another run's.
            DataError: it lacks a part of a parameter.
        """
        found = checkpoint.latest(self._output, self._group)
        if found is None:
            return State()
        folder, state = found
        measured = state.pop("measured")
        for what, there in state.pop("meaning").items():
            now = json.loads(json.dumps(self._meaning[what]))
            differ = [f"{n} {there.get(n)!r} there, {now.get(n)!r} now" for n in {*there, *now} if there.get(n) != now.get(n)]
            if differ:
                raise UsageError(
                    f"--output_dir: {folder} belongs to another run ({', '.join(sorted(differ))}); "
                    "choose another folder or set it aside"
                )
        checkpoint.load(self._engine, folder)
        self.saved = state["step"]
        account = State(**state)
        if measured != self._measured:
            account.forget_evaluations()
        return account

    def save(self, state: State) -> None:
        """Write a checkpoint of this step."""
        keep = {state.best_step} if self._keeps_best else set()
        everything = {**asdict(state), "meaning": self._meaning, "measured": self._measured}
        checkpoint.save(self._engine, everything, state.step, self._output, self._group, keep, self._newest)
        self.saved = state.step

    def load_best(self, state: State) -> None:
        """Put the weights of the best epoch into the engine.

        Raises:
            DataError: their checkpoint is not whole.
            TerminatedError: a process was told to stop; nothing has changed.
        """
        self._group.sum_or_stop()  # What follows reads the whole checkpoint.
        best = self._output.place / CHECKPOINTS / f"{STEP}{state.best_step:08d}"
        wrong = next((w for w in self._group.gather(checkpoint.faults(best)) if w), None)
        if wrong:
            raise DataError(f"{best}: the best weights are lost ({wrong}); set the folder aside and run the stage again")
        checkpoint.load(self._engine, best)


def _content(entry: Mapping[str, Any]) -> str:
    """An input's key; for one from outside also its files, sizes and times, since a path says nothing of the content."""
    files = json.dumps(entry.get("fingerprint", {}), sort_keys=True)
    return f"{entry['key']} {hashlib.sha256(files.encode()).hexdigest()[:8]}"
