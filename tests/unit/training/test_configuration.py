"""The DeepSpeed file: what it may say, what it changes, and that every key of DeepSpeed is decided."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig

from minima.errors import TerminatedError, UsageError
from minima.training.configuration import EXECUTION, REFUSED, configuration
from tests.unit.training import runs

OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


def laid_over(folder: Path, text: str, **changes: Any) -> dict[str, Any]:
    file = folder / "ds.json"
    file.write_text(text)
    return configuration(runs.options(folder, deepspeed=str(file), **changes), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a list; valid: a JSON object"),
        ("{", "name a DeepSpeed configuration in JSON"),
        ('{"gradient_clipping": 8}', "gradient_clipping: --max_grad_norm says it"),
        ('{"communication_data_type": "fp16"}', "communication_data_type: it would change the result"),
        ('{"progressive_layer_drop": {"enabled": true}}', "progressive_layer_drop: it would change the result"),
        ('{"curriculum_learning": {}}', "curriculum_learning: it would change the result"),
        ('{"zero_optimization": {"zero_quantized_gradients": true}}', "zero_quantized_gradients: it would change the result"),
        ('{"zero_optimization": {"stage": 3}}', "zero_optimization.stage: --zero_stage says it"),
        ('{"zero_optimization": {"stage": true}}', "zero_optimization.stage: --zero_stage says it"),
        ('{"zero_optimization": {"stage3_max_live_parameters": 1}}', "stage3_max_live_parameters: only ZeRO 3 has it"),
        ('{"zero_optimization": {"offload_optimiser": {}}}', "did you mean 'offload_optimizer'"),
        ('{"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}', 'device: found "nvme"; valid: none, cpu'),
        ('{"zero_optimization": {"offload_optimizer": {"device": []}}}', r"device: found \[\]; valid: none, cpu"),
        ('{"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}}', "offload_optimizer.ratio: only ZeRO 3"),
        ('{"zero_optimization": {"offload_optimizer": "cpu"}}', 'offload_optimizer: found "cpu"; an object is valid'),
        ('{"zero_optimization": {"overlap_comm": "auto"}}', 'overlap_comm: found "auto"; true or false is valid'),
        ('{"zero_optimization": {"reduce_bucket_size": 0}}', "reduce_bucket_size: found 0; a whole number >= 1"),
        ('{"zero_optimization": {"reduce_bucket_size": 1.5}}', "reduce_bucket_size: found 1.5; a whole number >= 1"),
        ('{"zero_optimization": {"reduce_bucket_size": true}}', "reduce_bucket_size: found true; a whole number >= 1"),
        ('{"zero_optimization": true}', "zero_optimization: found true; an object is valid"),
    ],
)
def test_a_file_that_says_more_than_execution(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        laid_over(tmp_path, text)


def test_each_wrong_key_has_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        laid_over(tmp_path, '{"fp16": {"enabled": true}, "zero_optimization": {"zenflow": {}, "stage": 2}}')
    assert len(str(error.value).splitlines()) == 3


def test_a_file_is_laid_over(tmp_path: Path) -> None:
    config = laid_over(tmp_path, '{"zero_optimization": {"reduce_bucket_size": 1000}}', zero_stage=2)
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}


def test_a_file_may_repeat_what_the_options_say(tmp_path: Path) -> None:
    """As most files do, which were written for DeepSpeed alone."""
    plain = configuration(runs.options(tmp_path), 1)
    assert laid_over(tmp_path, json.dumps(plain)) == plain


def test_every_key_of_deepspeed_is_decided() -> None:
    """A key that a new version of DeepSpeed brings is to be looked at, not to pass."""
    asked: set[object] = set()

    class Asked(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            asked.add(key)
            return super().__contains__(key)

        def keys(self) -> Any:
            return self

    DeepSpeedConfig(Asked(train_batch_size=1, train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1))
    zero = "zero_optimization"
    asked |= {f"{zero}.{f.alias or name}" for name, f in DeepSpeedZeroConfig.model_fields.items()}
    asked |= {f"{zero}.offload_optimizer.{name}" for name in DeepSpeedZeroOffloadOptimizerConfig.model_fields}
    assert len(asked) > 100
    allowed = {*EXECUTION, *(f"{zero}.{key}" for key in EXECUTION[zero])}
    allowed |= {f"{zero}.offload_optimizer.{key}" for key in EXECUTION[zero]["offload_optimizer"]}
    decided = allowed | REFUSED.keys()
    assert {key for key in asked if key not in decided and not str(key).startswith(f"{zero}.stage3_")} == set()
    assert allowed <= asked, "no key that DeepSpeed does not know"
    assert not allowed & REFUSED.keys()


def keys(config: dict[str, Any]) -> set[str]:
    return {path for key, value in config.items() for path in ({key} | (keys(value) if isinstance(value, dict) else set()))}


def test_all_keys_are_tried() -> None:
    assert keys(runs.EXECUTION_KEYS) == keys(EXECUTION)


@pytest.mark.parametrize("file", [OFFLOAD, runs.EXECUTION_KEYS], ids=["offload", "all"])
@pytest.mark.parametrize(("stage", "bf16"), [(1, False), (2, False), (1, True), (2, True)])
def test_execution_keys_change_no_weight_and_no_checkpoint(
    stage: int, bf16: bool, file: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; stopped with the file, and gone on without it.

    (With offload_optimizer DeepSpeed sums up the norm of bf16 gradients in another order: a weight may round to its neighbour.)
    """
    runs.alone(monkeypatch)
    (tmp_path / "ds.json").write_text(json.dumps(file))

    def run(name: str, *, deepspeed: bool, **changes: Any) -> dict[str, torch.Tensor]:
        llama = runs.model().to(torch.bfloat16) if bf16 else runs.model()
        chosen = runs.options(
            tmp_path / name,
            deepspeed=str(tmp_path / "ds.json") if deepspeed else "",
            use_bf16=bf16,
            zero_stage=stage,
            per_device_train_batch_size=4,
        )
        llama, _ = runs.run(chosen, llama=llama, **changes)
        return runs.weights(llama)

    plain = run("plain", deepspeed=False)
    with_file = run("with", deepspeed=True)
    with pytest.raises(TerminatedError):
        run("broken", deepspeed=True, terminate_at=7)
    assert list((tmp_path / "broken" / "checkpoints").glob("step-*"))
    resumed = run("broken", deepspeed=False)
    for name, weight in plain.items():
        rtol, atol = (2**-7, 1e-6) if bf16 else (0.0, 0.0)
        for found in (with_file[name], resumed[name]):
            torch.testing.assert_close(found, weight, rtol=rtol, atol=atol)
