"""Training steps of our own, measured: one base with random weights, and cases on it."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import rounds
from benchmarks.cases import Case, make_adapter
from benchmarks.hlo import products
from benchmarks.profile import profiled, report
from tera_jax import float8, quantize, sharding
from tera_jax.llama import Llama, stacking
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.network import cost_model
from tera_jax.ops import dispatch
from train.data import Batch, num_tokens
from train.params.shapes import MODELS
from train.training.steps.step import State, init_state, make_train_step, state_shardings

TINY = MODELS["llama-2-7b"] | {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
FP8, FP8_BOTH = "fp8", "fp8:both"
"""Kinds of a base in e4m3, with codes in one layout and in both."""
_WARMUP = 2
"""Steps before the clock starts."""


class Measurement(NamedTuple):
    """What was measured. ``note`` says why there are no numbers.

    ``tokens`` are those of a step, with padding; those of ``tokens_per_second`` have none. ``base``
    is how its kernels are kept: ``none`` as they are, a kind of quantisation, or :data:`FP8_BOTH`.
    """

    name: str
    tokens: int
    tokens_per_second: float = math.nan
    step_seconds: float = math.nan
    peak_bytes: int = 0
    compile_seconds: float = math.nan
    first_loss: float = math.nan
    last_loss: float = math.nan
    trained: int = 0
    note: str = ""
    base: str = "none"


class StepProgram(NamedTuple):
    """A step of JAX's, its first state and frozen arrays, and the seconds of tracing it."""

    step: Any
    state: Any
    frozen: Any
    seconds: float


def quantized(params: Any, kind: str, block: int, layout: Callable[[Any], Any]) -> Any:
    """``params`` in a kind of :attr:`Measurement.base`; ``layout`` gives a tree's shardings."""
    if kind == "none":
        return params
    params = quantize.quantize(params, FP8 if kind == FP8_BOTH else kind, block, layout)
    return float8.with_both_layouts(params, layout) if kind == FP8_BOTH else params


def random_batch(rows: int, length: int, vocab_size: int) -> Batch:
    """Random tokens, the loss on all but the first."""
    tokens_BL = np.random.default_rng(0).integers(vocab_size, size=(rows, length), dtype=np.int32)
    target_positions_BT = np.broadcast_to(np.arange(length - 1, dtype=np.int32), (rows, length - 1))
    return Batch(
        tokens_BL,
        target_positions_BT,
        tokens_BL[:, 1:],
        np.ones(target_positions_BT.shape, np.float32),
    )


class Bench:
    """One base, on one device or a mesh of them, and the steps that are measured on it."""

    def __init__(
        self,
        shape: dict[str, Any],
        dtype: Any,
        steps: int,
        profile: bool = False,
        kind: str = "none",
        block: int = quantize.BLOCK,
        mesh: str = "",
    ) -> None:
        self.config = LlamaConfig.from_hf(shape)
        self._dtype, self._steps, self._profile, self._kind = dtype, steps, profile, kind
        self._mesh = sharding.make_mesh(**sharding.parse_mesh(mesh))
        model, tokens_BL = Llama(self.config, dtype=dtype), jnp.zeros((1, 2), jnp.int32)

        def init() -> Any:
            return model.init(jax.random.key(0), tokens_BL)["params"]

        layout = functools.partial(parameter_shardings, mesh=self._mesh)
        self._params = jax.jit(init, out_shardings=layout(jax.eval_shape(init)))()
        self._params = quantized(self._params, kind, block, layout)
        self.size = quantize.size(self._params)

    def _arrange(self, loop: bool) -> None:
        """The parameters as the case wants them: a stack for a loop, else a list."""
        if loop == stacking.is_split(self._params):
            self._params = (stacking.join if loop else stacking.split)(self._params)

    def measure(self, case: Case, batches: Sequence[Batch] = ()) -> Measurement:
        """Compile, check and time one case; a step that does not fit is a note.

        Args:
            case: how.
            batches: of one shape, fed in turn; by default one of random tokens.

        Raises:
            FloatingPointError: for a loss that is not finite.
        """
        batches = batches or [random_batch(case.rows, case.length, self.config.vocab_size)]
        try:
            return self._measure(case, batches)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            tokens = batches[0].tokens_BL.size
            return Measurement(self._name(case), tokens, note="out of memory", base=self._kind)

    def _name(self, case: Case) -> str:
        return case.name if self._kind == "none" else f"{case.name} {self._kind}"

    def lower(self, case: Case, batch: Batch) -> StepProgram:
        """The step of a case, and what it starts from."""
        loop = not stacking.unrolling_pays(case.remat) if case.loop is None else case.loop
        self._arrange(loop)
        model = Llama(self.config, dtype=self._dtype, remat=case.remat, unroll=not loop)
        adapter, optimizer = make_adapter(case, model), optax.adamw(1e-3)
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.set_mesh(self._mesh))
            stack.enter_context(dispatch.forced(case.fused))
            if case.route:
                route = mock.patch.object(cost_model, "route")
                stack.enter_context(route).return_value = case.route

            def init_frozen(params: Any) -> Any:
                return adapter.init_frozen(stacking.stacked(params))

            def init(params: Any, frozen: Any) -> State:
                return init_state(adapter.init_d(stacking.stacked(params), frozen), optimizer)

            shapes = jax.eval_shape(init_frozen, self._params)
            layout = sharding.frozen_shardings(shapes, self._mesh)
            frozen = jax.jit(init_frozen, out_shardings=layout)(self._params)
            shapes = jax.eval_shape(init, self._params, frozen)
            layout = state_shardings(shapes, adapter, optimizer, self._mesh)
            state = jax.jit(init, out_shardings=layout)(self._params, frozen)
            kept = self.config.num_layers * case.kept
            made = (model, adapter, optimizer, self._mesh, self._params, state)
            step: Any = make_train_step(*made, kept_layers=kept)
            start = time.perf_counter()
            lowered = step.lower(state, self._params, frozen, batch)
            return StepProgram(lowered, state, frozen, time.perf_counter() - start)

    def _measure(self, case: Case, batches: Sequence[Batch]) -> Measurement:
        fed = jax.device_put(list(batches), sharding.rows(self._mesh))
        step, state, frozen, lower_seconds = self.lower(case, fed[0])
        start = time.perf_counter()
        compiled = step.compile()
        compile_seconds = lower_seconds + time.perf_counter() - start
        if self._kind in (FP8, FP8_BOTH):
            print(f"{self._name(case)}: {products(compiled.as_text(), self._params)}", flush=True)
        trained = sum(leaf.size for leaf in jax.tree.leaves(state.d))
        plan = compiled.memory_analysis()
        peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
        losses: list[jax.Array] = []

        def advance(count: int) -> float:
            """Seconds of ``count`` further steps; nothing waits for one, as in training."""
            nonlocal state
            start = time.perf_counter()
            for _ in range(count):
                batch = fed[len(losses) % len(fed)]
                state, metrics = compiled(state, self._params, frozen, batch)
                losses.append(metrics.loss)
            jax.block_until_ready(state)
            return time.perf_counter() - start

        advance(_WARMUP)
        steps = max(self._steps, len(fed))
        found = rounds.timed(advance, list(map(num_tokens, batches)), _WARMUP, steps)
        values = jax.device_get(losses)
        if not np.isfinite(values).all():
            raise FloatingPointError(f"{self._name(case)}: losses {values}")
        if self._profile:
            kernels = profiled(lambda: compiled(state, self._params, frozen, fed[0]))
            print(f"{self._name(case)}, one step:", *report(kernels), sep="\n", flush=True)
        return Measurement(
            name=self._name(case),
            tokens=batches[0].tokens_BL.size,
            tokens_per_second=found.tokens_per_second,
            step_seconds=found.step_seconds,
            peak_bytes=peak - plan.alias_size_in_bytes,
            compile_seconds=compile_seconds,
            first_loss=float(values[0]),
            last_loss=float(values[-1]),
            trained=trained,
            base=self._kind,
        )


def matmul_rate(size: int, dtype: Any, repeats: int = 20) -> float:
    """FLOP/s of a square matrix product, the best of three means."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    b = product(a, a).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            out = product(a, b)
        out.block_until_ready()
        times.append((time.perf_counter() - start) / repeats)
    return 2 * size**3 / min(times)
