"""The shape of a LLaMA, as numbers: what a teacher can be cut to, and how many weights that has. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from minima.options import Convert


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a LLaMA; `head_dim` need not be hidden / head after pruning.

    Attributes:
        tied: whether the output layer's weight is the embedding's.
        attention_bias: whether the four projections of attention have biases; `mlp_bias` says it of the feed-forward layer.
    """

    layer: int
    hidden: int
    head: int
    kv_head: int
    head_dim: int
    intermediate: int
    vocab_size: int
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def parameters(self) -> int:
        """Number of weights, tied embeddings counted once."""
        q, kv = self.head * self.head_dim, self.kv_head * self.head_dim
        attention = 2 * self.hidden * (q + kv) + (q + 2 * kv + self.hidden if self.attention_bias else 0)
        feed_forward = 3 * self.hidden * self.intermediate + (2 * self.intermediate + self.hidden if self.mlp_bias else 0)
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden
        return self.layer * (attention + feed_forward + 2 * self.hidden) + self.hidden + embeddings

    def lora_parameters(self, rank: int) -> int:
        """Trained weights of LoRA on all seven projections of a layer, and of the output head, which is trained whole."""
        q, kv = self.head * self.head_dim, self.kv_head * self.head_dim
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return rank * self.layer * (attention + 3 * (self.hidden + self.intermediate)) + self.vocab_size * self.hidden


def cut(teacher: Shape, options: Convert) -> Shape:
    """The student that `options` ask for, where `problems` finds none; a head's width and a group's queries stay."""
    return replace(
        teacher,
        layer=options.layer,
        hidden=options.hidden,
        head=options.head,
        kv_head=options.kv_head or options.head // (teacher.head // teacher.kv_head),
        intermediate=options.intermediate,
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
