"""The config of a model as the metadata of a GGUF file: the inverse of ``checkpoint/gguf.py``."""

import dataclasses
from typing import Any

import gguf
import numpy as np

from tera_jax.llama import rope
from tera_jax.llama.checkpoint import gguf_rope
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
    attention_factor,
    frequencies,
)

FAMILIES = ("llama", "qwen2", "qwen3")
"""Families whose weights are written; the others are only read."""
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
REMEDY = "export 'hf', and convert that with llama.cpp's own converter"
"""For what is not written here."""


def require_config(config: LlamaConfig) -> None:
    """Check that a GGUF file can say what a model is.

    Raises:
        ValueError: for another family than :data:`FAMILIES`, for fields that its files cannot say,
            and for stretched frequencies that llama.cpp does not read in them.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ValueError(
            f"a GGUF file of a {kind} model is not written: the families are "
            f"{', '.join(FAMILIES)}; {REMEDY}"
        )
    config.to_hf()  # refuses what no file of the family has, such as a window
    scaling = config.rope_scaling
    told = scaling is None or isinstance(scaling, LinearScaling)
    if isinstance(scaling, Llama3Scaling):
        told = kind == "llama" and _is_found_again(config)
    if isinstance(scaling, YarnScaling):
        usual = 0.1 * np.log(scaling.factor) + 1.0
        told = scaling.truncate and bool(np.isclose(scaling.attention_factor, usual, rtol=1e-6))
    if not told:
        raise ValueError(f"a GGUF file of a {kind} model cannot say {scaling}; {REMEDY}")


def add_config(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    """Add the sizes and the rotary positions of a model that :func:`require_config` takes."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
    if isinstance(scaling, YarnScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)


def rope_factors(config: LlamaConfig) -> np.ndarray | None:
    """The tensor ``rope_freqs.weight``, (head_dim / 2,) float32, which holds Llama 3.1's scaling.

    Returns:
        None for a model without that scaling.
    """
    scaling = config.rope_scaling
    if not isinstance(scaling, Llama3Scaling):
        return None
    plain = frequencies(config.head_dim, config.rope_theta, None)
    return rope.stretches(plain, scaling).astype(np.float32)


def require_same(found: LlamaConfig, config: LlamaConfig) -> None:
    """Raise ``ValueError`` that names the first field in which a config was read back otherwise.

    Numbers are compared in float32, as files have them, and scalings by the frequencies that they
    make. Token ids are left out: the tokenizer says them too.
    """
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(found, field.name)
        if field.name not in (*_IDS, "rope_scaling") and not _equal(ours, theirs):
            raise ValueError(
                f"{field.name}={ours} is {theirs} when the GGUF file is read back; {REMEDY}"
            )
    ours, theirs = (
        frequencies(config.head_dim, config.rope_theta, each.rope_scaling, np.float64)
        * attention_factor(each.rope_scaling)
        for each in (config, found)
    )
    if not np.allclose(ours, theirs, rtol=2e-4, atol=0):
        raise ValueError(
            f"rope_scaling={config.rope_scaling} is {found.rope_scaling} when the GGUF file is "
            f"read back; {REMEDY}"
        )


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return bool(np.float32(ours) == np.float32(theirs))
    return ours == theirs


def _is_found_again(config: LlamaConfig) -> bool:
    """Whether the reader finds Llama 3.1's parameters in the factors, float32."""
    factors = rope_factors(config)
    assert factors is not None
    plain = frequencies(config.head_dim, config.rope_theta, None)
    try:
        gguf_rope.llama3(factors.astype(np.float64), plain)
    except ValueError:
        return False
    return True
