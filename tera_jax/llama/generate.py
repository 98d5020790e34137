"""Greedy decoding with a cache."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tera_jax.llama.cache import init_cache
from tera_jax.llama.model import Llama


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, multiple: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Aligns prompts on the right, in a bucket of few lengths so that few shapes are compiled.

    Args:
        prompts: token ids, at least one prompt and none empty.
        pad_id: fills the left.
        multiple: the length is the longest prompt's, rounded up to a multiple of this.

    Returns:
        ``(tokens_BL, segment_ids_BL)``, int32; the segment is 0 at padding and 1 at tokens.

    Raises:
        ValueError: for no prompts or an empty one.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ValueError(f"prompts must have at least one token each, not lengths {lengths}")
    length = -(-max(lengths) // multiple) * multiple
    tokens_BL = np.full((len(prompts), length), pad_id, np.int32)
    segment_ids_BL = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, length - len(prompt) :] = prompt
        segment_ids_BL[row, length - len(prompt) :] = 1
    return tokens_BL, segment_ids_BL


def greedy(
    model: Llama,
    variables: Any,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None,
    pad_id: int,
    apply: Callable[..., Any] | None = None,
) -> jax.Array:
    """The most likely next token, again and again, until every row has ended.

    To be called under ``jax.jit`` with all but ``variables`` and the two arrays static.

    Args:
        model: gives the sizes and the dtype of the cache.
        variables: all collections that ``apply`` reads, such as ``{"params": ...}``.
        tokens_BL: int32 prompts, padded on the left (see :func:`left_pad`).
        segment_ids_BL: int32, 0 at padding and 1 at tokens.
        max_new_tokens: the length T of the answer, at least 1.
        eos_id: the token or tokens that end a row; None for none.
        pad_id: fills a row after its end.
        apply: ``model.apply`` or a wrapper of it, called as
            ``apply(variables, ..., method="hidden")`` and ``method="logits"``.

    Returns:
        ``tokens_BT`` int32: the new tokens, the one that ends a row included.

    Raises:
        ValueError: when ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    apply_: Callable[..., Any] = model.apply if apply is None else apply
    ends = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id or ())
    tokens_BL, segment_ids_BL = jnp.asarray(tokens_BL), jnp.asarray(segment_ids_BL)
    batch, length = tokens_BL.shape

    def next_token(positions_BL, tokens_BL, segment_ids_BL, cache):
        hidden_BLD, cache = apply_(
            variables, tokens_BL, positions_BL, segment_ids_BL, cache, method="hidden"
        )
        logits_BV = apply_(variables, hidden_BLD[:, -1], method="logits")
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), cache

    def ended(token_B):
        return jnp.isin(token_B, jnp.asarray(ends, jnp.int32))

    def unfinished(state):
        step, done_B, *_ = state
        return (step < max_new_tokens) & ~jnp.all(done_B)

    def advance(state):
        step, done_B, token_B, out_BT, cache = state
        positions_BL = (prompt_B + step - 1)[:, None]
        ones_BL = jnp.ones_like(positions_BL)
        token_B, cache = next_token(positions_BL, token_B[:, None], ones_BL, cache)
        token_B = jnp.where(done_B, pad_id, token_B)
        out_BT = lax.dynamic_update_slice_in_dim(out_BT, token_B[:, None], step, axis=1)
        return step + 1, done_B | ended(token_B), token_B, out_BT, cache

    prompt_B = jnp.sum(segment_ids_BL != 0, axis=1, dtype=jnp.int32)
    positions_BL = jnp.maximum(jnp.cumsum(segment_ids_BL != 0, axis=1, dtype=jnp.int32) - 1, 0)
    # The last new token is never fed back, so it needs no slot.
    cache = init_cache(model.config, batch, length + max_new_tokens - 1, model.dtype)
    token_B, cache = next_token(positions_BL, tokens_BL, segment_ids_BL, cache)
    out_BT = jnp.full((batch, max_new_tokens), pad_id, jnp.int32).at[:, 0].set(token_B)
    state = (jnp.ones((), jnp.int32), ended(token_B), token_B, out_BT, cache)
    return lax.while_loop(unfinished, advance, state)[3]
