"""What a token costs, by torch's own counter as judge."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minima.models import pretrained
from minima.models.shape import Shape, training_flops
from minima.options import Finetune
from minima.stages import finetune
from tests.unit import tiny

TEACHER = Shape(layer=32, hidden=4096, head=32, kv_head=32, head_dim=128, intermediate=11008, vocab_size=49216)
STUDENT = Shape(layer=24, hidden=3072, head=24, kv_head=24, head_dim=128, intermediate=8192, vocab_size=49216)
BATCH, LENGTH = 2, 16


def uncausal(shape: Shape) -> int:
    """Per token, what the eager kernel computes more than is counted: the half of each square that the mask hides."""
    return shape.attention_flops(2 * LENGTH - 1) - shape.attention_flops(LENGTH)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("lora_r", [0, 3])
def test_flops_are_those_that_torch_counts(kv_heads: int, lora_r: int) -> None:
    llama: Any = tiny.llama(kv_heads=kv_heads)
    llama.set_attn_implementation("eager")
    shape = pretrained.shape(llama.config)
    ids = torch.randint(128, (BATCH, LENGTH))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        llama(input_ids=ids, use_cache=False)
    assert forward.get_total_flops() == BATCH * LENGTH * (shape.forward_flops(LENGTH) + uncausal(shape))
    if lora_r:
        options = Finetune(
            output_dir="o", model_name_or_path="m", train_record_path_or_regex=("r",), lora_r=lora_r, lora_dropout=0
        )
        llama = finetune.with_adapters(llama, options)
    with FlopCounterMode(display=False) as both:
        hidden = llama(input_ids=ids, use_cache=False).logits
        hidden.sum().backward()
    counted = both.get_total_flops() / (BATCH * LENGTH)
    expected = training_flops(shape, LENGTH, lora_r=lora_r) + 3 * uncausal(shape)
    # Nothing flows into the first layer's adapters' inputs nor out of its frozen weights: no gradient is made of the look-up.
    assert counted == pytest.approx(expected, rel=0.08 if lora_r else 0)


def test_the_tutorials_distillation() -> None:
    """33.5 GFLOP per token for 7B → 3B at 4,096 tokens, counted by hand elsewhere."""
    assert training_flops(STUDENT, 4096, teacher=TEACHER) == pytest.approx(33.5e9, rel=2e-3)
    assert TEACHER.multiplied == TEACHER.parameters - 49216 * 4096 - 65 * 4096
