"""An engine's arrays and programs: the base, the slots, and what is done to them. One thread's.

Nothing here waits for the device: what comes back are arrays that are being computed. Every shape
is compiled by :meth:`SlotDevice.warm`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import trees
from tera_jax.adapters import bank
from tera_jax.adapters.base import Adapter
from tera_jax.llama import stacking
from tera_jax.llama.decode import slot_layout, slot_scores, slots
from tera_jax.llama.decode.sampling import Settings
from tera_jax.llama.decode.slot_prefill import Prefill
from tera_jax.llama.decode.slot_scores import Scores
from tera_jax.llama.decode.slots import SlotState
from tera_jax.llama.model import Llama
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.record import Layout
from tera_jax.serve.requests import MAX_LOGPROBS, MAX_STOP_IDS, Sampling

_GREEDY = 1e-5
"""Temperatures below take the most likely token."""


class Output(NamedTuple):
    """Of a step: int32 (B,) new tokens, and their scores where they are wanted."""

    token_B: jax.Array
    scores: Scores | None


class SlotDevice:
    """The slots of a model on the device.

    Args:
        model: the base's.
        adapter: method and layers of all adapters; None for the base alone.
        base: ``params`` and ``frozen``, laid out on the mesh if there is one.
        layout: of the adapters' records; None for the base alone.
        config: of the engine.

    Raises:
        NotByRowsError: for a method whose adapters cannot share a batch.
        ValueError: for a layout that is not the adapter's, or slots longer than the context.
    """

    def __init__(
        self,
        model: Llama,
        adapter: Adapter | None,
        base: Mapping[str, Any],
        layout: Layout | None,
        config: EngineConfig,
    ) -> None:
        self.model, self.adapter, self.base = model, adapter, base
        self._config, self._layout = config, layout
        self._virtual = () if adapter is None else adapter.virtual_tokens(model.config.vocab_size)
        self._size = config.max_length + len(self._virtual)
        if self._size > model.config.max_position_embeddings:
            raise ValueError(
                f"max_length={config.max_length} and {len(self._virtual)} virtual tokens are "
                f"beyond the model's context of {model.config.max_position_embeddings}; lower it"
            )
        self._lengths = [length + len(self._virtual) for length in config.lengths()]
        self._stops = len(config.eos_ids) + MAX_STOP_IDS
        most = min(MAX_LOGPROBS, model.config.vocab_size)
        self._plain = slots.make_programs(model, adapter, self._size)
        self._insert = jax.jit(functools.partial(_insert, adapter), donate_argnums=0)
        self._prefill_scored = jax.jit(
            functools.partial(slot_scores.prefill, model, adapter, most, slots=self._size)
        )
        self._step_scored = jax.jit(
            functools.partial(slot_scores.step, model, adapter, most), donate_argnums=1
        )
        self._first = jax.jit(functools.partial(_first_scores, most))
        self.base_row = None
        if adapter is not None and layout is not None:
            self._row = jax.jit(functools.partial(_make_row, model, adapter, layout))
            self.base_row = jax.jit(functools.partial(_make_base_row, model, adapter))(base)
        self._state = self._empty()

    def row(self, numbers: np.ndarray) -> Any:
        """The prepared arrays of an adapter.

        Args:
            numbers: (N,), those of its record.
        """
        return self._row(self.base, numbers)

    def prefill(
        self, row: Any, tokens: Sequence[int], scored: bool
    ) -> tuple[Prefill, Scores | None]:
        """Read a prompt, and score its tokens where that is wanted."""
        given = [*tokens] if row is self.base_row else [*self._virtual, *tokens]
        length = next(length for length in self._lengths if length >= len(given))
        tokens_1L = np.zeros((1, length), np.int32)
        tokens_1L[0, : len(given)] = given
        arguments = (self.base, row, tokens_1L, np.int32(len(given)))
        if scored:
            begun, scores = self._prefill_scored(*arguments)
            return begun, scores
        return self._plain.prefill(*arguments), None

    def insert(
        self, slot: int, row: Any, begun: Prefill, settings: Settings, scored: bool
    ) -> Output:
        """A request into an empty slot, with its first new token: B is 1."""
        given = (np.int32(slot), row, begun, settings)
        self._state, token_1 = self._insert(self._state, *given)
        scores = self._first(begun.logits_V, token_1) if scored else None
        return Output(token_1, scores)

    def step(self, sampling: bool, scored: bool) -> Output:
        """One more token for every active slot."""
        if scored:
            self._state, token_B, scores = self._step_scored(self.base, self._state)
            return Output(token_B, scores)
        self._state, token_B = self._plain.step(self.base, self._state, sampling=sampling)
        return Output(token_B, None)

    def evict(self, slot: int) -> None:
        """Empty a slot."""
        self._state = self._plain.evict(self._state, np.int32(slot))

    def settings(self, sampling: Sampling, limit: int, seed: int, stops: Sequence[int]) -> Settings:
        """Of a request's row, on the host.

        Args:
            sampling: of the request.
            limit: its most new tokens.
            seed: of its draws, if it has any.
            stops: all tokens that end it.
        """
        sample = sampling.temperature >= _GREEDY
        ends = [*stops, *[-1] * (self._stops - len(stops))]
        fields: dict[str, Any] = {
            "do_sample": np.bool_(sample),
            "temperature": np.float32(sampling.temperature if sample else 1.0),
            "top_k": np.int32(sampling.top_k),
            "top_p": np.float32(sampling.top_p),
            "key": np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint32),
            "limit": np.int32(limit),
            "stop": np.array(ends, np.int32),
        }
        return Settings(**fields)

    @property
    def is_lost(self) -> bool:
        """Whether a program that failed has taken the slots with it."""
        return any(leaf.is_deleted() for leaf in jax.tree.leaves(self._state))

    def reset(self) -> None:
        """Empty slots in place of those that are there."""
        jax.tree.map(lambda leaf: leaf.delete(), self._state)
        self._state = self._empty()

    def warm(self) -> None:
        """Compile every program by running it."""
        settings = self.settings(Sampling(4), 4, 0, ())
        rows = [self.base_row]
        if self._layout is not None:
            count = sum(map(math.prod, self._layout.shapes.values()))
            rows.append(self.row(np.zeros(count, jnp.dtype(self._layout.dtype))))
        for length in self._lengths:
            for row in rows:
                tokens = [0] * (length if row is self.base_row else length - len(self._virtual))
                if self._config.echo:
                    self.prefill(row, tokens, scored=True)
                begun, _ = self.prefill(row, tokens, scored=False)
                self.insert(0, row, begun, settings, scored=True)
        for sampling, scored in ((False, False), (True, False), (True, True)):
            self.step(sampling, scored)
        self.evict(0)
        self.reset()
        jax.block_until_ready(self._state)

    def _empty(self) -> SlotState:
        given = (self.model, self.adapter, self.base_row, self._config.slots, self._size)
        return slots.init_slots(*given, self._stops)


def require_layout(adapter: Adapter, params: Any, layout: Layout) -> None:
    """Check that records hold the ``d`` of an adapter.

    Args:
        adapter: of the records.
        params: the base's, with the layers in a stack, abstract or real.
        layout: of the records.

    Raises:
        ValueError: for an array that is missing, too many or of another shape.
    """
    expected = {k: tuple(v.shape) for k, v in trees.named(adapter.abstract_d(params)).items()}
    if expected != layout.shapes:
        names = {**expected, **layout.shapes}
        name = next(n for n in names if expected.get(n) != layout.shapes.get(n))
        raise ValueError(
            f"{name} is {layout.shapes.get(name, 'missing')} in the store and "
            f"{expected.get(name, 'missing')} for {adapter.name} on this base; make the store again"
        )


def _make_base_row(model: Llama, adapter: Adapter, base: Mapping[str, Any]) -> Any:
    params = stacking.stacked(base["params"])
    return _prepared(model, adapter, base, adapter.base_d(params, base["frozen"]))


def _make_row(
    model: Llama, adapter: Adapter, layout: Layout, base: Mapping[str, Any], numbers_N: jax.Array
) -> Any:
    params = stacking.stacked(base["params"])
    ends = np.cumsum([math.prod(shape) for shape in layout.shapes.values()]).tolist()
    end_of = dict(zip(layout.shapes, ends, strict=True))

    def part(path: Any, leaf: Any) -> jax.Array:
        end = end_of[trees.name(path)]
        return numbers_N[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)

    d = jax.tree.map_with_path(part, adapter.abstract_d(params))
    return _prepared(model, adapter, base, d)


def _prepared(model: Llama, adapter: Adapter, base: Mapping[str, Any], d: Any) -> Any:
    params = stacking.stacked(base["params"])
    return slot_layout.everywhere(
        bank.make_row(adapter, params, base["frozen"], d, dtype=model.dtype)
    )


def _insert(
    adapter: Adapter | None,
    state: SlotState,
    slot: jax.Array,
    row: Any,
    begun: Prefill,
    settings: Settings,
) -> tuple[SlotState, jax.Array]:
    """With the halves of the seed in place of the key: the lower is that of ``jax.random.key``."""
    low, high = settings.key
    key = jax.random.key(low)
    key = jnp.where(high == 0, key, jax.random.fold_in(key, high))
    state, token = slots.insert(adapter, state, slot, row, begun, settings._replace(key=key))
    return state, token[None]


def _first_scores(most: int, logits_V: jax.Array, token_1: jax.Array) -> Scores:
    return slot_scores.scores(logits_V[None], token_1, most)
