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
from jax.sharding import NamedSharding, PartitionSpec

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode import slot_scores, slots
from tera_jax.llama.decode.sampling import Settings
from tera_jax.llama.decode.slot_prefill import Prefill
from tera_jax.llama.decode.slot_scores import Scores
from tera_jax.llama.decode.slots import SlotState
from tera_jax.llama.model import Llama
from tera_jax.serve.engine import slot_programs
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.requests import MAX_LOGPROBS, MAX_STOP_IDS, Sampling
from tera_jax.serve.store.record import Layout

_GREEDY = 1e-5
"""Temperatures below take the most likely token."""


_COUNTS = (16, 4, 1)
"""Prompts that one program reads."""


class Output(NamedTuple):
    """Of a step: int32 (B,) new tokens, and their scores where they are wanted."""

    token_B: jax.Array
    scores: Scores | None


class Begun(NamedTuple):
    """A request that goes into an empty slot.

    Attributes:
        slot: its number.
        numbers: of its adapter, from :meth:`SlotDevice.place`; None for the base.
        tokens: of its prompt.
        settings: on the host.
    """

    slot: int
    numbers: jax.Array | None
    tokens: Sequence[int]
    settings: Settings


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
        self._config = config
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
        self._admit = jax.jit(
            functools.partial(slot_programs.admit, model, adapter, layout), donate_argnums=2
        )
        self._insert = jax.jit(functools.partial(slot_programs.insert, adapter), donate_argnums=0)
        self._echo = jax.jit(
            functools.partial(slot_scores.prefill, model, adapter, most, slots=self._size)
        )
        self._step_scored = jax.jit(
            functools.partial(slot_scores.step, model, adapter, most), donate_argnums=1
        )
        self._first = jax.jit(functools.partial(slot_scores.scores, most=most))
        mesh = jax.sharding.get_mesh()
        self._everywhere = None if mesh.empty else NamedSharding(mesh, PartitionSpec())
        self._base_d = self._no_numbers = None
        if adapter is not None and layout is not None:
            self._base_d = jax.jit(functools.partial(slot_programs.make_base_d, adapter))(base)
            self._row = jax.jit(functools.partial(slot_programs.make_row, model, adapter, layout))
            count = sum(map(math.prod, layout.shapes.values()))
            self._no_numbers = self.place(np.zeros(count, jnp.dtype(layout.dtype)))
        self._state = self._empty()

    @property
    def virtual_tokens(self) -> int:
        """How many an adapter brings before its prompts."""
        return len(self._virtual)

    def place(self, numbers: np.ndarray) -> jax.Array:
        """Those of an adapter's record (N,) on the device, or on all of the mesh. Of any thread."""
        return jax.device_put(numbers, self._everywhere)

    def bucket(self, numbers: jax.Array | None, count: int) -> int:
        """The length that a prompt of so many tokens is filled up to.

        Args:
            numbers: of its adapter, which may bring virtual tokens; None for the base.
            count: tokens of the prompt.
        """
        given = count if numbers is None else count + len(self._virtual)
        return next(length for length in self._lengths if length >= given)

    def counts(self, length: int) -> tuple[int, ...]:
        """How many prompts of a bucket one program reads, in descending order; the last is 1."""
        most = max(1, min(self._config.slots, self._config.prefill_tokens // length))
        return tuple(count for count in _COUNTS if count <= most)

    def admit(self, begun: Sequence[Begun], scored: bool) -> Output:
        """Requests of one bucket into empty slots, with their first new tokens: B is their number.

        Args:
            begun: as many as :meth:`counts` has.
            scored: whether any wants the scores of its new tokens.
        """
        filled = [self._filled(each.numbers, each.tokens) for each in begun]
        numbers = [self._no_numbers if each.numbers is None else each.numbers for each in begun]
        settings = jax.tree.map(
            lambda *leaves: np.stack(leaves), *(each.settings for each in begun)
        )
        self._state, token_R, logits_RV = self._admit(
            self.base,
            self._base_d,
            self._state,
            np.asarray([each.slot for each in begun], np.int32),
            () if self._no_numbers is None else tuple(numbers),
            np.asarray([each.numbers is None for each in begun]),
            np.concatenate([tokens_1L for tokens_1L, _ in filled]),
            np.asarray([length for _, length in filled], np.int32),
            settings,
        )
        return Output(token_R, self._first(logits_RV, token_R) if scored else None)

    def echo(self, numbers: jax.Array | None, tokens: Sequence[int]) -> tuple[Any, Prefill, Scores]:
        """Read a prompt and score its tokens.

        Args:
            numbers: of its adapter; None for the base.
            tokens: of the prompt.

        Returns:
            The prepared arrays of the adapter, and what the prompt leaves, for :meth:`insert`; and
            the scores, of virtual tokens too.
        """
        tokens_1L, length = self._filled(numbers, tokens)
        row = None
        if self._base_d is not None:
            given = self._no_numbers if numbers is None else numbers
            row = self._row(self.base, self._base_d, given, np.bool_(numbers is None))
        begun, scores = self._echo(self.base, row, tokens_1L, np.int32(length))
        return row, begun, scores

    def insert(
        self, slot: int, row: Any, begun: Prefill, settings: Settings, scored: bool
    ) -> Output:
        """A request whose prompt was scored into an empty slot; of its first token B is 1."""
        given = (np.int32(slot), row, begun, settings)
        self._state, token_1 = self._insert(self._state, *given)
        scores = self._first(begun.logits_V[None], token_1) if scored else None
        return Output(token_1, scores)

    def _filled(self, numbers: jax.Array | None, tokens: Sequence[int]) -> tuple[np.ndarray, int]:
        given = [*tokens] if numbers is None else [*self._virtual, *tokens]
        tokens_1L = np.zeros((1, self.bucket(numbers, len(tokens))), np.int32)
        tokens_1L[0, : len(given)] = given
        return tokens_1L, len(given)

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
        for length in self._lengths:
            tokens = [0] * length
            for count in self.counts(length):
                begun = [Begun(slot, None, tokens, settings) for slot in range(count)]
                self.admit(begun, scored=True)
            if self._config.echo:
                row, prompt, _ = self.echo(None, tokens)
                self.insert(0, row, prompt, settings, scored=True)
        for sampling, scored in ((False, False), (True, False), (True, True)):
            self.step(sampling, scored)
        self.evict(0)
        self.reset()
        jax.block_until_ready(self._state)

    def _empty(self) -> SlotState:
        row = None
        if self._base_d is not None:
            given = self.base, self._base_d, self._no_numbers, np.bool_(True)
            row = jax.eval_shape(self._row, *given)
        sizes = self._config.slots, self._size, self._stops
        state = slots.init_slots(self.model, self.adapter, row, *sizes)
        return _beside(state, self.base["params"])


def _beside(state: SlotState, params: Any) -> SlotState:
    """The state as programs leave it that read parameters of one device; on a mesh it is so.

    Else what was compiled with the first state would be compiled again with the second.
    """
    leaf = next(iter(jax.tree.leaves(params)))
    if not leaf.committed or leaf.sharding.num_devices > 1:
        return state
    if isinstance(place := leaf.sharding, NamedSharding):
        place = NamedSharding(place.mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(leaf, place), state)
