"""Folders of other sorts, and damaged ones: refused in words, before torch is imported, and never by a traceback."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minima.errors import DataError
from minima.workspace import model_folder
from tests.unit import damage, held

Damage = Callable[[Path], Any]


def change(name: str = "config.json", **changes: Any) -> Damage:
    def do(folder: Path) -> None:
        place = folder / name
        raw = json.loads(place.read_text()) if place.is_file() else {}
        place.write_text(json.dumps(raw | changes))

    return do


def put(name: str, content: str | bytes = b"x", instead: bool = False) -> Damage:
    """A file more; `instead` of the weights."""

    def do(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if instead:
            (folder / "model.safetensors").unlink()

    return do


def take(*names: str) -> Damage:
    def do(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return do


def folder_of(name: str) -> Damage:
    def do(folder: Path) -> None:
        take(name)(folder)
        (folder / name).mkdir()

    return do


def lost(name: str) -> Damage:
    """A link in place of a file, as in a snapshot of the hub's cache that was copied without its blobs."""

    def do(folder: Path) -> None:
        take(name)(folder)
        (folder / name).symlink_to(f"../../blobs/{name}")

    return do


def weigh(change: Callable[[dict[str, np.ndarray]], Any]) -> Damage:
    def do(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return do


def renamed(new: Callable[[str], str]) -> Damage:
    return weigh(lambda t: t.update({new(name): t.pop(name) for name in list(t)}))


def below(name: str) -> Damage:
    def do(folder: Path) -> None:
        files = list(folder.iterdir())
        (folder / name).mkdir()
        for place in files:
            place.rename(folder / name / place.name)

    return do


def shard(folder: Path) -> dict[str, str]:
    """The weights as two shards with an index without metadata, as some tools write it."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return places


def sharded(then: Damage) -> Damage:
    return lambda folder: (shard(folder), then(folder))


EMBEDDINGS, HEAD, NORM = model_folder.EMBEDDINGS, model_folder.HEAD, "model.norm.weight"
REFUSED: dict[str, tuple[Damage, str]] = {
    "nothing": (
        take("config.json", "model.safetensors"),
        r"no weights \(it is empty\); a model folder has config",
    ),
    "pickled": (
        put("pytorch_model.bin", instead=True),
        r"`AutoModelForCausalLM\.from_pretrained\(FOLDER\)\.save_pretrained\(NEW\)`",
    ),
    "the maker's": (
        put("consolidated.00.pth", instead=True),
        r"convert_llama_weights_to_hf --input_dir FOLDER --output_dir NEW",
    ),
    "GGUF": (put("llama.Q4_K_M.gguf", instead=True), r'from_pretrained\(FOLDER, gguf_file="llama\.Q4_K_M\.gguf"\)'),
    "Flax": (put("flax_model.msgpack", instead=True), "weights for Flax or TensorFlow; fetch those for PyTorch"),
    "images": (put("model_index.json", "{}"), "a pipeline of diffusers, which makes images"),
    "adapters": (put("adapter_config.json", "{}", instead=True), r"PEFT adapters beside a model.*merge them"),
    "adapters alone": (lambda f: (take("config.json")(f), put("adapter_config.json")(f)), r"PEFT adapters alone; merge them"),
    "GPTQ": (
        change(quantization_config={"quant_method": "gptq"}),
        r"quantised weights \(gptq\), which cannot be trained or cut",
    ),
    "bitsandbytes": (change(quantization_config={"load_in_4bit": True}), r"quantised weights \(quantization_config\)"),
    "compressed": (
        change(compression_config={"quant_method": "compressed-tensors"}),
        r"quantised weights \(compressed-tensors\)",
    ),
    "fp8": (
        lambda f: put("model.safetensors", (f / "model.safetensors").read_bytes().replace(b'"F32"', b'"F8 "'))(f),
        "is F8 : quantised weights; valid: BF16, F16, F32, F64",
    ),
    "sees": (change(model_type="llava", text_config={}), r"model_type 'llava', a model that also sees or hears"),
    "encoder": (change(model_type="bert", architectures=["BertForMaskedLM"]), r"'bert': no model that goes on with a text"),
    "Qwen3": (change(model_type="qwen3"), r"'qwen3': it has norms of queries and keys.*valid: llama, mistral, qwen2"),
    "Mixtral": (change(model_type="mixtral", num_local_experts=8), r"'mixtral': a mixture of experts"),
    "experts": (change(num_experts=4), "a mixture of experts"),
    "Qwen2 with windows": (
        change(model_type="qwen2", num_key_value_heads=1, use_sliding_window=True, sliding_window=4096),
        r"use_sliding_window.*valid: false, which is the same for sequences of up to 4096 tokens",
    ),
    "no config": (take("config.json"), r"no config\.json \(found model\.safetensors\)"),
    "config a folder": (folder_of("config.json"), r"config\.json: cannot be read \(Is a directory\)"),
    "weights a folder": (folder_of("model.safetensors"), r"model\.safetensors: its header cannot be read .*Is a directory"),
    "weights a link": (lost("model.safetensors"), r"model\.safetensors: links that lead to no file .*`cp -rL`"),
    "config a link": (lost("config.json"), r"config\.json: links that lead to no file"),
    "the index a link": (sharded(lost("model.safetensors.index.json")), r"index\.json: links that lead to no file"),
    "config cut": (put("config.json", '{"model_type": "lla'), r"config\.json: not JSON .*fetch the file again"),
    "config in another encoding": (put("config.json", b"\xff\xfe{}"), r"config\.json: not JSON"),
    "config a list": (put("config.json", "[]"), "holds a list, not an object"),
    "no size": (change(hidden_size=None), "hidden_size is None; a whole number of at least 1"),
    "a size of text": (change(vocab_size="32000"), "vocab_size is '32000'; a whole number"),
    "no layers": (change(num_hidden_layers=0), "num_hidden_layers is 0"),
    "no positions": (change(max_position_embeddings=None), r"config\.json: max_position_embeddings is None; a whole number"),
    "positions of text": (change(max_position_embeddings="256"), r"config\.json: max_position_embeddings is '256'; a whole"),
    "epsilon of text": (change(rms_norm_eps="1e-5"), r"config\.json: rms_norm_eps is '1e-5'; a number is valid"),
    "no such type": (change(dtype="float8"), r"config\.json: dtype is 'float8'; valid: bfloat16, float16"),
    "no such type, by its old name": (change(torch_dtype=["float32"]), r"config\.json: torch_dtype is \['float32'\]; valid:"),
    "positions without factors": (
        change(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        r"config\.json: rope_scaling has the rope_type 'llama3' and lacks low_freq_factor, high_freq_factor; put them",
    ),
    "positions of no known kind": (
        change(rope_parameters={"rope_type": "zzz", "rope_theta": 1e4}),
        r"config\.json: rope_parameters has the rope_type 'zzz'; valid: default, linear",
    ),
    "positions by a number": (change(rope_scaling=2.0), r"config\.json: rope_scaling is 2\.0; an object or null"),
    "BOM in config": (
        lambda f: put("config.json", b"\xef\xbb\xbf" + (f / "config.json").read_bytes())(f),
        r"config\.json: begins with a UTF-8 byte order mark \(BOM\).*save it without the BOM",
    ),
    "BOM in the tokenizer's": (put("tokenizer_config.json", b"\xef\xbb\xbf{}"), r"tokenizer_config\.json: begins with a UTF-8"),
    "groups": (change(num_attention_heads=3, hidden_size=3, num_key_value_heads=2), "2 does not divide num_attention_heads 3"),
    "generation": (put("generation_config.json", "{"), r"generation_config\.json: not JSON"),
    "LFS": (put("model.safetensors", damage.POINTER), r"model\.safetensors: Git LFS pointers, not the files; `git lfs pull`"),
    "LFS tokenizer": (put("tokenizer.model", damage.POINTER), r"tokenizer\.model: Git LFS pointers"),
    "empty weights": (put("model.safetensors", b""), "0 bytes cannot be all of it; not whole"),
    "a web page": (put("model.safetensors", "<html>404 not found</html>"), "26 bytes cannot be all of it"),
    "half": (
        lambda f: put("model.safetensors", (f / "model.safetensors").read_bytes()[:-8])(f),
        r"bytes, its header speaks of \d+; not whole.*fetch it again",
    ),
    "no such header": (put("model.safetensors", b"\x02\0\0\0\0\0\0\0[]"), "its header cannot be read"),
    "shards without index": (sharded(take("model.safetensors.index.json")), r"no model\.safetensors\.index\.json that names"),
    "a shard is missing": (sharded(take("model-00002-of-00002.safetensors")), r"model-00002.* of 2 shards are missing; fetch"),
    "a shard is empty": (sharded(put("model-00002-of-00002.safetensors", b"")), r"model-00002.*0 bytes cannot be all"),
    "the index is cut": (sharded(put("model.safetensors.index.json", "{")), r"index\.json: not JSON"),
    "no weight_map": (sharded(put("model.safetensors.index.json", "{}")), r"index\.json: no weight_map"),
    "the index says wrong": (
        sharded(put("model.safetensors.index.json", json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))),
        "a: not in the file that it names",
    ),
    "no head": (weigh(lambda t: t.pop(HEAD)), r'lm_head\.weight.*"tie_word_embeddings": true'),
    "no norm": (weigh(lambda t: t.pop(NORM)), r"lack model\.norm\.weight, which config\.json implies"),
    "a model within another": (
        renamed(lambda name: name.removeprefix("model.")),
        r"'model\.' is gone from their names: `AutoModelForCausalLM\.from_pretrained\(FOLDER\)\.save_pretrained\(NEW\)`",
    ),
    "DDP's names": (
        renamed(lambda name: f"module.{name}"),
        r"key_mapping={r\"\^module\\\.\": \"\"}\)\.save_pretrained\(NEW, save_original_format=False\)` takes it away",
    ),
    "torch.compile's names": (renamed(lambda name: f"_orig_mod.{name}"), r"'_orig_mod\.' stands before their names: `Auto"),
    "PEFT's names": (renamed(lambda name: f"base_model.model.{name}"), r"'base_model\.model\.' stands before their names"),
    "names of nobody": (
        renamed(lambda name: f"transformer.h.{name}"),
        r"lack .*\(but hold .*\).* implies; fetch the folder again",
    ),
    "GPTQ by its weights": (
        renamed(lambda name: name.replace("proj.weight", "proj.qweight")),
        r"hold model.*qweight and 5 more: quantised weights, which cannot be trained",
    ),
    "adapters not merged": (
        renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer.")),
        r"hold .*q_proj\.base_layer\.weight: PEFT adapters that were not merged; `model\.merge_and_unload",
    ),
    "tied, and yet two": (
        lambda f: (change(tie_word_embeddings=True)(f), weigh(lambda t: t[HEAD].__iadd__(1))(f)),
        r"its output layer is not its embeddings, though config\.json says so \(tie_word_embeddings\); set it to false",
    ),
    "scores text": (
        lambda f: (change(architectures=["LlamaForSequenceClassification"])(f), weigh(lambda t: t.pop(HEAD))(f)),
        r"architectures LlamaForSequenceClassification: a LLaMA that scores .*valid: LlamaForCausalLM: take the model",
    ),
    "scores text, and does not say it": (
        weigh(lambda t: t.update({"score.weight": t.pop(HEAD)})),
        r"lack lm_head\.weight \(but hold score\.weight\), which config\.json implies; fetch the folder again",
    ),
    "embeds text": (
        change(model_type="mistral", architectures=["MistralModel"], num_key_value_heads=1),
        "architectures MistralModel: a Mistral that scores or embeds .*valid: MistralForCausalLM",
    ),
    "no kind, but architectures": (
        change(model_type=None, architectures=["LLaMAForCausalLM"]),
        r'model_type None: by its architectures \(LLaMAForCausalLM\) put "model_type": "llama" there',
    ),
    "queries, keys and values in one": (change(model_type="internlm2"), r"in one matrix; tools/convert2llama\.py"),
    "tied perhaps": (change(tie_word_embeddings=None), r"config\.json: tie_word_embeddings is None; true or false is valid"),
    "an end of text": (change(eos_token_id="2"), r"eos_token_id is '2'; a whole number, a list of them, or null is valid"),
    "pads": (change(pad_token_id=[0]), r"pad_token_id is \[0\]; a whole number or null is valid"),
    "angles of text": (change(rope_theta="10000"), r"rope_theta is '10000'; a number is valid"),
    "factors of text": (
        change(rope_scaling={"type": "linear", "factor": "2"}),
        r"rope_scaling has factor '2'; a number is valid",
    ),
    "a folder above": (
        below("checkpoint-500"),
        r"no weights \(found checkpoint-500\); .*model/checkpoint-500 has a config\.json: name a model's own folder",
    ),
    "another shape": (change(vocab_size=3), r"has shape \[1, 1\], config\.json implies \[3, 1\]"),
    "biases that config.json does not know": (
        weigh(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(1, np.float32)})),
        r"hold .*q_proj\.bias, which config\.json does not imply",
    ),
    "norms of queries": (
        weigh(lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": np.ones(1, np.float32)})),
        r"hold .*q_norm\.weight, which config\.json does not imply",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_and_how(what: str, tmp_path: Path) -> None:
    folder = held.model(tmp_path / "model")
    model_folder.check(folder)
    do, message = REFUSED[what]
    do(folder)
    with pytest.raises(DataError, match=message):
        model_folder.check(folder)


TAKEN: dict[str, Damage] = {
    "sharded, no metadata": sharded(lambda _: None),
    "pickled beside safetensors": put("pytorch_model.bin"),
    "buffers of old versions": weigh(
        lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)})
    ),
    "tied": lambda f: (change(tie_word_embeddings=True)(f), weigh(lambda t: t.pop(HEAD))(f)),
    "tied, under the head's name": lambda f: (change(tie_word_embeddings=True)(f), weigh(lambda t: t.pop(EMBEDDINGS))(f)),
    "tied, written twice": change(tie_word_embeddings=True),
    "positions by the old names": change(rope_scaling={"type": "linear", "factor": 2.0}, torch_dtype="float16"),
    "positions by the new names": change(rope_parameters={"rope_type": "default", "rope_theta": 1e4}, dtype="bfloat16"),
    "nothing said of positions": change(rope_scaling=None, dtype=None),
    "no quantisation": change(quantization_config=None),
    "what a fetch leaves": lambda f: (f / ".cache").mkdir(),
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_taken(what: str, tmp_path: Path) -> None:
    folder = held.model(tmp_path / "model")
    TAKEN[what](folder)
    assert model_folder.check(folder)["model_type"] == "llama"


def test_a_refusal_comes_before_torch_and_before_anything_is_made(tmp_path: Path) -> None:
    folder = held.model(tmp_path / "model")
    change(quantization_config={"quant_method": "awq"})(folder)
    program = "import sys\nfrom minima import cli\ncode = cli.run(sys.argv[1:])\nprint(code, 'torch' in sys.modules)"
    words = ["prune", "--teacher_model_name_or_path", str(folder), "--record_path_or_regex", str(folder)]
    command = [sys.executable, "-c", program, *words, "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["65", "False"]
    assert "minima prune: --teacher_model_name_or_path: " in done.stderr
    assert not (tmp_path / "out").exists()
