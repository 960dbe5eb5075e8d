"""Continue pretraining of a model on records."""

from typing import Any

from minima.models import pretrained
from minima.options import Adapt
from minima.training import engine, loop, setup
from minima.workspace.artifact import Output


def run(options: Adapt, output: Output) -> dict[str, Any]:
    """Write the trained model to `output.folder` and return the metrics; `train.train` says what is raised."""
    group = engine.Group(pretrained.device())
    output.progress.phase("loading")
    train_records, dev_records = setup.records(options.record_path_or_regex), setup.records(options.dev_record_path_or_regex)
    assert train_records is not None
    llama = setup.load(options.model_name_or_path, options)
    metrics = loop.train(
        llama,
        batch_loss=loop.cross_entropy(options.loss_chunk_size),
        train_records=train_records,
        dev_records=dev_records,
        options=options,
        output=output,
        group=group,
    )
    if group.rank == 0:
        name = options.model_name_or_path
        setup.write(
            llama, name, options, output, {"model_name_or_path": name, "record_path_or_regex": options.record_path_or_regex}
        )
    return metrics
