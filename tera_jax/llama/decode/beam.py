"""Beam search without copies of the cache.

The beams of a row are so many tokens of one row of the model. All attend to the one prompt; of the
slots behind it, step t has one for each beam, and a table of ancestors says which of them a beam
descends from. When beams are chosen the table is permuted, and the keys and values stay where
they are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tera_jax.llama.decode.cache import Cache, init_cache
from tera_jax.llama.decode.config import GenerationConfig, penalized, without_repeats
from tera_jax.llama.model import Llama

_NEVER = -1e9
"""The score of what must not be chosen, finite as in transformers: sums of it still compare."""


class _State(NamedTuple):
    """Scores are float32 log-probabilities, those of ended hypotheses with their penalty.

    K running beams, best first; K hypotheses that have ended, best first.
    """

    step: jax.Array
    tokens_BKT: jax.Array
    score_BK: jax.Array
    ancestor_BKT: jax.Array
    ended_tokens_BKT: jax.Array
    ended_score_BK: jax.Array
    ended_BK: jax.Array
    improvable_B: jax.Array
    stuck: jax.Array


def left_padded(segment_ids_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The lengths of prompts that are padded on the left, and the positions of their tokens."""
    token_BL = segment_ids_BL != 0
    positions_BL = jnp.cumsum(token_BL, axis=1, dtype=jnp.int32) - 1
    return jnp.sum(token_BL, axis=1, dtype=jnp.int32), jnp.maximum(positions_BL, 0)


def beam_search(
    model: Llama,
    apply: Any,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    decoding: GenerationConfig,
    eos_ids: jax.Array,
    pad_id: int,
) -> jax.Array:
    """The best hypothesis of each prompt, by the rules of transformers' beam search.

    Args:
        model: gives the sizes and the dtype of the cache, and says whether that is split.
        apply: called as ``apply(..., method="hidden")`` and ``method="logits"``.
        tokens_BL: int32 prompts, padded on the left.
        segment_ids_BL: int32, 0 at padding and 1 at tokens.
        decoding: with ``num_beams``.
        eos_ids: int32 tokens that end a hypothesis; there may be none.
        pad_id: fills a row after its end.

    Returns:
        ``tokens_BT`` int32: the new tokens, the one that ends a row included.
    """
    (batch, length), beams, count = tokens_BL.shape, decoding.num_beams, decoding.max_new_tokens
    prompt_B, positions_BL = left_padded(segment_ids_BL)

    def feed(state: _State, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits (B, K, V) after the beams' last tokens."""
        last = state.step - 1
        token_BK = lax.dynamic_index_in_dim(state.tokens_BKT, last, axis=2, keepdims=False)
        positions_BK = jnp.broadcast_to((prompt_B + last)[:, None], (batch, beams))
        mask_BKS = _masks(model, state, segment_ids_BL, prompt_B, positions_BL)
        hidden_BKD, cache = apply(
            token_BK, positions_BK, jnp.ones_like(token_BK), cache, mask_BKS, method="hidden"
        )
        return apply(hidden_BKD, method="logits"), cache

    def choose(logits_BKV: jax.Array, state: _State) -> _State:
        logp_BKV = jax.nn.log_softmax(logits_BKV, axis=-1)
        if decoding.no_repeat_ngram_size or decoding.repetition_penalty != 1:
            logp_BKV = _against_repeats(logp_BKV, state, tokens_BL, prompt_B, decoding)
        return _choose(logp_BKV, state, decoding, eos_ids)

    def unfinished(carry: tuple[_State, Cache]) -> jax.Array:
        state, _ = carry
        full = (decoding.early_stopping is True) & jnp.all(state.ended_BK)
        return jnp.any(state.improvable_B) & ~full & ~state.stuck

    def body(carry: tuple[_State, Cache]) -> tuple[_State, Cache]:
        state, cache = carry
        logits_BKV, cache = feed(state, cache)
        return choose(logits_BKV, state), cache

    # The last tokens are never fed back, so they need no slots.
    slots = length + (count - 1) * beams
    cache = init_cache(model.config, batch, slots, model.dtype, model.unroll)
    hidden_BLD, cache = apply(tokens_BL, positions_BL, segment_ids_BL, cache, method="hidden")
    logits_BV = apply(hidden_BLD[:, -1], method="logits")
    logits_BKV = jnp.broadcast_to(logits_BV[:, None], (batch, beams, logits_BV.shape[-1]))
    state = choose(logits_BKV, _start(batch, beams, count, pad_id))
    return lax.while_loop(unfinished, body, (state, cache))[0].ended_tokens_BKT[:, 0]


def _start(batch: int, beams: int, count: int, pad_id: int) -> _State:
    """All beams are the prompt; only the first may be continued, lest all be the same."""
    first_BK = jnp.broadcast_to(jnp.arange(beams) == 0, (batch, beams))
    tokens_BKT = jnp.full((batch, beams, count), pad_id, jnp.int32)
    return _State(
        step=jnp.zeros((), jnp.int32),
        tokens_BKT=tokens_BKT,
        score_BK=jnp.where(first_BK, 0.0, _NEVER),
        ancestor_BKT=jnp.zeros_like(tokens_BKT),
        ended_tokens_BKT=tokens_BKT,
        ended_score_BK=jnp.full((batch, beams), _NEVER),
        ended_BK=jnp.zeros((batch, beams), bool),
        improvable_B=jnp.ones(batch, bool),
        stuck=jnp.zeros((), bool),
    )


def _choose(
    logp_BKV: jax.Array, state: _State, decoding: GenerationConfig, eos_ids: jax.Array
) -> _State:
    """The running and the ended hypotheses after one more token."""
    beams, count, penalty = decoding.num_beams, decoding.max_new_tokens, decoding.length_penalty
    # Enough that K running ones are left should all others of them end.
    candidates = max(2, 1 + len(eos_ids)) * beams
    total_BKV = logp_BKV + state.score_BK[:, :, None]
    # The best of each beam first: fewer to sort, and the same result.
    score_BKC, token_BKC = lax.top_k(total_BKV, min(candidates, total_BKV.shape[-1]))
    flat_BX = score_BKC.reshape(len(score_BKC), -1)
    score_BC, index_BC = lax.top_k(flat_BX, candidates)
    parent_BC = index_BC // score_BKC.shape[-1]
    token_BC = jnp.take_along_axis(token_BKC.reshape(flat_BX.shape), index_BC, axis=1)
    tokens_BCT = _take(state.tokens_BKT, parent_BC)
    tokens_BCT = lax.dynamic_update_index_in_dim(tokens_BCT, token_BC, state.step, axis=2)
    length = state.step + 1
    ends_BC = jnp.isin(token_BC, eos_ids) | (length == count)

    running_BC = jnp.where(ends_BC, score_BC + _NEVER, score_BC)
    running_score_BK, chosen_BK = lax.top_k(running_BC, beams)
    parent_BK = jnp.take_along_axis(parent_BC, chosen_BK, axis=1)
    own_BK = jnp.broadcast_to(jnp.arange(beams, dtype=jnp.int32), parent_BK.shape)
    ancestor_BKT = lax.dynamic_update_index_in_dim(
        _take(state.ancestor_BKT, parent_BK), own_BK, state.step, axis=2
    )

    # Candidates below the first K are a reserve for running, and may not end.
    new_BC = ends_BC & (jnp.arange(candidates) < beams)[None]
    full_B = jnp.all(state.ended_BK, axis=1) & (decoding.early_stopping is True)
    length_f = length.astype(jnp.float32)
    ended_BC = score_BC / length_f**penalty
    for closed_BX in (full_B[:, None], ~state.improvable_B[:, None], ~new_BC):
        ended_BC += jnp.where(closed_BX, _NEVER, 0.0)
    merged_score_BX = jnp.concatenate([state.ended_score_BK, ended_BC], axis=1)
    ended_score_BK, kept_BK = lax.top_k(merged_score_BX, beams)
    merged_BXT = jnp.concatenate([state.ended_tokens_BKT, tokens_BCT], axis=1)
    merged_BX = jnp.concatenate([state.ended_BK, new_BC], axis=1)
    ended_BK = jnp.take_along_axis(merged_BX, kept_BK, axis=1)

    longest = decoding.early_stopping == "never" and penalty > 0
    hoped_B = running_score_BK[:, 0] / (float(count) if longest else length_f) ** penalty
    worst_BK = jnp.where(ended_BK, jnp.min(ended_score_BK, axis=1, keepdims=True), _NEVER)
    return _State(
        step=length,
        tokens_BKT=_take(tokens_BCT, chosen_BK),
        score_BK=running_score_BK,
        ancestor_BKT=ancestor_BKT,
        ended_tokens_BKT=_take(merged_BXT, kept_BK),
        ended_score_BK=ended_score_BK,
        ended_BK=ended_BK,
        improvable_B=state.improvable_B & jnp.any(hoped_B[:, None] > worst_BK, axis=1),
        stuck=jnp.all(ends_BC),
    )


def _take(rows_BXT: jax.Array, index_BK: jax.Array) -> jax.Array:
    return jnp.take_along_axis(rows_BXT, index_BK[:, :, None], axis=1)


def _masks(model: Llama, *where: Any) -> Any:
    """:func:`_mask`; where some layers alone have a window, without it and with it."""
    window = model.config.sliding_window
    return (
        (_mask(None, *where), _mask(window, *where))
        if model.config.mixes_windows
        else _mask(window, *where)
    )


def _mask(
    window: int | None,
    state: _State,
    segment_ids_BL: jax.Array,
    prompt_B: jax.Array,
    positions_BL: jax.Array,
) -> jax.Array:
    """``(B, K, S)``: the prompt, and of each step so far the slot of the beam's ancestor."""
    batch, beams, count = state.tokens_BKT.shape
    step_T = jnp.arange(count - 1, dtype=jnp.int32)
    age_T = state.step - 1 - step_T
    prompt_BL = segment_ids_BL != 0
    seen_T = age_T >= 0
    if window is not None:
        prompt_BL &= (prompt_B + state.step - 1)[:, None] - positions_BL < window
        seen_T &= age_T < window
    slot_J = jnp.arange(beams, dtype=jnp.int32)
    own_BKTJ = state.ancestor_BKT[:, :, :-1, None] == slot_J[None, None, None]
    own_BKTJ &= seen_T[None, None, :, None]
    prompt_BKL = jnp.broadcast_to(prompt_BL[:, None], (batch, beams, prompt_BL.shape[1]))
    return jnp.concatenate([prompt_BKL, own_BKTJ.reshape(batch, beams, -1)], axis=2)


def _against_repeats(
    logp_BKV: jax.Array,
    state: _State,
    tokens_BL: jax.Array,
    prompt_B: jax.Array,
    decoding: GenerationConfig,
) -> jax.Array:
    batch, beams, vocab = logp_BKV.shape
    length = tokens_BL.shape[1]
    prompt_BKL = jnp.broadcast_to(tokens_BL[:, None], (batch, beams, length))
    text_XS = jnp.concatenate([prompt_BKL, state.tokens_BKT], axis=2).reshape(batch * beams, -1)
    first_X = jnp.repeat(length - prompt_B, beams)
    end_X = jnp.full(batch * beams, length + state.step)
    flat_XV = logp_BKV.reshape(-1, vocab)
    if decoding.repetition_penalty != 1:
        flat_XV = penalized(flat_XV, text_XS, first_X, end_X, decoding.repetition_penalty)
    if decoding.no_repeat_ngram_size:
        size = decoding.no_repeat_ngram_size
        flat_XV = without_repeats(flat_XV, text_XS, first_X, end_X, size)
    return flat_XV.reshape(logp_BKV.shape)
