"""Several requests into empty slots by one program: their prompts are read together.

The shapes are those of R prompts of L tokens, so a server compiles a program for some R and some L.
"""

from collections.abc import Mapping
from typing import Any

import jax

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_prompts, slots
from tera_jax.llama.decode.sampling import Settings
from tera_jax.llama.decode.slots import SlotState
from tera_jax.llama.model import Llama


def admit(
    model: Llama,
    adapter: Adapter | None,
    base: Mapping[str, Any],
    state: SlotState,
    slot_R: jax.Array,
    row_R: Any,
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
        row_R: the prepared arrays of the adapters, with an axis for R
            (:func:`tera_jax.adapters.bank.make_rows`); None for the base alone.
        tokens_RL: int32, each prompt filled up on the right; L is at most the tokens of a slot.
        length_R: int32, the tokens of each prompt.
        settings: of the requests, with an axis R. A limit becomes at most that of a slot's room.

    Returns:
        The state, int32 (R,) the first tokens, and their logits, float32 (R, V).
    """
    given = base, row_R, tokens_RL, length_R, state.cache.size
    found = slot_prompts.read(model, adapter, *given)
    prompts = found.key, found.value, length_R, found.logits_RV
    state, token_R = slots.fill(adapter, state, slot_R, row_R, *prompts, settings)
    return state, token_R, found.logits_RV
