"""How the next token is chosen. Names and meanings are those of transformers' GenerationConfig."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Greedy by default; beam search with ``num_beams``, sampling with ``do_sample``.

    Attributes:
        max_new_tokens: the length T of the longest answer.
        num_beams: hypotheses kept a prompt.
        length_penalty: a finished hypothesis scores its log-probability divided by its length to
            this power.
        early_stopping: when a prompt is done. True: as soon as ``num_beams`` hypotheses have ended.
            False: when the best running one would not beat the worst of them if it ended now.
            ``never``: when it would not beat it at any length.
        no_repeat_ngram_size: no n-gram of prompt and answer together comes twice; 0 allows it.
        repetition_penalty: the score of each token that is in prompt or answer already is divided
            by this where it is above 0, and multiplied where it is below; 1 leaves it.
        do_sample: draw tokens instead of taking the most likely.
        temperature: divides the logits before the draw.
        top_k: draw from so many of the most likely tokens; 0 for all.
        top_p: draw from the fewest tokens whose probabilities add up to this at least.
    """

    max_new_tokens: int = 16
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: Literal[False, True, "never"] = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("num_beams", 1)):
            if not least <= getattr(self, name) < 2**31:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least {least} and fit 32 bits"
                )
        for name in ("no_repeat_ngram_size", "top_k"):
            if not 0 <= getattr(self, name) < 2**31:
                raise ValueError(
                    f"{name}={getattr(self, name)} must not be negative and fit 32 bits"
                )
        if not 2.0**-126 <= self.temperature < 2.0**127:
            raise ValueError(
                f"temperature={self.temperature} must be above 0 and finite; do_sample=False is "
                "greedy"
            )
        if not 2.0**-126 <= self.repetition_penalty < 2.0**127:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty} must be above 0 and finite; 1 "
                "is none"
            )
        if not abs(self.length_penalty) < 2.0**127:
            raise ValueError(f"length_penalty={self.length_penalty} must be finite in float32")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(
                f"do_sample with num_beams={self.num_beams} is not offered; choose one of them"
            )


def filtered(logits_BV: jax.Array, decoding: GenerationConfig) -> jax.Array:
    """The logits of the distribution that is drawn from; -inf for tokens that are left out."""
    logits_BV = logits_BV / decoding.temperature
    if decoding.top_k:
        top_BK, _ = lax.top_k(logits_BV, min(decoding.top_k, logits_BV.shape[-1]))
        logits_BV = jnp.where(logits_BV < top_BK[:, -1:], -jnp.inf, logits_BV)
    if decoding.top_p < 1:
        ascending_BV = jnp.sort(logits_BV, axis=-1)
        out_B = outside_nucleus(ascending_BV, decoding.top_p)
        least_B1 = jnp.take_along_axis(ascending_BV, out_B[:, None], axis=-1)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


def outside_nucleus(ascending_BV: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """How many of the least likely tokens are left out: they make up 1 - top_p at most.

    The most likely one is never out.

    Args:
        ascending_BV: logits in ascending order.
        top_p: of all rows, or (B, 1) of each.
    """
    below_BV = jnp.cumsum(jax.nn.softmax(ascending_BV, axis=-1), axis=-1)
    return jnp.sum(below_BV[:, :-1] <= 1 - top_p, axis=-1)


def without_repeats(
    scores_BV: jax.Array, tokens_BS: jax.Array, first_B: jax.Array, end_B: jax.Array, size: int
) -> jax.Array:
    """-inf for each token that would complete an n-gram that is there already.

    Args:
        scores_BV: of the next token.
        tokens_BS: int32 rows of tokens; those of row b are ``first_B[b]`` to ``end_B[b] - 1``.
        first_B: where each row begins.
        end_B: where its next token goes.
        size: n.
    """
    rows, slots = tokens_BS.shape
    if slots < size:
        return scores_BV
    start_1I = jnp.arange(slots - size + 1)[None]
    match_BI = (start_1I >= first_B[:, None]) & (start_1I + size <= end_B[:, None])
    for offset in range(size - 1):
        last_B1 = jnp.take_along_axis(tokens_BS, (end_B - size + 1 + offset)[:, None], axis=1)
        match_BI &= tokens_BS[:, offset : offset + start_1I.shape[1]] == last_B1
    # A row with fewer than n - 1 tokens has no n-gram to repeat: no start lies in it.
    banned_BI = jnp.where(match_BI, -jnp.inf, jnp.inf)
    return scores_BV.at[jnp.arange(rows)[:, None], tokens_BS[:, size - 1 :]].min(banned_BI)


def penalized(
    scores_BV: jax.Array, tokens_BS: jax.Array, first_B: jax.Array, end_B: jax.Array, penalty: float
) -> jax.Array:
    """Lower scores for the tokens that a row has already.

    Args:
        scores_BV: of the next token.
        tokens_BS: int32 rows of tokens; those of row b are ``first_B[b]`` to ``end_B[b] - 1``.
        first_B: where each row begins.
        end_B: where its next token goes.
        penalty: divides a score above 0 and multiplies one below.
    """
    slot_1S = jnp.arange(tokens_BS.shape[1])[None]
    within_BS = (slot_1S >= first_B[:, None]) & (slot_1S < end_B[:, None])
    row_B1 = jnp.arange(len(tokens_BS))[:, None]
    # Ids beyond the vocabulary, which are virtual tokens, have no score and are dropped.
    seen_BV = jnp.zeros(scores_BV.shape, bool).at[row_B1, tokens_BS].max(within_BS, mode="drop")
    lowered_BV = jnp.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return jnp.where(seen_BV, lowered_BV, scores_BV)
