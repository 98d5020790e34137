"""The jitted functions over slots: G adapters, each of which has R rows of a batch.

The state's arrays lead with the slots: ``d`` is (G, ...) at each leaf, and so is the optimizer's
state. An adapter is put into a slot when it begins and taken out when it ends.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from tera_jax import quantize, sharding
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.stack import at_axes
from tera_jax.llama import stacking
from tera_jax.ops import fp8_matmul

from ..data import Batch
from ..training.optim import update_rule
from ..training.run import Run
from ..training.steps.loss import loss_by_row
from ..training.steps.step import State, base_shardings


class SlotMetrics(NamedTuple):
    """Of one step. ``finite`` is whether loss, gradient and the new d are."""

    loss: Float[Array, " G"]
    grad_norm: Float[Array, " G"]
    finite: Bool[Array, " G"]


def empty_state(run: Run, active: int) -> State:
    """Slots that hold zeros, replicated over the mesh.

    Args:
        run: of the base and the method. Its layers are a stack.
        active: G.
    """
    d = run.adapter.abstract_d(run.params)
    optimizer = update_rule(run.config.optim, 0.0)

    def make() -> State:
        d_G = jax.tree.map(lambda leaf: jnp.zeros((active, *leaf.shape), leaf.dtype), d)
        return State(jnp.zeros((), jnp.int32), d_G, jax.vmap(optimizer.init)(d_G))

    return jax.jit(make, out_shardings=sharding.replicated(run.mesh))()


def make_load(run: Run) -> Callable[[State, Int[np.ndarray, ""], Any], State]:
    """``load(state, slot, d) -> state``: d in a slot, with the optimizer at its beginning."""
    optimizer = update_rule(run.config.optim, 0.0)

    def load(state: State, slot: Array, d: Any) -> State:
        def put(leaf_G: Array, leaf: Any) -> Array:
            return leaf_G.at[slot].set(leaf)

        opt = jax.tree.map(put, state.opt, optimizer.init(d))
        return State(state.step, jax.tree.map(put, state.d, d), opt)

    return jax.jit(load, donate_argnums=0, out_shardings=sharding.replicated(run.mesh))


@jax.jit
def take(tree_G: Any, slot: Any) -> Any:
    """What a slot holds."""
    return jax.tree.map(lambda leaf_G: leaf_G[slot], tree_G)


def by_layer(adapter: Adapter, d_G: Any) -> Any:
    """``d`` of the slots as :func:`tera_jax.adapters.bank.stack` has it: the stack's axes first."""
    return at_axes(adapter.layers, lambda axis, leaf: jnp.moveaxis(leaf, 0, axis), d_G)


def make_slot_step(run: Run, active: int, rows: int) -> Callable[..., tuple[State, SlotMetrics]]:
    """``step(state, params, frozen, batch, rate_G, active_G) -> (state, metrics)``, jitted.

    Row b of the batch is of slot b // R. The loss of a slot is the mean over its own targets, its
    gradient is clipped by its own norm, and the optimizer moves it at its own rate: as
    :func:`train.training.steps.step.make_train_step` of its rows alone. A slot that is not active,
    or whose loss, gradient or new d is not finite, keeps every bit.

    Args:
        run: of the base and the method. Its layers may be a list.
        active: G.
        rows: R.
    """
    adapter, optim = run.adapter, run.config.optim
    slot_B = np.repeat(np.arange(active, dtype=np.int32), rows)

    def sums(array_B: Array) -> Array:
        return jnp.sum(array_B.reshape(active, rows), axis=1)

    def update(
        d: Any, opt: Any, grads: Any, count: Array, loss: Array, rate: Array, is_active: Array
    ) -> tuple[Any, Any, SlotMetrics]:
        """Of one slot."""
        grads = jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), grads)
        norm = optax.tree.norm(grads)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its int32 count
            updates, new_opt = update_rule(optim, rate).update(grads, opt, d)
        new_d = optax.apply_updates(d, updates)
        are = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((loss, norm, new_d))]
        finite = jnp.all(jnp.stack(are))
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite & is_active, new, old), (new_d, new_opt), (d, opt)
        )
        return *kept, SlotMetrics(loss / count, norm, finite)

    def step(
        state: State, params: Any, frozen: Any, batch: Batch, rate_G: Array, active_G: Array
    ) -> tuple[State, SlotMetrics]:
        key = jax.random.fold_in(jax.random.key(run.config.loop.seed), state.step)
        base = {"params": stacking.stacked(params), "frozen": frozen}

        def nll(d_G: Any) -> tuple[Array, tuple[Array, Array]]:
            variables = {**base, "d": by_layer(adapter, d_G)}
            found = loss_by_row(run.model, adapter, variables, batch, key, rows=slot_B)
            nll_G = sums(found.nll)
            return jnp.sum(nll_G), (nll_G, sums(found.tokens))

        # A slot's rows read no other slot's d: the gradient of the sum is that of each of them.
        grads_G, (nll_G, tokens_G) = jax.grad(nll, has_aux=True)(state.d)
        count_G = jnp.maximum(tokens_G, 1)
        each = (state.d, state.opt, grads_G, count_G, nll_G, rate_G, active_G)
        d_G, opt_G, metrics = jax.vmap(update)(*each)
        return State(state.step + 1, d_G, opt_G), metrics

    everywhere = sharding.replicated(run.mesh)
    return jax.jit(
        step,
        in_shardings=(everywhere, *base_shardings(run.mesh, run.params), everywhere, everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
        compiler_options=fp8_matmul.compiler_options() if quantize.in_fp8(run.params) else None,
    )
