"""Whether a stage fits its pool: its pods, its GPUs, and their memory under the lowest ZeRO stage that does."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from jobgen.pipeline.memory import USABLE, Memory, pruning, training
from jobgen.pipeline.pipeline import Stage
from jobgen.pipeline.pools import Pool, amount
from minima.errors import UsageError
from minima.models.shape import Shape
from minima.options import Distill, Options, Prune, Training

LARGER = (16, 24, 40, 48, 80, 96, 141, 192)
"""GB of GPUs that there are."""


def fit(stage: Stage, made: Options, pool: Pool, model: Shape | None, teacher: Shape | None) -> tuple[int, Memory | None]:
    """The lowest ZeRO stage under which a stage fits its pool, 0 if it has none, and its memory, where all shapes are known.

    Args:
        stage: as the pipeline file has it.
        made: its options with absolute paths.
        pool: where it runs.
        model: what it trains or scores.
        teacher: a frozen model beside it.

    Raises:
        UsageError: it does not fit.
    """
    if pool.pods > 1 and not (made.elastic or made.independent):
        raise UsageError(f"{stage.verb} runs in one pod, pool {pool.name} has {pool.pods}; choose a pool with pods: 1")
    if pool.gpus > 1 and not made.elastic:
        raise UsageError(f"{stage.verb} uses one GPU, pool {pool.name} has {pool.gpus} a pod; choose a pool with gpus: 1")
    if not pool.gpus and getattr(made, "attn_implementation", "") == "flash_attention_2":
        raise UsageError(
            f"--attn_implementation: flash_attention_2 needs GPUs, pool {pool.name} has none; auto or sdpa is valid"
        )
    known = bool(model and pool.gpu_memory and (teacher or not isinstance(made, Distill)))
    match made:
        case Training():
            world = pool.pods * pool.processes
            made.accumulation_steps(world)
            if not known or not model:
                return made.zero_stage, None
            # Never 3: teacher and output layer stay whole.
            tried = [made.zero_stage] if "zero_stage" in stage.stated else [1, 2]
            for zero in tried:
                memory = training(made, model, teacher, processes=world, zero_stage=zero)
                if memory.total <= usable(pool):
                    return zero, memory
            needed = [training(made, model, teacher, processes=world, zero_stage=zero) for zero in tried]
            raise UsageError(_too_large(min(needed, key=lambda one: one.total), pool, _remedies(made, pool, model, teacher)))
        case Prune() if known and model:
            memory = pruning(made, model)
            if memory.total > usable(pool):
                sizes = reversed(range(1, made.per_device_eval_batch_size))
                less = next((n for n in sizes if _scores(made, n, model).total <= usable(pool)), None)
                smaller = [f"per_device_eval_batch_size: {less}"] if less else []
                raise UsageError(_too_large(memory, pool, [*smaller, *_larger_gpu(memory)]))
            return 0, memory
    return 0, None


def usable(pool: Pool) -> float:
    """Bytes of a GPU of the pool that a stage may take."""
    return amount(pool.gpu_memory) * USABLE


def largest_micro_batch(made: Training, pool: Pool, model: Shape, teacher: Shape | None) -> int | None:
    """The largest micro-batch with which a training stage fits its pool, all else as it is; None if it never does."""
    return next(_micro_batches(made, pool, model, teacher, made.zero_stage), None)


def _micro_batches(made: Training, pool: Pool, model: Shape, teacher: Shape | None, zero: int) -> Iterator[int]:
    """Micro-batches that divide a process's share of the global batch and fit, the largest first."""
    world = pool.pods * pool.processes
    share = made.global_batch_size // world
    for micro in (n for n in range(share, 0, -1) if share % n == 0):
        changed = replace(made, per_device_train_batch_size=micro)
        if training(changed, model, teacher, processes=world, zero_stage=zero).total <= usable(pool):
            yield micro


def _remedies(made: Training, pool: Pool, model: Shape, teacher: Shape | None) -> Iterator[str]:
    """Changes of which each alone makes a training stage fit, tried."""
    for zero in (1, 2):
        if micro := next(_micro_batches(made, pool, model, teacher, zero), None):
            yield f"per_device_train_batch_size: {micro}" + (f" with zero_stage: {zero}" if zero != made.zero_stage else "")
            break
    again = replace(made, use_act_ckpt=True)
    for zero in (1, 2):
        if made.use_act_ckpt:
            break
        if micro := next(_micro_batches(again, pool, model, teacher, zero), None):
            smaller = micro < made.per_device_train_batch_size
            yield "use_act_ckpt: true" + (f" with per_device_train_batch_size: {micro}" if smaller else "")
            break
    for pods in (2, 4, 8, 16):
        world = pool.pods * pods * pool.processes
        fits = training(made, model, teacher, processes=world, zero_stage=2).total <= usable(pool)
        if fits and made.global_batch_size % (world * made.per_device_train_batch_size) == 0:
            yield f"{pool.pods * pods} pods"
            break
    world = pool.pods * pool.processes
    yield from _larger_gpu(training(made, model, teacher, processes=world, zero_stage=2))


def _larger_gpu(memory: Memory) -> Iterator[str]:
    size = next((size for size in LARGER if memory.total <= size * 2**30 * USABLE), None)
    if size:
        yield f"a GPU with {size} GB"


def _scores(made: Prune, examples: int, model: Shape) -> Memory:
    return pruning(replace(made, per_device_eval_batch_size=examples), model)


def _too_large(memory: Memory, pool: Pool, remedies: Iterable[str]) -> str:
    helps = "; or ".join(remedies) or "a smaller model or shorter sequences"
    return (
        f"needs {memory} on each GPU, pool {pool.name} has {usable(pool) / 1e9:.1f} GB to use of {pool.gpu_memory}; "
        f"what would fit: {helps}"
    )
