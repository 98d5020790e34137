"""Prompts of several rows, each with an adapter of its own, read in one program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_layout, slot_rows
from tera_jax.llama.decode.cache import Slots, init_cache
from tera_jax.llama.family.rope_scaling import LongRope
from tera_jax.llama.model import Llama


class Prompts(NamedTuple):
    """What R prompts leave.

    Attributes:
        key: ``(layers, R, L, K, H)``, or as many arrays ``(R, L, K, H)``.
        value: like ``key``.
        logits_RV: float32, of the first new token of each.
        hidden_RLD: the last hidden states.
        logits: makes logits of hidden states.
    """

    key: Slots
    value: Slots
    logits_RV: jax.Array
    hidden_RLD: jax.Array
    logits: Callable[[jax.Array], jax.Array]


def read(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    rows: Any,
    tokens_RL: jax.Array,
    length_R: jax.Array,
    slots: int | None = None,
) -> Prompts:
    """The keys and values of prompts, and the scores of their first new tokens.

    Args:
        model: the base's.
        adapter: of the rows; None for the base alone.
        base: ``params`` and ``frozen``.
        rows: the prepared arrays of the adapters, with an axis for R (:mod:`.slot_rows`).
        tokens_RL: int32, each prompt filled up on the right.
        length_R: int32, the tokens of each, from 1 on.
        slots: the tokens of a slot that they go to; of LongRoPE the frequencies follow.

    Raises:
        ValueError: for a model with LongRoPE without ``slots``.
    """
    if slots is None and isinstance(model.config.rope_scaling, LongRope):
        raise ValueError("slots is None; of a model with LongRoPE give the tokens of a slot")
    apply = slot_rows.bound(model, adapter, base, rows)
    count, size = tokens_RL.shape
    positions_RL = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (count, size))
    segment_ids_RL = (positions_RL < length_R[:, None]).astype(jnp.int32)
    cache = init_cache(model.config, count, size, model.dtype, model.unroll)
    hidden_RLD, cache = apply(
        tokens_RL, positions_RL, segment_ids_RL, cache, method="hidden", slots=slots
    )
    last_R1D = jnp.take_along_axis(hidden_RLD, (length_R - 1)[:, None, None], axis=1)
    key, value = (slot_layout.cache(each, rows=False) for each in (cache.key, cache.value))
    logits = functools.partial(apply, method="logits")
    return Prompts(key, value, slot_layout.everywhere(logits(last_R1D[:, 0])), hidden_RLD, logits)
