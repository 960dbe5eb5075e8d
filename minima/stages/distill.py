"""Train a student with cross entropy and the full distribution of a frozen teacher."""

from typing import Any

import torch

from minima.data import tokenization
from minima.data.batch import Batch
from minima.errors import UsageError
from minima.models import pretrained
from minima.options import Distill
from minima.training import folders, loss, stage
from minima.workspace.artifact import Output


def run(options: Distill, output: Output) -> dict[str, Any]:
    """Write the trained student to `output.folder` and return the metrics; `stage.run` says what else is raised.

    Raises:
        UsageError: teacher and student have vocabularies of different sizes.
        DataError: their ids mean different text, or the sequences are longer than the teacher's positions.
    """

    def begin() -> tuple[Any, loss.BatchLoss]:
        check_same(options)
        teacher = folders.model(options.teacher_model_name_or_path, options).requires_grad_(False)
        return folders.model(options.student_model_name_or_path, options), batch_loss(teacher, options)

    return stage.run(options, output, begin, model="student_model_name_or_path")


def check_same(options: Distill) -> None:
    """Check that teacher and student speak of the same ids; raises what `run` says."""
    places = folders.place(options.teacher_model_name_or_path), folders.place(options.student_model_name_or_path)
    teacher_config, student_config = map(pretrained.config, places)
    if teacher_config.vocab_size != student_config.vocab_size:
        least = min(teacher_config.vocab_size, student_config.vocab_size)
        raise UsageError(
            f"--teacher_model_name_or_path: its vocabulary has {teacher_config.vocab_size} rows, the student's "
            f"{student_config.vocab_size}; valid: two models with the same tokenizer, and as many rows: where those beyond the "
            f"tokenizer differ, as in Qwen2, `model.resize_token_embeddings({least})` and save_pretrained make them equal"
        )
    teacher_tokenizer, tokenizer = map(tokenization.load, places)
    tokenization.check_same(teacher_tokenizer, tokenizer, "teacher_model_name_or_path")
    pretrained.check_positions(teacher_config, options.max_seq_length)


def batch_loss(teacher: pretrained.Model, options: Distill) -> loss.BatchLoss:
    """CE + KD of a micro-batch. The teacher stays outside of DeepSpeed's engine: it is resident, and never sharded."""

    def sums(student: Any, batch: Batch) -> loss.Sums:
        with torch.no_grad():
            known = loss.Teacher(*loss.hidden_and_head(teacher, batch))
        hidden, head = loss.hidden_and_head(student, batch)
        return loss.chunked(
            hidden,
            head,
            batch.labels.flatten(),
            chunk_size=options.loss_chunk_size,
            teacher=known,
            ce_weight=options.ce_weight,
            temperature=options.temperature,
        )

    return sums
