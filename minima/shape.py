"""The shape of a LLaMA, as numbers: what a teacher can be cut to, and how many weights that has. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from minima.options import Convert


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a LLaMA; `head_dim` need not be hidden / head after pruning."""

    layer: int
    hidden: int
    head: int
    kv_head: int
    head_dim: int
    intermediate: int
    vocab_size: int

    @property
    def parameters(self) -> int:
        """All weights: embedding and head untied, no biases."""
        attention = 2 * self.hidden * self.head_dim * (self.head + self.kv_head)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return 2 * self.vocab_size * self.hidden + self.layer * layer + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Trained weights of LoRA on all seven projections of a layer, and of the output head, which is trained whole."""
        q, kv = self.head * self.head_dim, self.kv_head * self.head_dim
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return rank * self.layer * (attention + 3 * (self.hidden + self.intermediate)) + self.vocab_size * self.hidden


def cut(teacher: Shape, options: Convert) -> Shape:
    """The student that `options` ask for, where `problems` finds none; a head's width and a group's queries stay."""
    return Shape(
        layer=options.layer,
        hidden=options.hidden,
        head=options.head,
        kv_head=options.kv_head or options.head // (teacher.head // teacher.kv_head),
        head_dim=teacher.head_dim,
        intermediate=options.intermediate,
        vocab_size=teacher.vocab_size,
    )


def problems(teacher: Shape, options: Convert) -> Iterator[tuple[str, str]]:
    """Why `options` ask for a student that cannot be cut from `teacher`, as pairs of an option and what to say of it."""
    for option in ("layer", "hidden", "head", "intermediate"):
        wanted, there = getattr(options, option), getattr(teacher, option)
        if wanted > there:
            yield option, f"{wanted}, the model has {there}; valid: 1 to {there}"
    queries = teacher.head // teacher.kv_head
    if (options.kv_head or options.head // queries) * queries != options.head:
        valid = ", ".join(f"{queries * k} with {k}" for k in range(1, teacher.kv_head + 1))
        yield (
            "head",
            f"{options.head} with kv_head {options.kv_head}: each key-value head keeps its {queries} queries; "
            f"valid (head with kv_head): {valid}",
        )
    if options.listed_layers and options.listed_layers[-1] >= teacher.layer:
        yield "keep_layers", f"{options.keep_layers}, the model has {teacher.layer} layers; valid: 0 to {teacher.layer - 1}"
