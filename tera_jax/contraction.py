"""The contraction of a Tucker-like network with diagonal factors into a weight update."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def network(
    core: Float[Array, "..."],
    factors: Sequence[Float[Array, "_ _"]],
    d: Sequence[Float[Array, " _"]],
    precision: Any = None,
) -> Float[Array, "..."]:
    """G x_1 diag(d^(1)) x_1 A^(1) ... x_N diag(d^(N)) x_N A^(N), Eq. 5.

    One mode after the other, so that no Kronecker product is formed. The modes that enlarge the
    tensor least come first. The tensor is scaled by d^(i), not the factor, so that the gradient of
    d^(i) is a sum over the tensor and costs no product of its own. Scaling is done in float32 at
    least and rounded once to the type of the core.

    Args:
        core: (R_1..R_N).
        factors: N arrays (R_i, I_i) of the core's type.
        d: N vectors (R_i).
        precision: of the products, as in ``jax.lax.dot_general``.

    Returns:
        (I_1..I_N) in the type of the core.
    """
    tensor = core
    for i in sorted(range(core.ndim), key=lambda i: (_growth(factors[i]), factors[i].shape[1])):
        tensor = _mode_product(tensor, i, d[i], factors[i], precision)
    return tensor


def _growth(factor: Array) -> float:
    rank, mode = factor.shape
    return mode / rank


def _mode_product(tensor: Array, axis: int, d_R: Array, factor_RI: Array, precision: Any) -> Array:
    """``tensor x_axis diag(d) x_axis A``: axis ``axis`` goes from R to I entries."""
    before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
    rank, mode = factor_RI.shape
    flat_aRb = tensor.reshape(math.prod(before), rank, math.prod(after))
    wide = accumulator(tensor.dtype)
    scaled_aRb = (flat_aRb.astype(wide) * d_R.astype(wide)[None, :, None]).astype(tensor.dtype)
    product_aIb = jnp.einsum("arb,ri->aib", scaled_aRb, factor_RI, precision=precision)
    return product_aIb.reshape(*before, mode, *after)


def accumulator(dtype: jax.typing.DTypeLike) -> Any:
    """The type in which sums of ``dtype`` are taken: float64 for itself, else float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32
