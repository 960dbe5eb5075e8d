"""The shape of a LLaMA, as numbers: what a teacher can be cut to, its weights, and what a token costs. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from minima.options import Convert


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a LLaMA; `head_dim` need not be hidden / head after pruning.

    Attributes:
        tied: whether the output layer's weight is the embedding's.
        qkv_bias: whether the projections of queries, keys and values have biases, as in Qwen2; `output_bias` says it of that
            behind the heads, `mlp_bias` of those of the feed-forward layer.
        window: how many tokens a token sees, itself among them; 0 for all before it.
    """

    layer: int
    hidden: int
    head: int
    kv_head: int
    head_dim: int
    intermediate: int
    vocab_size: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    window: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights, tied embeddings counted once."""
        q, kv = self.head * self.head_dim, self.kv_head * self.head_dim
        attention = 2 * self.hidden * (q + kv) + (q + 2 * kv if self.qkv_bias else 0)
        attention += self.hidden if self.output_bias else 0
        feed_forward = 3 * self.hidden * self.intermediate + (2 * self.intermediate + self.hidden if self.mlp_bias else 0)
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden
        return self.layer * (attention + feed_forward + 2 * self.hidden) + self.hidden + embeddings

    def lora_parameters(self, rank: int) -> int:
        """Trained weights of LoRA on all seven projections of a layer, and of the output head, which is trained whole."""
        q, kv = self.head * self.head_dim, self.kv_head * self.head_dim
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return rank * self.layer * (attention + 3 * (self.hidden + self.intermediate)) + self.vocab_size * self.hidden

    @property
    def multiplied(self) -> int:
        """Number of weights that a token is multiplied with: all matrices but the embedding, which is looked up."""
        q, kv = self.head * self.head_dim, self.kv_head * self.head_dim
        layer = 2 * self.hidden * (q + kv) + 3 * self.hidden * self.intermediate
        return self.layer * layer + self.vocab_size * self.hidden

    def attention_flops(self, length: int) -> int:
        """Floating-point operations per token of queries with keys and of weights with values, forward.

        Of `length` positions a token sees (length + 1) / 2 on average, or less by a window: attention is counted as if
        nothing were wasted.
        """
        seen = min(self.window or length, length)
        return round(2 * self.layer * self.head * self.head_dim * (2 * seen - seen * (seen - 1) / length))

    def forward_flops(self, length: int) -> int:
        """Floating-point operations per token of one forward pass over sequences of `length` tokens.

        A multiplication and its addition are two; look-ups, norms, activations and softmaxes are not counted.
        """
        return 2 * self.multiplied + self.attention_flops(length)


def training_flops(model: Shape, length: int, *, teacher: Shape | None = None, lora_r: int = 0) -> int:
    """Floating-point operations per trained token, as model FLOPs utilization counts them (Chowdhery et al. 2022, "PaLM").

    A backward pass is two forward passes, one for the gradient of inputs and one for that of weights; activations that are
    computed again count nothing. A frozen teacher costs a forward pass; weights frozen under LoRA, no gradient of their own.
    """
    frozen = model.multiplied - model.vocab_size * model.hidden if lora_r else 0
    trained = model.lora_parameters(lora_r) if lora_r else model.multiplied
    own = 4 * frozen + 6 * trained + 3 * model.attention_flops(length)
    return own + (teacher.forward_flops(length) if teacher else 0)


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
