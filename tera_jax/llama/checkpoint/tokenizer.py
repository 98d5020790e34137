"""Tokenizers of Hugging Face directories and of GGUF files, neither of which needs torch."""

import math
import os
from pathlib import Path
from typing import Any, Literal, Never

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.llama.checkpoint.gguf_file import field, open_gguf, section
from tera_jax.llama.checkpoint.pre_tokenizers import CUTS
from tera_jax.llama.checkpoint.resolve import locate
from tera_jax.llama.family.gguf_rows import ROWS

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
_LIMIT = 2**27
"""Bytes of a tokenizer's file. The largest published ones have a third."""
_BITS = 128
_FETCH = "fetch the checkpoint again"
_ID = Key(int | None, None, least=0)
_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_KEYS = {
    "model": Key(str | None, None),
    "pre": Key(str | None, None),
    "tokens": Key(list[str] | None, None),
    "token_type": Key(list[int] | None, None),
    "scores": Key(list[float] | None, None),
    "merges": Key(list[str] | None, None),
    "add_bos_token": Key(bool | None, None),
    "add_eos_token": Key(bool, False),
    "add_space_prefix": Key(bool, True),
    "remove_extra_whitespaces": Key(Literal[False], False),
    "precompiled_charsmap": Key(list[Never] | None, None),
    **{f"{name}_token_id": _ID for name in _IDS.values()},
}
_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


def load_tokenizer(path_or_name: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a checkpoint.

    Args:
        path_or_name: an HF directory, a GGUF file, or a name on the hub; see
            :func:`tera_jax.llama.checkpoint.resolve.locate`.

    Returns:
        A transformers tokenizer with its special tokens and its chat template. Code that a
        checkpoint brings is never run.

    Raises:
        FileNotFoundError: for a path or name that is not there.
        ValueError: for a file that cannot be read, a GGUF tokenizer of a kind that is not built
            here, and for token ids beyond the model's vocabulary.
    """
    path = locate(path_or_name)
    if path.is_file():
        return _from_gguf(path)
    tokenizer = _from_hf(path)
    config = json_files.read(path / "config.json", remedy=_FETCH, integer_bits=_BITS)
    sizes = {"vocab_size": Key(int | None, None, least=1)}
    found = json_files.typed(path / "config.json", config, sizes, others="ignore")
    _require_within(path, max(tokenizer.get_vocab().values(), default=-1), found["vocab_size"])
    return tokenizer


def _from_hf(path: Path) -> PreTrainedTokenizerBase:
    for name in _FILES:
        if (path / name).is_file():
            json_files.read(path / name, _LIMIT, _FETCH, _BITS)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # tokenizers panics beside Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} has no tokenizer that transformers reads ({type(error).__name__}: {cause}); "
            f"{_FETCH}"
        ) from error


def _require_within(path: Path, last: int, vocab_size: int | None) -> None:
    if vocab_size is not None and last >= vocab_size:
        raise ValueError(
            f"{path}: the tokenizer has token ids up to {last}, but the model has vocab_size="
            f"{vocab_size}; take the tokenizer of this model, or widen the model's embedding"
        )


def _from_gguf(path: Path) -> PreTrainedTokenizerFast:
    reader = open_gguf(path)
    read = json_files.typed(
        path,
        section(reader, "tokenizer.ggml."),
        _KEYS,
        others="ignore",  # such as the tokens to fill in the middle of a text
        within="tokenizer.ggml.",
        remedy="load the tokenizer of the Hugging Face checkpoint",
    )
    kind, tokens = read["model"], read["tokens"]
    if tokens is None or kind not in ("gpt2", "llama"):
        raise ValueError(
            f"{path} holds a tokenizer of kind {kind!r}; only byte-level BPE ('gpt2') and "
            "SentencePiece BPE ('llama') are built here: load the tokenizer of the Hugging Face "
            "checkpoint"
        )
    order = "merges" if kind == "gpt2" else "scores"
    if read[order] is None:
        raise ValueError(f"{path} lacks the {order} of its tokenizer; convert the checkpoint again")
    types = [_NORMAL] * len(tokens) if read["token_type"] is None else read["token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError(f"{path}: two tokens of the vocabulary are the same; fetch it again")
    _require_lengths(path, len(tokens), token_type=types, scores=read["scores"])
    rows = {tensor.name: int(tensor.shape[-1]) for _, tensor in reader.tensors if len(tensor.shape)}
    _require_within(path, len(tokens) - 1, rows.get("token_embd.weight"))
    row = ROWS.get(field(reader, "general.architecture"))
    kept = None if row is None or kind != "llama" else row.strip_after
    if kind == "gpt2":
        merges = [_halves(path, merge, vocabulary) for merge in read["merges"]]
        backend, add_bos = _byte_level(path, read["pre"], vocabulary, merges)
    else:
        prefix = ("first" if kept is None else "always") if read["add_space_prefix"] else "never"
        backend, add_bos = _sentencepiece(vocabulary, read["scores"], types, prefix), True
    # Both kinds are matched before anything else; only control tokens are skipped in decoding.
    # A user-defined token of SentencePiece has its spaces as they are after normalisation.
    for wanted, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        found = [token for token, type_ in zip(tokens, types, strict=True) if type_ == wanted]
        added = [
            AddedToken(
                token,
                normalized=kind == "llama" and not special,
                special=special,
                rstrip=kept is not None and token not in kept,
            )
            for token in found
        ]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    ids = {ours: read[f"{theirs}_token_id"] for ours, theirs in _IDS.items()}
    for name, id_ in ids.items():
        if id_ is not None and id_ >= len(tokens):
            raise ValueError(
                f"{path} has {name}_token_id={id_}, but {len(tokens)} tokens; fetch it again"
            )
    add_bos = add_bos if read["add_bos_token"] is None else read["add_bos_token"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": None if id_ is None else tokens[id_] for name, id_ in ids.items()},
        add_bos_token=ids["bos"] is not None and add_bos,
        add_eos_token=ids["eos"] is not None and read["add_eos_token"],
        chat_template=field(reader, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def _require_lengths(path: Path, count: int, **lists: list[Any] | None) -> None:
    for name, given in lists.items():
        if given is not None and len(given) != count:
            raise ValueError(
                f"{path} has {len(given)} of tokenizer.ggml.{name} for {count} tokens; "
                "fetch it again"
            )
        if given is not None and not all(map(math.isfinite, given)):
            raise ValueError(f"{path} has NaN in tokenizer.ggml.{name}; fetch it again")


def _halves(path: Path, merge: str, vocabulary: dict[str, int]) -> tuple[str, str]:
    first, _, second = merge.partition(" ")
    if not {first, second, first + second} <= vocabulary.keys():
        raise ValueError(
            f"{path} merges {json_files.shown(merge)}, whose parts or whole are no tokens; "
            "fetch it again"
        )
    return first, second


def _byte_level(
    path: Path, pre: str | None, vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> tuple[Tokenizer, bool]:
    """Byte-level BPE, and whether its texts start with bos where the file does not say."""
    if pre not in CUTS:
        raise ValueError(
            f"{path}: the pre-tokenizer {pre!r} is not one of {', '.join(CUTS)}; load the "
            "tokenizer of the Hugging Face checkpoint"
        )
    cut = CUTS[pre]
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut.whole_words))
    backend.pre_tokenizer = cut.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    if cut.composed:
        backend.normalizer = normalizers.NFC()
    return backend, cut.bos


def _sentencepiece(
    vocabulary: dict[str, int], scores: list[float], types: list[int], prefix: str
) -> Tokenizer:
    """SentencePiece BPE: the best scored piece is merged first; unknown letters fall to bytes.

    ``prefix`` says what gets a space before it: ``first``, a text; ``always``, what stands between
    special tokens too; ``never``, nothing.
    """
    # Only normal pieces come about by merging.
    whole = {piece for piece, index in vocabulary.items() if types[index] == _NORMAL}
    merges = sorted(
        (
            (-scores[index], cut, piece)
            for piece, index in vocabulary.items()
            if piece in whole
            for cut in range(1, len(piece))
            if piece[:cut] in whole and piece[cut:] in whole
        ),
    )
    pairs = [(piece[:cut], piece[cut:]) for _, cut, piece in merges]
    unknown = next((piece for piece, index in vocabulary.items() if types[index] == _UNKNOWN), None)
    backend = Tokenizer(
        models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", _SPACE)
    if prefix != "never":
        # The first step puts a space before every text, for none begins with one any more: a
        # Metaspace of "▁" would put none before a text that has one already.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(" ", prepend_scheme=prefix, split=False),
                pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never", split=False),
            ]
        )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*steps, decoders.Strip(content=" ", left=1)] if prefix != "never" else steps
    )
    return backend
