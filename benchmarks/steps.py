"""Training steps of our own, measured: one base with random weights, and cases on it."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import rounds
from benchmarks.profile import profiled, report
from configs.commonsense import get_config
from tera_jax import adapt, quantize, sharding
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.interceptor import calls, dequantized
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.llama import Llama, stacking
from tera_jax.llama.config import LlamaConfig
from tera_jax.methods import Method, NotMergeableError, TargetLayer
from tera_jax.network import cost_model
from tera_jax.ops import dispatch
from train.config import parse
from train.data import Batch, num_tokens
from train.params.shapes import MODELS
from train.training.step import State, init_state, make_train_step, state_shardings

TINY = MODELS["llama-2-7b"] | {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
QV = ("q_proj", "v_proj")
ALL = (*QV, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FROZEN = "frozen"
_WARMUP = 2
"""Steps before the clock starts."""


class Case(NamedTuple):
    """A setting of our own."""

    method: str
    rows: int
    length: int
    remat: str = "dots"
    targets: tuple[str, ...] = QV
    fields: tuple[tuple[str, Any], ...] = ()
    route: str = ""  # of TeRA, as cost_model.Route; by its own choice
    ahead: bool = False  # kernels built before the layers
    fused: bool | None = None  # Pallas kernels everywhere or nowhere; None where they are used
    loop: bool | None = None  # over the layers; None as train.main has it on a GPU
    packed: int = 0  # tokens of a row of real records; 0 pads each

    @property
    def name(self) -> str:
        """The words of a row."""
        words = [
            self.method,
            f"packed {self.packed}" if self.packed else "",
            *(f"{k}={v}" if isinstance(v, str) else f"{v}" for k, v in self.fields),
            self.route,
        ]
        words += [
            {None: "", True: "fused", False: "unfused"}[self.fused],
            "ahead" * self.ahead,
            {None: "", True: "loop", False: "unrolled"}[self.loop],
            "" if self.remat == "dots" else f"remat {self.remat}",
        ]
        if self.targets != QV:
            words.append("all linear" if self.targets == ALL else "+".join(self.targets))
        return " ".join(word for word in words if word)


class Found(NamedTuple):
    """What was measured. ``note`` says why there are no numbers.

    ``tokens`` are those of a step, with padding; those of ``tokens_per_second`` have none.
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


class Lowered(NamedTuple):
    """A step of JAX's, its first state and frozen arrays, and the seconds of tracing it."""

    step: Any
    state: Any
    frozen: Any
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Nothing(Method):
    """Of the bias."""

    mergeable: ClassVar[bool] = False


class _Bias(Adapter):
    """Trains a bias of the token embeddings, and nothing else."""

    @classmethod
    def select(cls, name: str, found: Any, targets: Any) -> tuple[TargetLayer, ...]:
        return ()

    def init_d(self, params: Any, frozen: Any, seed: Any = 0) -> dict[str, Any]:
        del frozen, seed
        return {"bias": jnp.zeros(params["embed_tokens"]["embedding"].shape[1], jnp.float32)}

    def _apply(self, model: nn.Module, variables: Any, made: Any, *args: Any, **kwargs: Any) -> Any:
        bias_D = variables["d"]["bias"]

        def biased(module: Any, embed: Any, tokens: Any) -> Any:
            y = embed(tokens)
            return y + bias_D.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

        embeddings = calls(lambda module: isinstance(module, nn.Embed), biased)
        with nn.intercept_methods(embeddings), nn.intercept_methods(dequantized):
            return model.apply({"params": variables["params"]}, *args, **kwargs)

    def _merge(self, variables: Any) -> Any:
        raise NotMergeableError("the bias is of the embedding's result; there is no kernel for it")


class _Ahead(LinearAdapter):
    """An adapter whose kernels are made before the layers, once a step."""

    def _apply(self, model: nn.Module, variables: Any, made: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("method") == "hidden":
            made = self.materialize(variables, args[0].size)
        return super()._apply(model, variables, made, *args, **kwargs)


def make_adapter(case: Case, model: Llama) -> Adapter:
    """The adapter of a case; ranks are those of the recipes, 32 for LoRA and HiRA."""
    if case.method == FROZEN:
        return _Bias(FROZEN, _Nothing(), ())
    config = get_config(case.method)
    config.model.path = config.data.path = "-"
    for key, value in case.fields:
        config.method[key] = value
    settings = parse(config).method.settings
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    adapter = adapt(model, tokens, method=case.method, config=settings, targets=case.targets)
    return _Ahead(adapter.name, adapter.method, adapter.layers) if case.ahead else adapter


def random_batch(rows: int, length: int, vocab_size: int) -> Batch:
    """Random tokens, the loss on all but the first."""
    tokens_BL = np.random.default_rng(0).integers(vocab_size, size=(rows, length), dtype=np.int32)
    index_BT = np.broadcast_to(np.arange(length - 1, dtype=np.int32), (rows, length - 1))
    return Batch(tokens_BL, index_BT, tokens_BL[:, 1:], np.ones(index_BT.shape, np.float32))


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
        self._dtype, self._steps, self._profile = dtype, steps, profile
        self._mesh = sharding.make_mesh(**sharding.parse_mesh(mesh))
        model, tokens_BL = Llama(self.config, dtype=dtype), jnp.zeros((1, 2), jnp.int32)

        def init() -> Any:
            return model.init(jax.random.key(0), tokens_BL)["params"]

        layout = sharding.parameter_shardings(jax.eval_shape(init), self._mesh)
        self._params = jax.jit(init, out_shardings=layout)()
        if kind != "none":
            self._params = quantize.quantize(self._params, kind, block, self._mesh)
        self.size = quantize.size(self._params)

    def _arrange(self, loop: bool) -> None:
        """The parameters as the case wants them: a stack for a loop, else a list."""
        if loop == stacking.is_split(self._params):
            self._params = (stacking.join if loop else stacking.split)(self._params)

    def measure(self, case: Case, batches: Sequence[Batch] = ()) -> Found:
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
            return Found(case.name, batches[0].tokens_BL.size, note="out of memory")

    def lower(self, case: Case, batch: Batch) -> Lowered:
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
            step: Any = make_train_step(model, adapter, optimizer, self._mesh, self._params, state)
            start = time.perf_counter()
            lowered = step.lower(state, self._params, frozen, batch)
            return Lowered(lowered, state, frozen, time.perf_counter() - start)

    def _measure(self, case: Case, batches: Sequence[Batch]) -> Found:
        fed = jax.device_put(list(batches), sharding.rows(self._mesh))
        step, state, frozen, lower_seconds = self.lower(case, fed[0])
        start = time.perf_counter()
        compiled = step.compile()
        compile_seconds = lower_seconds + time.perf_counter() - start
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
            raise FloatingPointError(f"{case.name}: losses {values}")
        if self._profile:
            kernels = profiled(lambda: compiled(state, self._params, frozen, fed[0]))
            print(f"{case.name}, one step:", *report(kernels), sep="\n", flush=True)
        return Found(
            name=case.name,
            tokens=batches[0].tokens_BL.size,
            tokens_per_second=found.tokens_per_second,
            step_seconds=found.step_seconds,
            peak_bytes=peak - plan.alias_size_in_bytes,
            compile_seconds=compile_seconds,
            first_loss=float(values[0]),
            last_loss=float(values[-1]),
            trained=trained,
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
