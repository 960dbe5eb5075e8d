"""Continue pretraining of a model on records."""

from typing import Any

from minima import engine, model, stage, train
from minima.artifact import Output
from minima.options import Adapt


def run(options: Adapt, output: Output) -> dict[str, Any]:
    """Write the trained model to `output.folder` and return the metrics; `train.train` says what is raised."""
    group = engine.Group(model.device())
    train_records, dev_records = stage.records(options.record_path_or_regex), stage.records(options.dev_record_path_or_regex)
    assert train_records is not None
    llama = stage.load(options.model_name_or_path, options)
    metrics = train.train(
        llama,
        batch_loss=train.cross_entropy(options.loss_chunk_size),
        train_records=train_records,
        dev_records=dev_records,
        options=options,
        output=output,
        group=group,
    )
    if group.rank == 0:
        name = options.model_name_or_path
        stage.write(
            llama, name, options, output, {"model_name_or_path": name, "record_path_or_regex": options.record_path_or_regex}
        )
    return metrics
