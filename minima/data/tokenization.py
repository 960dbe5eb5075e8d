"""Tokenizers: loading the one of a model folder as its files have it, and writing one that gives exactly SentencePiece's ids.

transformers 5 rebuilds a LLaMA's tokenizer from vocabulary order and drops the dummy prefix before a leading space, so a
folder with only `tokenizer.model` is tokenised differently from what SentencePiece (and LLaMA's training) did. `write` and
`make_plain` therefore spell the model out as a `tokenizer.json` that AutoTokenizer, any other user of the tokenizers
library, and vLLM load as it is.
"""

import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from minima.data import piece_model
from minima.errors import DataError
from minima.workspace.marker import artifact_folder, read_marker
from minima.workspace.model_folder import check_links, check_mark

MODEL_FILE = "tokenizer.model"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_JSON_FILES = ("config.json", CONFIG_FILE, TOKENIZER_FILE, "special_tokens_map.json", "added_tokens.json")
ENDS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""Names that transformers has for special tokens, and what they are in LLaMAs."""
_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""What folders call "tokenizer.json as it is"; every version of transformers and vLLM reads the first."""
_CONTROL_FORM = re.compile(r"\s*▁?(<\S+>|\[\S+\])\s*")
PROBES = (
    "  The quick brown fox,\tdon't \"stop\"; it's 3.14 (or 1,234,567)?\n\n    def f(x): return x ** 2  # 中文 and ENGLISH",
    "二〇二六年，中国的“人工智能”…… 約３．５％《红楼梦》！",
    " leading",
    "trailing ",
    "a  b   c",
    "naïve café ﬁ ½ Ⅷ e\u0301",
    "😀👩‍💻",
    "\u3000全角　空格",
    "\x00\x7f\ufffd",
    "\r\n",
)
"""Texts that tell tokenizers with the same pieces apart: spaces, digits, case, compatibility forms, what has no piece."""


def load(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        DataError: the folder has none, its files cannot be read, or what they hold has no pieces, no beginning or no end
            of sequence.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; a tokenizer is the folder of a model")
    check_links(folder, (*_JSON_FILES, MODEL_FILE))
    if not (folder / TOKENIZER_FILE).is_file() and not (folder / MODEL_FILE).is_file():
        remedy = "copy those of the model it was made of, or make the folder with `minima expand-vocab`"
        if (folder / "vocab.json").is_file():
            remedy = f"`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` makes {TOKENIZER_FILE} of vocab.json"
        raise DataError(f"{folder}: no tokenizer; a model folder has {TOKENIZER_FILE} or {MODEL_FILE} ({remedy})")
    # from_pretrained answers a missing or broken file with whatever its guess about the file's kind ends in.
    described = {name: _object(folder / name) for name in _JSON_FILES}
    written = _written(folder, described[CONFIG_FILE])
    # What a folder calls empty, as the first LLaMAs did, it does not say.
    unsaid: dict[str, Any] = {name: None for name in ENDS if described[CONFIG_FILE].get(name) == ""}
    try:
        # Not AutoTokenizer: the classes that folders name build tokenizers of their own (SmolLM2's splits digits, GPT2Tokenizer
        # does not), or are code of the folder's.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **unsaid)
        tokenizer("a")
    except (ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        what = " ".join(str(error).split())
        raise DataError(f"{folder}: its tokenizer cannot be read ({what}); copy its tokenizer files again") from None
    if written:
        backend: Any = tokenizer.backend_tokenizer
        backend.model, backend.normalizer, backend.pre_tokenizer = written.model, written.normalizer, written.pre_tokenizer
        backend.decoder = written.decoder
    _name_ends(tokenizer, folder, described)
    _append_nothing(tokenizer)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise DataError(f"{folder}: its tokenizer is empty but for {tokenizer.all_special_tokens}; copy {TOKENIZER_FILE} again")
    _check_rows(tokenizer, folder, described["config.json"].get("vocab_size"))
    return tokenizer


def _written(folder: Path, described: Mapping[str, Any]) -> Tokenizer | None:
    """What `tokenizer.json` says as it is, else what `tokenizer.model` says if it is of LLaMA's kind."""
    if (folder / TOKENIZER_FILE).is_file() and not _spelled_anew(folder, described):
        try:
            return Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        except Exception as error:  # noqa: BLE001 - the tokenizers library raises nothing narrower
            raise DataError(f"{folder / TOKENIZER_FILE}: not a tokenizer ({error}); copy it again") from None
    proto = piece_model.read_model(folder / MODEL_FILE)
    if described.get("add_prefix_space") is False:
        proto.normalizer_spec.add_dummy_prefix = False
    return piece_model.spelled_out(proto) if not list(piece_model.unlike_llama(proto)) else None


def _spelled_anew(folder: Path, described: Mapping[str, Any]) -> bool:
    """Whether LlamaTokenizer is told to put no space in front, which `tokenizer.json` may not know."""
    return described.get("add_prefix_space") is False and _is_llama(described) and (folder / MODEL_FILE).is_file()


def _name_ends(tokenizer: PreTrainedTokenizerBase, folder: Path, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a tokenizer the beginning and the end of a sequence that the folder does not name."""
    said = {**described["special_tokens_map.json"], **described[CONFIG_FILE]}
    pieces = tokenizer.get_vocab()
    for name, usual in ENDS.items():
        if getattr(tokenizer, name) is None and not said.get(name) and said.get(name, "") is not None and usual in pieces:
            tokenizer.add_special_tokens({name: usual})
    if tokenizer.eos_token_id is None:
        number = described["config.json"].get("eos_token_id")
        known = tokenizer.convert_ids_to_tokens(number) if type(number) is int and 0 <= number < len(tokenizer) else None
        hint = f', such as "eos_token": "{known}" (eos_token_id {number} of config.json)' if known else ""
        raise DataError(f"{folder}: its tokenizer has no eos_token; name it in {CONFIG_FILE}{hint}")
    if tokenizer.bos_token_id is None:  # Of Qwen2, say: a text begins where the one before has ended.
        tokenizer.bos_token = tokenizer.eos_token


def _check_rows(tokenizer: PreTrainedTokenizerBase, folder: Path, rows: Any) -> None:
    """Refuse a tokenizer that gives a text ids for which the model beside it has no rows; of control tokens no text has any."""
    backend: Any = tokenizer.backend_tokenizer
    ids = [*backend.get_vocab(with_added_tokens=False).values(), *words(tokenizer).values()]
    most = max([*ids, tokenizer.bos_token_id, tokenizer.eos_token_id])
    if type(rows) is int and (tokenizer.pad_token_id or 0) >= rows:
        tokenizer.pad_token = tokenizer.eos_token  # What pads is never looked at, but it is looked up.
    if type(rows) is int and most >= rows:
        raise DataError(
            f"{folder}: its tokenizer has the id {most}, and the model {rows} rows (vocab_size of config.json); copy the "
            f"tokenizer of these weights, or where tokens were added, `model.resize_token_embeddings({most + 1})` and "
            "save_pretrained give them rows, which training must fill"
        )


def _append_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    """Leave the end of a sequence to who writes one: a question that ends in `</s>` is over (add_eos_token of some recipes)."""
    before, after = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = tokenizer("a")["input_ids"]
    if ids[-1] != after or len(ids) < 2:
        return
    begins = f"{tokenizer.bos_token} " if ids[0] == before else ""
    backend: Any = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begins}$A",
        pair=f"{begins}$A {begins.replace(' ', ':1 ')}$B:1",
        special_tokens=[(tokenizer.bos_token, before)],
    )


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of running text, without a beginning or an end of sequence.

    `<s>`, `</s>` and all other control tokens within a text are text, as they are for SentencePiece: HTML has a tag of that
    name. Where a folder of transformers' LlamaTokenizer has a SentencePiece model the ids are that model's own, with which
    LLaMAs were trained: what transformers makes of it drops a space at the beginning, and goes by the order of pieces of equal
    scores (Chinese-LLaMA's). With words that were added to the model, which SentencePiece knows nothing of, the ids are those
    of the tokenizers library.
    """
    if not texts:
        return []
    if processor := _processor(tokenizer):
        found: list[list[int]] = processor.encode(list(texts))
        return found
    if plain := _without_control(tokenizer):
        return [coded.ids for coded in plain.encode_batch(list(texts), add_special_tokens=False)]
    coded = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
    ids: list[list[int]] = coded["input_ids"]
    return ids


@functools.lru_cache(maxsize=4)
def _processor(tokenizer: PreTrainedTokenizerBase) -> Any:
    """SentencePiece with the model beside a tokenizer, if that is what its ids are of; else None.

    So it is where there is no `tokenizer.json`, or one beside the class LlamaTokenizer, whose ids may be others for a space at
    the beginning and for pieces of equal scores. `add_prefix_space: false` is heeded, as transformers does.
    """
    place = Path(tokenizer.name_or_path) / MODEL_FILE
    if not place.is_file():
        return None
    described = _object(place.with_name(CONFIG_FILE))
    if place.with_name(TOKENIZER_FILE).is_file() and not _is_llama(described):
        return None
    try:
        proto = piece_model.parse_model(place.read_bytes(), str(place))
    except DataError:
        return None  # Llama 3's file of that name is something else.
    ids = tokenizer.get_vocab()
    if any(ids.get(piece.piece) != number for number, piece in enumerate(proto.pieces)):
        return None
    if words(tokenizer).keys() - {piece.piece for piece in proto.pieces if piece.type == piece_model.USER_DEFINED}:
        return None
    if described.get("add_prefix_space") is False:
        proto.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _is_llama(described: Mapping[str, Any]) -> bool:
    """Whether the class that a folder names is that of SentencePiece's LLaMAs."""
    return str(described.get("tokenizer_class", "")).removesuffix("Fast").lower() in {"llamatokenizer", "codellamatokenizer"}


@functools.lru_cache(maxsize=4)
def _without_control(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """The tokenizers library's own one with each control token as text, also those that a folder does not call special.

    None where it calls all of them special: then transformers keeps them as text.
    """
    known = words(tokenizer)
    hidden = {token.content for token in tokenizer.added_tokens_decoder.values() if not token.special} - known.keys()
    if not hidden:
        return None
    backend: Any = tokenizer.backend_tokenizer
    raw = json.loads(backend.to_str())
    for token in raw["added_tokens"]:
        token["special"] |= token["content"] in hidden
    made = Tokenizer.from_str(json.dumps(raw))
    made.encode_special_tokens = True
    made.no_truncation()
    made.no_padding()
    return made


def words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ordinary words of `tokenizer.add_tokens([…])`, with their ids: parts of any text, found before the pieces are.

    A control token is none, even where a folder does not call it special (`"special": false`, or an old added_tokens.json,
    which cannot say): `<|im_end|>`, `<pad>` and `[PAD]` are told by their form.
    """
    special = set(tokenizer.all_special_tokens)
    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if not token.special and token.content not in special and not _CONTROL_FORM.fullmatch(token.content)
    }


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the ids of a tokenizer mean, as a hash: equal for two folders just when records of one are records of the other.

    That is its pieces with their ids, which of them begin and end a sequence, and the ids that it gives to some text and to
    each of its pieces: the same tokenizer may be written in several ways, so the files themselves say nothing. Words that were
    added to the pieces count likewise. Added control tokens are left out: running text has none, and tuning often adds one.
    """
    backend: Any = tokenizer.backend_tokenizer
    pieces: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    added = words(tokenizer)
    texts = [*PROBES, *sorted(pieces), *(text for word in sorted(added) for text in (word, f"a {word} a", f"a{word}a"))]
    coded: list[list[int]] = []
    for start in range(0, len(texts), 4096):
        coded += encode(tokenizer, texts[start : start + 4096])
    meaning: list[Any] = [sorted(pieces.items()), tokenizer.bos_token_id, tokenizer.eos_token_id, coded]
    if added:
        meaning.append(sorted(added.items()))
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16]


def check_records(paths: Sequence[Path], option: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that records were made with a tokenizer whose ids mean the same, as far as a marker beside them says it.

    Of a folder where none does, that is said.

    Raises:
        DataError: with another one.
    """
    ours = ""
    for folder in dict.fromkeys(path.parent for path in paths):
        made = artifact_folder(str(folder))
        theirs = read_marker(made)["metrics"].get("tokenizer") if made else None
        ours = ours or (fingerprint(tokenizer) if theirs else "")
        if not theirs and os.environ.get("RANK", "0") == "0":
            why = "its marker does not say it" if made else "no marker"
            what = f"--{option}: {folder}: {why}: which tokenizer made these records is not known"
            print(what, file=sys.stderr, flush=True)
        if theirs and theirs != ours:
            raise DataError(
                f"--{option}: the records in {folder} were made with another tokenizer ({theirs}) than that of "
                f"{tokenizer.name_or_path} ({ours}): their ids would mean other text; build them again with "
                f"--tokenizer_name_or_path {tokenizer.name_or_path}"
            )


def check_same(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, option: str) -> None:
    """Check that the ids of two models' tokenizers mean the same.

    Raises:
        DataError: they do not; `option` names the first.
    """
    if fingerprint(one) != fingerprint(other):
        raise DataError(
            f"--{option}: the ids of its tokenizer ({one.name_or_path}) mean other text than those of {other.name_or_path}; "
            "valid: two models with one tokenizer, such as a model and what `minima convert` made of it"
        )


def write(model: bytes | str | Path, folder: str | Path) -> None:
    """Write the tokenizer files of a LLaMA: `tokenizer.model` and what makes AutoTokenizer give exactly its ids.

    Args:
        model: a SentencePiece BPE model with byte pieces, serialised or as a file.
        folder: a model folder; its old tokenizer files are replaced.

    Raises:
        DataError: not a SentencePiece model, or one of a kind that LLaMAs do not have and that is not reproduced.
    """
    place = "the SentencePiece model" if isinstance(model, bytes) else str(model)
    proto = piece_model.parse_model(model, place) if isinstance(model, bytes) else piece_model.read_model(model)
    piece_model.check_kind(proto, place)
    folder = Path(folder)
    unknown, bos, eos = (proto.pieces[i].piece for i in piece_model.special_ids(proto))
    tokenizer = piece_model.spelled_out(proto)

    (folder / MODEL_FILE).write_bytes(model if isinstance(model, bytes) else Path(model).read_bytes())
    tokenizer.save(str(folder / TOKENIZER_FILE))
    description = {
        "tokenizer_class": _PLAIN[0],
        "add_bos_token": True,
        "add_eos_token": False,
        "unk_token": unknown,
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for stale in ("special_tokens_map.json", "added_tokens.json"):
        (folder / stale).unlink(missing_ok=True)


def make_plain(folder: str | Path) -> None:
    """Let AutoTokenizer, and whatever serves a model, load from `folder` what `load` does.

    `tokenizer.json` is spelled out where it is not there, and the class that builds another tokenizer of it is no longer named.
    A folder whose ids SentencePiece alone gives stays as it is.
    """
    folder = Path(folder)
    described = _object(folder / CONFIG_FILE)
    whole = (folder / TOKENIZER_FILE).is_file()
    if whole and described.get("tokenizer_class") in _PLAIN and "auto_map" not in described:
        return
    tokenizer = load(folder)
    meaning = fingerprint(tokenizer)
    before = {place: place.read_bytes() for name in (CONFIG_FILE, TOKENIZER_FILE) if (place := folder / name).is_file()}
    plain = {name: value for name, value in described.items() if name != "auto_map"} | {"tokenizer_class": _PLAIN[0]}
    for name in ENDS:
        token = getattr(tokenizer, name)
        if token and not described.get(name) and (name == "eos_token" or token != tokenizer.eos_token):
            plain[name] = token
    if not whole or _spelled_anew(folder, described):
        backend: Any = tokenizer.backend_tokenizer
        backend.save(str(folder / TOKENIZER_FILE))
    (folder / CONFIG_FILE).write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if fingerprint(load(folder)) != meaning:
        for name in (CONFIG_FILE, TOKENIZER_FILE):
            (folder / name).unlink()
        for place, content in before.items():
            place.write_bytes(content)


def _object(place: Path) -> dict[str, Any]:
    """The object in a JSON file of a tokenizer; an empty one where there is no such file."""
    try:
        content = place.read_bytes()
        piece_model.check_pointer(content, str(place))
        check_mark(content, place)
        value = json.loads(content.decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}); copy it again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: holds a {type(value).__name__}, not an object; copy it again")
    return value


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Stages use processes of their own; the library's threads fork badly.
