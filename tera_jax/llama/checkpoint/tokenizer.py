"""Tokenizers of Hugging Face directories and of GGUF files, neither of which needs torch."""

import os
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tera_jax.llama.checkpoint.gguf import field, open_gguf
from tera_jax.llama.checkpoint.resolve import locate

# How text is cut before merging, as published with each vocabulary. {} is a run of digits.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6


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
        ValueError: for a GGUF tokenizer of a kind that is not built here.
    """
    path = locate(path_or_name)
    if path.is_dir():
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    return _from_gguf(path)


def _from_gguf(path: Path) -> PreTrainedTokenizerFast:
    reader = open_gguf(path)

    def read(key: str, default: Any = None) -> Any:
        return field(reader, f"tokenizer.ggml.{key}", default)

    kind, tokens = read("model"), read("tokens")
    if tokens is None or kind not in ("gpt2", "llama"):
        raise ValueError(
            f"{path} holds a tokenizer of kind {kind!r}; only byte-level BPE ('gpt2') and "
            "SentencePiece BPE ('llama') are built here: load the tokenizer of the Hugging Face "
            "checkpoint"
        )
    order = "merges" if kind == "gpt2" else "scores"
    if read(order) is None:
        raise ValueError(f"{path} lacks the {order} of its tokenizer; convert the checkpoint again")
    types = read("token_type", [1] * len(tokens))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError(f"{path}: two tokens of the vocabulary are the same; fetch it again")
    if kind == "gpt2":
        merges = [tuple(merge.split(" ", 1)) for merge in read("merges")]
        backend, add_bos = _byte_level(path, read("pre"), vocabulary, merges)
    else:
        prefix = read("add_space_prefix", True)
        backend = _sentencepiece(vocabulary, read("scores"), types, prefix)
        add_bos = True
    # Both kinds are matched before anything else; only control tokens are skipped in decoding.
    for wanted, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        found = [token for token, type_ in zip(tokens, types, strict=True) if type_ == wanted]
        added = [AddedToken(token, normalized=False, special=special) for token in found]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {ours: read(f"{theirs}_token_id") for ours, theirs in named.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": None if id_ is None else tokens[id_] for name, id_ in ids.items()},
        add_bos_token=ids["bos"] is not None and read("add_bos_token", add_bos),
        add_eos_token=ids["eos"] is not None and read("add_eos_token", False),
        chat_template=field(reader, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def _byte_level(
    path: Path, pre: str | None, vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> tuple[Tokenizer, bool]:
    """Byte-level BPE, and whether its texts start with bos where the file does not say."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        split = pre_tokenizers.Sequence([digits, gpt2])
    elif pre in ("llama-bpe", "qwen2"):
        words = _WORDS.format(r"\p{N}{1,3}" if pre == "llama-bpe" else r"\p{N}")
        cut = pre_tokenizers.Split(Regex(words), behavior="isolated")
        split = pre_tokenizers.Sequence([cut, byte_level])
    else:
        raise ValueError(
            f"{path}: the pre-tokenizer {pre!r} is not one of smollm, llama-bpe, qwen2; load the "
            "tokenizer of the Hugging Face checkpoint"
        )
    # Llama 3 takes a word that is in the vocabulary whole, even where merging would not reach it.
    ignore_merges = pre == "llama-bpe"
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    return backend, pre == "llama-bpe"


def _sentencepiece(
    vocabulary: dict[str, int], scores: list[float], types: list[int], prefix: bool
) -> Tokenizer:
    """SentencePiece BPE: the best scored piece is merged first; unknown letters fall to bytes."""
    # Only normal pieces come about by merging.
    whole = {
        piece for (piece, index) in vocabulary.items() if types[index] not in (_CONTROL, _BYTE)
    }
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
    unknown = next((piece for piece, index in vocabulary.items() if types[index] == 2), None)
    backend = Tokenizer(
        models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    scheme = "first" if prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*steps, decoders.Strip(content=" ", left=1)] if prefix else steps
    )
    return backend
