"""Decoding in slots: rows that begin and end by themselves, each with an adapter of its own.

A slot holds one request: its part of the cache, its adapter's prepared arrays
(:mod:`tera_jax.adapters.bank`) and its settings. All of them are filled when the request comes in,
so that a step gathers nothing. Requests come and go without another trace::

    programs = make_programs(model, adapter)
    row = bank.row(entry)
    state = init_slots(model, adapter, row, batch=64, slots=512)
    begun = programs.prefill(base, row, tokens_1L, length)
    state, token = programs.insert(state, slot, row, begun, settings)
    state, new = programs.step(base, state)                # again and again
    state = programs.evict(state, slot)

``base`` holds ``params`` and ``frozen``; where the model unrolls its layers those of ``params`` may
be a list (:mod:`tera_jax.llama.stacking`), of which nothing is then copied.

On a mesh call all of these under ``jax.set_mesh``, with ``base`` laid out on it. Slots are then
split over ``data`` and ``fsdp``, and stay where they are (:mod:`.slot_layout`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_layout, slot_rows
from tera_jax.llama.decode.cache import RowCache, Slots, init_row_cache
from tera_jax.llama.decode.sampling import Settings, init_settings, next_tokens
from tera_jax.llama.decode.slot_prefill import Prefill, prefill
from tera_jax.llama.model import Llama

NO_TOKEN = -1
"""In the place of a new token, for a slot that has none."""


class SlotState(NamedTuple):
    """All slots of a batch.

    Attributes:
        cache: their keys and values. An empty slot has length 0, and attention reads one token.
        rows: their adapters' prepared arrays, (stack..., B, ...) at each layer; where the model
            unrolls its layers a list of them under ``layers``. None for the base alone.
        token_B: int32, the last token of each.
        count_B: int32, the new tokens that each has.
        active_B: bool, which are to have another token.
        settings: of each.
    """

    cache: RowCache
    rows: Any
    token_B: jax.Array
    count_B: jax.Array
    active_B: jax.Array
    settings: Settings


class Programs(NamedTuple):
    """The jitted functions, of which :func:`step`, :func:`insert` and :func:`evict` take the state.

    ``prefill`` has one program for each length of padded prompts, ``step`` one with sampling and
    one without, the others one.
    """

    prefill: Callable[..., Prefill]
    insert: Callable[..., tuple[SlotState, jax.Array]]
    step: Callable[..., tuple[SlotState, jax.Array]]
    evict: Callable[..., SlotState]


def make_programs(model: Llama, adapter: Adapter | None, slots: int | None = None) -> Programs:
    """Those of a model and an adapter; the base alone with None.

    ``slots`` is that of :func:`init_slots`, and wanted where RoPE depends on it (LongRoPE).
    """
    return Programs(
        prefill=jax.jit(functools.partial(prefill, model, adapter, slots=slots)),
        insert=jax.jit(functools.partial(insert, adapter), donate_argnums=0),
        step=jax.jit(
            functools.partial(step, model, adapter), donate_argnums=1, static_argnames="sampling"
        ),
        evict=jax.jit(evict, donate_argnums=0),
    )


def init_slots(
    model: Llama,
    adapter: Adapter | None,
    row: Any,
    batch: int,
    slots: int,
    stops: int = 4,
) -> SlotState:
    """Empty slots.

    Args:
        model: gives the sizes and the type of the cache, and says whether it is split into layers.
        adapter: of the rows; None for the base alone.
        row: the prepared arrays of one adapter, real or abstract, without an axis for the rows.
        batch: B.
        slots: S, the tokens of a slot, those of prompt and answer together but the last.
        stops: the most tokens that end a row.

    Raises:
        ValueError: for slots that the mesh's ``data`` and ``fsdp`` do not divide.
    """
    slot_layout.require_divisible(batch)

    def make() -> SlotState:
        rows = None if adapter is None else slot_rows.empty(model, adapter, row, batch)
        token_B, count_B = (jnp.zeros(batch, jnp.int32) for _ in range(2))  # each is donated
        cache = init_row_cache(model.config, batch, slots, model.dtype, model.unroll)
        settings = init_settings(batch, stops)
        empty_B = jnp.zeros(batch, bool)
        return placed(adapter, SlotState(cache, rows, token_B, count_B, empty_B, settings))

    return jax.jit(make)() if slot_layout.on_mesh() else make()


def placed(adapter: Adapter | None, state: SlotState) -> SlotState:
    """The same state, where the mesh has it.

    Args:
        adapter: of the rows; None for the base alone.
        state: of all slots.
    """
    cache, by_row = state.cache, slot_layout.by_row
    key, value = (slot_layout.cache(slots) for slots in (cache.key, cache.value))
    return SlotState(
        RowCache(key, value, by_row(cache.length_B)),
        None if adapter is None else slot_rows.placed(adapter, state.rows),
        by_row(state.token_B),
        by_row(state.count_B),
        by_row(state.active_B),
        by_row(state.settings),
    )


def insert(
    adapter: Adapter | None,
    state: SlotState,
    slot: jax.Array,
    row: Any,
    begun: Prefill,
    settings: Settings,
) -> tuple[SlotState, jax.Array]:
    """A request into a slot, with its first new token.

    Args:
        adapter: as in :func:`prefill`.
        state: of all slots.
        slot: int32, which is empty. What was there is written over.
        row: as in :func:`prefill`.
        begun: of its prompt, at most as long as a slot.
        settings: of the request. Its limit becomes that of the slot's room.

    Returns:
        The state, and the token.
    """
    row = None if adapter is None else slot_rows.single(adapter, row)
    one = jax.tree.map(lambda leaf: leaf[None], (slot, begun.length, begun.logits_V, settings))
    slot_1, length_1, logits_1V, settings_1 = one
    given = row, begun.key, begun.value, length_1, logits_1V, settings_1
    state, token_1 = fill(adapter, state, slot_1, *given)
    return state, token_1[0]


def fill(
    adapter: Adapter | None,
    state: SlotState,
    slot_R: jax.Array,
    rows_R: Any,
    key: Slots,
    value: Slots,
    length_R: jax.Array,
    logits_RV: jax.Array,
    settings: Settings,
) -> tuple[SlotState, jax.Array]:
    """R requests whose prompts were read into slots, with their first new tokens.

    Args:
        adapter: of the rows; None for the base alone.
        state: of all slots.
        slot_R: int32, empty slots, no two of them the same.
        rows_R: the prepared arrays of the adapters, with an axis for R.
        key: of the prompts, ``(layers, R, L, K, H)``, or as many arrays ``(R, L, K, H)``.
        value: like ``key``.
        length_R: int32, the tokens of the prompts.
        logits_RV: float32, of the first new tokens.
        settings: with an axis R. A limit becomes at most that of a slot's room.

    Returns:
        The state, and int32 (R,) the tokens.
    """
    room_R = state.cache.size - length_R + 1
    settings = settings._replace(limit=jnp.minimum(settings.limit, room_R))
    token_R = next_tokens(logits_RV, settings, jnp.zeros_like(length_R), sampling=True)
    more_R = (settings.limit > 1) & ~jnp.any(settings.stop == token_R[:, None], axis=1)

    def put(rows_B: jax.Array, value_R: Any) -> jax.Array:
        return rows_B.at[slot_R].set(value_R)

    def write(slots_BSKH: jax.Array, new_RLKH: jax.Array) -> jax.Array:
        return slot_layout.write(slots_BSKH, slot_R, new_RLKH)

    cache = RowCache(
        jax.tree.map(write, state.cache.key, key),
        jax.tree.map(write, state.cache.value, value),
        put(state.cache.length_B, jnp.where(more_R, length_R, 0)),
    )
    state = SlotState(
        cache,
        None if adapter is None else slot_rows.put(adapter, state.rows, slot_R, rows_R),
        put(state.token_B, token_R),
        put(state.count_B, 1),
        put(state.active_B, more_R),
        jax.tree.map(put, state.settings, settings),
    )
    return placed(adapter, state), token_R


def step(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    state: SlotState,
    sampling: bool = False,
) -> tuple[SlotState, jax.Array]:
    """One more token for every active slot.

    Args:
        model: as in :func:`prefill`.
        adapter: likewise.
        base: likewise.
        state: of all slots.
        sampling: whether any slot samples. Without, no logits are sorted.

    Returns:
        The state, and int32 (B,) the new tokens; :data:`NO_TOKEN` where there is none.
    """
    return step_logits(model, adapter, base, state, sampling)[:2]


def step_logits(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    state: SlotState,
    sampling: bool = False,
) -> tuple[SlotState, jax.Array, jax.Array]:
    """:func:`step`, and the logits ``(B, V)`` of the new tokens."""
    rows = state.rows
    apply = slot_rows.bound(
        model, adapter, base, rows if adapter is None else slot_rows.stacked(rows)
    )
    hidden_B1D, cache = apply(state.token_B[:, None], cache=state.cache, method="hidden")
    logits_BV = apply(hidden_B1D[:, 0], method="logits")
    token_B = next_tokens(logits_BV, state.settings, state.count_B, sampling)
    active_B = state.active_B
    count_B = state.count_B + active_B.astype(jnp.int32)
    ended_B = jnp.any(token_B[:, None] == state.settings.stop, axis=1)
    ended_B |= count_B >= state.settings.limit
    more_B = active_B & ~ended_B
    found = state._replace(
        cache=cache._replace(length_B=jnp.where(more_B, cache.length_B, 0)),
        token_B=jnp.where(active_B, token_B, state.token_B),
        count_B=count_B,
        active_B=more_B,
    )
    return placed(adapter, found), jnp.where(active_B, token_B, NO_TOKEN), logits_BV


def evict(state: SlotState, slot: jax.Array) -> SlotState:
    """A slot emptied before its end. One that has ended is empty by itself."""
    length_B = state.cache.length_B.at[slot].set(0)
    active_B = state.active_B.at[slot].set(False)
    return state._replace(
        cache=state.cache._replace(length_B=slot_layout.by_row(length_B)),
        active_B=slot_layout.by_row(active_B),
    )
