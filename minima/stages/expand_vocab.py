"""The stage `expand-vocab`: Chinese pieces for a LLaMA's tokenizer, and rows for them in its embeddings.

Everything is done tensor by tensor in the model's own type: only the shards with the embeddings are written anew, the
others are copied.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minima.data import piece_model, tokenization
from minima.errors import DataError, UsageError
from minima.models import pretrained
from minima.options import ExpandVocab, split_digest
from minima.workspace import weight_files
from minima.workspace.artifact import Output
from minima.workspace.model_folder import EMBEDDINGS, HEAD

MULTIPLE = 64
"""What the grown vocabulary's size is a multiple of."""
IDEOGRAPHS = range(0x4E00, 0x9FA6)
PUNCTUATION = frozenset("。，？！；：“”‘’《》〈〉【】『』—…「」")

NewRows = Callable[[torch.Tensor], torch.Tensor]
"""From the old rows [V, H] to those that are added [N, H], float32."""


def run(options: ExpandVocab, output: Output) -> dict[str, Any]:
    """Write a model folder whose tokenizer has the Chinese pieces behind its own, with embeddings and head to match.

    Raises:
        DataError: an input is not what it should be.
        UsageError: `vocab_size` leaves no room for new pieces, or there are too few of them.
    """
    output.progress.phase("choosing pieces")
    source = Path(split_digest(options.llama_tokenizer_dir)[0])
    shape = pretrained.config(source)
    old = _llama_pieces(source)
    chinese = piece_model.read_model(split_digest(options.chinese_sp_path)[0])
    pieces, theirs = [p.piece for p in old.pieces], [p.piece for p in chinese.pieces]
    added = select(pieces, theirs, published_rule=options.published_rule)
    reserved = 0
    if options.vocab_size:
        rule = len(added)
        added = fitted(pieces, theirs, added, options.vocab_size, published_rule=options.published_rule)
        reserved = len(set(added) - set(theirs))
        if len(added) != rule:
            rest = f" and {reserved} reserved ones, which no text gives," if reserved else ""
            new = f"{len(added) - reserved} new pieces{rest}"
            _say(f"{new} for --vocab_size {options.vocab_size}, where the rule alone gives {rule}")
    size = len(old.pieces) + len(added)
    grown = extend(old, added, published_rule=options.published_rule)
    tokenization.write(grown.SerializeToString(), output.folder)

    splits = _splits(old, added)
    spelled = splits[: len(added) - reserved]
    rows = _new_rows(options, splits, shape.initializer_range)
    _grow_weights(source, output, rows, len(old.pieces))
    _write_config(source, output.folder, grown)
    shape.vocab_size = size
    made_of = {name: getattr(options, name) for name in ("llama_tokenizer_dir", "chinese_sp_path")}
    (output.folder / "README.md").write_text(pretrained.card(shape, options.verb, made_of), encoding="utf-8")
    return {
        "vocab_size": size,
        "old_pieces": len(old.pieces),
        "added_pieces": len(added) - reserved,
        "reserved_pieces": reserved,
        "old_pieces_of_an_added_one": sum(map(len, spelled)) / max(len(spelled), 1),
    }


def select(old: list[str], chinese: list[str], *, published_rule: bool) -> list[str]:
    """The pieces to add, in order.

    Chinese ones (with an ideograph of U+4E00–U+9FA5 or one of 22 punctuation marks) in the order of their model, then spare
    ones without digits up to a multiple of 64; if too few are spare, the last ones are dropped down to a multiple. Unlike
    the paper's, the default rule takes none with an ASCII character or of spaces alone, so that English text cannot change.
    By both rules a piece needs all its characters as pieces: SentencePiece could form it without, tokenizers cannot.

    Raises:
        UsageError: nothing can be added, or not so much that a multiple of 64 is reached.
    """
    have = set(old)
    candidates = [piece for piece in dict.fromkeys(chinese) if piece not in have]
    if not published_rule:
        candidates = [p for p in candidates if not any(c.isascii() for c in p) and p.strip(piece_model.SPACE)]
    main = [p for p in candidates if is_chinese(p)]
    spare = [p for p in candidates if not is_chinese(p) and not any(c.isdigit() for c in p)]
    characters = {p for p in (*old, *main) if len(p) == 1}
    main = [p for p in main if piece_model.spelled(p, characters)]
    spare = [p for p in spare if len(p) == 1 or piece_model.spelled(p, characters)]

    missing = -(len(old) + len(main)) % MULTIPLE
    added = main + spare[:missing]
    surplus = (len(old) + len(added)) % MULTIPLE
    if surplus:
        # Single characters spell other pieces; of the rest, nothing is built on the last ones.
        added = main
        surplus = (len(old) + len(added)) % MULTIPLE
        dropped = [p for p in reversed(added) if len(p) > 1][:surplus]
        if len(dropped) < surplus:
            raise UsageError(
                f"--chinese_sp_path: {len(main)} Chinese and {len(spare)} spare pieces do not bring {len(old)} pieces to a "
                f"multiple of {MULTIPLE}; take a larger Chinese model"
            )
        added = [p for p in added if p not in set(dropped)]
    if not added:
        raise UsageError(f"--chinese_sp_path: none of its {len(chinese)} pieces can be added; take a larger Chinese model")
    return added


def fitted(old: list[str], chinese: list[str], added: list[str], size: int, *, published_rule: bool) -> list[str]:
    """`added`, as `select` gives it, for a vocabulary of exactly `size` pieces.

    The rarest go, but no single character, which others are spelled with. What lacks are spare pieces of the Chinese model,
    and as a last resort reserved ones (`<reserved_0>`), which no text gives.

    Raises:
        UsageError: the old pieces and the single characters alone are more.
    """
    room = size - len(old)
    surplus = [p for p in reversed(added) if len(p) > 1][: max(0, len(added) - room)]
    kept = [p for p in added if p not in set(surplus)]
    if len(kept) > room or not kept:
        raise UsageError(
            f"--vocab_size: {size} is too little for {len(old)} old pieces and new ones; at least "
            f"{len(old) + max(1, sum(len(p) == 1 for p in added))} are needed, the rule gives {len(old) + len(added)}"
        )
    have = {*old, *kept}
    characters = {p for p in have if len(p) == 1}
    spare = [
        piece
        for piece in dict.fromkeys(chinese)
        if piece not in have
        and (published_rule or not any(c.isascii() for c in piece))
        and piece.strip(piece_model.SPACE)
        and not any(c.isdigit() for c in piece)
        and (len(piece) == 1 or piece_model.spelled(piece, characters))
        and piece not in set(surplus)
    ]
    kept += spare[: room - len(kept)]
    reserved = (f"<reserved_{n}>" for n in range(size) if f"<reserved_{n}>" not in have)
    return kept + [next(reserved) for _ in range(room - len(kept))]


def _say(what: str) -> None:
    print(f"expand-vocab: {what}", file=sys.stderr)


def is_chinese(piece: str) -> bool:
    """Whether a piece has an ideograph or a Chinese punctuation mark."""
    return any(ord(c) in IDEOGRAPHS or c in PUNCTUATION for c in piece)


def extend(old: Any, added: Iterable[str], *, published_rule: bool) -> Any:
    """A copy of the ModelProto `old` with the pieces `added`, whose scores fall strictly, by 1 where float32 can.

    They start below the lowest old score; by the paper's rule below the last one, which in LLaMA is above that of its
    pieces of several spaces (-1e9, where float32 has steps of 64: pieces of equal score are taken in another order by
    SentencePiece than by tokenizers).
    """
    grown = type(old)()
    grown.CopyFrom(old)
    score = np.float32(old.pieces[-1].score if published_rule else min(p.score for p in old.pieces))
    for piece in added:
        score = min(score - np.float32(1), np.nextafter(score, np.float32(-np.inf)))
        grown.pieces.add(piece=piece, score=float(score), type=piece_model.NORMAL)
    grown.trainer_spec.vocab_size = len(grown.pieces)
    return grown


def _llama_pieces(source: Path) -> Any:
    place = source / tokenization.MODEL_FILE
    if not place.is_file() and (source / tokenization.TOKENIZER_FILE).is_file():
        raise DataError(
            f"{source}: a tokenizer in {tokenization.TOKENIZER_FILE} alone cannot grow here (LLaMA-3, Qwen2 and SmolLM2 have "
            f"byte-level BPE, which spells any Chinese): leave expand-vocab out, and begin with build-data and adapt. For a "
            f"LLaMA-1, LLaMA-2, TinyLlama or Mistral copy {tokenization.MODEL_FILE} from where the weights come from"
        )
    if not place.is_file():
        raise DataError(
            f"{source}: no {tokenization.MODEL_FILE} (found {', '.join(sorted(p.name for p in source.iterdir()))}); "
            "new pieces go into the SentencePiece model: copy it from where the weights come from"
        )
    proto = piece_model.read_model(place)
    piece_model.check_kind(proto, str(place))
    return proto


def _splits(old: Any, added: list[str]) -> list[list[int]]:
    """The old ids that spell each added piece, without the space that SentencePiece puts before a text."""
    bare = type(old)()
    bare.CopyFrom(old)
    bare.normalizer_spec.add_dummy_prefix = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=bare.SerializeToString())
    ids: list[list[int]] = processor.encode([piece.replace(piece_model.SPACE, " ") for piece in added])
    return ids


def _new_rows(options: ExpandVocab, splits: list[list[int]], deviation: float) -> NewRows:
    generator = torch.Generator().manual_seed(options.seed)
    rules: dict[str, NewRows] = {
        "split": lambda old_VH: means(old_VH, splits),
        "mean": lambda old_VH: drawn(old_VH, len(splits), generator),
        "random": lambda old_VH: deviation * torch.randn(len(splits), old_VH.shape[1], generator=generator),
    }
    return rules[options.embedding_init]


def means(old_VH: torch.Tensor, splits: list[list[int]]) -> torch.Tensor:
    """For each list of ids the mean of their rows: [N, H], float32."""
    return torch.stack([old_VH[ids].float().mean(0) for ids in splits]) if splits else old_VH[:0].float()


def drawn(old_VH: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Rows [count, H], float32, of the normal distribution with mean and covariance of all old rows.

    With z of V standard normal numbers, zᵀ(rows − mean)/√(V − 1) has their covariance: no H × H matrix is decomposed.
    """
    rows_VH = old_VH.float()
    mean_H = rows_VH.mean(0)
    rows_VH = (rows_VH - mean_H).div_(max(len(rows_VH) - 1, 1) ** 0.5)
    new_NH = torch.empty(count, rows_VH.shape[1])
    for chunk_nH in new_NH.split(1024):
        chunk_nH.copy_(torch.randn(len(chunk_nH), len(rows_VH), generator=generator) @ rows_VH + mean_H)
    return new_NH


def _grow_weights(source: Path, output: Output, new_rows: NewRows, pieces: int) -> None:
    """Copy the shards of `source`, those with the embeddings or the head with the rows that `new_rows` gives."""
    single = (source / weight_files.WEIGHTS).is_file()
    if single:
        index: dict[str, Any] = {}
        shards = [weight_files.WEIGHTS]
    else:
        index = json.loads((source / weight_files.INDEX).read_text(encoding="utf-8"))
        if not isinstance(index.get("metadata"), dict):
            index["metadata"] = {}  # from_pretrained finds no shards without.
        shards = sorted(set(index["weight_map"].values()))
    seen = set()
    for shard in output.progress.track(shards, "writing", len(shards), "shards"):
        try:
            with safe_open(source / shard, "pt") as file:
                names = set(file.keys())
                grown = sorted(names & {EMBEDDINGS, HEAD})
                if grown:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                    metadata = file.metadata()
        except (OSError, SafetensorError) as error:
            raise DataError(f"{source / shard}: weights that cannot be read ({error}); fetch the file again") from None
        seen |= names
        if not grown:
            shutil.copyfile(source / shard, output.folder / shard)
            continue
        for name in grown:
            old_VH = tensors[name]
            if len(old_VH) < pieces:
                raise DataError(
                    f"{source / shard}: {name} has {len(old_VH)} rows, {tokenization.MODEL_FILE} has {pieces} pieces; "
                    "weights and tokenizer are not of one model: copy the tokenizer of these weights"
                )
            before = old_VH.nbytes
            if len(old_VH) > pieces:
                _say(f"{name}: {len(old_VH) - pieces} rows beyond the {pieces} pieces are left out (padding, or added tokens)")
                old_VH = old_VH[:pieces].clone()
            tensors[name] = torch.cat([old_VH, new_rows(old_VH).to(old_VH.dtype)])
            if index:
                more = tensors[name].nbytes - before
                index["metadata"]["total_size"] = index["metadata"].get("total_size", 0) + more
        save_file(tensors, output.folder / shard, metadata=metadata or {"format": "pt"})
    if EMBEDDINGS not in seen:
        raise DataError(f"{source}: its weights have no {EMBEDDINGS}; not a LLaMA as transformers writes it")
    if index:
        (output.folder / weight_files.INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_config(source: Path, folder: Path, grown: Any) -> None:
    """The configurations of `source` for a vocabulary of the pieces of `grown`, with its `<s>` and `</s>`."""
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    spec = grown.trainer_spec
    raw |= {"vocab_size": len(grown.pieces), "bos_token_id": spec.bos_id, "eos_token_id": spec.eos_id}
    raw.pop("pad_token_id", None)
    place = source / "generation_config.json"
    generation = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    generation |= pretrained.generation_ids(generation, pretrained.FAMILIES[raw["model_type"]][0](**raw))
    for name, content in (("config.json", raw), (place.name, generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
