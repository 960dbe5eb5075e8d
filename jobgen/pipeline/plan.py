"""A pipeline to steps in the order they can run: paths, keys, command lines, and whether each fits its pool."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from jobgen.pipeline import fragment
from jobgen.pipeline.fragment import Fragment
from jobgen.pipeline.memory import USABLE, Memory, pruning, training
from jobgen.pipeline.pipeline import Pipeline, Reference, Stage
from jobgen.pipeline.pools import Pool, amount
from minima import flags, options
from minima.errors import UsageError, did_you_mean
from minima.models import shape
from minima.models.shape import Shape
from minima.options import Adapt, Convert, Distill, ExpandVocab, Finetune, InitModel, Options, Prune, Training, split_digest
from minima.workspace import artifact
from minima.workspace.inputs import WORKSPACE, artifact_input_key, outside_input_key

_TOKENIZER = ("tokenizer_name_or_path", "student_model_name_or_path", "teacher_model_name_or_path", "model_name_or_path")
"""Options that say whose tokenizer a stage's result has; the first that a stage knows."""


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
        memory: of one GPU, where the model's shape and the pool's GPUs are known.
        fragments: what pipeline, pool and stage add to its object, in the order of merging.
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
    memory: Memory | None
    fragments: tuple[Fragment, ...]

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
        place = pipeline.place("stages", stage.name)
        try:
            step = _step(pipeline, stage, steps, root)
        except UsageError as error:
            raise UsageError("\n".join([*errors, f"{place}: {error}"])) from None
        found = [
            f"{pipeline.place('stages', stage.name, 'options', option)}: {what}"
            for option, what in _problems(pipeline, stage, shapes)
        ]
        errors += found
        if workspace is None:
            errors += [line for line in _unseen(pipeline, stage, step) if line not in errors]
        shapes[stage.name] = None if found else _shape(stage, shapes)
        try:
            step = _fit(step, stage, shapes)
        except UsageError as error:
            errors += [f"{place}: {line}" for line in str(error).splitlines()]
        steps[stage.name] = step
    if errors:
        raise UsageError("\n".join(errors))
    return list(steps.values())


def _step(pipeline: Pipeline, stage: Stage, steps: Mapping[str, Step], root: str) -> Step:
    paths: dict[str, str] = {}
    keys: dict[str, str] = {}
    for option in options.inputs(type(stage.options)):
        value = getattr(stage.options, option)
        reference = stage.references.get(option)
        if reference and reference.name in steps:
            made = steps[reference.name]
            paths[option] = f"{made.output_dir}/{reference.inside}" if reference.inside else made.output_dir
            keys[option] = artifact_input_key(made.key, reference.inside)
            continue
        if reference:
            outside = pipeline.inputs[reference.name].path
            value = f"{outside}/{reference.inside}" if reference.inside else outside
        if value:
            value = _place(value, root)
            path, digest = split_digest(value)
            if f"{path}/".startswith(f"{root}/{pipeline.name}/"):
                raise UsageError(f"{option}: {path} lies among this pipeline's own artifacts; refer to a stage, as ${{name}}")
            paths[option] = value
            keys[option] = f"sha256:{digest}" if digest else outside_input_key(path, root)
    for option in _other_paths(stage.options):
        paths[option] = _place(getattr(stage.options, option), root)
    resolved = replace(stage.options, **paths)  # type: ignore[arg-type]
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
        memory=None,
        fragments=(pipeline.fragment, stage.pool.fragment, stage.fragment),
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
        *(f"{path}/" for path in fragment.mounts(each for level in step.fragments for each in level.templates)),
    )
    for option in [*options.inputs(type(step.options)), *_other_paths(step.options)]:
        path = split_digest(getattr(step.options, option))[0]
        if path and not f"{path}/".startswith(mounted):
            reference = stage.references.get(option)
            key = ("inputs", reference.name) if reference else ("stages", stage.name, "options", option)
            found = split_digest(pipeline.inputs[reference.name].path)[0] if reference else path
            there = ", ".join(folder.rstrip("/") for folder in mounted)
            yield (
                f"{pipeline.place(*key)}: found {found}, which no pod sees: they mount {there}; put it "
                f"there, as {WORKSPACE}/…, mount a volume (`pod`), or run with --local, which reads any path"
            )


def _read(stage: Stage, option: str, shapes: Mapping[str, Shape | None]) -> Shape | None:
    """The shape of the model that an option refers to, if the pipeline says it."""
    reference = stage.references.get(option)
    return shapes[reference.name] if reference else None


def _problems(pipeline: Pipeline, stage: Stage, shapes: Mapping[str, Shape | None]) -> Iterator[tuple[str, str]]:
    """What is wrong with a stage's options given what it reads, as pairs of an option and what to say of it."""
    match stage.options:
        case ExpandVocab() as made:
            before = _read(stage, "llama_tokenizer_dir", shapes)
            if before and made.vocab_size and made.vocab_size < before.vocab_size:
                yield "vocab_size", f"{made.vocab_size} is below the {before.vocab_size} that the model has already"
        case Convert() as made:
            if teacher := _read(stage, "model_name_or_path", shapes):
                yield from shape.problems(teacher, made)
            reference = stage.references.get("model_name_or_path")
            pruned = pipeline.stages.get(reference.name) if reference else None
            measured = made.keep_layers == "measured" and not made.published_rule
            if measured and pruned and isinstance(pruned.options, Prune) and not pruned.options.num_layer_examples:
                yield "keep_layers", f"measured, but {pruned.name} measures no layer (num_layer_examples 0); middle is valid"
        case Distill():
            teacher = _read(stage, "teacher_model_name_or_path", shapes)
            student = _read(stage, "student_model_name_or_path", shapes)
            if teacher and student and teacher.vocab_size != student.vocab_size:
                sizes = f"{student.vocab_size} pieces, the teacher's {teacher.vocab_size}"
                yield "student_model_name_or_path", f"its vocabulary has {sizes}; two models with one tokenizer are valid"
    yield from _tokenizers(pipeline, stage)


def _tokenizers(pipeline: Pipeline, stage: Stage) -> Iterator[tuple[str, str]]:
    """What is wrong with the tokenizers of what a stage reads, as pairs of an option and what to say of it."""
    origins = {option: list(_origins(pipeline, reference)) for option, reference in stage.references.items()}
    model = next(
        (o for o in ("student_model_name_or_path", "teacher_model_name_or_path", "model_name_or_path") if o in origins), ""
    )
    for option, found in origins.items():
        reads = options.inputs(type(stage.options))[option]
        if not model or option == model or reads not in {"records", "model"}:
            continue
        ours = origins[model]
        made = {name for name in (found[0], ours[0]) if name in pipeline.stages}
        # Of two folders from outside nobody here knows; an expanded vocabulary is never that which it was made of.
        if found[0] != ours[0] and (found[0] in ours or ours[0] in found or len(made) == 2):
            what = "its records are made with" if reads == "records" else "it has"
            yield option, f"{what} the tokenizer of {found[0]}, {model} has that of {ours[0]}; the ids would mean other text"


def _origins(pipeline: Pipeline, reference: Reference) -> Iterator[str]:
    """The stage or input from which a model or records have their tokenizer, then that from which it was made, and so on."""
    while True:
        stage = pipeline.stages.get(reference.name)
        made = stage.options if stage else None
        new = "llama_tokenizer_dir" if isinstance(made, ExpandVocab) else ""
        old = next((name for name in _TOKENIZER if hasattr(made, name)), "")
        if not stage or new or not old:
            yield reference.name
        following = stage.references.get(new or old) if stage else None
        if following is None:
            if stage and not new and old:
                yield split_digest(getattr(made, old))[0]
            return
        reference = following


def _shape(stage: Stage, shapes: Mapping[str, Shape | None]) -> Shape | None:
    """The shape of the model that a stage makes, as far as the pipeline says it."""
    match stage.options:
        case InitModel() as made:
            return Shape(
                layer=made.layer,
                hidden=made.hidden,
                head=made.head,
                kv_head=made.kv_head or made.head,
                head_dim=made.hidden // made.head,
                intermediate=made.intermediate,
                vocab_size=made.vocab_size,
            )
        case ExpandVocab() as made:
            before = _read(stage, "llama_tokenizer_dir", shapes)
            return replace(before, vocab_size=made.vocab_size) if before and made.vocab_size else None
        case Convert() as made:
            teacher = _read(stage, "model_name_or_path", shapes)
            return shape.cut(teacher, made) if teacher else None
        case Distill():
            return _read(stage, "student_model_name_or_path", shapes)
        case Prune():
            return _read(stage, "teacher_model_name_or_path", shapes)
        case Adapt() | Finetune():
            return _read(stage, "model_name_or_path", shapes)
    return None


def _fit(step: Step, stage: Stage, shapes: Mapping[str, Shape | None]) -> Step:
    """The step with its memory and ZeRO stage.

    Raises:
        UsageError: it does not fit its pool.
    """
    pool = step.pool
    if pool.pods > 1 and not (step.options.elastic or step.options.independent):
        raise UsageError(f"{step.verb} runs in one pod, pool {pool.name} has {pool.pods}; choose a pool with pods: 1")
    if pool.gpus > 1 and not step.options.elastic:
        raise UsageError(f"{step.verb} uses one GPU, pool {pool.name} has {pool.gpus} a pod; choose a pool with gpus: 1")
    if not pool.gpus and getattr(step.options, "attn_implementation", "") == "flash_attention_2":
        raise UsageError(f"attn_implementation flash_attention_2 needs GPUs, pool {pool.name} has none; auto or sdpa is valid")
    match step.options:
        case Training() as made:
            made.accumulation_steps(pool.pods * pool.processes)
            model = shapes[stage.name]
            teacher = None
            if isinstance(made, Distill):
                reference = stage.references.get("teacher_model_name_or_path")
                teacher = shapes[reference.name] if reference else None
                if teacher is None:
                    model = None
            return _choose_zero(step, made, model, teacher, stated="zero_stage" in stage.stated)
        case Prune() as made:
            model = shapes[stage.name]
            if not model or not pool.gpu_memory:
                return step
            needed = pruning(made, model)
            _check_memory(pool, [needed])
            return replace(step, memory=needed)
    return step


def _choose_zero(step: Step, made: Training, model: Shape | None, teacher: Shape | None, *, stated: bool) -> Step:
    """The step with the lowest ZeRO stage that fits the pool's GPUs. Never 3: teacher and output layer stay whole."""
    pool = step.pool
    if not model or not pool.gpu_memory:
        return step
    world = pool.pods * pool.processes
    tried = [made.zero_stage] if stated else [1, 2]
    needed = [training(made, model, teacher, processes=world, zero_stage=zero) for zero in tried]
    fitting = _check_memory(pool, needed)
    return replace(step, memory=needed[fitting], options=replace(made, zero_stage=tried[fitting]))


def _check_memory(pool: Pool, needed: list[Memory]) -> int:
    """The number of the first of `needed` that fits a GPU of the pool.

    Raises:
        UsageError: none does.
    """
    usable = amount(pool.gpu_memory) * USABLE
    for number, one in enumerate(needed):
        if one.total <= usable:
            return number
    least = min(needed, key=lambda one: one.total)
    raise UsageError(
        f"needs {least} on each GPU, pool {pool.name} has {usable / 1e9:.1f} GB to use of {pool.gpu_memory}; "
        "a smaller micro-batch, use_act_ckpt, more pods or larger GPUs help"
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
