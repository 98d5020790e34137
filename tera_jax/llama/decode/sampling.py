"""The next token of each row, by settings of its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tera_jax.llama.decode.config import GenerationConfig, outside_nucleus


class Settings(NamedTuple):
    """Of the rows of a batch, or of one row without the axis B.

    Attributes:
        do_sample: bool (B,); rows without it take the most likely token.
        temperature: float32 (B,), above 0.
        top_k: int32 (B,); 0 for all.
        top_p: float32 (B,).
        key: (B,) random keys; the n-th new token is drawn with ``fold_in(key, n)``.
        limit: int32 (B,), the most new tokens.
        stop: int32 (B, E), the tokens that end a row; -1 is none.
    """

    do_sample: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    key: jax.Array
    limit: jax.Array
    stop: jax.Array


def init_settings(batch: int, stops: int) -> Settings:
    """Greedy rows without a stop, that are to have no token."""
    return Settings(
        do_sample=jnp.zeros(batch, bool),
        temperature=jnp.ones(batch, jnp.float32),
        top_k=jnp.zeros(batch, jnp.int32),
        top_p=jnp.ones(batch, jnp.float32),
        key=jax.random.split(jax.random.key(0), batch),
        limit=jnp.zeros(batch, jnp.int32),
        stop=jnp.full((batch, stops), -1, jnp.int32),
    )


def settings(
    decoding: GenerationConfig, key: jax.Array, eos_ids: tuple[int, ...], stops: int
) -> Settings:
    """Of one row.

    Args:
        decoding: without beams and ``no_repeat_ngram_size``.
        key: of its draws.
        eos_ids: the tokens that end it.
        stops: E, as many as these or more.

    Raises:
        ValueError: for what rows with settings of their own do not have.
    """
    if decoding.num_beams > 1 or decoding.no_repeat_ngram_size:
        raise ValueError(
            f"num_beams={decoding.num_beams} and no_repeat_ngram_size="
            f"{decoding.no_repeat_ngram_size} are not offered for slots; use generate"
        )
    if len(eos_ids) > stops:
        raise ValueError(f"{len(eos_ids)} stops {eos_ids}, but the slots have room for {stops}")
    return Settings(
        do_sample=jnp.asarray(decoding.do_sample),
        temperature=jnp.asarray(decoding.temperature, jnp.float32),
        top_k=jnp.asarray(decoding.top_k, jnp.int32),
        top_p=jnp.asarray(decoding.top_p, jnp.float32),
        key=key,
        limit=jnp.asarray(decoding.max_new_tokens, jnp.int32),
        stop=jnp.asarray([*eos_ids, *[-1] * (stops - len(eos_ids))], jnp.int32),
    )


def filtered(logits_BV: jax.Array, rows: Settings) -> jax.Array:
    """:func:`tera_jax.llama.decode.config.filtered` by the settings of each row."""
    vocabulary = logits_BV.shape[-1]
    logits_BV = logits_BV / rows.temperature[:, None]
    ascending_BV = jnp.sort(logits_BV, axis=-1)
    count_B = jnp.where(rows.top_k == 0, vocabulary, jnp.minimum(rows.top_k, vocabulary))
    least_B1 = jnp.take_along_axis(ascending_BV, (vocabulary - count_B)[:, None], axis=-1)
    logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    ascending_BV = jnp.where(ascending_BV < least_B1, -jnp.inf, ascending_BV)
    out_B = outside_nucleus(ascending_BV, rows.top_p[:, None])
    out_B = jnp.where(rows.top_p < 1, out_B, 0)
    least_B1 = jnp.take_along_axis(ascending_BV, out_B[:, None], axis=-1)
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)


def next_tokens(
    logits_BV: jax.Array, rows: Settings, count_B: jax.Array, sampling: bool
) -> jax.Array:
    """The next token of each row, int32 (B,).

    Args:
        logits_BV: float32.
        rows: the settings.
        count_B: int32, the new tokens that each row has.
        sampling: whether any row samples; else no logits are sorted.
    """
    best_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    if not sampling:
        return best_B

    def draw(key: jax.Array, count: jax.Array, logits_V: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, count), logits_V)

    drawn_B = jax.vmap(draw)(rows.key, count_B, filtered(logits_BV, rows))
    return jnp.where(rows.do_sample, drawn_B.astype(jnp.int32), best_B)
