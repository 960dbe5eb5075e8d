"""Continue pretraining of a model on records."""

from typing import Any

from minima.options import Adapt
from minima.training import folders, loss, stage
from minima.workspace.artifact import Output


def run(options: Adapt, output: Output) -> dict[str, Any]:
    """Write the trained model to `output.folder` and return the metrics; `stage.run` says what is raised."""

    def begin() -> tuple[Any, loss.BatchLoss]:
        return folders.model(options.model_name_or_path, options), loss.cross_entropy(options.loss_chunk_size)

    return stage.run(options, output, begin)
