"""What lies in a model folder, by config.json and the headers of its weights: whether a stage can work with it.

No torch, so a folder that cannot be used is refused before anything else is done.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from minima.errors import DataError, listed
from minima.options import Options, inputs, split_digest
from minima.workspace.weight_files import INDEX, WEIGHTS, Tensor, equal, read_object, tensors

CONFIG = "config.json"
FAMILIES = {"llama": "LLaMA", "mistral": "Mistral", "qwen2": "Qwen2"}
"""What `model_type` may be: the layers of a LLaMA, under other names and with or without biases and a window."""
TYPES = ("BF16", "F16", "F32", "F64")
"""What weights may be, in safetensors' words."""
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
POINTER = b"version https://git-lfs.github.com/spec/"
_BOM = b"\xef\xbb\xbf"
_READ_BY_TRANSFORMERS = (
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_DTYPES = ("bfloat16", "float16", "half", "float32", "float", "float64", "double")
_VALUES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("max_position_embeddings",), lambda value: type(value) is int and value >= 1, "a whole number from 1 on"),
    (("rms_norm_eps", "rope_theta"), lambda value: type(value) in {int, float}, "a number"),
    (("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache"), lambda value: type(value) is bool, "true or false"),
    (("hidden_act",), lambda value: isinstance(value, str), 'a name such as "silu"'),
    (("bos_token_id", "pad_token_id"), lambda value: value is None or type(value) is int, "a whole number or null"),
    (
        ("eos_token_id",),
        lambda value: value is None or all(type(one) is int for one in (value if isinstance(value, list) else [value])),
        "a whole number, a list of them, or null",
    ),
)
"""What values of config.json may be, where it has them."""
_ROPE = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}
"""By the type of rotary positions, what else transformers wants; the positions before the scaling it takes from the model."""
_TO_SAFETENSORS = "`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)`"
_WRAPPINGS = ("module.", "_orig_mod.", "base_model.model.", "model.")
"""What programs that trained a model leave before the names of its weights: DDP, torch.compile, PEFT, Lightning."""
_QUANTISED = ("qweight", "qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv", "weight_packed", "SCB", "absmax")
"""How names of tensors end that hold weights rounded, or what they were rounded by."""
_NOT_VALID = {
    "mixtral": "a mixture of experts, whose layers are not cut here",
    "bert": "no model that goes on with a text",
    "t5": "an encoder with a decoder",
    "internlm2": ("it has queries, keys and values in one matrix; tools/convert2llama.py of its makers writes it as a LLaMA"),
    "baichuan": (
        "it has queries, keys and values in one matrix; llamafy_baichuan2.py of LLaMA-Factory writes the 7B one as a LLaMA"
    ),
    "olmo2": "it has norms of queries and keys, which are not cut here",
    "qwen3": "it has norms of queries and keys, which are not cut here",
    "qwen": "it has queries, keys and values in one matrix; Qwen1.5 and later are of model_type qwen2",
    "chatglm": "it has queries, keys and values in one matrix",
    "falcon": "it has queries, keys and values in one matrix",
    "granite": "its embeddings and layers are scaled, which is not cut here",
    "minicpm": "its embeddings and layers are scaled, which is not cut here",
    "gemma": "its norms and embeddings are scaled in another way",
    "gemma2": "its norms and embeddings are scaled in another way",
    "phi3": "it has queries, keys and values in one matrix",
    "gpt2": "it has learned positions",
}


def check_inputs(options: Options) -> None:
    """`check` for each model that a stage computes with; of one whose tokenizer alone it wants, nothing is asked here.

    Raises:
        DataError: as `check`, after the option.
    """
    for name, what in inputs(type(options)).items():
        if what in {"model", "pruned model"} and name != "tokenizer_name_or_path" and getattr(options, name):
            try:
                check(split_digest(getattr(options, name))[0])
            except DataError as error:
                raise DataError(f"--{name}: {error}") from None


def check(folder: str | Path) -> dict[str, Any]:
    """Look at everything but the weights themselves, and return config.json.

    Raises:
        DataError: not a folder, or not one of a LLaMA, Mistral or Qwen2 with whole weights in safetensors that fit config.json.
    """
    folder = Path(folder)
    _check_files(folder)
    raw = read_object(folder / CONFIG)
    _check_kind(folder, raw)
    _check_sizes(folder / CONFIG, raw)
    _check_values(folder / CONFIG, raw)
    if (folder / "generation_config.json").is_file():
        read_object(folder / "generation_config.json")
    _check_weights(folder, tensors(folder), expected(raw), tied=bool(raw.get("tie_word_embeddings")))
    return raw


def _check_files(folder: Path) -> None:
    """Refuse what the names of the files and their first bytes show."""
    valid = f"a model folder has {CONFIG} (model_type {', '.join(FAMILIES)}) and {WEIGHTS} or {INDEX} with its shards"
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; {valid}")
    names = sorted(p.name for p in folder.iterdir())
    check_pointers(folder, names)
    check_links(folder, names)
    for name in _READ_BY_TRANSFORMERS:
        if name in names and (folder / name).is_file():
            with (folder / name).open("rb") as file:
                check_mark(file.read(len(_BOM)), folder / name)
    if "adapter_config.json" in names:
        where = "beside a model, which from_pretrained would put into it or into another" if CONFIG in names else "alone"
        raise DataError(
            f"{folder}: PEFT adapters {where}; merge them into their model first: "
            "`AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW)`"
        )
    found = f"found {listed(names, 12)}" if names else "it is empty"
    if "model_index.json" in names:
        raise DataError(f"{folder}: a pipeline of diffusers, which makes images; {valid}")
    if WEIGHTS not in names and INDEX not in names:
        below = sorted({str(place.parent) for deep in ("*", "*/*") for place in folder.glob(f"{deep}/{CONFIG}")})
        inside = f"{listed(below, 3)} has a {CONFIG}: name a model's own folder" if below else ""
        raise DataError(f"{folder}: no weights ({found}); {_way_to_safetensors(names) or inside or valid}")
    if CONFIG not in names:
        raise DataError(f"{folder}: no {CONFIG} ({found}); {valid}")


def _way_to_safetensors(names: list[str]) -> str:
    """How what lies in a folder becomes what is read here; empty where nobody knows."""
    if any(name.startswith("consolidated") for name in names) or "params.json" in names:
        return (
            "these are weights in the maker's own form; fetch the model in transformers' form, or for a LLaMA "
            "`python -m transformers.models.llama.convert_llama_weights_to_hf --input_dir FOLDER --output_dir NEW`"
        )
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return (
            "GGUF holds rounded weights; fetch the model in bfloat16 or, with that loss, "
            f'`AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file="{gguf[0]}").save_pretrained(NEW)`, and AutoTokenizer so'
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return f"{_TO_SAFETENSORS} writes safetensors of pickled weights, and the tokenizer's files are copied beside them"
    if any(name.endswith(".safetensors") for name in names):
        return f"there is no {INDEX} that names the shards: fetch it, or the whole folder again"
    if any(name.endswith((".msgpack", ".h5")) for name in names):
        return "these are weights for Flax or TensorFlow; fetch those for PyTorch"
    return ""


def check_pointers(folder: str | Path, names: Iterable[str]) -> None:
    """Check that no file is what Git LFS leaves for one that was not fetched.

    Raises:
        DataError: some of `names` in `folder` are.
    """
    pointers = [name for name in names if is_pointer(Path(folder) / name)]
    if pointers:
        raise DataError(f"{folder}: {listed(pointers, 3)}: Git LFS pointers, not the files; `git lfs pull` there fetches them")


def check_links(folder: str | Path, names: Iterable[str]) -> None:
    """Check that files of a model or a tokenizer are no links that lead nowhere.

    Raises:
        DataError: some of `names` in `folder` are.
    """
    places = [Path(folder, name) for name in names if name.endswith((".json", ".safetensors", ".model"))]
    lost = [place.name for place in places if place.is_symlink() and not place.exists()]
    if lost:
        raise DataError(
            f"{folder}: {listed(lost, 3)}: links that lead to no file (of the hub's cache, without its blobs?); "
            "copy the folder again with `cp -rL`, which follows links, or fetch it again"
        )


def is_pointer(place: Path) -> bool:
    """Whether a file is what Git LFS leaves for one that was not fetched."""
    if not place.is_file() or place.stat().st_size > 1024:
        return False
    return place.read_bytes().startswith(POINTER)


def check_mark(content: bytes, place: Path) -> None:
    """Check that the content of a file does not begin with a byte order mark, as some editors write it.

    Raises:
        DataError: it does; `place` is the file.
    """
    if content.startswith(_BOM):
        raise DataError(
            f"{place}: begins with a UTF-8 byte order mark (BOM), which transformers does not read; save it without the BOM: "
            f"`sed -i '1s/^\\xEF\\xBB\\xBF//' {place}`"
        )


def _check_kind(folder: Path, raw: Mapping[str, Any]) -> None:
    """Refuse another sort of model."""
    place, kind, valid = folder / CONFIG, raw.get("model_type"), ", ".join(FAMILIES)
    makes = raw.get("architectures")
    if raw.get("quantization_config") or raw.get("compression_config"):
        quantised = raw.get("quantization_config") or raw.get("compression_config")
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        raise DataError(
            f"{place}: quantised weights ({method or 'quantization_config'}), which cannot be trained or cut; take the folder "
            "that they were made of, in bfloat16 or float32"
        )
    if isinstance(raw.get("text_config"), dict) or isinstance(raw.get("vision_config"), dict):
        raise DataError(
            f"{place}: model_type {kind!r}, a model that also sees or hears; valid: {valid}. Where its language model is one "
            "of these, `AutoModelForImageTextToText.from_pretrained(FOLDER)` holds it as `model.language_model`"
        )
    heads = [str(one) for one in (makes if isinstance(makes, list) else [makes]) if one]
    other_task = "" if not heads or any("CausalLM" in one for one in heads) else listed(heads)
    if not isinstance(kind, str) or kind not in FAMILIES:
        why = _NOT_VALID.get(str(kind), "")
        if any("expert" in name for name in raw):
            why = _NOT_VALID["mixtral"]
        elif kind is None and (named := [k for k in FAMILIES if f"{k}forcausallm" in map(str.lower, heads)]):
            why = f'by its architectures ({heads[0]}) put "model_type": "{named[0]}" there'
        elif not why and other_task:
            why = f"no model that goes on with a text ({other_task})"
        raise DataError(f"{place}: model_type {kind!r}{f': {why}' if why else ''}; valid: {valid}")
    if other_task:
        raise DataError(
            f"{place}: architectures {other_task}: a {FAMILIES[kind]} that scores or embeds text and does not go on with it; "
            f"valid: {kind.capitalize()}ForCausalLM: take the model that it was trained from"
        )
    if any("expert" in name and value for name, value in raw.items()):
        raise DataError(f"{place}: a mixture of experts, whose layers are not cut here; valid: {valid} without experts")
    if kind == "qwen2" and (raw.get("use_sliding_window") or "sliding_attention" in str(raw.get("layer_types"))):
        raise DataError(
            f"{place}: use_sliding_window, by which layers differ; valid: false, which is the same for sequences of up to "
            f"{raw.get('sliding_window')} tokens (sliding_window)"
        )


def _check_sizes(place: Path, raw: Mapping[str, Any]) -> None:
    """Refuse sizes of config.json that no model has."""
    names = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    if raw["model_type"] != "llama" or raw.get("num_key_value_heads") is not None:  # The first LLaMAs have no such key.
        names.append("num_key_value_heads")
    if raw.get("head_dim") is not None:
        names.append("head_dim")
    for name in names:
        value = raw.get(name)
        if type(value) is not int or value < 1:
            raise DataError(f"{place}: {name} is {value!r}; a whole number of at least 1 is valid: fetch the file again")
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    groups = raw.get("num_key_value_heads") or heads
    if heads % groups:
        raise DataError(f"{place}: num_key_value_heads {groups} does not divide num_attention_heads {heads}")
    if hidden % heads and (raw["model_type"] == "llama" or "head_dim" not in names):
        raise DataError(f"{place}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")


def _check_values(place: Path, raw: Mapping[str, Any]) -> None:
    """Refuse what transformers would: it reads config.json for the tokenizer too, which would then be blamed."""
    for names, sound, valid in _VALUES:
        for name in names:
            if name in raw and not sound(raw[name]):
                raise DataError(f"{place}: {name} is {raw[name]!r}; {valid} is valid: put it right there")
    for name in ("dtype", "torch_dtype"):
        if raw.get(name) is not None and raw[name] not in _DTYPES:
            raise DataError(f"{place}: {name} is {raw[name]!r}; valid: {', '.join(_DTYPES)}: put there what the weights are")
    for name in ("rope_parameters", "rope_scaling"):
        rope = raw.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise DataError(f"{place}: {name} is {rope!r}; an object or null is valid: put it right there")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if not isinstance(kind, str) or kind not in _ROPE:
            raise DataError(f"{place}: {name} has the rope_type {kind!r}; valid: {', '.join(_ROPE)}: fetch the file again")
        for key, value in rope.items():
            if not (key.endswith("type") or value is None or type(value) in {int, float, bool, list}):
                raise DataError(f"{place}: {name} has {key} {value!r}; a number is valid: put it right there")
        if lacks := [key for key in _ROPE[kind] if rope.get(key) is None]:
            raise DataError(
                f"{place}: {name} has the rope_type {kind!r} and lacks {', '.join(lacks)}; put them there, or fetch the file "
                "again"
            )


def expected(raw: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that config.json implies, with their shapes."""
    hidden, inner, heads = raw["hidden_size"], raw["intermediate_size"], raw["num_attention_heads"]
    width = raw.get("head_dim") or hidden // heads
    q, kv = heads * width, (raw.get("num_key_value_heads") or heads) * width
    llama = raw["model_type"] == "llama"
    qkv_bias = raw["model_type"] == "qwen2" or (llama and bool(raw.get("attention_bias")))
    parts = {
        "self_attn.q_proj": (q, hidden, qkv_bias),
        "self_attn.k_proj": (kv, hidden, qkv_bias),
        "self_attn.v_proj": (kv, hidden, qkv_bias),
        "self_attn.o_proj": (hidden, q, llama and bool(raw.get("attention_bias"))),
        "mlp.gate_proj": (inner, hidden, llama and bool(raw.get("mlp_bias"))),
        "mlp.up_proj": (inner, hidden, llama and bool(raw.get("mlp_bias"))),
        "mlp.down_proj": (hidden, inner, llama and bool(raw.get("mlp_bias"))),
    }
    made: dict[str, tuple[int, ...]] = {EMBEDDINGS: (raw["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    made[HEAD] = made[EMBEDDINGS]
    for layer in range(raw["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.{layer}.{norm}.weight"] = (hidden,)
        for part, (out, into, bias) in parts.items():
            made[f"model.layers.{layer}.{part}.weight"] = (out, into)
            if bias:
                made[f"model.layers.{layer}.{part}.bias"] = (out,)
    return made


def _check_weights(folder: Path, found: Mapping[str, Tensor], implied: Mapping[str, tuple[int, ...]], *, tied: bool) -> None:
    """Refuse weights that are not what config.json implies, of other types, or under other names."""
    for name, tensor in found.items():
        if name in implied and tensor.dtype not in TYPES:
            raise DataError(
                f"{folder}: {name} is {tensor.dtype}: quantised weights; valid: {', '.join(TYPES)}. Take the folder that they "
                "were made of"
            )
        if name in implied and tensor.shape != implied[name]:
            raise DataError(
                f"{folder}: {name} has shape {list(tensor.shape)}, {CONFIG} implies {list(implied[name])}; "
                "they are not of one model: fetch both again"
            )
    # Either of the two will do where they are one.
    optional = {EMBEDDINGS, HEAD} if tied and {EMBEDDINGS, HEAD} & found.keys() else set()
    missing = [name for name in implied if name not in found and name not in optional]
    strange = [name for name in found if name not in implied and not name.endswith("rotary_emb.inv_freq")]
    if rounded := [name for name in strange if name.endswith(_QUANTISED)]:
        raise DataError(
            f"{folder}: its weights hold {listed(rounded, 2)}: quantised weights, which cannot be trained or cut; take the "
            "folder that they were made of"
        )
    if adapters := [name for name in strange if ".lora_" in name or ".base_layer." in name]:
        raise DataError(
            f"{folder}: its weights hold {listed(adapters, 2)}: PEFT adapters that were not merged; "
            "`model.merge_and_unload().save_pretrained(NEW)` where they were trained writes the model"
        )
    if missing == [HEAD] and not strange:
        raise DataError(
            f"{folder}: its weights lack {HEAD}; where the embeddings are the output layer too, {CONFIG} needs "
            '"tie_word_embeddings": true, else fetch the folder again'
        )
    if missing:
        other = f" (but hold {listed(strange, 2)})" if strange else ""
        raise DataError(
            f"{folder}: its weights lack {listed(missing, 3)}{other}, which {CONFIG} implies; "
            f"{_way_to_names(set(missing), set(strange)) or 'fetch the folder again'}"
        )
    if strange:
        raise DataError(
            f"{folder}: its weights hold {listed(strange, 3)}, which {CONFIG} does not imply: the model would be computed "
            "without them. Take the model as its makers publish it for transformers"
        )
    if tied and {EMBEDDINGS, HEAD} <= found.keys() and not equal(folder, found[EMBEDDINGS], found[HEAD]):
        raise DataError(
            f"{folder}: its output layer is not its embeddings, though {CONFIG} says so (tie_word_embeddings); set it to false "
            "there"
        )


def _way_to_names(missing: set[str], strange: set[str]) -> str:
    """How weights under other names get the right ones; empty where they have nothing in common."""
    within = missing - {HEAD}
    if not within:
        return ""
    for wrapping in _WRAPPINGS:
        if within <= {name.removeprefix(wrapping) for name in strange if name.startswith(wrapping)}:
            pattern = "^" + wrapping.replace(".", r"\.")
            return (
                f"{wrapping!r} stands before their names: `AutoModelForCausalLM.from_pretrained(FOLDER, "
                f'key_mapping={{r"{pattern}": ""}}).save_pretrained(NEW, save_original_format=False)` takes it away'
            )
    if within <= {f"model.{name}" for name in strange} and HEAD not in missing:
        return f"'model.' is gone from their names: {_TO_SAFETENSORS} writes it"
    return ""
