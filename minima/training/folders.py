"""The folders at both ends of a training: where its models and records come from, and where the result goes."""

from pathlib import Path
from typing import Any

import torch

from minima.data import tokenization
from minima.data.mixture import Mixture
from minima.data.records import Records, check_apart, check_distinct, find
from minima.errors import DataError
from minima.models import placement, pretrained
from minima.options import Training, named, reads, split_digest
from minima.workspace.artifact import Output
from minima.workspace.marker import artifact_folder, read_marker

_LOOKED_AT = 256
"""Records of a folder whose length is looked at before anything is loaded."""


def place(value: str) -> Path:
    """The path of an input option, without its digest."""
    return Path(split_digest(value)[0])


def records(train: str, model: str, options: Training) -> tuple[Records, Records | None]:
    """The training records that the option named `train` holds, and those for perplexity, if the options name any.

    Those of several sources follow one another as if they were of one, or are a `Mixture`.

    Raises:
        UsageError: some are on both sides, or a file is in two sources.
        DataError: they cannot be read, are longer than `max_seq_length`, or were made with another tokenizer than that of the
            option named `model`.
    """
    tokenizer = tokenization.load(place(getattr(options, model)))
    places = [str(place(path)) for path in named(train, getattr(options, train)).values()]
    sources = {path: find(path, "train") for path in places}
    found = [file for files in sources.values() for file in files]
    for path, files in sources.items():
        if not any(file.stat().st_size for file in files):
            raise DataError(f"--{train}: {path}: its files are empty; build or copy them again, or leave it out")
    tokenization.check_records(found, train, tokenizer)
    _check_lengths(found, train, options.max_seq_length)
    check_distinct(list(sources.values()), train)
    trained = Mixture(sources, options.mixture) if options.mixture else Records(found)
    if not options.dev_record_path_or_regex:
        return trained, None
    held_out = find(place(options.dev_record_path_or_regex), "dev")
    tokenization.check_records(held_out, "dev_record_path_or_regex", tokenizer)
    _check_lengths(held_out, "dev_record_path_or_regex", options.max_seq_length)
    check_apart(found, held_out, train)
    return trained, Records(held_out)


def _check_lengths(files: list[Path], option: str, max_seq_length: int) -> None:
    """Refuse records that are too long before a model is loaded, by the first of each folder, whose files are of one making.

    `data.batch` refuses the others when it comes to them: chats are of all lengths.
    """
    for folder, file in {file.parent: file for file in reversed(files)}.items():
        found = Records([file])
        for number in range(min(len(found), _LOOKED_AT)):
            length = len(found[number]["indices"])
            if length > max_seq_length:
                made = artifact_folder(str(folder))
                built = read_marker(made)["identity"].get("max_seq_length") if made else None
                raise DataError(
                    f"--{option}: {file}: record {number} holds {length} ids, and --max_seq_length is {max_seq_length}; valid: "
                    + (f"{built}, with which they were built" if built else f"{length} or more, as they were built")
                )


def model(value: str, options: Training) -> pretrained.Model:
    """The model that an input option names, on this process's device."""
    return pretrained.load(
        place(value), dtype=_dtype(options), attn_implementation=options.attn_implementation, device=placement.device()
    )


def write(trained: Any, value: str, options: Training, output: Output) -> None:
    """Write a trained LLaMA as the artifact's model folder, with the tokenizer of the model that `value` names."""
    output.progress.phase("writing")
    made_of = {name: path for name, path in reads(options).items() if name != "dev_record_path_or_regex"}
    pretrained.save(trained, place(value), output.folder, verb=options.verb, made_of=made_of, dtype=_dtype(options))


def _dtype(options: Training) -> torch.dtype:
    """The type that weights are computed with, and written in."""
    return torch.bfloat16 if options.use_bf16 else torch.float32
