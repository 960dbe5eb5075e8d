"""Model folders: loaded by transformers alone, refused with one clear error."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from jobgen.manifests import render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from minima.errors import DataError, UsageError
from minima.models import placement, pretrained
from tests.unit import tiny


def shape(**sizes: int) -> LlamaConfig:
    return LlamaConfig(vocab_size=49216, **sizes)  # type: ignore[arg-type]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tiny.tokenizer(folder)
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes().replace(b"\n", b"\r\n"))
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))
    (folder / "chat_template.jinja").write_bytes("{{ 问 }}".encode())
    (folder / "unrelated.txt").write_text("no")
    return folder


def save(folder: Path, tokenizer: Path | None = None, *, tied: bool = False, **more: object) -> None:
    pretrained.save(tiny.llama(tied=tied), tokenizer, folder, verb="prune", made_of={"model": "/there"}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [False, True])
def test_saved_folders_load_with_transformers_alone(tmp_path: Path, tied: bool) -> None:
    save(tmp_path / "m", tied=tied)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    expected = tiny.llama(tied=tied)
    ids = torch.arange(12)[None]
    assert torch.equal(loaded(ids).logits, expected(ids).logits)
    assert torch.equal(pretrained.load(tmp_path / "m", dtype=torch.float32)(ids).logits, expected(ids).logits)
    assert ("lm_head.weight" in load_file(tmp_path / "m" / "model.safetensors")) is not tied
    assert (loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()) is tied


def test_files(tmp_path: Path, tokenizer: Path) -> None:
    save(tmp_path / "m", tokenizer)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "m" / name).read_bytes() == (tokenizer / name).read_bytes()
    card = (tmp_path / "m" / "README.md").read_text()
    assert "minima prune" in card
    assert "`model`: `/there`" in card


@pytest.mark.parametrize("tied", [False, True])
def test_saving_a_state_dict_in_another_type(tmp_path: Path, tied: bool) -> None:
    engine = {name: tensor + 1 for name, tensor in tiny.llama(tied=tied).state_dict().items()}
    save(tmp_path / "m", tied=tied, state_dict=engine, dtype=torch.bfloat16)
    found = load_file(tmp_path / "m" / "model.safetensors")
    assert set(found) == set(engine) - ({"lm_head.weight"} if tied else set())
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, engine[name].bfloat16())
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_model_without_tokenizer_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no tokenizer; a model folder has tokenizer\.json or tokenizer\.model"):
        save(tmp_path / "m", tmp_path / "empty")


def remove(*names: str):  # type: ignore[no-untyped-def]
    return lambda folder: [(folder / name).unlink() for name in names]


def rewrite(name: str, text: str):  # type: ignore[no-untyped-def]
    return lambda folder: (folder / name).write_text(text)


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def change(**changes: Any):  # type: ignore[no-untyped-def]
    return lambda folder: (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | changes)
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), r"no config\.json \(found README\.md, .*\); a model folder has config\.json"),
        (remove("model.safetensors"), r"no weights \(found .*README.*\).*model folder has"),
        (rewrite("config.json", "{"), r"config\.json: not JSON"),
        (
            rewrite("config.json", '{"model_type": "gpt2"}'),
            r"model_type 'gpt2': it has learned positions; valid: llama, mistral, qwen2",
        ),
        (rewrite("config.json", "[]"), r"holds a list, not an object"),
        (rewrite("config.json", '{"model_type": "llama", "hidden_size": 30}'), r"vocab_size is None; a whole number"),
        (change(hidden_size=30), r"hidden_size 30 is not a multiple of num_attention_heads 4"),
        (drop_tensor, r"lack model\.layers\.1\.mlp\.up_proj\.weight"),
        (cut_weights, r"bytes, its header speaks of \d+; not whole"),
        (change(intermediate_size=40), r"has shape \[32, 48\], config.json implies \[32, 40\]"),
    ],
)
def test_bad_folders(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    save(tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(DataError, match=message):
        pretrained.load(tmp_path / "m", dtype=torch.float32)


def test_the_kernel_of_whoever_wrote_the_folder_is_nobody_elses(tmp_path: Path) -> None:
    save(tmp_path / "m")
    change(_attn_implementation="flash_attention_2", attn_implementation="flash_attention_3")(tmp_path / "m")
    assert pretrained.load(tmp_path / "m", dtype=torch.float32).config._attn_implementation == "sdpa"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: not a folder"):
        pretrained.load(tmp_path / "nowhere", dtype=torch.float32)


def test_attention_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pretrained.attention("auto") == "sdpa"
    assert pretrained.attention("eager") == "eager"
    with pytest.raises(UsageError, match="flash_attention_2 needs a GPU"):
        pretrained.attention("flash_attention_2")


def test_attention_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert pretrained.attention("auto", torch.bfloat16) == "flash_attention_2"
    assert pretrained.attention("auto", torch.float32) == "sdpa"
    with pytest.raises(UsageError, match="half precision"):
        pretrained.attention("flash_attention_2", torch.float32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_parameter_count_is_that_of_the_model(tied: bool, kv_heads: int) -> None:
    made = tiny.llama(3, 32, 4, kv_heads, 40, 100, tied=tied)
    assert pretrained.shape(made.config).parameters == made.num_parameters()


def test_published_parameter_counts() -> None:
    teacher = shape(num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, intermediate_size=11008)
    student = shape(num_hidden_layers=24, hidden_size=3072, num_attention_heads=24, intermediate_size=8192, head_dim=128)
    assert round(pretrained.shape(teacher).parameters / 1e9, 3) == 6.879
    assert round(pretrained.shape(student).parameters / 1e9, 3) == 3.020


def test_the_marker_says_where_and_how_a_model_was_computed_with() -> None:
    llama = tiny.llama(dtype=torch.bfloat16)
    llama.set_attn_implementation("eager")
    assert placement.of(llama) == {"device": "cpu", "dtype": "bfloat16", "attention": "eager"}


def test_a_pod_with_gpus_that_sees_none_does_not_compute_on_its_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is the one that a rendered job has."""
    pipeline = spec.load("minima-3b")
    for step in plan(pipeline):
        (replica,) = render.job(pipeline, step)["spec"]["pytorchReplicaSpecs"].values()
        env = {e["name"]: e.get("value", "") for e in replica["template"]["spec"]["containers"][0]["env"]}
        assert env.get(placement.GPUS, "0") == str(step.pool.gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement.device() == torch.device("cpu")
    monkeypatch.setenv(placement.GPUS, "8")
    monkeypatch.setattr(placement, "DRIVER", tmp_path / "version")
    with pytest.raises(UsageError, match=r"given 8 GPUs, and sees 0: there is no .*580 or newer"):
        placement.device()
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05\nGCC\n")
    with pytest.raises(
        UsageError, match=r"sees 0: NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05\. Valid: a driver"
    ):
        placement.device()
    dockerfile = (Path(__file__).parents[3] / "images/train.Dockerfile").read_text(encoding="utf-8")
    (searched,) = re.findall(r"^ +LD_LIBRARY_PATH=(\S+)", dockerfile.rpartition("\nFROM ")[2], re.MULTILINE)
    assert str(placement.LIBRARIES) in searched.split(":")
    monkeypatch.setattr(placement, "LIBRARIES", tmp_path)  # As GKE mounts it.
    for searched, told in (("", True), (f"{tmp_path}64", True), (f"/lib:{tmp_path}", False)):
        monkeypatch.setenv("LD_LIBRARY_PATH", searched)
        with pytest.raises(UsageError) as error:
            placement.device()
        assert (f"its libraries are in {tmp_path}; the image's LD_LIBRARY_PATH must name that" in str(error.value)) == told
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert placement.device() == torch.device("cuda", 3)
