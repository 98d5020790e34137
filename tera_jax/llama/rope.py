"""Rotary positions of tokens: tables of cosines and sines, and turning by them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.rope_scaling import (
    DynamicScaling,
    Llama3Scaling,
    LongRope,
    attention_factor,
    depends_on_length,
    frequencies,
    longrope_frequencies,
    stretches,
)
from tera_jax.ops.numerics import acc_dtype

__all__ = ["Llama3Scaling", "frequencies", "kinds", "of_model", "rotate", "stretches", "tables"]


def tables(positions_BL: jax.Array, frequency: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every angle, shaped ``(B, L, 1, H / 2)`` to fit all heads.

    They have the type of ``frequency``.
    """
    # A product and no einsum: a GPU may do the latter in TF32.
    frequency_H = jnp.asarray(frequency)
    angle = positions_BL.astype(frequency_H.dtype)[:, :, None] * frequency_H[None, None, :]
    return jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]


def rotate(x_BLNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns the pairs ``(x[h], x[h + H / 2])``, Hugging Face's order, in float32 at least.

    Where the tables are for fewer pairs than a head has, the entries of a head beyond these stay.
    """
    turning = 2 * cos.shape[-1]
    if turning < x_BLNH.shape[-1]:
        turned = rotate(x_BLNH[..., :turning], cos, sin)
        return jnp.concatenate([turned, x_BLNH[..., turning:]], axis=-1)
    acc = acc_dtype(x_BLNH.dtype)
    first, second = jnp.split(x_BLNH.astype(acc), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BLNH.dtype)


def of_model(
    config: LlamaConfig,
    positions_BL: jax.Array,
    segment_ids_BL: jax.Array | None,
    slots: int | None,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine for the layers of a model, each ``(B, L, 1, R / 2)`` of R turning entries.

    Where layers differ, both lead with an axis that :func:`kinds` counts along. Where frequencies
    depend on the length of a sequence, that is the last position of a token's segment, or of its
    row, plus one. LongRoPE with a cache takes the cache's size for the length: all keys in it have
    the same factors.

    Args:
        config: of the model.
        positions_BL: int32.
        segment_ids_BL: int32, or None for one segment a row.
        slots: the size of the cache, if there is one.
        dtype: of the tables.
    """
    found = [_stretched(config, positions_BL, segment_ids_BL, slots, dtype)]
    if config.local_rope_theta is not None:
        local = frequencies(config.rotary_dim, config.local_rope_theta, None, dtype)
        found.append(tables(positions_BL, local))
    if config.nope_layers is not None:
        found.append(
            tables(jnp.zeros_like(positions_BL), frequencies(config.rotary_dim, 1.0, None))
        )
    if len(found) == 1:
        return found[0]
    cos, sin = (
        jnp.stack([each.astype(dtype) for each in kind]) for kind in zip(*found, strict=True)
    )
    return cos, sin


def kinds(config: LlamaConfig) -> np.ndarray | None:
    """Which tables of :func:`of_model` each layer has, int32; None where there is one for all."""
    if config.local_rope_theta is None and config.nope_layers is None:
        return None
    local = config.local_rope_theta is not None
    kinds_N = np.zeros(config.num_layers, np.int32)
    for layer in range(config.num_layers):
        if local and config.has_window(layer):
            kinds_N[layer] = 1
        if config.nope_layers is not None and config.nope_layers[layer]:
            kinds_N[layer] = 1 + local
    return kinds_N


def _stretched(
    config: LlamaConfig,
    positions_BL: jax.Array,
    segment_ids_BL: jax.Array | None,
    slots: int | None,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    scaling = config.rope_scaling
    frequency = frequencies(config.rotary_dim, config.rope_theta, scaling, dtype)
    if isinstance(scaling, LongRope) and slots is not None:
        plain = frequencies(config.rotary_dim, config.rope_theta, None, dtype)
        long = slots > scaling.original_max_position_embeddings
        frequency = longrope_frequencies(plain, scaling)[long]
    elif depends_on_length(scaling):
        length_BL = _lengths(positions_BL, segment_ids_BL)
        frequency_BLH = _by_length(config, length_BL, dtype)
        angle = positions_BL.astype(dtype)[:, :, None] * frequency_BLH
        return _scaled(jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None], config)
    return _scaled(*tables(positions_BL, frequency), config)


def _scaled(cos: jax.Array, sin: jax.Array, config: LlamaConfig) -> tuple[jax.Array, jax.Array]:
    factor = attention_factor(config.rope_scaling)
    return (cos, sin) if factor == 1 else (cos * factor, sin * factor)


def _by_length(config: LlamaConfig, length_BL: jax.Array, dtype: Any) -> jax.Array:
    """The frequencies of each token, (B, L, R / 2)."""
    scaling, size = config.rope_scaling, config.rotary_dim
    plain_H = frequencies(size, config.rope_theta, None, dtype)
    if isinstance(scaling, LongRope):
        short_H, long_H = longrope_frequencies(plain_H, scaling)
        long_BL1 = (length_BL > scaling.original_max_position_embeddings)[:, :, None]
        return jnp.where(
            long_BL1, jnp.asarray(long_H[None, None]), jnp.asarray(short_H[None, None])
        )
    assert isinstance(scaling, DynamicScaling)
    most, factor = scaling.max_position_embeddings, scaling.factor
    length_BL1 = jnp.maximum(length_BL, most).astype(dtype)[:, :, None]
    growth_BL1 = (factor * length_BL1 / most - (factor - 1)) ** (size / (size - 2))
    exponent_11H = (-np.arange(0, size, 2, dtype=dtype) / dtype(size))[None, None]
    return jnp.asarray(plain_H[None, None]) * growth_BL1 ** jnp.asarray(exponent_11H)


def _lengths(positions_BL: jax.Array, segment_ids_BL: jax.Array | None) -> jax.Array:
    """The tokens of each token's sequence: its segment's last position and one."""
    if segment_ids_BL is None:
        last_B1 = jnp.max(positions_BL, axis=1, keepdims=True)
        return jnp.broadcast_to(last_B1, positions_BL.shape) + 1
    length = positions_BL.shape[1]
    index_BL = lax.broadcasted_iota(jnp.int32, positions_BL.shape, 1)
    changed = segment_ids_BL[:, 1:] != segment_ids_BL[:, :-1]
    ends_BL = jnp.pad(changed, ((0, 0), (0, 1)), constant_values=True)
    end_BL = lax.cummin(jnp.where(ends_BL, index_BL, length), axis=1, reverse=True)
    return jnp.take_along_axis(positions_BL, end_BL, axis=1) + 1
