"""One hypothesis a row, a token at a time: the prompts at once, then step after step."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tera_jax.llama.decode.beam import left_padded
from tera_jax.llama.decode.cache import Cache, init_cache
from tera_jax.llama.decode.config import GenerationConfig, filtered, penalized, without_repeats
from tera_jax.llama.model import Llama


class State(NamedTuple):
    """Rows that are being answered.

    Attributes:
        step: int32 scalar, the new tokens that each row has.
        done_B: whether the row has ended.
        prompt_B: int32, the tokens of each prompt.
        text_BS: int32, prompts and new tokens; a row's first new token is the one behind its
            prompt, which ends at the same slot in all rows.
        cache: of all tokens but the last.
    """

    step: jax.Array
    done_B: jax.Array
    prompt_B: jax.Array
    text_BS: jax.Array
    cache: Cache


@dataclasses.dataclass(frozen=True)
class Steps:
    """How the next tokens are made; two of the same fields compile once.

    Attributes:
        model: gives the sizes and the dtype of the cache, and says whether that is split.
        apply: called as ``apply(variables, ..., method="hidden")`` and ``method="logits"``.
        decoding: how tokens are chosen, and how many.
        eos_ids: tokens that end a row; there may be none.
        pad_id: fills a row after its end.
    """

    model: Llama
    apply: Callable[..., Any]
    decoding: GenerationConfig
    eos_ids: tuple[int, ...]
    pad_id: int

    def prefill(
        self,
        variables: Any,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        key_B: jax.Array | None,
    ) -> State:
        """The rows with their first new token."""
        (batch, length), count = tokens_BL.shape, self.decoding.max_new_tokens
        prompt_B, positions_BL = left_padded(segment_ids_BL)
        # The last new token is never fed back, so it needs no slot.
        slots, model = length + count - 1, self.model
        cache = init_cache(model.config, batch, slots, model.dtype, model.unroll)
        text_BS = jnp.pad(tokens_BL, ((0, 0), (0, count)), constant_values=self.pad_id)
        state = State(jnp.zeros((), jnp.int32), jnp.zeros(batch, bool), prompt_B, text_BS, cache)
        return self._advance(variables, state, tokens_BL, positions_BL, segment_ids_BL, key_B)

    def step(self, variables: Any, state: State, key_B: jax.Array | None) -> State:
        """The rows with one more token, which is ``pad_id`` where the row had ended."""
        last = self._length(state) + state.step - 1
        token_B1 = lax.dynamic_slice_in_dim(state.text_BS, last, 1, axis=1)
        positions_BL = (state.prompt_B + state.step - 1)[:, None]
        ones_BL = jnp.ones_like(positions_BL)
        return self._advance(variables, state, token_B1, positions_BL, ones_BL, key_B)

    def unfinished(self, state: State) -> jax.Array:
        """Whether a row wants another token."""
        return (state.step < self.decoding.max_new_tokens) & ~jnp.all(state.done_B)

    def last(self, state: State) -> jax.Array:
        """The newest token of each row, int32."""
        end = self._length(state) + state.step - 1
        return lax.dynamic_index_in_dim(state.text_BS, end, axis=1, keepdims=False)

    def _length(self, state: State) -> int:
        return state.text_BS.shape[1] - self.decoding.max_new_tokens

    def _advance(
        self,
        variables: Any,
        state: State,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array,
        key_B: jax.Array | None,
    ) -> State:
        step, done_B, prompt_B, text_BS, cache = state
        hidden_BLD, cache = self.apply(
            variables, tokens_BL, positions_BL, segment_ids_BL, cache, method="hidden"
        )
        logits_BV = self.apply(variables, hidden_BLD[:, -1], method="logits")
        token_B = self._choose(logits_BV, state, key_B)
        token_B = jnp.where(done_B, self.pad_id, token_B)
        end = self._length(state) + step
        text_BS = lax.dynamic_update_slice_in_dim(text_BS, token_B[:, None], end, axis=1)
        eos_ids = jnp.asarray(self.eos_ids, jnp.int32)
        done_B = done_B | jnp.isin(token_B, eos_ids)
        return State(step + 1, done_B, prompt_B, text_BS, cache)

    def _choose(self, logits_BV: jax.Array, state: State, key_B: jax.Array | None) -> jax.Array:
        decoding, length = self.decoding, self._length(state)
        first_B = length - state.prompt_B
        end_B = jnp.full(len(first_B), length + state.step)
        if decoding.repetition_penalty != 1:
            penalty = decoding.repetition_penalty
            logits_BV = penalized(logits_BV, state.text_BS, first_B, end_B, penalty)
        if decoding.no_repeat_ngram_size:
            size = decoding.no_repeat_ngram_size
            logits_BV = without_repeats(logits_BV, state.text_BS, first_B, end_B, size)
        if not decoding.do_sample:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

        def draw(key: Any, row: jax.Array) -> jax.Array:
            return jax.random.categorical(jax.random.fold_in(key, state.step), row)

        return jax.vmap(draw)(key_B, filtered(logits_BV, decoding)).astype(jnp.int32)
