"""The exponential moving average of ``d``, in the optimizer's state and so in the checkpoint.

After step t the average of d_1 ... d_t weighs each with ``decay ** (t - i)``, divided by the sum of
these weights. So it needs no correction where few steps were taken, and the first d, before any
step, has no part in it. It is in float32 whatever the type of ``d``.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32


class Average(NamedTuple):
    """The average of ``d`` and the steps that it is of; before the first it is ``d`` itself."""

    steps: Int32[Array, ""]
    average: Any


def averages(decay: float) -> optax.GradientTransformation:
    """Leaves updates as they are, and averages the ``d`` that they lead to; the last of a chain.

    Args:
        decay: above 0 and below 1.
    """

    def init(d: Any) -> Average:
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(_in_float32, d))

    def update(updates: Any, state: Average, params: Any = None) -> tuple[Any, Average]:
        count = state.steps + 1
        # (1 - decay) / (1 - decay ** count), each without the loss of digits near 1.
        weight = (1 - decay) / -jnp.expm1(count.astype(jnp.float32) * math.log(decay))

        def moved(average: Array, leaf: Array) -> Array:
            return jnp.where(count == 1, leaf, average + weight * (leaf - average))

        d = jax.tree.map(_in_float32, optax.apply_updates(params, updates))
        return updates, Average(count, jax.tree.map(moved, state.average, d))

    return optax.GradientTransformation(init, update)


def averaged(d: Any, opt: Any) -> Any:
    """What is measured and exported: the average in the types of ``d``, or ``d`` where none is.

    Args:
        d: the trainable arrays.
        opt: the optimizer's state.
    """
    state = opt[-1] if isinstance(opt, tuple) and opt else None
    if not isinstance(state, Average):
        return d
    return jax.tree.map(lambda leaf, average: average.astype(leaf.dtype), d, state.average)


def _in_float32(leaf: Array) -> Array:
    return leaf.astype(jnp.float32)
