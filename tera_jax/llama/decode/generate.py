"""Greedy decoding and sampling with a cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tera_jax.llama.decode.beam import beam_search, left_padded
from tera_jax.llama.decode.cache import Cache, init_cache
from tera_jax.llama.decode.config import GenerationConfig, filtered, without_repeats
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


def generate(
    model: Llama,
    variables: Any,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    decoding: GenerationConfig,
    *,
    eos_id: int | Sequence[int] | None,
    pad_id: int,
    key_B: jax.Array | None = None,
    apply: Callable[..., Any] | None = None,
) -> jax.Array:
    """Answers to prompts; ends with the row that ends last.

    To be called under ``jax.jit`` with all but ``variables`` and the arrays static.

    Args:
        model: gives the sizes and the dtype of the cache, and says whether that is split.
        variables: all collections that ``apply`` reads, such as ``{"params": ...}``.
        tokens_BL: int32 prompts, padded on the left (see :func:`left_pad`).
        segment_ids_BL: int32, 0 at padding and 1 at tokens.
        decoding: how tokens are chosen, and how many.
        eos_id: the token or tokens that end a row; None for none.
        pad_id: fills a row after its end.
        key_B: a key for each row, for sampling: a row's draws do not depend on its neighbours.
        apply: ``model.apply`` or a wrapper of it, called as
            ``apply(variables, ..., method="hidden")`` and ``method="logits"``.

    Returns:
        ``tokens_BT`` int32: the new tokens, the one that ends a row included.

    Raises:
        ValueError: for sampling without keys.
    """
    if decoding.do_sample and key_B is None:
        raise ValueError("do_sample needs key_B, a key for each row")
    apply = model.apply if apply is None else apply
    eos_ids = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id or ())
    search = beam_search if decoding.num_beams > 1 else _single
    return search(
        model,
        functools.partial(apply, variables),
        jnp.asarray(tokens_BL),
        jnp.asarray(segment_ids_BL),
        decoding,
        jnp.asarray(eos_ids, jnp.int32),
        pad_id,
        key_B,
    )


def _single(
    model: Llama,
    apply: Callable[..., Any],
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    decoding: GenerationConfig,
    eos_ids: jax.Array,
    pad_id: int,
    key_B: jax.Array | None,
) -> jax.Array:
    """One hypothesis a row."""
    batch, length = tokens_BL.shape
    count = decoding.max_new_tokens

    def advance(
        step: jax.Array,
        text_BS: jax.Array,
        positions_BL: jax.Array,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        cache: Cache,
    ) -> tuple[jax.Array, Cache]:
        hidden_BLD, cache = apply(tokens_BL, positions_BL, segment_ids_BL, cache, method="hidden")
        logits_BV = apply(hidden_BLD[:, -1], method="logits")
        if decoding.no_repeat_ngram_size:
            first_B, end_B = length - prompt_B, jnp.full(batch, length + step)
            size = decoding.no_repeat_ngram_size
            logits_BV = without_repeats(logits_BV, text_BS, first_B, end_B, size)
        if not decoding.do_sample:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), cache
        draw = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row))
        return draw(key_B, filtered(logits_BV, decoding)).astype(jnp.int32), cache

    def unfinished(state: Any) -> jax.Array:
        step, done_B, *_ = state
        return (step < count) & ~jnp.all(done_B)

    def body(state: Any) -> Any:
        step, done_B, text_BS, cache = state
        token_B1 = lax.dynamic_slice_in_dim(text_BS, length + step - 1, 1, axis=1)
        positions_BL = (prompt_B + step - 1)[:, None]
        ones_BL = jnp.ones_like(positions_BL)
        token_B, cache = advance(step, text_BS, positions_BL, token_B1, ones_BL, cache)
        token_B = jnp.where(done_B, pad_id, token_B)
        text_BS = lax.dynamic_update_slice_in_dim(text_BS, token_B[:, None], length + step, axis=1)
        return step + 1, done_B | jnp.isin(token_B, eos_ids), text_BS, cache

    prompt_B, positions_BL = left_padded(segment_ids_BL)
    # The last new token is never fed back, so it needs no slot.
    cache = init_cache(model.config, batch, length + count - 1, model.dtype, model.unroll)
    text_BS = jnp.pad(tokens_BL, ((0, 0), (0, count)), constant_values=pad_id)
    step = jnp.zeros((), jnp.int32)
    token_B, cache = advance(step, text_BS, positions_BL, tokens_BL, segment_ids_BL, cache)
    text_BS = text_BS.at[:, length].set(token_B)
    state = (step + 1, jnp.isin(token_B, eos_ids), text_BS, cache)
    return lax.while_loop(unfinished, body, state)[2][:, length:]
