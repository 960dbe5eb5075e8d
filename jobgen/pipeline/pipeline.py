"""A pipeline in which every name, type and reference has been checked; spec.py reads one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jobgen.pipeline.fragment import Fragment
from jobgen.pipeline.pools import Pool
from jobgen.pipeline.source import Place
from minima.models.shape import Shape
from minima.options import Options

NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
"""DNS-1035 label, which the names of jobs and services are."""
NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
"""DNS-1123 label."""
LONGEST_JOB = 53
"""Characters of a job's name; the operator makes services called <job>-worker-<i> of it."""
KEY_LENGTH = 8
CONTAINER = "pytorch"
"""The container of a stage's pods, as the operator wants it."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`${name}/inside`: a path inside what the stage `name` makes, or inside the input `name`."""

    name: str
    inside: str


@dataclass(frozen=True, kw_only=True)
class Input:
    """What no stage makes.

    Attributes:
        path: absolute or `${workspace}/…`, with `@sha256:HEX` if its content is declared.
        shape: of the model there, for the memory plan, if it is stated.
        line: where the pipeline file states it.
    """

    path: str
    shape: Shape | None
    line: int


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The volume of all artifacts: the claim that pods mount, and where."""

    claim: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage; `options` still holds references, and no `output_dir`.

    Attributes:
        references: by the names of the paths (`options.named`) that say to read what another stage makes, or an input.
        stated: the options that the file states.
        fragment: what it adds to its object.
    """

    name: str
    verb: str
    pool: Pool
    image: str
    options: Options
    references: Mapping[str, Reference]
    stated: frozenset[str]
    fragment: Fragment


@dataclass(frozen=True, kw_only=True)
class Conductor:
    """What carries the pipeline through a cluster.

    Attributes:
        image: with jobgen.
        fragment: what its Job and pod have beside what jobgen gives them.
        account: a ServiceAccount that others make; empty for one of its own.
    """

    image: str
    fragment: Fragment
    account: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a cluster wants of every pipeline: in a pipeline's own words, and below them.

    Attributes:
        name: as a pipeline's `cluster` has it.
        about: the machines that it is for, in a line.
        gpus: whether any of them has some.
        fragment: what all objects have.
        pools: the built-in ones with what the profile says, and its own; what they add to objects is theirs.
        conductor: with an empty image if the profile names none.
        workspace: with an empty claim or path where the profile names none.
        text: of a site's own file; empty for one that ships with jobgen, or that is in the pipeline's own file.
    """

    name: str
    about: str
    gpus: bool
    fragment: Fragment
    pools: Mapping[str, Pool]
    conductor: Conductor
    workspace: Workspace
    text: str


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A checked pipeline.

    Attributes:
        profile: of its cluster.
        image: of the stages that neither have one of their own nor are in a pool that has; empty if the file says none.
        conductor: None if neither file nor profile names an image for one.
        fragment: what the file adds to all objects.
        source: the file or shipped name it came from; `text` is its content, with the profile of a site as another document.
    """

    name: str
    profile: Profile
    image: str
    conductor: Conductor | None
    fragment: Fragment
    workspace: Workspace
    inputs: Mapping[str, Input]
    stages: Mapping[str, Stage]
    source: str
    text: str
    place: Place

    def fragments(self, stage: Stage) -> tuple[Fragment, ...]:
        """What is added to a stage's object, in the order of merging: the profile, all of it, lies below the file."""
        below = self.profile.pools.get(stage.pool.like)
        return (
            self.profile.fragment,
            *([below.fragment] if below else []),
            self.fragment,
            stage.pool.fragment,
            stage.fragment,
        )
