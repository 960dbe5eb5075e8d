"""Tokens per second, against what others have published: the numbers are fitted to every second row, and judged on the rest."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares

from jobgen.pipeline import speed
from jobgen.pipeline.speed import Kind, Work
from minima.models.shape import Shape, training_flops
from minima.options import Adapt, Distill, Finetune

TEACHER = Shape(layer=32, hidden=4096, head=32, kv_head=32, head_dim=128, intermediate=11008, vocab_size=49216)
STUDENT = Shape(layer=24, hidden=3072, head=24, kv_head=24, head_dim=128, intermediate=8192, vocab_size=49216)


@dataclass(frozen=True)
class Published:
    """A row: data parallel, fused attention, bf16 or fp16, nothing compiled; `rate` is in tokens per second and GPU."""

    source: str
    gpus: int
    work: Work
    rate: float

    def error(self, kind: Kind) -> float:
        return 1 / kind.seconds(self.work, self.gpus) / self.rate - 1


def rows(name: str) -> list[Published]:
    found = []
    with open(Path(__file__).with_name("speeds.csv"), encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["gpu"] != name:
                continue
            passes, hidden = 3 + int(row["recomputed"]), int(row["hidden"])
            attention = passes * 2 * int(row["layer"]) * hidden * (int(row["length"]) + 1)
            made = Work(((passes * 2 * int(row["multiplied"]), hidden),), attention)
            found.append(Published(row["source"], int(row["gpus"]), made, float(row["tokens_per_second"])))
    return found


def fitted(to: Sequence[Published], peak: float) -> Kind:
    """Least squares of logarithms, outliers weighing less."""

    def kind(numbers: Any) -> Kind:
        efficiency, narrow, kernel, scaling = map(float, numbers)
        return Kind(peak=peak, efficiency=efficiency, narrow=narrow, kernel=kernel, scaling=scaling, error=0, worst=0)

    def residuals(numbers: Any) -> list[float]:
        return [math.log1p(one.error(kind(numbers))) for one in to]

    bounds = ([0.1, 0, 0.05, 0], [1, 5000, 1, 0.2])
    return kind(least_squares(residuals, [0.7, 500, 0.3, 0.02], bounds=bounds, loss="soft_l1", f_scale=0.1).x)


@pytest.mark.parametrize("name", speed.KINDS)
def test_the_numbers_are_those_that_the_published_rows_give(name: str) -> None:
    stated, published = speed.KINDS[name], rows(name)
    again = fitted(published[::2], stated.peak)
    for number in ("efficiency", "narrow", "kernel", "scaling"):
        assert getattr(stated, number) == pytest.approx(getattr(again, number), rel=0.01, abs=1e-3), number
    errors = np.abs([one.error(stated) for one in published[1::2]])
    assert stated.error == pytest.approx(errors.mean(), abs=1e-3)
    assert stated.worst == pytest.approx(errors.max(), abs=5e-3)


@pytest.mark.parametrize("lora_r", [0, 8])
def test_the_operations_are_those_of_training(lora_r: int) -> None:
    common: dict[str, Any] = {"output_dir": "/o", "max_seq_length": 4096}
    tuned = Finetune(model_name_or_path="/m", train_record_path_or_regex=("/r",), lora_r=lora_r, **common)
    assert speed.work(tuned, STUDENT).flops == training_flops(STUDENT, 4096, lora_r=lora_r)
    models: dict[str, Any] = {"teacher_model_name_or_path": "/t", "student_model_name_or_path": "/s"}
    distill = Distill(record_path_or_regex=("/r",), use_act_ckpt=True, **models, **common)
    counted = speed.work(distill, STUDENT, TEACHER, recomputed=False).flops
    assert counted == training_flops(STUDENT, 4096, teacher=TEACHER) == pytest.approx(33.5e9, rel=2e-3)


def test_what_makes_a_token_slower() -> None:
    made = Adapt(output_dir="/o", model_name_or_path="/m", record_path_or_regex=("/r",), max_seq_length=4096)
    kind = speed.KINDS["A100"]
    plain = kind.seconds(speed.work(made, TEACHER), 8)
    assert kind.seconds(speed.work(replace(made, use_act_ckpt=True), TEACHER), 8) == pytest.approx(plain * 4 / 3)
    assert kind.seconds(speed.work(replace(made, max_seq_length=16384), TEACHER), 8) > plain
    assert kind.seconds(speed.work(made, TEACHER), 32) > plain == kind.seconds(speed.work(made, TEACHER), 1)
