"""Log-probabilities of tokens: of a prompt's, and of the new ones of all slots.

They are of the model's logits, before temperature and filters, in float32.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_layout
from tera_jax.llama.decode.slot_prefill import Prefill, prefill_hidden
from tera_jax.llama.decode.slots import SlotState, step_logits
from tera_jax.llama.model import Llama

_CHUNK = 128
"""Positions of a prompt whose logits are in memory at once."""


class Scores(NamedTuple):
    """Of N tokens.

    Attributes:
        chosen_N: float32, the log-probability of each.
        top_NK: float32, those of the most likely tokens at its place, in descending order.
        ids_NK: int32, these tokens.
    """

    chosen_N: jax.Array
    top_NK: jax.Array
    ids_NK: jax.Array


def scores(logits_NV: jax.Array, token_N: jax.Array, most: int) -> Scores:
    """The scores of tokens.

    Args:
        logits_NV: float32.
        token_N: int32; those below 0 are none, and have a score without a meaning.
        most: K, at most V.
    """
    logp_NV = jax.nn.log_softmax(logits_NV, axis=-1)
    chosen_N1 = jnp.take_along_axis(logp_NV, jnp.maximum(token_N, 0)[:, None], axis=-1)
    top_NK, ids_NK = lax.top_k(logp_NV, most)
    return Scores(chosen_N1[:, 0], top_NK, ids_NK.astype(jnp.int32))


def prefill(
    model: Llama,
    adapter: Adapter | None,
    most: int,
    base: Mapping[str, Any],
    row: Any,
    tokens_1L: jax.Array,
    length: jax.Array,
    slots: int | None = None,
) -> tuple[Prefill, Scores]:
    """:func:`tera_jax.llama.decode.slot_prefill.prefill`, and the scores of the prompt's tokens.

    Entry n is of token n + 1; those from ``length - 1`` on have no meaning.
    """
    begun, hidden_1LD, logits = prefill_hidden(model, adapter, base, row, tokens_1L, length, slots)
    size = math.gcd(tokens_1L.shape[1], _CHUNK)
    next_L = jnp.roll(tokens_1L[0], -1)
    hidden_N1CD = jnp.swapaxes(hidden_1LD.reshape(1, -1, size, hidden_1LD.shape[-1]), 0, 1)

    def chunk(part: tuple[jax.Array, jax.Array]) -> Scores:
        hidden_1CD, token_C = part
        return scores(logits(hidden_1CD)[0], token_C, most)

    each = lax.map(chunk, (hidden_N1CD, next_L.reshape(-1, size)))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), each)
    return begun, slot_layout.everywhere(flat)


def step(
    model: Llama,
    adapter: Adapter | None,
    most: int,
    base: Mapping[str, Any],
    state: SlotState,
) -> tuple[SlotState, jax.Array, Scores]:
    """:func:`tera_jax.llama.decode.slots.step` with sampling, and the scores of the new tokens."""
    state, token_B, logits_BV = step_logits(model, adapter, base, state, sampling=True)
    return state, token_B, scores(logits_BV, token_B, most)
