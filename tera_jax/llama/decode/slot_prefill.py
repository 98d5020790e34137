"""A prompt on its way into a slot: read by itself, with its keys and values kept."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_prompts, slot_rows
from tera_jax.llama.decode.cache import Slots
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
    rows_1 = None if adapter is None else slot_rows.single(adapter, row)
    found = slot_prompts.read(model, adapter, base, rows_1, tokens_1L, length[None], slots)
    begun = Prefill(found.key, found.value, length, found.logits_RV[0])
    return begun, found.hidden_RLD, found.logits
