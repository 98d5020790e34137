"""The training of a study: one method on one task, compiled once for all its rates and seeds."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from tera_jax import float8, quantize, sharding
from tera_jax.fingerprint import base_fingerprint
from tera_jax.llama import load_pretrained, load_tokenizer
from tera_jax.ops import dispatch

from ... import data
from ...config import Config, ModelConfig, OptimConfig
from ...training.checkpoint import Meta
from ...training.loop import held_out_loss, to_device
from ...training.optim import rates, require_patterns, update_rule
from ...training.run import Run, make_adapter
from ...training.steps.step import init_state, make_eval_step, make_train_step, state_shardings
from ..parts import Parts
from ..results import Result
from ..schema import FIRST_SEED

SKIPPED = 10
"""Steps before the clock starts, the first of which may compile."""


class Base(NamedTuple):
    """What all runs of a process share."""

    model: Any
    params: Any
    tokenizer: Any
    mesh: Any
    fingerprint: str


class Trained(NamedTuple):
    """The end of a run.

    Attributes:
        run: with the frozen arrays of the seed.
        d: the trained arrays.
        seconds_per_step: with the host's part, without the first steps.
        note: why its losses are not finite, or nothing.
    """

    run: Run
    d: Any
    seconds_per_step: float
    note: str


def load(config: ModelConfig) -> Base:
    """The base on one device.

    Raises:
        FileNotFoundError: when there is no model at the path.
        ValueError: when it cannot be read.
    """
    mesh = sharding.make_mesh(1, 1, 1)
    model, params = load_pretrained(
        config.path,
        dtype=jnp.dtype(config.dtype),
        mesh=mesh,
        remat=config.remat,
        quantize=config.quantize,
        block=config.block,
    )
    fingerprint = base_fingerprint(params)
    if config.fp8_layouts == 2:
        params = float8.with_both_layouts(params)
    return Base(model, params, load_tokenizer(config.path), mesh, fingerprint)


def make_run(base: Base, config: Config, seed: int) -> Run:
    """The parts of a run, with the frozen network of a seed."""
    config = with_frozen_seed(config, seed)
    adapter = make_adapter(config, base.model)
    frozen = jax.jit(adapter.init_frozen)(base.params)
    meta = Meta(0, "", "", {})  # of checkpoints, which are not written here
    return Run(config, base.mesh, base.model, base.params, base.tokenizer, adapter, frozen, meta)


def with_frozen_seed(config: Config, seed: int) -> Config:
    """A run's configuration with the seed of its frozen network, where the method has one."""
    settings: Any = config.method.settings
    if all(field.name != "seed" for field in dataclasses.fields(settings)):
        return config
    settings = dataclasses.replace(settings, seed=seed)
    return dataclasses.replace(config, method=dataclasses.replace(config.method, settings=settings))


class Trainer:
    """One method on one task.

    Args:
        base: of the study.
        config: of a run; ``loop.steps`` are the most that one takes.
        parts: of the task.
        variant: the method's name, for results.
        task: likewise.

    Raises:
        ValueError: when the method does not fit the base.
    """

    def __init__(self, base: Base, config: Config, parts: Parts, variant: str, task: str) -> None:
        self._base, self._config, self._names = base, config, (variant, task)
        run = self._run = make_run(base, config, FIRST_SEED)
        self._parts = Parts(*(part.after(run.virtual_tokens) for part in parts))
        limit = run.model.config.max_position_embeddings
        for part in self._parts:
            data.require_context(part, config.data, limit)
        assert config.loop.steps is not None
        self._steps = config.loop.steps
        require_patterns(config.optim, run.adapter.abstract_d(run.params))
        chain = optax.chain(update_rule(config.optim, 1.0), _by_rates(self._steps))

        def init(params: Any, frozen: Any, seed: Any, rates_S: Any) -> Any:
            state = init_state(run.adapter.init_d(params, frozen, seed=seed), chain)
            rates = state.opt[-1]._replace(rates_S=rates_S)
            return state._replace(opt=(*state.opt[:-1], rates))

        zeros_S = jnp.zeros(self._steps, jnp.float32)
        state = jax.eval_shape(init, run.params, run.frozen, 0, zeros_S)
        layout = state_shardings(state, run.adapter, chain, run.mesh)
        self._init = jax.jit(init, out_shardings=layout)
        self.trained = sum(leaf.size for leaf in jax.tree.leaves(state.d))
        parts_ = config.loop.grad_accum_steps
        self._step = make_train_step(
            run.model,
            run.adapter,
            chain,
            run.mesh,
            run.params,
            state,
            0,
            parts_,
            config.model.kept_layers,
        )
        self._eval = make_eval_step(run.model, run.adapter, run.mesh, run.params)
        self._compiled: Callable[..., Any] | None = None
        self._peak_bytes = 0

    def __call__(self, learning_rate: float, seed: int, steps: int) -> Result:
        """Train from the start and measure the end: see :meth:`train`."""
        trained = self.train(learning_rate, seed, steps)
        return self._result(learning_rate, seed, steps, trained)

    def untrained(self) -> Result:
        """The base: an adapter before its first step."""
        return self._result(0.0, FIRST_SEED, 0, self.start())._replace(trained=0, targets="")

    def train(self, learning_rate: float, seed: int, steps: int) -> Trained:
        """Train from the start.

        The schedule is that of so many steps. The seconds a step are those after the first
        ``SKIPPED``, with the host's part.
        """
        run = self._run
        if seed != FIRST_SEED:  # with the first adapter, for which the programs are compiled
            run = make_run(self._base, self._config, seed)._replace(adapter=run.adapter)
        rates_S = _rates(run.config.optim, learning_rate, steps, self._steps)
        state = self._init(run.params, run.frozen, seed, rates_S)
        virtual, batch_size = len(run.virtual_tokens), run.config.loop.batch_size
        stream = data.DataIterator(
            self._parts.train, batch_size, seed, run.config.data, virtual=virtual
        )
        skipped, start = min(SKIPPED, steps - 1), 0.0
        losses = []
        for step in range(steps):
            batch = to_device(next(stream), run)
            if self._compiled is None:
                self._compile(state, run, batch)
            assert self._compiled is not None
            if step == skipped:
                jax.block_until_ready(state)
                start = time.perf_counter()
            state, metrics = self._compiled(state, run.params, run.frozen, batch)
            losses.append(metrics.loss)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - start) / (steps - skipped)
        return Trained(run, state.d, seconds, _not_finite(jax.device_get(losses)))

    def start(self) -> Trained:
        """Before the first step, with the first seed."""
        run = self._run
        d = self._init(run.params, run.frozen, FIRST_SEED, jnp.zeros(self._steps)).d
        return Trained(run, d, 0.0, "")

    def loss(self, trained: Trained, examples: data.Examples) -> float:
        """Of the responses of some examples, in nats a token; infinite where it is not finite."""
        examples = examples.after(trained.run.virtual_tokens)
        found = held_out_loss(trained.run, self._eval, trained.d, examples)
        return found if math.isfinite(found) else math.inf

    def _compile(self, state: Any, run: Run, batch: Any) -> None:
        """Before any run, so that the program is one, and the compiler tells its memory."""
        step: Any = self._step
        self._compiled = program = step.lower(state, run.params, run.frozen, batch).compile()
        plan = program.memory_analysis()
        if plan is not None:
            used = plan.argument_size_in_bytes + plan.temp_size_in_bytes
            self._peak_bytes = used + plan.output_size_in_bytes - plan.alias_size_in_bytes

    def _result(self, rate: float, seed: int, steps: int, trained: Trained) -> Result:
        parts = self._parts.validation, self._parts.test
        validation, test = (self.loss(trained, part) for part in parts)
        note = trained.note
        targets = "" if self._run.adapter.trains_all else "+".join(self._config.method.targets)
        if math.inf in (validation, test) and not note:
            note = "the held-out loss is not finite"
        return Result(
            *self._names,
            rate,
            seed,
            validation,
            test,
            self.trained,
            trained.seconds_per_step,
            dispatch.device_kind(),
            steps,
            targets,
            self._peak_bytes,
            note,
        )


def _not_finite(losses: Sequence[Any]) -> str:
    """Which step had a loss that is not finite, if one had."""
    first = next((step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    return "" if first is None else f"the loss of step {first} is not finite"


class _Rates(NamedTuple):
    step: Int32[Array, ""]
    rates_S: Float[Array, " steps"]


def _by_rates(steps: int) -> optax.GradientTransformation:
    """Updates times the rate of each step, which the state holds: one program for all schedules."""

    def init(params: Any) -> Any:
        del params
        return _Rates(jnp.zeros((), jnp.int32), jnp.zeros(steps, jnp.float32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        rate = state.rates_S[state.step]
        updates = jax.tree.map(lambda leaf: leaf * rate.astype(leaf.dtype), updates)
        return updates, state._replace(step=state.step + 1)

    return optax.GradientTransformation(init, update)


def _rates(
    config: OptimConfig, learning_rate: float, steps: int, most: int
) -> Float[Array, " steps"]:
    """The rate of each of ``steps`` steps, and zeros up to ``most``.

    A shorter run has the same shares of warm-up and of decay.
    """
    warmup = max(min(1, config.warmup_steps), round(config.warmup_steps * steps / most))
    decay = config.decay_steps and max(1, round(config.decay_steps * steps / most))
    config = dataclasses.replace(
        config, learning_rate=learning_rate, warmup_steps=warmup, decay_steps=decay
    )
    return jnp.pad(rates(config, steps), (0, most - steps))


def in_mesh(base: Base) -> Any:
    """The context in which a :class:`Trainer` of the base works."""
    return jax.set_mesh(base.mesh)


def describe(base: Base) -> str:
    """The base in one line."""
    return f"base of {quantize.size(base.params):,} parameters on {dispatch.device_kind()}"
