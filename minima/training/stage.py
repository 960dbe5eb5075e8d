"""What every stage of training does around the loop, from its folders to its model folder."""

import os
import sys
from collections.abc import Callable
from typing import Any

from minima.data.records import Records
from minima.models import placement
from minima.options import Training
from minima.training import folders, link, loop
from minima.training.group import Group
from minima.training.loss import BatchLoss
from minima.workspace.artifact import Output


def run(
    options: Training,
    output: Output,
    begin: Callable[[], tuple[Any, BatchLoss]],
    end: Callable[[Any, Records], None] | None = None,
    *,
    model: str = "model_name_or_path",
    records: str = "record_path_or_regex",
    num_patience_epochs: int = 0,
) -> dict[str, Any]:
    """Train, write the model folder, and return the metrics; `folders.records` and `loop.train` say what is raised.

    Args:
        options: of the stage.
        output: its artifact.
        begin: loads the model that is trained, when the records are there, and says by which loss.
        end: writes the trained model, on rank 0; without it `folders.write` does.
        model: the option that names the model's folder, with the tokenizer of the records.
        records: the option that names the training records.
        num_patience_epochs: as in `loop.train`.
    """
    group = Group(placement.device())
    if os.environ.get("LOCAL_RANK", "0") == "0" and (why := link.unlockable()):
        print(why, file=sys.stderr, flush=True)
    output.progress.phase("loading")
    train_records, dev_records = folders.records(records, model, options)
    trained, batch_loss = begin()
    metrics = loop.train(
        trained,
        batch_loss=batch_loss,
        train_records=train_records,
        dev_records=dev_records,
        options=options,
        output=output,
        group=group,
        num_patience_epochs=num_patience_epochs,
    )
    if group.rank == 0:
        if end is None:
            folders.write(trained, getattr(options, model), options, output)
        else:
            end(trained, train_records)
    return metrics
