"""DeepSpeed's configuration: what follows from a training's options, and a file of execution keys laid over it.

A file may say only what cannot change the result (EXECUTION, by documentation and source of DeepSpeed 0.19): the artifact's
key does not know it. Every other key is refused, the known ones with the reason.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minima.errors import UsageError, did_you_mean
from minima.options import Training

EXECUTION: dict[str, Any] = {
    "zero_optimization": {
        "allgather_bucket_size": int,
        "allgather_partitions": bool,
        "contiguous_gradients": bool,
        "enable_sanity_checks": bool,
        "ignore_unused_parameters": bool,
        "offload_optimizer": {"device": ("none", "cpu"), "pin_memory": bool},
        "overlap_comm": bool,
        "parameter_alignment": bool,
        "reduce_bucket_size": int,
        "reduce_scatter": bool,
        "use_multi_rank_bucket_allreduce": bool,
    },
    "steps_per_print": int,
    "wall_clock_breakdown": bool,
}
"""Keys that a file may hold, with what is valid: a type, one of some words, or keys below."""

_ZERO_3 = "only ZeRO 3 has it, and the chunked loss needs the output layer whole"
_REASONS = {
    "--global_batch_size and --per_device_train_batch_size say it": """train_batch_size train_micro_batch_size_per_gpu
        gradient_accumulation_steps managed_gradient_accumulation""",
    "--max_grad_norm says it": "gradient_clipping zero_optimization.compute_grad_norm",
    "--learning_rate and --weight_decay say it; the optimizer is torch's AdamW": """optimizer zero_allow_untested_optimizer
        zero_force_ds_cpu_optimizer""",
    "--lr_scheduler_type and --warmup_proportion say it": "scheduler",
    "--use_bf16 says it": "bf16 bfloat16 fp16 amp torch_autocast data_types",
    "--use_act_ckpt says it": "activation_checkpointing",
    "--zero_stage says it": "zero_optimization.stage",
    "it would change the result: gradients are summed in fp32 and divided by the trained tokens": """communication_data_type
        gradient_allreduce_op prescale_gradients gradient_predivide_factor sparse_gradients""",
    "it would change the result: gradients or weights are rounded on their way": """zero_optimization.zero_quantized_gradients
        zero_optimization.zero_quantized_weights zero_optimization.zero_quantized_nontrainable_weights""",
    "it would change the result: it applies gradients of earlier steps": "zero_optimization.zenflow",
    "it would change the result: weights would differ between processes": "disable_allgather",
    "it would change the result: the data follows from --seed and --global_batch_size": """data_efficiency curriculum_learning
        dataloader_drop_last""",
    "it would change the result: the model is computed as its folder has it": """progressive_layer_drop compression_training
        quantize_training weight_quantization eigenvalue sparse_attention hybrid_engine compile graph_harvesting""",
    "the loop divides the data among processes, and nothing else": """tensor_parallel expert_parallel pipeline elasticity
        sequence_parallel_size seq_parallel_communication_data_type use_data_before_expert_parallelism""",
    "checkpoints are minima's own": """checkpoint nebula datastates_ckpt zero_optimization.elastic_checkpoint
        zero_optimization.load_from_fp32_weights""",
    "minima writes metrics.jsonl and TensorBoard's events itself": """tensorboard wandb csv_monitor comet comms_logger
        flops_profiler log_level timers dump_state memory_breakdown""",
    "checkpoints would be wrong: DeepSpeed shuffles the parameters, and does not say where they went": """
        zero_optimization.round_robin_gradients""",
    "it does nothing here": "autotuning vocabulary_size disable_python_gc zero_optimization.legacy_stage1",
    'now "offload_optimizer": {"device": "cpu", "pin_memory": true}': """zero_optimization.cpu_offload
        zero_optimization.cpu_offload_use_pin_memory""",
    "only NVMe has it, and checkpoints read the moments from memory": """aio zero_optimization.offload_optimizer.nvme_path
        zero_optimization.offload_optimizer.buffer_count zero_optimization.offload_optimizer.pipeline_read
        zero_optimization.offload_optimizer.pipeline_write zero_optimization.offload_optimizer.fast_init""",
    _ZERO_3: """zero_optimization.cpu_offload_param zero_optimization.offload_param zero_optimization.leaf_module
        zero_optimization.log_trace_cache_warnings zero_optimization.memory_efficient_linear
        zero_optimization.override_module_apply zero_optimization.pipeline_loading_checkpoint
        zero_optimization.save_muon_momentum_buffer_in_memory zero_optimization.sub_group_size
        zero_optimization.zero_hpz_partition_size zero_optimization.offload_optimizer.ratio
        zero_optimization.offload_optimizer.super_offload zero_optimization.offload_optimizer.cpuadam_cores_perc""",
}
REFUSED = {key: reason for reason, keys in _REASONS.items() for key in keys.split()}
"""Keys that people have in their files and that none may hold here, with the reason; `stage3_…` besides."""


def configuration(options: Training, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration, `options.deepspeed` laid over what follows from the other options.

    A key of the file that says what the options say is none too many.

    Raises:
        UsageError: that file is not a JSON object, or holds a key that is not one of EXECUTION; one line for each.
    """
    config: dict[str, Any] = {
        "train_batch_size": options.global_batch_size,
        "train_micro_batch_size_per_gpu": options.per_device_train_batch_size,
        "gradient_accumulation_steps": options.accumulation_steps(world),
        "gradient_clipping": options.max_grad_norm,
        "bf16": {"enabled": options.use_bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": options.zero_stage},
        "zero_allow_untested_optimizer": True,
        # With offload_optimizer it would take DeepSpeed's own Adam, which computes otherwise and must be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
    }
    if not options.deepspeed:
        return config
    try:
        above = json.loads(Path(options.deepspeed).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--deepspeed: {options.deepspeed}: {error}; name a DeepSpeed configuration in JSON") from None
    if not isinstance(above, dict):
        raise UsageError(f"--deepspeed: {options.deepspeed}: a {type(above).__name__}; valid: a JSON object")
    if wrong := list(_problems(above, config, EXECUTION, "")):
        raise UsageError("\n".join(f"--deepspeed: {options.deepspeed}: {what}" for what in wrong))
    return _overlay(config, above)


def _problems(above: Mapping[str, Any], below: Mapping[str, Any], valid: Mapping[str, Any], path: str) -> Iterator[str]:
    """What is wrong with the keys of a file below `path`, one sentence for each."""
    for key, value in above.items():
        place = f"{path}{key}"
        if key in below and json.dumps(below[key]) == json.dumps(value):  # To Python, true is 1.
            continue
        if key not in valid:
            zero_3 = _ZERO_3 if place.startswith("zero_optimization.stage3_") else ""
            yield f"{place}: {REFUSED.get(place) or zero_3 or f'no execution key; {did_you_mean(key, valid)}'}"
        elif isinstance(valid[key], dict):
            if isinstance(value, dict):
                yield from _problems(value, below.get(key, {}), valid[key], f"{place}.")
            else:
                yield f"{place}: found {json.dumps(value)}; an object is valid"
        elif valid[key] is int:
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1:
                yield f"{place}: found {json.dumps(value)}; a whole number >= 1 is valid"
        elif valid[key] is bool:
            if not isinstance(value, bool):
                yield f"{place}: found {json.dumps(value)}; true or false is valid"
        elif value not in valid[key]:
            yield f"{place}: found {json.dumps(value)}; valid: {', '.join(valid[key])}"


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged
