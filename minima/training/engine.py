"""The DeepSpeed engine under the training loop."""

import os
from typing import Any

import torch
import torch.distributed as dist

# Else DeepSpeed, on looking whether an optimizer is Muon, loads the compiler; nothing here is compiled.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
import deepspeed
from deepspeed.constants import default_pg_timeout

from minima.options import Training
from minima.training.configuration import configuration
from minima.training.group import Group

BETAS = (0.9, 0.95)
EPSILON = 1e-8


def start(module: torch.nn.Module, options: Training, group: Group) -> Any:
    """The engine that trains the parameters of `module` that require gradients; no decay on vectors (norms, biases)."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    # Fused, a step reads and writes weights and moments once; the plain form does so eight times, bound by a GPU's memory.
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], options.learning_rate, BETAS, EPSILON, fused=True)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=configuration(options, group.world))[0]
    # DeepSpeed gives its own time to the first group alone, and reduces gradients in another.
    dist.distributed_c10d._set_pg_timeout(default_pg_timeout, engine.data_parallel_group)
    return engine
