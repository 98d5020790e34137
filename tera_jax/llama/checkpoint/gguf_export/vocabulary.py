"""A byte-level tokenizer of transformers as the metadata of a GGUF file."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import gguf

from tera_jax.llama.checkpoint import special_tokens
from tera_jax.llama.checkpoint.gguf_export.metadata import REMEDY
from tera_jax.llama.checkpoint.pre_tokenizers import CUTS
from tera_jax.llama.config import LlamaConfig

_STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Keys under which llama.cpp has the tokens that end an answer."""
_NOT_READ = ("single_word", "lstrip", "rstrip")
"""How an added token may be matched in transformers alone."""
_GPT2 = ("Digits", "\\p{N}")
"""How a tokenizer says that each digit stands alone."""


class Vocabulary(NamedTuple):
    """What a GGUF file says of a tokenizer.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: by id; rows of the embedding without a token have a name of their own.
        types: of each, as ``gguf.TokenType``.
        merges: pairs with a space between, in their order.
        ids: of special tokens, by the key without ``tokenizer.ggml.``.
        add_bos: whether texts start with bos; ``add_eos`` likewise.
        template: of chats, or None.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    template: str | None


def of_tokenizer(tokenizer: Any, config: LlamaConfig) -> Vocabulary:
    """What a GGUF file says of the tokenizer of a model.

    Args:
        tokenizer: of transformers.
        config: of the model: the rows of its embedding, and more tokens that end an answer.

    Raises:
        ValueError: for a tokenizer that is not byte-level BPE or whose pre-tokenizer is not one of
            :data:`tera_jax.llama.checkpoint.pre_tokenizers.CUTS`. For token ids beyond the
            embedding, and tokens around a text that a GGUF file cannot say.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"a GGUF file cannot hold the tokenizer {type(tokenizer).__name__}, which is not one "
            f"of the package tokenizers; {REMEDY}"
        )
    parts = json.loads(backend.to_str())
    _require_byte_level(parts)
    pre = _pre_name(parts)
    added = backend.get_added_tokens_decoder()
    for token in added.values():
        found = [name for name in _NOT_READ if getattr(token, name)]
        if found:
            raise ValueError(
                f"a GGUF file cannot say that the token {token.content!r} has {found[0]}; {REMEDY}"
            )
    tokens, types = _rows(backend.get_vocab(), added, config.vocab_size)
    template = _template(tokenizer)
    before, after = special_tokens.ends(tokenizer)
    ids = _ids(tokenizer, config, (tokens, types), template)
    for name, around in (("bos", before), ("eos", after)):
        if around not in ([], [ids.get(f"{name}_token_id")]):
            raise ValueError(
                f"the tokenizer puts {around} around a text, but a GGUF file {name} alone; {REMEDY}"
            )
    pairs = [
        pair.split(" ") if isinstance(pair, str) else pair for pair in parts["model"]["merges"]
    ]
    merges = [" ".join(pair) for pair in pairs]
    return Vocabulary(pre, tokens, types, merges, ids, bool(before), bool(after), template)


def add_vocabulary(writer: gguf.GGUFWriter, found: Vocabulary) -> None:
    """Add the keys of a tokenizer."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    writer.add_token_merges(found.merges)
    for key, id_ in found.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}", id_)
    writer.add_add_bos_token(found.add_bos)
    writer.add_add_eos_token(found.add_eos)
    if found.template is not None:
        writer.add_chat_template(found.template)


def _require_byte_level(parts: dict[str, Any]) -> None:
    model, decoder = parts["model"], parts["decoder"] or {}
    strange = [
        key
        for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get(key)
    ]
    strange += [key for key in ("byte_fallback", "fuse_unk") if model.get(key)]
    if model.get("type") != "BPE" or decoder.get("type") != "ByteLevel" or strange:
        raise ValueError(
            f"a GGUF file holds byte-level BPE alone, but the tokenizer has the model "
            f"{model.get('type')} with {strange or 'nothing'} set and the decoder "
            f"{decoder.get('type')}; {REMEDY}"
        )


def _pre_name(parts: dict[str, Any]) -> str:
    """llama.cpp's name of how a text is cut before merging."""
    steps = _steps(parts["pre_tokenizer"], "pretokenizers")
    norms = [step["type"] for step in _steps(parts["normalizer"], "normalizers")]
    whole = bool(parts["model"].get("ignore_merges"))
    *cuts, last = steps or [{}]
    bytes_ = last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    if bytes_ and norms in ([], ["NFC"]) and len(cuts) == 1:
        pattern = _pattern(cuts[0], bool(last.get("use_regex", True)))
        for name, cut in CUTS.items():
            says = (cut.pattern or _GPT2, cut.whole_words, cut.composed)
            if says == (pattern, whole, norms == ["NFC"]):
                return name
    shown = json.dumps(parts["pre_tokenizer"], ensure_ascii=False)[:300]
    raise ValueError(
        f"the pre-tokenizer {shown} with normalizer {norms or None} and ignore_merges={whole} is "
        f"none of those that GGUF files name here ({', '.join(CUTS)}); {REMEDY}"
    )


def _steps(part: dict[str, Any] | None, key: str) -> Sequence[dict[str, Any]]:
    if part is None:
        return []
    return part[key] if part["type"] == "Sequence" else [part]


def _pattern(cut: dict[str, Any], gpt2: bool) -> Any:
    """The expression of a cut, :data:`_GPT2` for digits alone before GPT-2's, or None."""
    if cut["type"] == "Digits" and gpt2:
        return _GPT2 if cut["individual_digits"] else None
    if cut["type"] != "Split" or cut["behavior"] != "Isolated" or cut["invert"]:
        return None
    pattern = cut["pattern"].get("Regex")
    if gpt2:
        return _GPT2 if pattern in _GPT2 else None
    return pattern


def _rows(
    vocabulary: dict[str, int], added: dict[int, Any], rows: int
) -> tuple[list[str], list[int]]:
    """Token and type of every row of the embedding."""
    by_id = {id_: token for token, id_ in vocabulary.items()}
    last = max(by_id, default=-1)
    if last >= rows:
        raise ValueError(
            f"the tokenizer has token ids up to {last}, but the model has vocab_size={rows}; take "
            "the tokenizer of this model"
        )
    tokens, types = [], []
    for id_ in range(rows):
        if id_ not in by_id:
            name = f"[PAD{id_}]"
            while name in vocabulary:
                name = f"[{name}]"
            tokens.append(name)
            types.append(int(gguf.TokenType.UNUSED))
            continue
        tokens.append(by_id[id_])
        token = added.get(id_)
        kind = gguf.TokenType.NORMAL
        if token is not None:
            kind = gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
        types.append(int(kind))
    return tokens, types


def _template(tokenizer: Any) -> str | None:
    found = getattr(tokenizer, "chat_template", None)
    return found.get("default") if isinstance(found, dict) else found


def _ids(
    tokenizer: Any, config: LlamaConfig, rows: tuple[list[str], list[int]], template: str | None
) -> dict[str, int]:
    tokens, types = rows

    def special(id_: int | None) -> int | None:
        """Readers match the tokens of these keys before any other, which no plain one may be."""
        return id_ if id_ is not None and types[id_] == gguf.TokenType.CONTROL else None

    stops = special_tokens.eos_ids(config, tokenizer)
    # What ends a message and not the turn has the last key.
    stops = (*stops[:1], *sorted(stops[1:], key=lambda id_: "eom" in tokens[id_]))
    own = tokenizer.eos_token_id is not None or (stops and special(stops[0]) is not None)
    keys = _STOPS if own else _STOPS[1:]
    if len(stops) > len(keys):
        raise ValueError(
            f"a GGUF file names {len(keys)} tokens that end an answer, but the model has "
            f"{[*stops]}; {REMEDY}"
        )
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    if bos is None and "bos_token" not in (template or ""):
        bos = special(config.bos_token_id)  # llama.cpp takes token 11 where the file has none
    found = {
        "bos_token_id": bos,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": special(config.pad_token_id) if pad is None else pad,
        **dict(zip(keys, stops, strict=False)),
    }
    return {key: id_ for key, id_ in found.items() if id_ is not None}
