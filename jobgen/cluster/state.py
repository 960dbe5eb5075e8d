"""Where a pipeline is in a cluster, as data: the conductor writes it, and every front end reads it.

It lies in a ConfigMap beside the conductor, and as a file in the workspace. Nothing is built on it: what is finished stands
in the workspace, what runs in the cluster, and a conductor that begins finds both out again.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jobgen.cluster.answers import RefusedError
from jobgen.cluster.namespace import Cluster
from jobgen.manifests.conductor import state_name, version
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import Step
from jobgen.report import Result
from minima.errors import StageError
from minima.workspace import progress
from minima.workspace.files import write_atomically
from minima.workspace.progress import Progress

FORMAT = 1
KEY = "state.json"
"""In the ConfigMap's data."""
LABEL = "minima/state"
"""Of the ConfigMap: the conductor's state, for what reads no JSON, such as Flux's checks."""
FILE = "_conductor.json"
"""In the pipeline's folder of the workspace."""
WAITING, STARTING, QUEUED, RUNNING, RESTARTING = "waiting", "starting", "queued", "running", "restarting"
FINISHED, FAILED = "finished", "failed"
WORKING, NONE = "working", "none"
"""Of a conductor, beside the two above."""
UNDER_WAY = (STARTING, QUEUED, RUNNING, RESTARTING)
"""States of a stage that has a PyTorchJob which has not ended."""
CHANGE_SECONDS = 2.0
"""Between two writes of what changed."""
PROGRESS_SECONDS = 5.0
"""Between two writes when nothing changed but progress."""
ALIVE_SECONDS = 30.0
"""Between two writes when nothing changed at all: who reads must be able to tell a silent conductor from a dead one."""


@dataclass(frozen=True, kw_only=True)
class StageState:
    """One stage.

    Attributes:
        stage: its name.
        state: waiting (for its inputs), starting, queued, running, restarting, finished or failed.
        since: when it came into this state, in seconds since the epoch.
        waits_for: why it does not go on: the cluster's own words, and what to do; empty while it does.
        waits_since: when that began.
        job: the PyTorchJob's name.
        restarts: pods that were made again.
        exit_code: of a failed one.
        words: the last ones of a failed one.
        planned: seconds that `jobgen plan` says it takes in all; None where it knows no speed, or not yet how many tokens.
        progress: of a running one, as it wrote it.
        result: of a finished one.
    """

    stage: str
    state: str = WAITING
    since: float = 0.0
    waits_for: str = ""
    waits_since: float | None = None
    job: str = ""
    restarts: int = 0
    exit_code: int | None = None
    words: str = ""
    planned: float | None = None
    progress: Progress | None = None
    result: Result | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """A pipeline.

    Attributes:
        pipeline: its name.
        version: of the pipeline file, as `conductor.version` says.
        conductor: the Job that wrote this; empty if none did, and it was read off jobs and pods.
        state: of that Job: working, finished or failed, or none.
        since: when that Job began, in seconds since the epoch.
        waits_for: why the conductor itself does not go on: the cluster's words, and what to do.
        exit_code: of a failed one.
        words: its last ones, or what it did before it began.
        time: of writing.
        stages: in the order of the plan.
    """

    pipeline: str
    version: str = ""
    conductor: str = ""
    state: str = WORKING
    since: float = 0.0
    waits_for: str = ""
    exit_code: int | None = None
    words: str = ""
    time: float = 0.0
    stages: tuple[StageState, ...] = ()

    def stage(self, name: str) -> StageState | None:
        """One of its stages."""
        return next((each for each in self.stages if each.stage == name), None)


def to_json(state: State) -> dict[str, Any]:
    """As a JSON object, with its format."""
    made = {"format": FORMAT, **asdict(state)}
    for stage, each in zip(made["stages"], state.stages, strict=True):
        stage["progress"] = each.progress and progress.to_json(each.progress)
    return made


def from_json(content: Any) -> State | None:
    """What `to_json` made; None if it is of another version, or not whole."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    try:
        stages = tuple(
            StageState(
                **_known(StageState, each)
                | {
                    "progress": progress.from_json(each.get("progress")),
                    "result": each.get("result") and Result(**_known(Result, each["result"])),
                }
            )
            for each in content.get("stages", ())
        )
        return State(**_known(State, content) | {"stages": stages})
    except (TypeError, AttributeError):
        return None


def parse(text: str | None) -> State | None:
    """What was written as text; None if nothing was, or by another version."""
    try:
        return from_json(json.loads(text or "null"))
    except ValueError:
        return None


def _known(kind: type[Any], content: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


@dataclass
class Keeper:
    """Keeps a state, and writes it when it changed, but not more often than anybody reads.

    Args:
        state: to begin with.
        writers: each puts a text where front ends read it.
        say: tells, once, that one of them cannot.
    """

    state: State
    writers: Iterable[Callable[[str], None]]
    say: Callable[[str], None]
    _written: State | None = field(default=None, init=False)
    _at: float = field(default=0.0, init=False)

    def stage(self, name: str, **changes: Any) -> None:
        """Change a stage; `since` and `waits_since` follow."""
        now = time.time()
        stages = []
        for old in self.state.stages:
            if old.stage == name:
                new = replace(old, **changes)
                if new.state != old.state:
                    new = replace(new, since=now)
                if new.waits_for != old.waits_for:
                    new = replace(new, waits_since=now if new.waits_for else None)
                stages.append(new)
            else:
                stages.append(old)
        self.state = replace(self.state, stages=tuple(stages))

    def change(self, **changes: Any) -> None:
        """Change what is not a stage's."""
        self.state = replace(self.state, **changes)

    def write(self, *, now: bool = False) -> None:
        """Write what changed, if it is time, or at once."""
        age = time.monotonic() - self._at
        if self._written is None or self.state == self._written:
            due = self._written is None or age >= ALIVE_SECONDS
        else:
            due = age >= (PROGRESS_SECONDS if _bare(self.state) == _bare(self._written) else CHANGE_SECONDS)
        if not due and not now:
            return
        self._written, self._at = self.state, time.monotonic()
        text = json.dumps(to_json(replace(self.state, time=time.time())), ensure_ascii=False)
        for writer in self.writers:
            try:
                writer(text)
            except (OSError, StageError) as error:  # Nothing is built on it: a pipeline goes on without.
                self.say(f"its state cannot be written: {error}")


def keeper(
    cluster: Cluster, pipeline: Pipeline, steps: list[Step], jobs: Mapping[str, str], conductor: str, say: Callable[[str], None]
) -> Keeper:
    """The keeper of a conductor's state, which it begins where an earlier pod of this conductor ended: that counted restarts.

    Args:
        cluster: where it writes it, for who has the cluster.
        pipeline: whose workspace gets it as a file.
        steps: of the pipeline.
        jobs: stage to the name of its PyTorchJob.
        conductor: the Job's name.
        say: as of `Keeper`.
    """
    name, folder = state_name(pipeline.name), Path(pipeline.workspace.path) / pipeline.name
    before = None
    try:
        before = parse(cluster.note(name, KEY))
    except StageError as error:
        say(f"its state cannot be read: {error}")
    stages = []
    for step in steps:
        old = before.stage(step.name) if before else None
        restarts = old.restarts if old and old.job == jobs[step.name] else 0
        needs = f"{', '.join(step.needs)} to finish" if step.needs else ""
        stages.append(StageState(stage=step.name, since=time.time(), waits_for=needs, restarts=restarts))
    first = State(
        pipeline=pipeline.name,
        version=version(pipeline.text),
        conductor=conductor,
        since=before.since if before and before.conductor == conductor and before.state == WORKING else time.time(),
        stages=tuple(stages),
    )

    def write_file(text: str) -> None:
        if folder.is_dir():
            write_atomically(folder / FILE, text + "\n", durable=False)

    def write_object(text: str) -> None:
        cluster.write_note(name, KEY, text, {LABEL: made.state.state})

    made = Keeper(first, (write_file, write_object), say)
    return made


def _bare(state: State) -> tuple[State, ...] | State:
    """A state without what changes all the time."""
    return replace(state, stages=tuple(replace(stage, progress=None) for stage in state.stages))


def read_state(cluster: Cluster, pipeline: str) -> State | None:
    """What a pipeline's conductor, whichever it is, says of where the pipeline is; None where nothing can be read."""
    try:
        return parse(cluster.note(state_name(pipeline), KEY))
    except RefusedError:
        return None  # Whoever may not read ConfigMaps may still see jobs and pods.
