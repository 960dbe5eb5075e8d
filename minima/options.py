"""Every option of every stage: the only definition of a flag.

`minima` parses its command line with these classes (flags.py), jobgen checks, documents and renders pipelines with
them. Nothing heavy is imported here. Flag names are the MiniMA tutorial's where it has one.

An option belongs to the *identity* of a result (what it means: data, seed, schedule, numerics) or to its *execution*
(how it is made: micro-batch, ZeRO stage, logging; or what is only measured of it). Only the identity enters the artifact's
key, so a change of execution resumes, and a change of identity makes another artifact.
"""

import dataclasses
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar
from urllib.parse import urlsplit

from minima import addresses, benchmarks
from minima.errors import UsageError

REQUIRED = dataclasses.MISSING
_PRICE = re.compile(r"[0-9]+(\.[0-9]+)?")
_DIGEST = re.compile(r"^(?P<path>.+)@sha256:(?P<digest>[0-9a-f]{64})$")


def option(
    help: str,
    default: Any = REQUIRED,
    *,
    execution: bool = False,
    identity_with: str = "",
    input: str | None = None,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    absolute: bool = False,
    pinned: bool = False,
) -> Any:
    """Declare one option of a stage.

    Args:
        help: one sentence for `--help` and the docs.
        default: the value when it is not given; without one the option is required.
        execution: True when the option cannot change what the result means.
        identity_with: an option that makes this one identity when it is set: for one of the execution another one, otherwise
            this one itself, which is then nothing when it is empty.
        input: for a path that the stage reads, what is expected there: `model`, `records`, `text`, `conversations`,
            `sentencepiece`, `pruned model` or `benchmarks`. Such a value may be a reference to another stage, and may end
            in a digest.
        choices: the valid values.
        minimum: the smallest valid number; `above` is the same without the bound itself.
        maximum: the largest valid number.
        absolute: for another path, that a pipeline must give it from the root.
        pinned: for a list of addresses, of which what pins their content is the identity, wherever it lies.
    """
    metadata = {
        "help": help,
        "execution": execution,
        "identity_with": identity_with,
        "input": input,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "absolute": absolute,
        "pinned": pinned,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _attention() -> Any:
    return option(
        "Attention kernel; `auto` takes flash_attention_2 on GPUs and sdpa on CPUs.",
        "auto",
        execution=True,
        choices=("auto", "eager", "sdpa", "flash_attention_2"),
    )


def _sources() -> Any:
    return option("Training records: a folder, a file or a glob, or several.", input="records")


def _document_mask() -> Any:
    return option(
        "Take each document of an example as a sequence of its own: positions restart, and nothing before is attended to. The "
        "published form attends to all of an example.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every stage takes."""

    verb: ClassVar[str]
    summary: ClassVar[str]
    revision: ClassVar[int] = 1
    """Of what the verb makes of the same options and inputs: a fix that changes results raises it, which gives new keys to
    this verb's artifacts and to what follows from them, and to nothing else."""
    elastic: ClassVar[bool] = False
    """Whether torchrun's agent starts the stage, with any number of processes."""
    independent: ClassVar[bool] = False
    """Whether several pods may share the work without talking to each other."""
    makes: ClassVar[Mapping[str, frozenset[str]]] = {}
    """What other stages may read of the artifact: the path in it (empty for all of it, or a glob) and what it is there,
    in the words of `option`'s `input`."""

    output_dir: str = option("The artifact's folder; finished when it holds a valid _SUCCESS.json.", execution=True)
    verify: bool = option("Hash every file of the inputs and of a finished output again.", False, execution=True)
    max_attempts: int = option("Starts without progress before the stage gives up.", 10, execution=True, minimum=1)

    def asks(self) -> frozenset[int]:
        """TCP ports of servers outside the cluster that the stage talks to."""
        return frozenset()

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with options that are valid one by one, as pairs of an option and what to say of it.

        Only what can be said without a look at any file: jobgen asks before a pod exists.
        """
        yield from ()


MODEL = {"": frozenset({"model"})}
RECORDS = {f"{split}-*.tfrecord": frozenset({"records"}) for split in ("train", "dev")}


@dataclass(frozen=True, kw_only=True)
class _Shape(Options):
    """The shape of a LLaMA, in the tutorial's words."""

    layer: int = option("Number of transformer layers.", minimum=1)
    hidden: int = option("Hidden size; a multiple of `head`.", minimum=1)
    head: int = option("Number of attention heads.", minimum=1)
    kv_head: int = option("Number of key-value heads; 0 keeps the queries per key-value head of the teacher.", 0, minimum=0)
    intermediate: int = option("Size of the feed-forward layer.", minimum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.hidden % self.head:
            lower = self.hidden // self.head * self.head
            near = " and ".join(str(size) for size in (lower, lower + self.head) if size)
            yield "hidden", f"{self.hidden} is not a multiple of head {self.head}; nearest valid: {near}"
        if self.kv_head and self.head % self.kv_head:
            valid = ", ".join(str(n) for n in range(1, self.head + 1) if self.head % n == 0)
            yield "kv_head", f"{self.kv_head} does not divide head {self.head}; valid: {valid}"


@dataclass(frozen=True, kw_only=True)
class InitModel(_Shape):
    verb = "init-model"
    summary = "Make a small random LLaMA, two SentencePiece models and text to train it on, for the smoke pipeline."
    makes = {
        "model": frozenset({"model"}),
        "chinese_sp.model": frozenset({"sentencepiece"}),
        "text": frozenset({"text"}),
        "conversations": frozenset({"conversations"}),
    }

    vocab_size: int = option("Pieces of the model's own SentencePiece model.", 1024, minimum=300)
    chinese_vocab_size: int = option("Pieces of the Chinese SentencePiece model that expand-vocab adds.", 2048, minimum=300)
    max_seq_length: int = option("Positions that the model is made for, in tokens.", 128, minimum=8)
    english_characters: int = option("Characters of English running text to write.", 2_000_000, minimum=10_000)
    chinese_characters: int = option("Characters of Chinese running text to write.", 500_000, minimum=10_000)
    seed: int = option("Seed of the weights.", 776, minimum=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.hidden % self.head == 0 and self.hidden // self.head % 2:
            yield "head", f"{self.head} of hidden {self.hidden} are odd in width; rotary positions need pairs"


@dataclass(frozen=True, kw_only=True)
class Fetch(Options):
    verb = "fetch"
    summary = "Bring a model, text, conversations or benchmarks from the hub, S3, GCS, HTTP or a folder onto the workspace."
    independent = True
    makes = {"*": frozenset({"model", "text", "conversations", "sentencepiece", "benchmarks", "records", "pruned model"})}

    source: tuple[str, ...] = option(
        f"Where from, pinned: {addresses.FORMS}; FOLDER= before one puts its files into that folder of the artifact.",
        pinned=True,
    )
    include: tuple[str, ...] = option("Which files, as globs such as '*.json' or '**/*.parquet'; empty for all.", ())
    exclude: tuple[str, ...] = option("Which of them not, as globs.", ())
    unpack: bool = option("Put the files of archives (.zip, .tar, .tar.gz, …) where their archive lay, in its place.", False)
    layer: int = option(
        "Of a model: its layers, for the memory plan and checked; 0 for none said.", 0, execution=True, minimum=0
    )
    hidden: int = option("Of a model: its hidden size.", 0, execution=True, minimum=0)
    head: int = option("Of a model: its attention heads.", 0, execution=True, minimum=0)
    kv_head: int = option("Of a model: its key-value heads; 0 for as many as heads.", 0, execution=True, minimum=0)
    intermediate: int = option("Of a model: the size of its feed-forward layer.", 0, execution=True, minimum=0)
    vocab_size: int = option("Of a model: the size of its vocabulary.", 0, execution=True, minimum=0)
    gigabytes: float = option("How many GB come, for the plan of the disk; 0 for not said.", 0.0, execution=True, minimum=0)
    num_connections: int = option("Files that are read at the same time in each pod.", 4, execution=True, minimum=1, maximum=64)

    @property
    def shape(self) -> dict[str, int]:
        """What is said of the model's shape, by the names of the options; empty for nothing."""
        said = {name: getattr(self, name) for name in ("layer", "hidden", "head", "kv_head", "intermediate", "vocab_size")}
        return {**said, "kv_head": self.kv_head or self.head} if any(said.values()) else {}

    def asks(self) -> frozenset[int]:
        return frozenset(port for text in self.source for port in addresses.parse(text).ports)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.source:
            yield "source", f"no source; valid: {addresses.FORMS}"
        names = []
        for text in self.source:
            try:
                address = addresses.parse(text)
                names.append(urlsplit(address.url).path if address.kind == "web" else "*")
            except UsageError as error:
                yield "source", str(error)
        for name in ("include", "exclude"):
            for pattern in getattr(self, name):
                yield from ((name, what) for _, what in _leads_out(pattern, "the source"))
        asked = self.include or ("*",)
        if all(any(_covers(pattern, one) for pattern in self.exclude) for one in asked):
            yield "exclude", f"{', '.join(self.exclude)} leaves nothing of {', '.join(asked)}; take out what is wanted"
        for where, each in (("`include`", asked), ("the source", names)):
            if self.unpack and each and not any(one.endswith(("*", "?", "]", *addresses.ARCHIVES)) for one in each):
                yield "unpack", f"{where} names no archive ({', '.join(addresses.ARCHIVES)}); take it out"
        said = self.shape
        if missing := [name for name, size in said.items() if not size and name != "kv_head"]:
            yield missing[0], f"a model's shape needs {', '.join(missing)} too"
        elif said and (said["hidden"] % said["head"] or said["head"] % said["kv_head"]):
            yield "head", f"{self.head} heads with {said['kv_head']} key-value heads do not divide hidden {self.hidden}"


@dataclass(frozen=True, kw_only=True)
class ExpandVocab(Options):
    verb = "expand-vocab"
    summary = "Add the pieces of a Chinese SentencePiece model to a LLaMA's tokenizer, and grow its embeddings."
    makes = MODEL

    llama_tokenizer_dir: str = option("LLaMA folder: tokenizer.model, config and weights.", input="model")
    chinese_sp_path: str = option("Chinese SentencePiece model file.", input="sentencepiece")
    vocab_size: int = option("Size of the grown vocabulary, reached exactly; 0 for the next multiple of 64.", 0, minimum=0)
    embedding_init: str = option(
        "New rows: `split` (mean of the rows of the old pieces that spell it), `mean` (drawn from mean and covariance of "
        "all old rows) or `random`.",
        "split",
        choices=("split", "mean", "random"),
    )
    published_rule: bool = option("Choose pieces as the paper does, those with ASCII characters included.", False)
    seed: int = option("Seed of drawn rows.", 776, minimum=0)


@dataclass(frozen=True, kw_only=True)
class BuildData(Options):
    verb = "build-data"
    revision = 3
    summary = "Tokenise, shuffle and pack running text into TFRecord shards with an index."
    independent = True
    makes = RECORDS

    input_dir: str = option("Folder with the text.", input="text")
    input_regex: str = option(
        "Which files of it, as a glob: .jsonl, .json, .txt, .parquet, .arrow, also .gz, .zst, .bz2 or .xz, or without an end.",
        "*.jsonl",
    )
    text_key: tuple[str, ...] = option(
        "Keys of the text in an object or a row, such as meta.text for one in another; several are joined by a line break.",
        ("text",),
    )
    filter: tuple[str, ...] = option(
        "Only objects or rows that hold these, as KEY=VALUE, such as lang=zh; of several values of a key one is enough.", ()
    )
    document: str = option("What one document of a text file is.", "line", choices=("line", "paragraph", "file"))
    encoding: str = option("Encoding of text and JSON, such as gb18030.", "utf-8")
    max_bad_fraction: float = option(
        "Share of the documents that may be unreadable; they are counted and left out.", 0.0, minimum=0, maximum=1
    )
    deduplicate: bool = option("Drop documents whose whole text an earlier one has; all text is then read twice.", False)
    tokenizer_name_or_path: str = option("Model folder whose tokenizer is used.", input="model")
    max_seq_length: int = option("Length of an example in tokens.", 4096, minimum=8)
    dev_proportion: float = option("Share of the documents that is held out for perplexity.", 0.001, minimum=0, maximum=0.5)
    shard_megabytes: int = option("Text that becomes one shard, in MiB; the unit of work of a process.", 64, minimum=1)
    seed: int = option("Seed of the held-out choice and of the shuffle.", 776, minimum=0)
    num_processors: int = option("Worker processes in each pod.", 1, execution=True, minimum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _leads_out(self.input_regex)
        if not self.text_key or not all(self.text_key):
            yield "text_key", "no key; the key of the text in an object is valid, such as text or content"
        for word in self.filter:
            if not word.partition("=")[0] or "=" not in word:
                yield "filter", f"found {word!r}; valid: KEY=VALUE, such as lang=zh"
        try:
            ascii_like = "\n".encode(self.encoding) == b"\n"
        except (LookupError, UnicodeError):
            yield "encoding", f"{self.encoding!r} is no encoding that Python knows; valid: utf-8, gb18030, big5, latin-1, …"
        else:
            if not ascii_like:
                yield (
                    "encoding",
                    f"{self.encoding} has other line ends than ASCII; UTF-16 and UTF-32 that begin with their mark are read "
                    "without this option, convert others to utf-8",
                )


@dataclass(frozen=True, kw_only=True)
class Training(Options):
    """What the one training loop takes."""

    elastic = True
    revision = 3
    makes = MODEL

    dev_record_path_or_regex: str = option(
        "Held-out records for perplexity; empty for none.", "", execution=True, input="records"
    )
    mixture: tuple[float, ...] = option(
        "Several sources of training records: the share of each in an epoch, such as 0.7 0.3, by repeating or cutting its "
        "records; empty for each record once.",
        (),
        identity_with="mixture",
        above=0,
    )
    max_seq_length: int = option("Length of an example in tokens.", 4096, minimum=8)
    document_mask: bool = _document_mask()
    global_batch_size: int = option(
        "Sequences of one optimizer step, over all processes; the last one of an epoch has what is left.", 1024, minimum=1
    )
    learning_rate: float = option("Peak learning rate.", 3e-5, above=0)
    weight_decay: float = option("AdamW's weight decay; none on norms and biases.", 0.1, minimum=0)
    lr_scheduler_type: str = option("Learning rate after warm-up.", "cosine", choices=("cosine", "linear", "constant"))
    warmup_proportion: float = option("Share of the steps that warms up.", 0.01, minimum=0, maximum=1)
    max_grad_norm: float = option("Gradients are clipped to this norm.", 1.0, above=0)
    num_train_epochs: int = option("Passes over the records.", 1, minimum=1)
    max_steps: int = option("Plan and stop at this many optimizer steps at most; 0 for all.", 0, minimum=0)
    seed: int = option("Seed of the data order and of dropout.", 776, minimum=0)
    use_bf16: bool = option("Compute in bfloat16, with fp32 master weights.", False)

    per_device_train_batch_size: int = option("Sequences of one process at a time.", 1, execution=True, minimum=1)
    per_device_eval_batch_size: int = option("Sequences of one process at a time in evaluation.", 8, execution=True, minimum=1)
    use_act_ckpt: bool = option("Recompute activations to save memory.", False, execution=True)
    attn_implementation: str = _attention()
    zero_stage: int = option(
        "DeepSpeed ZeRO stage; 3 would shard the output layer, which the chunked loss needs whole.",
        1,
        execution=True,
        minimum=1,
        maximum=2,
    )
    deepspeed: str = option("DeepSpeed configuration file laid over the generated one.", "", execution=True, absolute=True)
    loss_chunk_size: int = option("Tokens whose logits exist at once in the loss.", 1024, execution=True, minimum=1)
    log_interval: int = option("Optimizer steps between two log lines.", 100, execution=True, minimum=1)
    eval_interval: int = option(
        "Optimizer steps between two evaluations; 0 for each epoch's end only.", 0, execution=True, minimum=0
    )
    save_interval: int = option("Optimizer steps between two checkpoints.", 500, execution=True, minimum=1)
    keep_checkpoints: int = option("Checkpoints kept beside the newest.", 1, execution=True, minimum=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        dev = split_digest(self.dev_record_path_or_regex)[0]
        for name in ("record_path_or_regex", "train_record_path_or_regex"):
            sources = [split_digest(path)[0] for path in named(name, getattr(self, name, "")).values()]
            for train in sources:
                mine, theirs = _as_files(train), _as_files(dev)
                wrong = mine.name.startswith("dev-") or theirs.name.startswith("train-")
                if train and dev and wrong and _overlap(mine, theirs):
                    yield name, f"{train} overlaps with dev_record_path_or_regex {dev}; name train-*.tfrecord here"
            whole = [posixpath.normpath(path) for path in sources]
            for twice in sorted({path for path in whole if whole.count(path) > 1}):
                yield name, f"{twice} is named twice; a weight in mixture repeats records"
            if hasattr(self, name) and self.mixture and len(self.mixture) != len(sources):
                found = f"found {len(self.mixture)} for {len(sources)} in {name}"
                yield "mixture", f"{found}; valid: a weight for each source, in their order, or none"
        if self.eval_interval and not self.dev_record_path_or_regex:
            yield "eval_interval", f"{self.eval_interval}, without held-out records; give dev_record_path_or_regex, or 0"

    def accumulation_steps(self, processes: int) -> int:
        """Micro-batches of each of `processes` in an optimizer step.

        Raises:
            UsageError: the global batch does not divide into them.
        """
        batch, micro = self.global_batch_size, self.per_device_train_batch_size
        share, rest = divmod(batch, processes)
        if rest:
            raise UsageError(
                f"--global_batch_size: {batch} sequences do not divide among {processes} processes; nearest that do: "
                f"{max(1, share) * processes}; or take a number of processes that divides {batch}"
            )
        if share % micro:
            valid = ", ".join(str(n) for n in range(1, share + 1) if share % n == 0)
            raise UsageError(
                f"--per_device_train_batch_size: {micro} does not divide the {share} sequences that each of {processes} "
                f"processes has in a global batch of {batch}; valid: {valid}"
            )
        return share // micro


@dataclass(frozen=True, kw_only=True)
class Adapt(Training):
    verb = "adapt"
    summary = "Continue pretraining of a model on records."

    model_name_or_path: str = option("Model folder to start from.", input="model")
    record_path_or_regex: tuple[str, ...] = _sources()


@dataclass(frozen=True, kw_only=True)
class Prune(Options):
    verb = "prune"
    revision = 2
    summary = "Score heads, neurons, hidden channels and layers of a teacher by mask gradients, and reorder it by them."
    makes = {"": frozenset({"model", "pruned model"})}

    teacher_model_name_or_path: str = option("Model folder to prune.", input="model")
    record_path_or_regex: str = option("Records to score on: a folder, a file or a glob.", input="records")
    max_seq_length: int = option("Tokens taken of each record.", 512, minimum=8)
    document_mask: bool = _document_mask()
    num_examples: int = option("Records to score on; fewer if there are fewer.", 512, minimum=1)
    num_layer_examples: int = option(
        "Records on which the loss without each layer is measured; 0 leaves layers out.", 32, minimum=0
    )
    per_device_eval_batch_size: int = option("Records at a time.", 2, execution=True, identity_with="published_rule", minimum=1)
    published_rule: bool = option("Importance as the paper's: absolute value of the gradient summed over a batch.", False)
    seed: int = option("Seed of the choice of records.", 776, minimum=0)
    use_bf16: bool = option("Compute in bfloat16.", False)
    attn_implementation: str = _attention()


@dataclass(frozen=True, kw_only=True)
class Convert(_Shape):
    verb = "convert"
    revision = 2
    summary = "Cut a reordered model to a smaller shape."
    makes = MODEL

    model_name_or_path: str = option("Folder that prune made.", input="pruned model")
    keep_layers: str = option("Which layers stay: `measured`, `middle`, or their numbers such as `0,1,4`.", "measured")
    published_rule: bool = option("The paper's conversion: middle layers, no correction of the norms.", False)

    @property
    def listed_layers(self) -> list[int] | None:
        """The layers that `keep_layers` lists; None for a rule, or for what is neither."""
        numbers = self.keep_layers.split(",")
        return [int(n) for n in numbers] if all(n.isascii() and n.isdecimal() for n in numbers) else None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        listed, rule = self.listed_layers, self.keep_layers
        if listed is None and rule not in {"measured", "middle"}:
            yield "keep_layers", f"found {rule!r}; valid: measured, middle, or numbers such as 0,1,4"
        if listed is not None and self.published_rule:
            yield "keep_layers", f"{rule} contradicts published_rule, which keeps the middle layers; give only one"
        elif listed is not None and (listed != sorted(set(listed)) or len(listed) != self.layer):
            yield "keep_layers", f"found {rule!r}; valid: {self.layer} (layer) rising numbers"


@dataclass(frozen=True, kw_only=True)
class Distill(Training):
    verb = "distill"
    summary = "Train a student on records with cross entropy and a teacher's full distribution."

    teacher_model_name_or_path: str = option("Model folder of the frozen teacher.", input="model")
    student_model_name_or_path: str = option("Model folder of the student to start from.", input="model")
    record_path_or_regex: tuple[str, ...] = _sources()
    ce_weight: float = option("Weight of the cross entropy; the rest is the teacher's.", 0.5, minimum=0, maximum=1)
    temperature: float = option("Softmax temperature of teacher and student in the soft loss.", 1.0, above=0)


@dataclass(frozen=True, kw_only=True)
class BuildChatData(Options):
    verb = "build-chat-data"
    revision = 4
    summary = "Tokenise conversations by the chat template into train and dev TFRecords."
    makes = RECORDS

    input_dir: str = option("Folder with the conversations.", input="conversations")
    input_regex: str = option("Which files of it, as a glob: .jsonl, .json, .parquet, also compressed.", "*.jsonl")
    format: str = option(
        "Format of the conversations; `auto` tells each by its content.",
        "auto",
        choices=("auto", "tutorial", "sharegpt", "openai", "alpaca"),
    )
    max_bad_fraction: float = option(
        "Share of the conversations that may be malformed; they are counted and left out.", 0.0, minimum=0, maximum=1
    )
    deduplicate: bool = option("Drop conversations that an earlier one equals.", False)
    tokenizer_name_or_path: str = option("Model folder whose tokenizer is used.", input="model")
    max_seq_length: int = option("Longest example in tokens; whole trailing turns beyond it are dropped.", 4096, minimum=8)
    system: str = option("System sentence of conversations that bring none; empty for the project's own.", "")
    dev_proportion: float = option("Share of the conversations that is held out.", 0.001, minimum=0, maximum=0.5)
    published_rule: bool = option("Tokenise each segment on its own, as the paper does.", False)
    seed: int = option("Seed of the held-out choice.", 776, minimum=0)
    num_processors: int = option("Worker processes.", 1, execution=True, minimum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _leads_out(self.input_regex)


@dataclass(frozen=True, kw_only=True)
class Finetune(Training):
    verb = "finetune"
    summary = "Finetune a model on chat records, whole or by LoRA adapters that are merged at the end."

    model_name_or_path: str = option("Model folder to start from.", input="model")
    train_record_path_or_regex: tuple[str, ...] = _sources()
    dev_record_path_or_regex: str = option(
        "Held-out records for perplexity; empty for none.",
        "",
        execution=True,
        identity_with="num_patience_epochs",
        input="records",
    )
    num_patience_epochs: int = option("Stop after this many epochs without a better dev perplexity; 0 never.", 0, minimum=0)
    lora_r: int = option("Rank of LoRA adapters; 0 trains the whole model.", 0, minimum=0)
    lora_alpha: int = option("LoRA's scale: alpha / r.", 16, minimum=1)
    lora_dropout: float = option("Dropout before the adapters.", 0.05, minimum=0, maximum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.num_patience_epochs and not self.dev_record_path_or_regex:
            yield "num_patience_epochs", "needs held-out records; give dev_record_path_or_regex, or 0"


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    verb = "evaluate"
    revision = 3
    summary = "Measure a model: benchmarks through lm-evaluation-harness, perplexity, one sampled answer."

    model_name_or_path: str = option("Model folder to evaluate.", input="model")
    tasks: tuple[str, ...] = option(
        "Benchmarks by name; `minima evaluate --help` lists them.", ("smoke_english", "smoke_chinese")
    )
    data_dir: str = option("Folder with offline copies of the benchmarks.", "", input="benchmarks")
    dev_record_path_or_regex: str = option("Held-out records for perplexity; empty for none.", "", input="records")
    document_mask: bool = _document_mask()
    protocol: str = option(
        "How benchmarks are asked and scored: as lm-evaluation-harness does, or as the scripts that the paper used; only then "
        "its numbers stand beside.",
        benchmarks.STANDARD,
        choices=benchmarks.PROTOCOLS,
    )
    num_fewshot: tuple[str, ...] = option(
        "Solved examples in a prompt where not as usual, as BENCHMARK=NUMBER, such as mmlu=0.", ()
    )
    apply_chat_template: bool = option("Ask through the tokenizer's chat template, as a chat model is used.", False)
    limit: int = option("Items of each benchmark at most; 0 for all.", 0, minimum=0)
    judge_base_url: str = option("API as OpenAI's, of judge_model, such as https://api.openai.com/v1.", "", execution=True)
    judge_model: str = option("Model that judges vicuna and belle, by its name at judge_base_url.", "")
    judge_key_variable: str = option(
        "Environment variable that holds the key of that API, never the key itself; empty for none.",
        "OPENAI_API_KEY",
        execution=True,
    )
    judge_prices: tuple[str, ...] = option(
        "Price of a million tokens that the judge reads, and of a million that it writes, to show the cost.", (), execution=True
    )
    question: str = option("What the chat model is asked for the sampled answer; empty for none.", "")
    seed: int = option("Seed of few-shot examples and of the sampled answer.", 776, minimum=0)
    use_bf16: bool = option("Compute in bfloat16.", False)
    per_device_eval_batch_size: int = option("Sequences at a time.", 8, execution=True, minimum=1)
    attn_implementation: str = _attention()

    def asks(self) -> frozenset[int]:
        return frozenset(web_port(self.judge_base_url) for name in self.tasks if name in benchmarks.JUDGED)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.tasks and not self.dev_record_path_or_regex and not self.question:
            yield "tasks", "nothing to do; give tasks, dev_record_path_or_regex or question"
        for name in self.tasks:
            if wrong := benchmarks.unknown(name):
                yield "tasks", wrong
                continue
            if name in benchmarks.JUDGED:
                yield from self._judged(name)
                continue
            benchmark = benchmarks.BENCHMARKS[name]
            if benchmark.dataset and not self.data_dir:
                yield "tasks", f"{name} needs data_dir, a folder with an offline copy of {benchmark.dataset} in {name}/"
        for wrong in benchmarks.wrong_shots(self.num_fewshot, self.tasks):
            yield "num_fewshot", wrong
        if self.judge_key_variable and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.judge_key_variable):
            # Not shown: it may be a key.
            yield (
                "judge_key_variable",
                "not the name of an environment variable, such as OPENAI_API_KEY; never give the key itself",
            )
        if self.judge_prices and (len(self.judge_prices) != 2 or not all(map(_PRICE.fullmatch, self.judge_prices))):
            yield "judge_prices", f"{' '.join(self.judge_prices)!r}; valid: two prices, such as 2.50 10"

    def _judged(self, name: str) -> Iterator[tuple[str, str]]:
        if not self.data_dir:
            yield "tasks", f"{name} needs data_dir, a folder with {benchmarks.JUDGED[name]} in {name}/"
        if not self.judge_base_url:
            yield "tasks", f"{name} is judged by another model; give judge_base_url, such as https://api.openai.com/v1"
        elif not web_port(self.judge_base_url):
            # Not shown: it may hold a password.
            yield (
                "judge_base_url",
                "valid: http:// or https://, a host and a path, without a login, such as https://api.openai.com/v1",
            )
        if not self.judge_model:
            yield "tasks", f"{name} is judged by another model; give judge_model, its name at judge_base_url"


@dataclass(frozen=True, kw_only=True)
class Doctor(Options):
    verb = "doctor"
    summary = "Look at each pod of a pool, at the workspace they share, and measure the link between them."
    elastic = True

    megabytes: int = option("Size of the largest message, of which all-reduces are measured.", 256, minimum=1)
    network: str = option("What must carry them between pods, in NCCL's words such as IB or Libfabric; empty for any.", "")
    bandwidth: float = option(
        "Gigabytes per second that it must reach at least (bus bandwidth, as nccl-tests has it).", 0.0, minimum=0
    )


def _as_files(path: str) -> PurePath:
    """A path of records as a glob of files: in a folder, all of them."""
    whole = PurePath(posixpath.normpath(path))
    return whole if whole.suffix == ".tfrecord" or set("*?[") & set(whole.name) else whole / "*"


def _overlap(one: PurePath, other: PurePath) -> bool:
    """Whether two globs may match the same file; links are not known here."""
    if "**" in one.parts + other.parts:
        return _meet(one.name, other.name)
    return len(one.parts) == len(other.parts) and all(map(_meet, one.parts, other.parts))


def _meet(one: str, other: str) -> bool:
    """Whether two globs may match the same name; a set of characters in brackets may match anything here."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*" or other[0] == "*":
        star, plain = (one, other) if one[0] == "*" else (other, one)
        return _meet(star[1:], plain) or _meet(star, plain[1:])
    alike = one[0] == other[0] or "?" in (one[0], other[0])
    return "[" in (one[0], other[0]) or (alike and _meet(one[1:], other[1:]))


def _leads_out(pattern: str, of: str = "input_dir") -> Iterator[tuple[str, str]]:
    path = PurePath(pattern)
    if path.is_absolute() or ".." in path.parts:
        yield "input_regex", f"{pattern!r} leads out of {of}; valid: a glob below it, such as '*.jsonl'"


def _covers(pattern: str, other: str) -> bool:
    """Whether one glob matches all that another one does, as far as the sight of them says."""
    if pattern == other or pattern in {"**", "**/*"}:
        return True
    if set(pattern) & set("?[") or "**" in pattern + other:
        return False
    return re.fullmatch("[^/]*".join(map(re.escape, pattern.split("*"))), other) is not None


def web_port(url: str) -> int:
    """The port of an address of the web; 0 where it is none, or holds a login."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return 0
    good = addresses.is_host(parts.hostname or "") and parts.scheme in {"http", "https"} and "@" not in parts.netloc
    return port if good else 0


VERBS: dict[str, type[Options]] = {
    cls.verb: cls
    for cls in (
        InitModel,
        Fetch,
        ExpandVocab,
        BuildData,
        Adapt,
        Prune,
        Convert,
        Distill,
        BuildChatData,
        Finetune,
        Evaluate,
        Doctor,
    )
}

REFUSED = {
    "do_lower_case": "the models are cased; lower-casing would change how English is tokenised",
    "max_length": "its name is max_seq_length in every stage",
    "num_grad_accum_steps": "it follows from global_batch_size, per_device_train_batch_size and the number of processes",
    "resume": "a stage always resumes from its last checkpoint",
    "model_type": "it is read from the model folder",
    "data_type": "it follows from the verb",
    "model_suffix": "the artifact's folder is named by jobgen, or by --output_dir",
}
"""Flags of the tutorial that are gone, and why."""


def fields(cls: type[Options]) -> list[dataclasses.Field[Any]]:
    """The options of `cls`, in the order of its definition."""
    return list(dataclasses.fields(cls))


def inputs(cls: type[Options]) -> dict[str, str]:
    """The options of `cls` that name something it reads, with what is expected there."""
    return {f.name: f.metadata["input"] for f in fields(cls) if f.metadata["input"]}


def named(option: str, value: str | Sequence[str]) -> dict[str, str]:
    """The paths in an input option, each with a name: the first has the option's, the second of several is `option[2]`."""
    paths = [value] if isinstance(value, str) else value
    return {f"{option}[{number}]" if number > 1 else option: path for number, path in enumerate(paths, 1)}


def option_of(name: str) -> str:
    """The option in which the path with this name stands."""
    return name.partition("[")[0]


def reads(options: Options) -> dict[str, str]:
    """All paths that `options` say to read, by the names that `named` gives them."""
    given = (named(option, getattr(options, option)) for option in inputs(type(options)))
    return {name: path for paths in given for name, path in paths.items() if path}


def moved(options: Options, paths: Mapping[str, str]) -> Options:
    """The same options, which read these `paths`, by name, in place of their own."""
    changes: dict[str, Any] = {}
    for option in inputs(type(options)):
        value = getattr(options, option)
        new = tuple(paths.get(name, path) for name, path in named(option, value).items())
        changes[option] = new[0] if isinstance(value, str) else new
    return dataclasses.replace(options, **changes)


def decides(options: Options, name: str) -> bool:
    """Whether the option `name`, or the one in which the path with this name stands, is identity, given the others."""
    (metadata,) = (f.metadata for f in fields(type(options)) if f.name == option_of(name))
    condition = metadata["identity_with"]
    return bool(getattr(options, condition)) if condition else not metadata["execution"]


def split_digest(value: str) -> tuple[str, str | None]:
    """The path of an input and its declared SHA-256, if it has one (`PATH@sha256:HEX`).

    Raises:
        UsageError: what follows `@sha256:` is not 64 lower-case hex digits.
    """
    match = _DIGEST.match(value)
    if match:
        return match["path"], match["digest"]
    if "@sha256:" in value:
        raise UsageError(f"{value!r}: a digest is PATH@sha256: and 64 hex digits; `minima digest PATH` prints it")
    return value, None
