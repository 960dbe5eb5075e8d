"""The conductor: carries a pipeline through a cluster, stage by stage, as markers appear in the workspace.

It holds no state: what is finished stands in the workspace, what runs in the cluster. So it may end at any time, and another
one goes on.
"""

import errno
import math
import sys
import time
from pathlib import Path

from jobgen.artifacts import ASIDE, check_outside_inputs, set_aside
from jobgen.cluster.answers import NoOperatorError, RefusedError
from jobgen.cluster.changes import Changes
from jobgen.cluster.namespace import RETRIES, Cluster
from jobgen.cluster.objects import ENDED, state
from jobgen.cluster.stages import Stages
from jobgen.cluster.state import (
    FAILED,
    FINISHED,
)
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import ALL, Part, following
from jobgen.report import report, say
from minima.errors import LostPeerError, StageError
from minima.process.words import leave
from minima.workspace import progress

POLL = 2.0
"""Seconds between two looks at the cluster."""
SLOW = 10.0
"""Seconds between two looks when nothing says that something changed, but something is waited for."""
IDLE = 30.0
"""The same when all jobs run as they should."""
LINGER = 600.0
"""Seconds, after a stage failed, in which jobs that cannot get anywhere are still stopped: nobody else would."""


def conduct(pipeline: Pipeline, cluster: Cluster, *, from_stage: str | None, part: Part = ALL, name: str, uid: str) -> int:
    """Run what is not finished, and print the report.

    Args:
        pipeline: what to run; its workspace is mounted here, at its path.
        cluster: the namespace.
        from_stage: delete the jobs and set aside the artifacts of this stage and of all that follow from it first, once.
        part: the stages to run.
        name: of the Job that runs this.
        uid: of that Job, so that a second pod of it does not start from `from_stage` again.

    Returns:
        0, or the exit code of the stage that failed.

    Raises:
        UsageError: no such stage, or the cluster refuses.
        NotReadyError: an input is not there, a stage that `part` needs is not finished, or a newer conductor took over.
        LostPeerError: the cluster does not answer.
        DataError: a finished artifact, or an input from outside, is not what it was.
    """
    conductor = _Conductor(pipeline, cluster, name, part)
    try:
        return conductor.run(from_stage, uid)
    except StageError as error:
        leave(str(error))
        conductor.end(error.exit_code, str(error))
        raise


class _Conductor(Stages):
    """The loop over them."""

    def end(self, code: int, words: str) -> None:
        """Write the last state; a newer conductor writes its own."""
        if not self.superseded:
            self.kept.change(state=FAILED if code else FINISHED, exit_code=code, words=words if code else "", waits_for="")
            self.kept.write(now=True)

    def run(self, from_stage: str | None, uid: str) -> int:
        self.leave_out(from_stage)
        check_outside_inputs(self.pipeline, self.steps, f"{self.pipeline.workspace.path}/")
        changes = Changes(self.cluster, self.pipeline.name)
        failures, looked = 0, -math.inf
        while True:
            code = None
            try:
                if from_stage is not None:
                    self.start_from(from_stage, uid)
                    from_stage = None
                if changes.happened() or time.monotonic() - looked >= self.pause():
                    code = self.look()
                    looked = time.monotonic()
                for step in self.steps:
                    if step.name in self.settled:
                        self.kept.stage(step.name, progress=progress.read(Path(step.output_dir)))
                failures = 0
                self.kept.change(waits_for="")
            except (LostPeerError, RefusedError, NoOperatorError, OSError) as error:
                failures += 1
                if failures > RETRIES or getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                self.once(f"{error}; tried again")
                self.kept.change(waits_for=f"the cluster: {error}; tried again")
                looked = -math.inf
            if code is not None:
                self.end(code, self.kept.state.words)
                return code
            self.kept.write()
            time.sleep(POLL)

    def pause(self) -> float:
        """Seconds between two looks, if nothing changes meanwhile."""
        if self.succeeded:
            return POLL  # A marker shows in the workspace, not in the cluster.
        return IDLE if all(step.name in self.settled for step in self.steps if self.is_ready(step)) else SLOW

    def start_from(self, stage: str, uid: str) -> None:
        """Delete jobs and set artifacts aside, unless an earlier pod of this Job has done so."""
        aside = Path(self.pipeline.workspace.path) / self.pipeline.name / ASIDE
        done = aside / f".from-{uid}" if uid else None
        chosen = following(self.all_steps, stage)
        self.check_superseded()
        if done and done.exists():
            return
        for job in self.cluster.jobs(f"minima/pipeline={self.pipeline.name}"):
            if job["metadata"]["labels"].get("minima/stage") in chosen:
                say(f"delete {job['metadata']['name']}")
                self.cluster.delete(job["metadata"]["name"])
                self.check_superseded()
        moved = set_aside(self.all_steps, stage, aside)
        self.kept.change(words=f"set aside {', '.join(place.name for place in moved) or 'nothing'}, as --from {stage} says")
        if done:
            aside.mkdir(parents=True, exist_ok=True)
            done.touch()

    def look(self) -> int | None:
        """Look at everything once and start what can start; the exit code when there is nothing left to do."""
        self.check_superseded()
        jobs = self.cluster.jobs(f"minima/pipeline={self.pipeline.name}")
        self.patience.remember(job for job in jobs if state(job) not in ENDED)
        for step in self.steps:
            if self.is_ready(step) and (not self.failed or step.name in self.watched):
                self.advance(step, jobs)
        if self.failed:
            if self.patience.doomed() and time.monotonic() - self.failed_at < LINGER:
                return None
            if running := self.watched.keys() - self.markers.keys() - self.failed.keys():
                say(f"still running, and going on by themselves: {', '.join(sorted(running))}")
            return next(iter(self.failed.values()))
        if any(step.name not in self.markers for step in self.steps):
            return None
        results = {each.stage: each.result for each in self.kept.state.stages if each.result}
        # A log keeps the order of one stream only.
        print(report(results), file=sys.stderr, flush=True)
        return 0
