"""SentencePiece models: reading them, whether one is of LLaMA's kind, and its pieces in the tokenizers library's form."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from minima.errors import DataError
from minima.workspace.model_folder import POINTER

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of a SentencePiece piece (sentencepiece_model.proto)."""
_BPE = 2
_RANKS = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


def read_model(place: str | Path) -> Any:
    """The ModelProto in a SentencePiece model file.

    Raises:
        DataError: there is no such file, or it is something else.
    """
    try:
        content = Path(place).read_bytes()
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}); a SentencePiece model file is needed here") from None
    return parse_model(content, str(place))


def parse_model(content: bytes, place: str) -> Any:
    """The ModelProto in `content`; `place` names it in errors.

    Raises:
        DataError: `content` is no SentencePiece model.
    """
    check_pointer(content, place)
    remedy = "a SentencePiece model (tokenizer.model, *.model) is needed here; fetch the file again"
    if _RANKS.match(content):
        remedy = "these are ranks for tiktoken, as of LLaMA-3: fetch tokenizer.json and tokenizer_config.json of that model"
    proto = sentencepiece_model.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(content)
        sentencepiece.SentencePieceProcessor(model_proto=content)
    except (DecodeError, RuntimeError):
        raise DataError(f"{place}: not a SentencePiece model ({len(content)} bytes); {remedy}") from None
    if not proto.pieces:
        raise DataError(f"{place}: a SentencePiece model without pieces; {remedy}")
    return proto


def spelled_out(proto: Any) -> Tokenizer:
    """The tokenizers library's form of a SentencePiece model of LLaMA's kind, with its ids."""
    unknown, bos, _ = (proto.pieces[i].piece for i in special_ids(proto))
    special = [AddedToken(p.piece, normalized=False, special=True) for p in proto.pieces if p.type in {UNKNOWN, CONTROL}]
    made = Tokenizer(
        models.BPE(
            vocab={p.piece: i for i, p in enumerate(proto.pieces)},
            merges=list(merges(proto)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Prepend(SPACE)] if proto.normalizer_spec.add_dummy_prefix else []
    made.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", SPACE)])
    strip: list[Any] = [decoders.Strip(" ", 1, 0)] if spaces else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(  # transformers takes it from here, whatever add_bos_token says.
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, proto.trainer_spec.bos_id)]
    )
    return made


def check_kind(proto: Any, place: str) -> None:
    """Check that a SentencePiece model is of LLaMA's kind.

    Raises:
        DataError: it is not BPE with byte pieces, changes the text by more than spaces, or has pieces that are always kept
            whole; or it lacks `<unk>`, `<s>` or `</s>`.
    """
    if found := list(unlike_llama(proto)):
        raise DataError(
            f"{place}: not a SentencePiece model of LLaMA's kind: it has {', '.join(found)}; valid: BPE with 256 byte pieces, "
            "<unk>, <s> and </s>, that changes nothing but spaces"
        )


def unlike_llama(proto: Any) -> Iterator[str]:
    """What a SentencePiece model has that those of LLaMAs have not."""
    normalizer, types = proto.normalizer_spec, [p.type for p in proto.pieces]
    wrong = {
        f"model_type {proto.trainer_spec.model_type}, not {_BPE} (BPE)": proto.trainer_spec.model_type != _BPE,
        "no byte pieces": types.count(BYTE) != 256 or not proto.trainer_spec.byte_fallback,
        f"a normaliser ({normalizer.name or 'unnamed'})": bool(normalizer.precompiled_charsmap),
        "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
        "no escape_whitespaces": not normalizer.escape_whitespaces,
        "treat_whitespace_as_suffix": proto.trainer_spec.treat_whitespace_as_suffix,
        "user-defined pieces": USER_DEFINED in types,
        "unused pieces": UNUSED in types,
        "no <unk>, <s> or </s>": min(special_ids(proto)) < 0 or max(special_ids(proto)) >= len(types),
    }
    yield from (name for name, there in wrong.items() if there)


def merges(proto: Any) -> Iterator[tuple[str, str]]:
    """The merges of a BPE model in the order in which SentencePiece prefers them: by falling score of the result.

    SentencePiece may also merge a character that is no piece; tokenizers cannot. `spelled` tells such a piece.
    """
    normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
    # Equal scores keep the order of the pieces; equal results are taken from the left in the text by both libraries.
    for piece in sorted(normal, key=lambda piece: -normal[piece]):
        for split in range(1, len(piece)):
            left, right = piece[:split], piece[split:]
            if left in normal and right in normal:
                yield left, right


def spelled(piece: str, characters: set[str]) -> bool:
    """Whether each character of `piece` is in `characters`, the pieces of one character."""
    return all(character in characters for character in piece)


def special_ids(proto: Any) -> tuple[int, int, int]:
    """The ids of `<unk>`, `<s>` and `</s>`; -1 for one that is not there."""
    spec = proto.trainer_spec
    return spec.unk_id, spec.bos_id, spec.eos_id


def check_pointer(content: bytes, place: str) -> None:
    """Check that the content of a file is not what Git LFS leaves for one that was not fetched.

    Raises:
        DataError: it is; `place` names the file.
    """
    if content.startswith(POINTER):
        raise DataError(f"{place}: a Git LFS pointer, not the file; `git lfs pull` there fetches it")
