"""What models a pipeline's stages read and make, whose tokenizers these have, and what of them does not go together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from jobgen.pipeline.pipeline import Pipeline, Reference, Stage
from minima import options
from minima.models import shape
from minima.models.shape import Shape
from minima.options import Adapt, Convert, Distill, ExpandVocab, Fetch, Finetune, InitModel, Prune, split_digest

_TOKENIZER = ("tokenizer_name_or_path", "student_model_name_or_path", "teacher_model_name_or_path", "model_name_or_path")
"""Options that say whose tokenizer a stage's result has; the first that a stage knows."""


def read(stage: Stage, option: str, shapes: Mapping[str, Shape | None]) -> Shape | None:
    """The shape of the model that an option refers to, if the pipeline says it."""
    reference = stage.references.get(option)
    return shapes[reference.name] if reference else None


def problems(pipeline: Pipeline, stage: Stage, shapes: Mapping[str, Shape | None]) -> Iterator[tuple[str, str]]:
    """What is wrong with a stage's options given what it reads, as pairs of an option and what to say of it."""
    match stage.options:
        case ExpandVocab() as made:
            before = read(stage, "llama_tokenizer_dir", shapes)
            if before and made.vocab_size and made.vocab_size < before.vocab_size:
                yield "vocab_size", f"{made.vocab_size} is below the {before.vocab_size} that the model has already"
        case Convert() as made:
            if teacher := read(stage, "model_name_or_path", shapes):
                yield from shape.problems(teacher, made)
            reference = stage.references.get("model_name_or_path")
            pruned = pipeline.stages.get(reference.name) if reference else None
            measured = made.keep_layers == "measured" and not made.published_rule
            if measured and pruned and isinstance(pruned.options, Prune) and not pruned.options.num_layer_examples:
                yield "keep_layers", f"measured, but {pruned.name} measures no layer (num_layer_examples 0); middle is valid"
        case Distill():
            teacher = read(stage, "teacher_model_name_or_path", shapes)
            student = read(stage, "student_model_name_or_path", shapes)
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
    for name, found in origins.items():
        option = options.option_of(name)
        reads = options.inputs(type(stage.options))[option]
        if not model or option == model or reads not in {"records", "model"}:
            continue
        ours = origins[model]
        made = {name for name in (found[0], ours[0]) if name in pipeline.stages}
        made = {name for name in made if not isinstance(pipeline.stages[name].options, Fetch)}
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


def shape_of(stage: Stage, shapes: Mapping[str, Shape | None]) -> Shape | None:
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
        case Fetch() as made:
            said = made.shape
            return Shape(**said, head_dim=made.hidden // made.head) if said else None  # type: ignore[arg-type]
        case ExpandVocab() as made:
            before = read(stage, "llama_tokenizer_dir", shapes)
            return replace(before, vocab_size=made.vocab_size) if before and made.vocab_size else None
        case Convert() as made:
            teacher = read(stage, "model_name_or_path", shapes)
            return shape.cut(teacher, made) if teacher else None
        case Distill():
            return read(stage, "student_model_name_or_path", shapes)
        case Prune():
            return read(stage, "teacher_model_name_or_path", shapes)
        case Adapt() | Finetune():
            return read(stage, "model_name_or_path", shapes)
    return None
