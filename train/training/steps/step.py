"""The jitted steps: one gradient step of ``d``, and one evaluation of the loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

from tera_jax import quantize, sharding
from tera_jax.adapters.base import Adapter
from tera_jax.llama import Llama, stacking
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.ops import fp8_matmul

from ...data import Batch
from .loss import LossSum, loss_sum


class State(NamedTuple):
    """What training changes, and what a checkpoint holds of it."""

    step: Any
    d: Any
    opt: Any


class Metrics(NamedTuple):
    """Of one step. ``loss`` is in nats a target token; ``d_norm`` is that of d before the step."""

    loss: Array
    grad_norm: Array
    d_norm: Array


def init_state(d: Any, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), d, optimizer.init(d))


def d_shardings(d: Any, adapter: Adapter, mesh: Mesh | AbstractMesh) -> Any:
    """The layout of ``d``, abstract or real: replicated, or like a base that it is a copy of."""
    if adapter.trains_all:
        return parameter_shardings(d, mesh)
    return jax.tree.map(lambda _: sharding.replicated(mesh), d)


def state_shardings(
    state: State,
    adapter: Adapter,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
) -> State:
    """The layout of a state, abstract or real: replicated, but for a ``d`` as large as the base."""
    everywhere = sharding.replicated(mesh)
    d = d_shardings(state.d, adapter, mesh)
    opt = optax.tree.map_params(
        optimizer,
        lambda _, layout: layout,
        state.opt,
        d,
        transform_non_params=lambda _: everywhere,
    )
    return State(everywhere, d, opt)


def make_train_step(
    model: Llama,
    adapter: Adapter,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    params: Any,
    state: State,
    seed: int = 0,
    grad_accum_steps: int = 1,
    kept_layers: int = 0,
) -> Callable[[State, Any, Any, Batch], tuple[State, Metrics]]:
    """``step(state, params, frozen, batch) -> (state, metrics)``, jitted over the mesh.

    Only ``d`` is differentiated; ``params`` and ``frozen`` are arguments and are never changed.
    The loss is summed over the target tokens of all rows and divided by their global count. The
    state is donated.

    Args:
        model: the base.
        adapter: of it.
        optimizer: of ``d``.
        mesh: of the devices.
        params: real or abstract, for their layout. Their layers are a stack, or where the model
            unrolls them a list (:mod:`tera_jax.llama.stacking`).
        state: real or abstract, for its layout.
        seed: of the dropout of methods that have one.
        grad_accum_steps: parts of a batch that are computed one after the other. The kernels that a
            method materializes are made once for all of them, and their gradient taken back once.
        kept_layers: see :func:`tera_jax.llama.stacking.with_whole_layers`.
    """

    def step(state: State, params: Any, frozen: Any, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        params = stacking.with_whole_layers(params, mesh, kept_layers)
        base = {"params": stacking.stacked(params), "frozen": frozen}

        def nll(d: Any, materialized: Any, part: Batch, key: Any) -> Array:
            return loss_sum(model, adapter, {**base, "d": d}, part, key, materialized).nll

        def materialize(d: Any) -> Any:
            return adapter.materialize({**base, "d": d}, batch.tokens_BL.size // grad_accum_steps)

        if grad_accum_steps == 1:
            loss, grads = jax.value_and_grad(nll)(state.d, {}, batch, key)
        else:
            loss, grads = _accumulated(
                nll, materialize, state.d, _parts(batch, grad_accum_steps), key
            )
        count = jnp.maximum(jnp.sum(batch.weight_BT), 1)
        grads = jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), grads)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its int32 count
            updates, opt = optimizer.update(grads, state.opt, state.d)
        d = optax.apply_updates(state.d, updates)
        metrics = Metrics(loss / count, optax.tree.norm(grads), optax.tree.norm(state.d))
        return State(state.step + 1, d, opt), metrics

    layout = state_shardings(state, adapter, optimizer, mesh)
    return jax.jit(
        step,
        in_shardings=(layout, *base_shardings(mesh, params)),
        out_shardings=(layout, sharding.replicated(mesh)),
        donate_argnums=0,
        compiler_options=fp8_matmul.compiler_options() if quantize.in_fp8(params) else None,
    )


def _parts(batch: Batch, count: int) -> Batch:
    """Every ``count``-th row, so that each part lies on all devices that the batch lies on."""

    def split(array_BX: Array) -> Array:
        return jnp.moveaxis(array_BX.reshape(-1, count, *array_BX.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)


def _accumulated(
    nll: Callable[..., Array], materialize: Callable[[Any], Any], d: Any, parts: Batch, key: Any
) -> tuple[Array, Any]:
    """The sum over the parts of ``nll(d, materialize(d), part, key)``, and its gradient.

    The gradient of what is materialized is summed in float32 and taken back to ``d`` at the end.
    """
    materialized, pull = jax.vjp(materialize, d)

    def add(total: Any, part_key: tuple[Batch, Any]) -> tuple[Any, None]:
        found = jax.value_and_grad(nll, argnums=(0, 1))(d, materialized, *part_key)
        with jax.numpy_dtype_promotion("standard"):
            return jax.tree.map(jnp.add, total, found), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), (d, materialized))
    keys = jax.random.split(key, len(parts.tokens_BL))
    (loss, (direct, cotangent)), _ = jax.lax.scan(add, (jnp.float32(0), zeros), (parts, keys))
    cotangent = jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), cotangent, materialized)
    (through,) = pull(cotangent)
    return loss, jax.tree.map(jnp.add, direct, through)


def make_eval_step(
    model: Llama, adapter: Adapter, mesh: Mesh, params: Any
) -> Callable[[Any, Any, Any, Batch], LossSum]:
    """``step(d, params, frozen, batch) -> LossSum``, jitted over the mesh."""

    def step(d: Any, params: Any, frozen: Any, batch: Batch) -> LossSum:
        variables = {"params": stacking.stacked(params), "frozen": frozen, "d": d}
        return loss_sum(model, adapter, variables, batch)

    return jax.jit(
        step,
        in_shardings=(None, *base_shardings(mesh, params)),
        out_shardings=sharding.replicated(mesh),
    )


def base_shardings(mesh: Mesh, params: Any) -> tuple[Any, Any, Any]:
    """Of params, frozen and batch. The frozen arrays keep the layout that they were made with."""
    return stacking.shardings(params, mesh), None, sharding.rows(mesh)
