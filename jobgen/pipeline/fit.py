"""Whether a stage fits its pool: its pods, its GPUs, and their memory under the lowest ZeRO stage that does."""

from jobgen.pipeline.memory import USABLE, Memory, pruning, training
from jobgen.pipeline.pipeline import Stage
from jobgen.pipeline.pools import Pool, amount
from minima.errors import UsageError
from minima.models.shape import Shape
from minima.options import Distill, Prune, Training


def fit(stage: Stage, pool: Pool, model: Shape | None, teacher: Shape | None) -> tuple[int, Memory | None]:
    """The lowest ZeRO stage under which a stage fits its pool, 0 if it has none, and its memory, where all shapes are known.

    Args:
        stage: whose options are the pipeline file's.
        pool: where it runs.
        model: what it trains or scores.
        teacher: a frozen model beside it.

    Raises:
        UsageError: it does not fit.
    """
    made = stage.options
    if pool.pods > 1 and not (made.elastic or made.independent):
        raise UsageError(f"{stage.verb} runs in one pod, pool {pool.name} has {pool.pods}; choose a pool with pods: 1")
    if pool.gpus > 1 and not made.elastic:
        raise UsageError(f"{stage.verb} uses one GPU, pool {pool.name} has {pool.gpus} a pod; choose a pool with gpus: 1")
    if not pool.gpus and getattr(made, "attn_implementation", "") == "flash_attention_2":
        raise UsageError(f"attn_implementation flash_attention_2 needs GPUs, pool {pool.name} has none; auto or sdpa is valid")
    known = bool(model and pool.gpu_memory and (teacher or not isinstance(made, Distill)))
    match made:
        case Training():
            world = pool.pods * pool.processes
            made.accumulation_steps(world)
            # Never 3: teacher and output layer stay whole.
            tried = [made.zero_stage] if "zero_stage" in stage.stated else [1, 2]
            if not known or not model:
                return made.zero_stage, None
            needed = [training(made, model, teacher, processes=world, zero_stage=zero) for zero in tried]
            fitting = _check_memory(pool, needed)
            return tried[fitting], needed[fitting]
        case Prune() if known and model:
            needed = [pruning(made, model)]
            return 0, needed[_check_memory(pool, needed)]
    return 0, None


def _check_memory(pool: Pool, needed: list[Memory]) -> int:
    """The number of the first of `needed` that fits a GPU of the pool.

    Raises:
        UsageError: none does.
    """
    usable = amount(pool.gpu_memory) * USABLE
    for number, one in enumerate(needed):
        if one.total <= usable:
            return number
    least = min(needed, key=lambda one: one.total)
    raise UsageError(
        f"needs {least} on each GPU, pool {pool.name} has {usable / 1e9:.1f} GB to use of {pool.gpu_memory}; "
        "a smaller micro-batch, use_act_ckpt, more pods or larger GPUs help"
    )
