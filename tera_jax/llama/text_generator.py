"""A model with its tokenizer that answers prompts: whole answers, or pieces of text."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tera_jax import quantize
from tera_jax.adapters import interceptor
from tera_jax.adapters.base import Adapter
from tera_jax.llama.checkpoint import special_tokens
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.decode.generate import generate as decode
from tera_jax.llama.decode.generate import left_pad
from tera_jax.llama.decode.steps import State, Steps
from tera_jax.llama.model import Llama
from tera_jax.llama.pieces import pieces, until
from tera_jax.llama.prompts import Prompt, encode

_BUCKET = 32
_PAD = 0


class TextGenerator:
    """A model with its tokenizer, and perhaps an adapter, ready to answer.

    Prompts are padded to the next of 32, 64, 128, ... tokens, and a program is compiled once for
    each such length, number of rows and configuration. An adapter that can be merged is merged
    here, once, unless the base is quantised.

    Args:
        model: from :func:`tera_jax.llama.load_pretrained`.
        variables: ``{"params": params}``, and with an adapter ``frozen`` and ``d`` too.
        tokenizer: of the model.
        adapter: from :func:`tera_jax.adapt` or :func:`tera_jax.load_adapter`.

    Raises:
        ValueError: when a collection is missing.
    """

    def __init__(
        self,
        model: Llama,
        variables: Mapping[str, Any],
        tokenizer: Any,
        adapter: Adapter | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.eos_ids = special_tokens.eos_ids(model.config, tokenizer)
        self._variables, self._apply = _prepared(model, variables, adapter)
        size = model.config.vocab_size
        self._virtual = [] if adapter is None else [*adapter.virtual_tokens(size)]

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt; see :func:`tera_jax.llama.prompts.encode`."""
        return encode(self.tokenizer, prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's token ids, without special tokens."""
        return str(self.tokenizer.decode([*ids], skip_special_tokens=True))

    def room(self, ids: Sequence[int], config: GenerationConfig) -> int:
        """How many tokens an answer to a prompt may have: all, or those up to the context's end.

        Raises:
            ValueError: when the prompt is empty, or fills the context.
        """
        if not ids:
            raise ValueError("the prompt is empty: it has no token; write something")
        context = self.model.config.max_position_embeddings
        left = context - len(self._virtual) - len(ids)
        if left < 1:
            raise ValueError(
                f"the prompt has {len(self._virtual) + len(ids)} tokens, which leaves no room in "
                f"the model's context of {context}; shorten it"
            )
        return min(config.max_new_tokens, left)

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        seed: int = 0,
        batch_size: int = 8,
        start: int = 0,
    ) -> Iterator[tuple[int, list[int]]]:
        """Answers to prompts of token ids, batch after batch.

        Which prompts share a batch depends on their indices alone, so that the answers from
        ``start`` on are those that a whole pass gives, to the bit.

        Args:
            prompts: token ids, without virtual tokens.
            config: how tokens are chosen, and how many.
            seed: of sampling; a prompt's draws depend on it and on the prompt's index alone.
            batch_size: prompts at once, of neighbouring indices.
            start: the first index that is answered.

        Yields:
            the index of a prompt, ascending, and its new token ids, without the one that ends it.

        Raises:
            ValueError: for a prompt without a token or without room, before any is answered.
        """
        rooms = [self._room(row, ids, config) for row, ids in enumerate(prompts)]
        size = max(1, min(batch_size, len(prompts)))
        for first in range(start - start % size, len(prompts), size):
            chunk = [*range(first, min(first + size, len(prompts)))]
            filled = [*chunk, *[chunk[-1]] * (size - len(chunk))]  # one shape for all batches
            tokens_BL, segments_BL = self._padded([prompts[row] for row in filled])
            key_B = _keys(seed, filled) if config.do_sample else None
            steps = self._steps(config)
            new_BT = np.asarray(_decode(steps, self._variables, tokens_BL, segments_BL, key_B))
            for row, ids_T in zip(chunk, new_BT.tolist(), strict=False):
                if row >= start:
                    yield row, [*self._until_end(ids_T[: rooms[row]])]

    def stream(
        self, prompt: Sequence[int], config: GenerationConfig, seed: int = 0
    ) -> Iterator[int]:
        """The new token ids of one prompt, each as soon as it is there.

        They are those of :meth:`answers` to this prompt alone.

        Args:
            prompt: token ids, without virtual tokens.
            config: how tokens are chosen, and how many.
            seed: of sampling.

        Raises:
            ValueError: for beam search, and for a prompt without a token or without room.
        """
        if config.num_beams > 1:
            raise ValueError(
                f"num_beams={config.num_beams} cannot stream: beam search knows its first token "
                "with its last; set num_beams=1"
            )
        room = self.room(prompt, config)
        return self._until_end(itertools.islice(self._stream(prompt, config, seed), room))

    def pieces(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """The text of :meth:`stream`, piece by piece, up to the first of ``stop``.

        No piece ends within a character. Together they are :meth:`decode` of all ids.
        """
        return until(pieces(self.stream(prompt, config, seed), self.decode), stop)

    def _room(self, row: int, ids: Sequence[int], config: GenerationConfig) -> int:
        try:
            return self.room(ids, config)
        except ValueError as error:
            raise ValueError(f"prompt {row}: {error}") from None

    def _steps(self, config: GenerationConfig) -> Steps:
        return Steps(self.model, self._apply, config, self.eos_ids, _PAD)

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        given = [[*self._virtual, *ids] for ids in prompts]
        bucket = _BUCKET
        while bucket < max(map(len, given)):
            bucket *= 2
        return left_pad(given, _PAD, multiple=bucket)

    def _until_end(self, ids: Iterable[int]) -> Iterator[int]:
        return itertools.takewhile(lambda id_: id_ not in self.eos_ids, ids)

    def _stream(self, prompt: Sequence[int], config: GenerationConfig, seed: int) -> Iterator[int]:
        steps = self._steps(config)
        key_B = _keys(seed, [0]) if config.do_sample else None
        token_B, state = _prefill(steps, self._variables, *self._padded([prompt]), key_B)
        for _ in range(config.max_new_tokens - 1):
            # The next step is under way while the host reads the last one.
            following, state = _step(steps, self._variables, state, key_B)
            yield int(token_B[0])
            token_B = following
        yield int(token_B[0])


def _prepared(
    model: Llama, variables: Mapping[str, Any], adapter: Adapter | None
) -> tuple[dict[str, Any], Callable[..., Any]]:
    """The collections that answers are made of, and what applies the model to them."""
    if "params" not in variables:
        raise ValueError(
            f"the variables {sorted(variables)} lack params; pass {{'params': params}}"
        )
    if adapter is None:
        return {"params": variables["params"]}, _base(model)
    if adapter.mergeable and not quantize.any_quantized(variables["params"]):
        return {"params": _merge(adapter)(dict(variables))}, _base(model)
    return dict(variables), _adapted(model, adapter)


# Each gives the same object each time, so that what is jitted with it is not compiled again.
@functools.cache
def _base(model: Llama) -> Callable[..., Any]:
    return functools.partial(interceptor.apply_base, model)


@functools.cache
def _adapted(model: Llama, adapter: Adapter) -> Callable[..., Any]:
    return functools.partial(adapter.apply, model)


@functools.cache
def _merge(adapter: Adapter) -> Callable[..., Any]:
    return jax.jit(adapter.merge)


def _keys(seed: int, rows: Sequence[int]) -> jax.Array:
    key = jax.random.key(seed)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(np.asarray(rows, np.uint32))


@functools.partial(jax.jit, static_argnums=0)
def _decode(
    steps: Steps, variables: Any, tokens_BL: Any, segment_ids_BL: Any, key_B: Any
) -> jax.Array:
    given = {"eos_id": steps.eos_ids, "pad_id": steps.pad_id, "key_B": key_B, "apply": steps.apply}
    return decode(steps.model, variables, tokens_BL, segment_ids_BL, steps.decoding, **given)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(
    steps: Steps, variables: Any, tokens_BL: Any, segment_ids_BL: Any, key_B: Any
) -> tuple[jax.Array, State]:
    state = steps.prefill(variables, tokens_BL, segment_ids_BL, key_B)
    return state.text_BS[:, tokens_BL.shape[1]], state


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(steps: Steps, variables: Any, state: State, key_B: Any) -> tuple[jax.Array, State]:
    """The token that is new, and the rows with it in place of those given."""
    state = steps.step(variables, state, key_B)
    return steps.last(state), state
