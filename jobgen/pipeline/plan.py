"""A pipeline to steps in the order they can run: paths, keys, command lines, and whether each fits its pool."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from jobgen.pipeline import fit, fragment, lineage
from jobgen.pipeline.fragment import Fragment, Layer
from jobgen.pipeline.memory import Memory
from jobgen.pipeline.pipeline import Pipeline, Stage
from jobgen.pipeline.pools import Pool
from minima import addresses, flags, options
from minima.errors import UsageError, did_you_mean
from minima.models.shape import Shape
from minima.options import Fetch, Options, Training, split_digest
from minima.workspace import artifact
from minima.workspace.inputs import WORKSPACE, artifact_input_key, outside_input_key


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage, ready to run.

    Attributes:
        name: of the stage.
        options: with absolute paths and `output_dir`.
        key: the artifact's.
        processes: in each pod.
        needs: the stages whose artifacts it reads, in the pipeline's order.
        made_of: those of them that belong to its identity; the others are only measured.
        model: the shape of what it trains, scores or makes, where the pipeline says it.
        teacher: that of a frozen model beside it.
        memory: of one GPU, where these shapes and the pool's GPUs are known.
        fragments: what profile, pipeline, pool and stage add to its object, in the order of merging.
    """

    name: str
    verb: str
    options: Options
    key: str
    pool: Pool
    image: str
    pods: int
    processes: int
    needs: tuple[str, ...]
    made_of: tuple[str, ...]
    model: Shape | None
    teacher: Shape | None
    memory: Memory | None
    fragments: tuple[Fragment, ...]

    @property
    def layers(self) -> list[Layer]:
        """Of its pods' template, in the order of merging."""
        return [layer for each in self.fragments for layer in each.layers]

    @property
    def output_dir(self) -> str:
        return self.options.output_dir

    @property
    def argv(self) -> list[str]:
        """The command line, the same in a pod and on this machine."""
        return ["minima", self.verb, *flags.argv(self.options)]


def plan(pipeline: Pipeline, workspace: str | None = None) -> list[Step]:
    """The steps of `pipeline`: every stage after those it reads, otherwise in the order of the file.

    Args:
        pipeline: from `spec.load`.
        workspace: absolute path of the workspace on this machine; None for where the pods mount it.

    Raises:
        UsageError: a stage does not fit its pool, a batch cannot be divided, or pods do not see a path; one line for each.
    """
    root = workspace or pipeline.workspace.path
    steps: dict[str, Step] = {}
    shapes: dict[str, Shape | None] = {name: value.shape for name, value in pipeline.inputs.items()}
    errors: list[str] = []
    waiting = list(pipeline.stages.values())
    while waiting:
        stage = next(s for s in waiting if all(r.name in steps or r.name in pipeline.inputs for r in s.references.values()))
        waiting.remove(stage)
        try:
            step = _step(pipeline, stage, steps, root)
        except UsageError as error:
            raise UsageError("\n".join([*errors, str(error)])) from None
        found = [
            f"{pipeline.place('stages', stage.name, 'options', option)}: {what}"
            for option, what in lineage.problems(pipeline, stage, shapes)
        ]
        errors += found
        if workspace is None:
            errors += [line for line in _unseen(pipeline, stage, step) if line not in errors]
        model = shapes[stage.name] = None if found else lineage.shape_of(stage, shapes)
        teacher = lineage.read(stage, "teacher_model_name_or_path", shapes) if step.options.elastic else None
        try:
            zero_stage, memory = fit.fit(stage, step.options, step.pool, model, teacher)
            step = replace(step, model=model, teacher=teacher, memory=memory)
            if isinstance(step.options, Training):
                step = replace(step, options=replace(step.options, zero_stage=zero_stage))
        except UsageError as error:
            for line in str(error).splitlines():
                option = re.match(r"--(\w+): ", line)
                key = ("options", option[1]) if option else ("pool",) if "choose a pool" in line else ()
                errors.append(f"{pipeline.place('stages', stage.name, *key)}: {line[option.end() if option else 0 :]}")
        steps[stage.name] = step
    if errors:
        raise UsageError("\n".join(errors))
    return list(steps.values())


def _step(pipeline: Pipeline, stage: Stage, steps: Mapping[str, Step], root: str) -> Step:
    paths: dict[str, str] = {}
    keys: dict[str, str] = {}
    for option, value in options.reads(stage.options).items():
        reference = stage.references.get(option)
        if reference and reference.name in steps:
            made = steps[reference.name]
            paths[option] = f"{made.output_dir}/{reference.inside}" if reference.inside else made.output_dir
            keys[option] = artifact_input_key(made.key, reference.inside)
            continue
        if reference:
            outside = pipeline.inputs[reference.name].path
            value = f"{outside}/{reference.inside}" if reference.inside else outside
        value = _place(value, root)
        path, digest = split_digest(value)
        if f"{path}/".startswith(f"{root}/{pipeline.name}/"):
            place = pipeline.place("stages", stage.name, "options", options.option_of(option))
            raise UsageError(f"{place}: {path} lies among this pipeline's own artifacts; refer to a stage, as ${{name}}")
        paths[option] = value
        keys[option] = f"sha256:{digest}" if digest else outside_input_key(path, root)
    others = {option: _place(getattr(stage.options, option), root) for option in _other_paths(stage.options)}
    resolved = replace(options.moved(stage.options, paths), **others)  # type: ignore[arg-type]
    key = artifact.key(resolved, keys)
    read = {reference.name for reference in stage.references.values()}
    deciding = {reference.name for option, reference in stage.references.items() if options.decides(resolved, option)}
    return Step(
        name=stage.name,
        verb=stage.verb,
        options=replace(resolved, output_dir=f"{root}/{pipeline.name}/{stage.name}-{key}"),
        key=key,
        pool=stage.pool,
        image=stage.image,
        pods=stage.pool.pods,
        processes=stage.pool.processes if resolved.elastic else 1,
        needs=tuple(name for name in pipeline.stages if name in read),
        made_of=tuple(name for name in pipeline.stages if name in deciding),
        model=None,
        teacher=None,
        memory=None,
        fragments=pipeline.fragments(stage),
    )


def _place(path: str, root: str) -> str:
    """A path of the pipeline file as the stage sees it."""
    return root + path.removeprefix(WORKSPACE) if path.startswith(f"{WORKSPACE}/") else path


def _other_paths(made: Options) -> list[str]:
    """The options that name a file which is no input."""
    return [f.name for f in options.fields(type(made)) if f.metadata["absolute"] and getattr(made, f.name)]


def _unseen(pipeline: Pipeline, stage: Stage, step: Step) -> Iterator[str]:
    """What is wrong with paths that pods cannot see."""
    root = pipeline.workspace.path
    mounted = (
        f"{root}/",
        *(f"{path}/" for path in fragment.mounts(step.layers)),
    )
    paths = [(option, split_digest(path)[0]) for option, path in options.reads(step.options).items()]
    paths += [(option, getattr(step.options, option)) for option in _other_paths(step.options)]
    if isinstance(step.options, Fetch):
        sources = map(addresses.parse, step.options.source)
        paths += [("source", address.url) for address in sources if address.kind == "folder"]
    for option, path in paths:
        if path and not f"{path}/".startswith(mounted):
            reference = stage.references.get(option)
            key = ("inputs", reference.name) if reference else ("stages", stage.name, "options", options.option_of(option))
            named_there = split_digest(pipeline.inputs[reference.name].path)[0] if reference else path
            there = ", ".join(folder.rstrip("/") for folder in mounted)
            yield (
                f"{pipeline.place(*key)}: found {named_there}, which no pod sees: they mount {there}; put it "
                f"there, as {WORKSPACE}/…, mount a volume (`pod`), or run with --local, which reads any path"
            )


@dataclass(frozen=True, kw_only=True)
class Part:
    """The stages that a run is about: all of them by default.

    Attributes:
        until: this stage and all that it needs.
        only: this stage alone, which finds finished what it reads.
    """

    until: str | None = None
    only: str | None = None

    @property
    def words(self) -> list[str]:
        """As on a command line."""
        return [f"--{name}={stage}" for name, stage in (("until", self.until), ("only", self.only)) if stage is not None]

    def steps(self, steps: list[Step]) -> list[Step]:
        """Those of `steps` that it is about.

        Raises:
            UsageError: there is no such stage, or two are given.
        """
        if self.until is not None and self.only is not None:
            raise UsageError("--until and --only: --until takes a stage and what it needs, --only it alone; give one of them")
        option, chosen = ("only", self.only) if self.until is None else ("until", self.until)
        if chosen is None:
            return steps
        if chosen not in {step.name for step in steps}:
            raise UsageError(
                f"--{option} {chosen or repr(chosen)}: no such stage; {did_you_mean(chosen, [s.name for s in steps])}"
            )
        found = {chosen}
        for step in reversed(steps) if option == "until" else ():
            if step.name in found:
                found |= set(step.needs)
        return [step for step in steps if step.name in found]


ALL = Part()


def following(steps: list[Step], stage: str) -> set[str]:
    """`stage` and all that follow from it: that are made of it, or of what is.

    Raises:
        UsageError: there is no such stage.
    """
    if stage not in {step.name for step in steps}:
        raise UsageError(f"--from {stage}: no such stage; {did_you_mean(stage, [s.name for s in steps])}")
    found = {stage}
    for step in steps:  # In topological order, so one pass finds all.
        if found & set(step.made_of):
            found.add(step.name)
    return found


def named(pipeline: Pipeline, stage: str) -> Step:
    """The step of a stage, in the cluster.

    Raises:
        UsageError: there is no such stage.
    """
    steps = {step.name: step for step in plan(pipeline)}
    if stage not in steps:
        raise UsageError(f"{stage}: no such stage; {did_you_mean(stage, steps)}")
    return steps[stage]
