"""Watching a conductor at its work, by what it says as data."""

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

from jobgen.cluster.logs import Following
from jobgen.cluster.namespace import PAUSE, RETRIES, Cluster
from jobgen.cluster.objects import last_words, verdict
from jobgen.cluster.patience import NOT_BEGUN_SECONDS, NotBegun
from jobgen.cluster.state import (
    ALIVE_SECONDS,
    FAILED,
    FINISHED,
    STARTING,
    UNDER_WAY,
    WAITING,
    WORKING,
    StageState,
    State,
    read_state,
)
from jobgen.manifests.render import CONDUCTOR
from jobgen.report import headline, report, titled
from jobgen.screen import Screen
from minima.errors import BUG, LostPeerError, UsageError
from minima.workspace.progress import duration, line

POLL = 1.0
LOGS_SECONDS = 30.0
"""For logs to be read to their ends when the conductor has ended."""
QUIET_SECONDS = ALIVE_SECONDS + NOT_BEGUN_SECONDS
"""After which a conductor that wrote nothing new may not be there any more."""


def watch(cluster: Cluster, pipeline: str, name: str, *, verbose: bool = False) -> int:
    """Say what the conductor's state says until its Job has a verdict, with the report at its end; its exit code."""
    screen = Screen()
    teller = _Teller(screen)
    not_begun, unheard = NotBegun(cluster, screen.say), _Unheard(cluster, screen)
    failures = 0
    heard, heard_at = 0.0, time.monotonic()
    ended = threading.Event()
    following = Following(cluster, f"batch.kubernetes.io/job-name={name}", ended.is_set, screen.say)
    if verbose:
        following.start()
    while True:
        try:
            job = next((job for job in cluster.conductors(pipeline) if job.metadata.name == name), None)
            over = verdict(job) if job else ""
            now = read_state(cluster, pipeline)  # After the verdict, so that it is the last one.
            if now and (now.conductor != name or (now.state != WORKING and not over)):
                now = None  # Of another, or of an earlier Job of this name.
            if now and now.time != heard:
                heard, heard_at = now.time, time.monotonic()
            silent = time.monotonic() - heard_at > QUIET_SECONDS  # By this machine's clock alone.
            pods = cluster.conductor_pods(name) if now is None or silent or over else []
            if job and (now is None or silent) and not over and (code := not_begun.look(job, pods)):
                screen.show()
                screen.say(f"waiting does not help; {name} stays, and begins when that is mended")
                return code
            if silent and not over and pods and pods[-1].status.phase == "Running":
                unheard.look(pods[-1])
            failures = 0
        except LostPeerError as error:
            failures += 1
            if failures > RETRIES:
                raise
            screen.say(f"{error}; tried again")
            time.sleep(PAUSE)
            continue
        if over and verbose:
            ended.set()
            following.join(LOGS_SECONDS)
            if following.error:
                screen.say(f"logs: {following.error}")
        if now:
            teller.tell(now)
        if job is None:
            screen.show()
            raise UsageError(f"{name} was deleted; the stages that run go on, the same command starts a conductor again")
        if over:
            screen.show()
            return _end(screen, name, over, now, pods)
        time.sleep(POLL)


class _Unheard:
    """Tells the end of the log of a conductor that runs, and whose state nobody can read: it may not reach the cluster."""

    def __init__(self, cluster: Cluster, screen: Screen) -> None:
        self.cluster, self.screen = cluster, screen
        self.said = ""
        self.asked = -math.inf

    def look(self, pod: Any) -> None:
        """Read it now and then, and tell what is new."""
        if time.monotonic() - self.asked < QUIET_SECONDS:
            return
        self.asked = time.monotonic()
        try:
            found = [*self.cluster.lines(pod.metadata.name, container=CONDUCTOR, tail_lines=1)]
            end = f"its log ends with: {found[-1]}" if found else "its log is empty"
        except UsageError as error:
            end = str(error)
        if end != self.said:
            self.said = end
            self.screen.say(f"{pod.metadata.name} runs, but nothing new is heard of it; {end}")


def _end(screen: Screen, name: str, over: str, now: State | None, pods: list[Any]) -> int:
    """Say how a conductor ended; the exit code to end with."""
    if over == "Complete":
        results = {stage.stage: stage.result for stage in now.stages if stage.result} if now else {}
        if now:
            took = duration(now.time - now.since)
            left_out = any(stage.state == WAITING for stage in now.stages)  # By --until or --only.
            screen.say(f"{'' if left_out else 'all '}{len(results)} stages are finished, after {took}")
        print(report(results) if results else f"{name} is finished; its log has the report", flush=True)
        return 0
    code, words = last_words(pods) or (BUG, "its pod is gone")
    if now and now.exit_code:
        code, words = now.exit_code, now.words
    screen.say(f"{name} failed: {words}")
    return code


class _Teller:
    """Says what is new in a conductor's state, a line for each change of a stage, and shows what is under way."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.before: dict[str, StageState] = {}
        self.said: set[str] = set()
        """What the conductor said of itself."""

    def tell(self, state: State) -> None:
        """What is new in it."""
        width = max(len(stage.stage) for stage in state.stages)
        moving = []
        for number, stage in enumerate(state.stages, 1):
            title = titled(number, len(state.stages), stage.stage, width)
            for news in _news(self.before.get(stage.stage), stage):
                self.screen.say(f"{time.strftime('%H:%M:%S')} {title}  {news}")
            self.before[stage.stage] = stage
            if stage.state in UNDER_WAY:
                room = self.screen.width - len(title) - 2
                moving.append(f"{title}  {line(stage.progress, room) if stage.progress else stage.state}")
        for said in (state.words if state.state == WORKING else "", state.waits_for and f"waits for {state.waits_for}"):
            if said and said not in self.said:
                self.screen.say(f"{time.strftime('%H:%M:%S')} conductor: {said}")
        self.said = {state.words, state.waits_for and f"waits for {state.waits_for}"}
        self.screen.show(*moving)


def _news(old: StageState | None, new: StageState) -> Iterator[str]:
    """What is worth a line of a stage that was as `old`."""
    old = old or StageState(stage=new.stage)
    if new.restarts > old.restarts:
        yield f"a pod was made again (restart {new.restarts})"
    if new.state != old.state:
        yield _changed(new)
    if new.waits_for and new.waits_for != old.waits_for and new.state != WAITING:
        yield f"waits for {new.waits_for}"


def _changed(stage: StageState) -> str:
    if stage.state == FINISHED and stage.result:
        how = f"finished in {duration(stage.result.seconds)}" if stage.job else "finished already"
        return f"{how}  {headline(stage.result)}".rstrip()
    if stage.state == FAILED:
        return f"failed with exit code {stage.exit_code}: {stage.words}"
    return f"{stage.state} as {stage.job}" if stage.state == STARTING else stage.state
