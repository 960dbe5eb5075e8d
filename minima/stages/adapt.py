"""Continue pretraining of a model on records."""

from typing import Any

from minima.models import placement
from minima.options import Adapt
from minima.training import folders, loop, loss
from minima.training.group import Group
from minima.workspace.artifact import Output


def run(options: Adapt, output: Output) -> dict[str, Any]:
    """Write the trained model to `output.folder` and return the metrics; `loop.train` says what is raised."""
    group = Group(placement.device())
    output.progress.phase("loading")
    train_records, dev_records = folders.records("record_path_or_regex", "model_name_or_path", options)
    llama = folders.model(options.model_name_or_path, options)
    metrics = loop.train(
        llama,
        batch_loss=loss.cross_entropy(options.loss_chunk_size),
        train_records=train_records,
        dev_records=dev_records,
        options=options,
        output=output,
        group=group,
    )
    if group.rank == 0:
        folders.write(llama, options.model_name_or_path, options, output)
    return metrics
