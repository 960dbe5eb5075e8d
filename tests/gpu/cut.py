"""`prune` and `convert` at true widths, as programs on a folder: seconds and memory."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from jobgen.pipeline.memory import USABLE, pruning
from minima import flags
from minima.data import records
from minima.models import pretrained
from minima.options import Convert, Options, Prune
from minima.workspace.marker import read_marker
from tests.gpu import shapes
from tests.gpu.part import Place, Row

EXAMPLES, LAYER_EXAMPLES = 64, 8


def run(place: Place) -> Iterator[Row]:
    layers = max(2, int(8 * place.scale)) if place.gpu else 2
    whole = dataclasses.replace(shapes.TEACHER if place.gpu else shapes.TOY, layer=layers)
    model = shapes.random_model(whole, place.device, "sdpa")
    folder, length = place.work / "cut", 512 if place.gpu else 32
    words = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "word": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    pretrained.save(model, tokenizer, folder / "teacher", verb="init-model", made_of={})
    rows = np.random.default_rng(0).integers(3, whole.vocab_size, (EXAMPLES if place.gpu else 4, length))
    records.write(folder / "random.tfrecord", [{"indices": ids} for ids in rows])
    del model
    if place.gpu:
        torch.cuda.empty_cache()  # The stage is another process.

    prune = Prune(
        output_dir=str(folder / "pruned"),
        teacher_model_name_or_path=str(folder / "teacher"),
        record_path_or_regex=str(folder / "random.tfrecord"),
        max_seq_length=length,
        num_examples=len(rows),
        num_layer_examples=LAYER_EXAMPLES,
        use_bf16=True,
        attn_implementation="sdpa",
    )
    marker = stage(prune)
    metrics = marker["metrics"]
    yield Row("prune", marker["seconds"], f"s: {layers} layers, {len(rows)} × {length} tokens, {metrics['device']}")
    if "peak_gpu_bytes" in metrics:
        planned, used = pruning(prune, whole).total, metrics["peak_gpu_bytes"]
        yield Row("prune: peak", used / 1e9, f"GB, planned {planned / 1e9:.1f}", used * USABLE <= planned)
    size = shapes.STUDENT if place.gpu else dataclasses.replace(shapes.TOY, hidden=32, head=1, intermediate=64)
    convert = Convert(
        output_dir=str(folder / "student"),
        model_name_or_path=str(folder / "pruned"),
        layer=layers * 3 // 4,
        hidden=size.hidden,
        head=size.head,
        intermediate=size.intermediate,
    )
    marker = stage(convert)
    yield Row("convert", marker["seconds"], f"s: to {marker['metrics']['parameters'] / 1e9:.2f} B parameters, on the CPU")


def stage(options: Options) -> dict[str, Any]:
    """Run a stage as a program, and return its marker."""
    program = [str(Path(sys.executable).parent / "minima"), options.verb, *flags.argv(options)]
    subprocess.run(program, env=os.environ, check=True)
    return read_marker(Path(options.output_dir))
