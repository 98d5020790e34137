"""Several requests into empty slots by one program: their prompts are read together.

The shapes are those of R prompts of L tokens, so a server compiles a program for some R and some L.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tera_jax.adapters import bank
from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_layout, slot_prompts, slot_rows, slots
from tera_jax.llama.decode.cache import RowCache
from tera_jax.llama.decode.sampling import Settings, next_tokens
from tera_jax.llama.decode.slots import SlotState
from tera_jax.llama.model import Llama


def admit(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    state: SlotState,
    slot_R: jax.Array,
    rows: Sequence[Any],
    tokens_RL: jax.Array,
    length_R: jax.Array,
    settings: Settings,
) -> tuple[SlotState, jax.Array, jax.Array]:
    """Read R prompts, and put each into a slot with its first new token.

    It does what :func:`.slots.prefill` and :func:`.slots.insert` do for one.

    Args:
        model: the base's.
        adapter: of the rows; None for the base alone.
        base: ``params`` and ``frozen``.
        state: of all slots.
        slot_R: int32, empty slots, no two of them the same.
        rows: R times the prepared arrays of an adapter, without an axis for the rows.
        tokens_RL: int32, each prompt filled up on the right; L is at most the tokens of a slot.
        length_R: int32, the tokens of each prompt.
        settings: of the requests, with an axis R. A limit becomes at most that of a slot's room.

    Returns:
        The state, int32 (R,) the first tokens, and their logits, float32 (R, V).
    """
    row_R = None if adapter is None else bank.stack(adapter, rows)
    size = state.cache.size
    found = slot_prompts.read(model, adapter, base, row_R, tokens_RL, length_R, size)
    room_R = size - length_R + 1
    settings = settings._replace(limit=jnp.minimum(settings.limit, room_R))
    none_R = jnp.zeros_like(length_R)
    token_R = next_tokens(found.logits_RV, settings, none_R, sampling=True)
    more_R = (settings.limit > 1) & ~jnp.any(settings.stop == token_R[:, None], axis=1)

    def put(rows_B: jax.Array, value_R: Any) -> jax.Array:
        return rows_B.at[slot_R].set(value_R)

    def write(slots_BSKH: jax.Array, new_RLKH: jax.Array) -> jax.Array:
        return _write(slots_BSKH, slot_R, new_RLKH)

    cache = RowCache(
        jax.tree.map(write, state.cache.key, found.key),
        jax.tree.map(write, state.cache.value, found.value),
        put(state.cache.length_B, jnp.where(more_R, length_R, 0)),
    )
    state = SlotState(
        cache,
        None if adapter is None else slot_rows.put(adapter, state.rows, slot_R, row_R),
        put(state.token_B, token_R),
        put(state.count_B, 1),
        put(state.active_B, more_R),
        jax.tree.map(put, state.settings, settings),
    )
    return slots.placed(adapter, state), token_R, found.logits_RV


def _write(slots_BSKH: jax.Array, slot_R: jax.Array, new_RLKH: jax.Array) -> jax.Array:
    """The keys of one layer or, with another axis in front, of a stack."""
    axis, size = slots_BSKH.ndim - 4, new_RLKH.shape[-3]
    new_RLKH = new_RLKH.astype(slots_BSKH.dtype)
    if not slot_layout.on_mesh():
        at = (*[slice(None)] * axis, slot_R, slice(size))
        return slots_BSKH.at[at].set(new_RLKH, mode="promise_in_bounds", unique_indices=True)

    def one(place: Any, slots_BSKH: jax.Array) -> jax.Array:
        """One update after the other: a scatter would bring the cache to every device."""
        new_1LKH = lax.dynamic_slice_in_dim(new_RLKH, place, 1, axis)
        zero = jnp.zeros_like(slot_R[0])
        start = (*[zero] * axis, slot_R[place], zero, zero, zero)
        return lax.dynamic_update_slice(slots_BSKH, new_1LKH, start)

    return lax.fori_loop(0, len(slot_R), one, slots_BSKH)
