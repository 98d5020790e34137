"""A prompt on its way into a slot: read by itself, with its keys and values kept."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.stack import at_axes
from tera_jax.llama.decode import slot_layout, slot_rows
from tera_jax.llama.decode.cache import Slots, init_cache
from tera_jax.llama.family.rope_scaling import LongRope
from tera_jax.llama.model import Llama


class Prefill(NamedTuple):
    """What a prompt leaves: ``key`` and ``value`` of one row, its length and the next logits."""

    key: Slots
    value: Slots
    length: jax.Array
    logits_V: jax.Array


def prefill(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    row: Any,
    tokens_1L: jax.Array,
    length: jax.Array,
    slots: int | None = None,
) -> Prefill:
    """The keys and values of a prompt, and the scores of its first new token.

    Args:
        model: the base's.
        adapter: of the row; None for the base alone.
        base: ``params`` and ``frozen``.
        row: the prepared arrays of its adapter, without an axis for the rows.
        tokens_1L: int32, the prompt, filled up on the right.
        length: int32, its tokens.
        slots: the tokens of a slot that the prompt goes to; of LongRoPE the frequencies follow.

    Raises:
        ValueError: for a model with LongRoPE without ``slots``.
    """
    return prefill_hidden(model, adapter, base, row, tokens_1L, length, slots)[0]


def prefill_hidden(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    row: Any,
    tokens_1L: jax.Array,
    length: jax.Array,
    slots: int | None = None,
) -> tuple[Prefill, jax.Array, Callable[[jax.Array], jax.Array]]:
    """:func:`prefill`, the hidden states ``(1, L, D)``, and what makes logits of hidden states."""
    if slots is None and isinstance(model.config.rope_scaling, LongRope):
        raise ValueError("slots is None; of a model with LongRoPE give the tokens of a slot")
    if adapter is not None:
        row = at_axes(adapter.layers, lambda axis, leaf: jnp.expand_dims(leaf, axis), row)
    apply = slot_rows.bound(model, adapter, base, row)
    positions_1L = jnp.arange(tokens_1L.shape[1], dtype=jnp.int32)[None]
    segment_ids_1L = (positions_1L < length).astype(jnp.int32)
    cache = init_cache(model.config, 1, tokens_1L.shape[1], model.dtype, model.unroll)
    hidden_1LD, cache = apply(
        tokens_1L, positions_1L, segment_ids_1L, cache, method="hidden", slots=slots
    )
    last_1D = lax.dynamic_index_in_dim(hidden_1LD, length - 1, axis=1, keepdims=False)
    key, value = (slot_layout.cache(each, rows=False) for each in (cache.key, cache.value))
    logits = functools.partial(apply, method="logits")
    logits_V = slot_layout.everywhere(logits(last_1D)[0])
    return Prefill(key, value, length, logits_V), hidden_1LD, logits
