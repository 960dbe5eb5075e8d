"""What a stage gets from the process that runs it, for tests."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from minima.options import Options
from minima.workspace import model_folder, weight_files
from minima.workspace.artifact import Output
from minima.workspace.inputs import check_inputs
from minima.workspace.lease import Lease


def model(folder: Path) -> Path:
    """Write a model folder that passes for one, made without torch."""
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    raw = {"model_type": "llama"} | dict.fromkeys(sizes, 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    shapes = model_folder.expected(raw)
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, folder / weight_files.WEIGHTS)
    return folder


@contextlib.contextmanager
def output(options: Options, name: str = "lease") -> Iterator[Output]:
    """The output of a stage with these options and the inputs that they name, under a lease."""
    with Lease(Path(options.output_dir), name) as lease:
        yield Output(lease.making, options, check_inputs(options), lease)


def commit(options: Options, files: Mapping[str, str], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Make an artifact of `files`, text by name; returns its marker."""
    with output(options) as out:
        for name, text in files.items():
            (out.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (out.folder / name).write_text(text)
        return out.commit(metrics)
