"""`jobgen run --local --dry-run`: what a run would do with each stage, and why, as the workspace shows it."""

import json
from pathlib import Path

from jobgen.artifacts import check_needs, check_outside_inputs
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Part, Step, following, plan
from jobgen.report import table
from minima.errors import StageError
from minima.workspace import artifact
from minima.workspace.marker import CHECKPOINTS, read_marker

KEPT, RUNS, LEFT = "kept", "runs", "left out"


def preview(pipeline: Pipeline, *, workspace: str, from_stage: str | None, part: Part) -> int:
    """Print what `run_local` would do; nothing is changed.

    Raises:
        UsageError: no such stage.
        NotReadyError: an input from outside is not there, or a stage that `part` needs is not finished.
        DataError: a finished artifact, or an input from outside, is not what it was.
    """
    steps = plan(pipeline, str(Path(workspace).absolute()))
    chosen = part.steps(steps)
    check_needs(steps, chosen, from_stage)
    check_outside_inputs(pipeline, chosen)
    again = following(steps, from_stage) if from_stage is not None else set()
    runs: set[str] = set()
    rows = []
    for step in steps:
        if step not in chosen:
            rows.append([step.name, LEFT, " ".join(part.words)])
        elif step.name not in again and artifact.finished(step.options) is not None:
            rows.append([step.name, KEPT, "finished"])
        else:
            rows.append([step.name, RUNS, f"--from {from_stage}" if step.name in again else why(step, runs)])
            runs.add(step.name)
    print(table(["stage", "what", "why"], rows))
    return 0


def why(step: Step, runs: set[str]) -> str:
    """Why a stage is not finished.

    Args:
        step: the stage.
        runs: stages before it that are not finished either.
    """
    folder = Path(step.output_dir)
    checkpoints = folder / CHECKPOINTS
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        return f"goes on from {max(place.name for place in checkpoints.iterdir() if place.name[0] not in '._')}"
    reads = [f"reads {need}, which runs" for need in step.needs if need in runs]
    others = [place for place in folder.parent.glob(f"{step.name}-{'[0-9a-f]' * 8}") if place != folder]
    for other in sorted(others, key=lambda place: place.stat().st_mtime, reverse=True):
        try:
            then = read_marker(other)
        except StageError:
            continue  # Not finished, or of another version of minima.
        if then["verb"] == step.verb:
            now = json.loads(json.dumps(artifact.identity(step.options)))  # As the marker has it.
            changed = [
                f"{name} {then['identity'].get(name)!r} → {now[name]!r}"
                for name in now
                if then["identity"].get(name) != now[name]
            ]
            return "; ".join([*changed, *reads]) or "its inputs are others"
    return "; ".join(reads) or "no artifact of it is there"
