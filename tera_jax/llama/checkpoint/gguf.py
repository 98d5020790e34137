"""The metadata of GGUF files (llama.cpp) as a config."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.llama.checkpoint import gguf_rope
from tera_jax.llama.checkpoint.gguf_file import GgufFile, field, section
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.families import FAMILIES, Family
from tera_jax.llama.family.gguf_rows import KEYS, ROWS

_WHERE = "the GGUF file"
_REMEDY = "choose another file, or convert the Hugging Face checkpoint"
_ID = Key(int | None, None, least=0)
# llama.cpp ends an answer at each of these.
_STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
_IDS = {"bos_token_id": _ID, "padding_token_id": _ID, **dict.fromkeys(_STOPS, _ID)}
_BIASES = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_down.bias"}
"""Keys of ``config.json`` that the metadata lack, and the tensors that say them."""


def from_gguf(file: GgufFile) -> LlamaConfig:
    """Reads the metadata of a GGUF file of :data:`tera_jax.llama.family.gguf_rows.ROWS`.

    Raises:
        ValueError: for another architecture, and for a key or value that would change the function
            and is not implemented. For counts that the tensors do not have, and as
            :func:`tera_jax.llama.checkpoint.gguf_rope.scaling`.
    """
    kind = field(file, "general.architecture")
    if kind not in ROWS:
        raise ValueError(
            f"GGUF architecture {kind!r} is not supported; choose one of {', '.join(ROWS)}"
        )
    row, within = ROWS[kind], f"{kind}."
    family = FAMILIES[row.model_type]
    values = _shortest(
        json_files.typed(
            _WHERE, section(file, within), {**KEYS, **row.keys}, within=within, remedy=_REMEDY
        )
    )
    tensors = {tensor.name: tensor for _, tensor in file.tensors}
    heads = values["attention.head_count"]
    head_dim = values["attention.key_length"] or values["embedding_length"] // heads
    raw = {
        "model_type": row.model_type,
        "vocab_size": _vocab_size(values, tensors, within),
        "hidden_size": values["embedding_length"],
        "intermediate_size": values["feed_forward_length"],
        "num_hidden_layers": values["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": values["attention.head_count_kv"] or heads,
        "head_dim": head_dim,
        "max_position_embeddings": values["context_length"],
        "rms_norm_eps": values["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in tensors,
        **{ours: values[theirs] for theirs, ours in row.read.items()},
        **{key: name in tensors for key, name in _BIASES.items() if key in family.read},
        **_special_tokens(file),
        **_windows(values, family, within),
        **_rope(values, tensors, family, head_dim, kind),
    }
    if row.wide_layers is not None:
        wide = values["block_count"] == row.wide_layers
        raw["query_pre_attn_scalar"] = values["embedding_length"] // heads if wide else head_dim
    return LlamaConfig.from_hf(raw)


def _shortest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes the rounding of decimals to float32: 9.999999747e-06 was 1e-05."""
    return {
        key: float(str(np.float32(value))) if isinstance(value, float) else value
        for key, value in values.items()
    }


def _vocab_size(values: Mapping[str, Any], tensors: Mapping[str, Any], within: str) -> int:
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ValueError(f"{_WHERE} lacks the tensor token_embd.weight, a matrix; fetch it again")
    rows = int(embedding.shape[1])
    if values["vocab_size"] not in (None, rows):
        raise ValueError(
            f"{_WHERE} sets {within}vocab_size to {values['vocab_size']}, but token_embd.weight "
            f"has {rows} rows; fetch it again"
        )
    return rows


def _special_tokens(file: GgufFile) -> dict[str, Any]:
    prefix = "tokenizer.ggml."
    ids = json_files.typed(
        _WHERE, section(file, prefix), _IDS, others="ignore", within=prefix, remedy=_REMEDY
    )
    stops = sorted({ids[name] for name in _STOPS} - {None})
    return {
        "bos_token_id": ids["bos_token_id"],
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        "pad_token_id": ids["padding_token_id"],
    }


def _windows(values: Mapping[str, Any], family: Family, within: str) -> dict[str, Any]:
    window, layers = values["attention.sliding_window"] or None, values["block_count"]
    if not family.has_windows:
        return {}
    found: dict[str, Any] = {"sliding_window": window}
    pattern = values.get("attention.sliding_window_pattern")
    if pattern is None or window is None:
        return found
    if isinstance(pattern, int):
        # Zero has no layer without a window.
        pattern = [not pattern or (layer + 1) % pattern != 0 for layer in range(layers)]
    if len(pattern) != layers:
        raise ValueError(
            f"{_WHERE} has {len(pattern)} entries of {within}attention.sliding_window_pattern for "
            f"{layers} layers; fetch it again"
        )
    types = ["sliding_attention" if sliding else "full_attention" for sliding in pattern]
    return found | {"layer_types": types}


def _rope(
    values: Mapping[str, Any], tensors: Mapping[str, Any], family: Family, head_dim: int, kind: str
) -> dict[str, Any]:
    length, turning = values["attention.value_length"], values["rope.dimension_count"]
    if length not in (None, head_dim):
        raise ValueError(
            f"{_WHERE} sets {kind}.attention.value_length to {length}, not the head dimension "
            f"{head_dim}; choose another file"
        )
    turning = head_dim if turning is None else turning
    if turning > head_dim or (turning < head_dim and not family.partial):
        raise ValueError(
            f"{_WHERE} sets {kind}.rope.dimension_count to {turning}, not the head dimension "
            f"{head_dim}; choose another file"
        )
    theta = values["rope.freq_base"]
    found = {"rope_theta": theta}
    found["rope_scaling"] = gguf_rope.scaling(values, tensors, turning, theta, kind)
    if family.partial:
        # The least number above the quotient, whose product with the whole rounds down to the part.
        share = turning / head_dim
        exact = int(head_dim * share) == turning
        found["partial_rotary_factor"] = share if exact else math.nextafter(share, 2.0)
    original = values["rope.scaling.original_context_length"]
    if "original_max_position_embeddings" in family.keys and original is not None:
        found["original_max_position_embeddings"] = original
    return found
