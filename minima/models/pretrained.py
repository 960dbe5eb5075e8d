"""Model folders: what `from_pretrained` loads, and the facts about a model's shape."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

from minima.data import chat, tokenization
from minima.errors import DataError, UsageError
from minima.models.shape import Shape
from minima.workspace import model_folder, weight_files

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    chat.TEMPLATE_FILE,
)
Config = LlamaConfig | MistralConfig | Qwen2Config
Model = LlamaForCausalLM | MistralForCausalLM | Qwen2ForCausalLM
FAMILIES: dict[str, tuple[type[Config], Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
"""What is made of a folder, by its `model_type`; `model_folder` says what the folder must hold."""
GENERATION = "generation_config.json"
_RETURNED = ("return_dict_in_generate", "output_hidden_states", "output_attentions", "output_scores", "output_logits")
"""What `generate` gives back beside the ids: whoever calls it says so, no folder."""


def attention(name: str, dtype: torch.dtype = torch.bfloat16) -> str:
    """The attention kernel that the option value `name` means here.

    `auto` is flash_attention_2 where there are a GPU, the flash-attn package and a half-precision `dtype`, else sdpa.

    Raises:
        UsageError: flash_attention_2 is asked for and cannot run.
    """
    lacks = []
    if not torch.cuda.is_available():
        lacks.append("a GPU")
    if importlib.util.find_spec("flash_attn") is None:
        lacks.append("the flash-attn package")
    if dtype not in {torch.bfloat16, torch.float16}:
        lacks.append("half precision (--use_bf16)")
    if name == "auto":
        return "sdpa" if lacks else "flash_attention_2"
    if name == "flash_attention_2" and lacks:
        raise UsageError(f"--attn_implementation: flash_attention_2 needs {' and '.join(lacks)}; valid here: auto, eager, sdpa")
    return name


def config(folder: str | Path) -> Config:
    """The configuration of the model in `folder`, after a look at which files are there and at their headers.

    Raises:
        DataError: `model_folder.check` says so, or transformers knows no such model.
    """
    place = Path(folder) / model_folder.CONFIG
    # Which kernel computes is said by an option: that of whoever wrote the folder may not be here.
    raw = {name: value for name, value in model_folder.check(folder).items() if "attn_implementation" not in name}
    made, model = FAMILIES[raw["model_type"]]
    try:
        found = made(**raw)
        first = {name: value for name, value in raw.items() if name != "layer_types"} | {
            "num_hidden_layers": 1,
            "pad_token_id": None,
        }
        with torch.device("meta"):
            model(made(**first))
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{place}: no model can be made of it ({what}); fetch the file again") from None
    return found


def check_positions(found: Config, max_seq_length: int) -> None:
    """Check that a model has a position for each token.

    Raises:
        DataError: sequences are longer.
    """
    if max_seq_length > found.max_position_embeddings:
        raise DataError(
            f"--max_seq_length: {max_seq_length} tokens, the model has {found.max_position_embeddings} positions "
            f"(max_position_embeddings); valid: up to {found.max_position_embeddings}"
        )


def align(found: Config, folder: str | Path) -> Config:
    """`found` with the ids of `<s>` and `</s>` that the tokenizer in `folder` has, and none of padding; changed in place.

    The first conversions of LLaMA name `<unk>` and `<s>`, and some models a list. A padding id would freeze its row of the
    embeddings in training, which for many chat models is that of `</s>`.

    Raises:
        DataError: its tokenizer cannot be read.
    """
    if any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = tokenization.load(folder)
        found.bos_token_id, found.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    found.pad_token_id = None
    return found


def generation_ids(generation: Mapping[str, Any], found: Config) -> dict[str, Any]:
    """The ids of a generation configuration, as `found` has them; more ends than one stay, if its own is among them."""
    ends = generation.get("eos_token_id")
    if not isinstance(ends, list) or found.eos_token_id not in ends:
        ends = found.eos_token_id
    pad = generation.get("pad_token_id")
    sound = isinstance(pad, int) and 0 <= pad < found.vocab_size
    return {
        "bos_token_id": found.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": pad if sound else found.eos_token_id,
    }


def generation(folder: str | Path, found: Config) -> GenerationConfig:
    """The generation configuration of a folder, with the ids that `found` has.

    What transformers would refuse to write, as the first LLaMA-2 had it (a temperature without sampling), is left out, and
    this is said.
    """
    made = GenerationConfig()
    if (Path(folder) / GENERATION).is_file():
        try:
            made = GenerationConfig.from_pretrained(folder, local_files_only=True)
            made.validate(strict=True)
        except (OSError, StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = " ".join(str(error).split())[:300]
            print(f"{Path(folder) / GENERATION}: left out, it contradicts itself ({what})", file=sys.stderr, flush=True)
            made = GenerationConfig()
    for name in _RETURNED:
        setattr(made, name, False)
    if found.eos_token_id is not None:
        for name, value in generation_ids(made.to_dict(), found).items():
            setattr(made, name, value)
    return made


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype,
    attn_implementation: str = "auto",
    device: str | torch.device = "cpu",
) -> Model:
    """Load the model in `folder` in evaluation mode; its weights are held once.

    Raises:
        DataError: `config` says so, or the weights do not fit the configuration or cannot be read.
        UsageError: the attention kernel cannot run here.
    """
    folder = Path(folder)
    found = align(config(folder), folder)
    kernel = attention(attn_implementation, dtype)
    logging.disable_progress_bar()
    try:
        # transformers itself finds no shards where the index has no "metadata". The tensors are the files, mapped.
        loaded: Any = FAMILIES[found.model_type][1].from_pretrained(
            None,
            config=found,
            state_dict=_mapped(folder),
            dtype=dtype,
            attn_implementation=kernel,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: its weights cannot be read ({error}); fetch or make the folder again") from None
    model: Any = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])  # transformers would draw them at random, with no more than a warning.
    if missing:
        raise DataError(f"{folder}: its weights lack {', '.join(missing[:5])} ({len(missing)} in all) that config.json implies")
    model.generation_config = generation(folder, found)
    result: Model = model.to(device).eval()
    return result


def _mapped(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder by name, as views of its files."""
    places = weight_files.tensors(folder)
    opened = {file: safe_open(folder / file, framework="pt") for file in {tensor.file for tensor in places.values()}}
    return {name: opened[tensor.file].get_tensor(name) for name, tensor in places.items()}


def save(
    model: Model,
    tokenizer: str | Path | PreTrainedTokenizerBase | None,
    folder: str | Path,
    *,
    verb: str,
    made_of: Mapping[str, str],
    state_dict: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that AutoModelForCausalLM, AutoTokenizer and vLLM load.

    Args:
        model: gives configuration, generation configuration and, without `state_dict`, the weights.
        tokenizer: a folder whose tokenizer files are copied, a tokenizer, or None if they are written otherwise.
        folder: where; made if it is not there.
        verb: the stage that made the model, for the model card.
        made_of: what it was made of: option name to path, for the model card.
        state_dict: weights under the model's own names; those of a training engine, for example.
        dtype: of the weights as written; each keeps its own by default.
    """
    folder = Path(folder)
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    if dtype is not None:
        weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    logging.disable_progress_bar()
    model.save_pretrained(folder, state_dict=weights, max_shard_size="5GB")
    place = folder / model_folder.CONFIG
    raw = json.loads(place.read_text(encoding="utf-8"))
    if dtype is not None:  # save_pretrained has written the type of the live weights.
        raw["dtype"] = str(dtype).removeprefix("torch.")
    # Programs with transformers 4 know no rope_parameters, and would turn LLaMA-3's heads by LLaMA-2's angles, silently.
    rope = dict(raw["rope_parameters"])
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    place.write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer.save_pretrained(folder)
    elif tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
    (folder / "README.md").write_text(card(model.config, verb, made_of), encoding="utf-8")


def copy_tokenizer(source: str | Path, folder: str | Path) -> None:
    """Copy the tokenizer files of one model folder to another, and `tokenization.make_plain` of them.

    Raises:
        DataError: `source` has none.
    """
    source, folder = Path(source), Path(folder)
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if "tokenizer.json" not in found and "tokenizer.model" not in found:
        raise DataError(f"{source}: no tokenizer; a model folder has tokenizer.json or tokenizer.model")
    for name in found:
        shutil.copyfile(source / name, folder / name)
    tokenization.make_plain(folder)


def card(config: Config, verb: str, made_of: Mapping[str, str]) -> str:
    """The model card, in Markdown: what the model is, of what, by which stage."""
    sources = "".join(f"- `{option}`: `{value}`\n" for option, value in made_of.items())
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [{config.model_type}, minima]\n---\n"
        f"# A {model_folder.FAMILIES[config.model_type]} made by `minima {verb}`\n\n"
        f"{shape(config).parameters:,} parameters: {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{config.num_attention_heads} heads of {head_dim(config)} with {kv_heads(config)} key-value heads, "
        f"feed-forward size {config.intermediate_size}, vocabulary {config.vocab_size}.\n\n"
        f"Made of:\n{sources or '- nothing but a seed' + chr(10)}\n"
        "Its licence follows from what it was made of. Load it with `AutoModelForCausalLM.from_pretrained`.\n"
    )


def head_dim(config: Config) -> int:
    """Width of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kv_heads(config: Config) -> int:
    """Number of key-value heads."""
    return config.num_key_value_heads or config.num_attention_heads


def shape(config: Config) -> Shape:
    """The shape of the model that `config` describes."""
    attention_bias = getattr(config, "attention_bias", False)
    return Shape(
        layer=config.num_hidden_layers,
        hidden=config.hidden_size,
        head=config.num_attention_heads,
        kv_head=kv_heads(config),
        head_dim=head_dim(config),
        intermediate=config.intermediate_size,
        vocab_size=config.vocab_size,
        tied=config.tie_word_embeddings,
        qkv_bias=attention_bias or isinstance(config, Qwen2Config),
        output_bias=attention_bias,
        mlp_bias=getattr(config, "mlp_bias", False),
        window=getattr(config, "sliding_window", None) or 0,
    )
