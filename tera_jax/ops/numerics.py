"""The types and precisions in which sums are taken."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def acc_dtype(dtype: jax.typing.DTypeLike) -> Any:
    """The type in which sums of ``dtype`` are taken: float64 for itself, else float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def scaled(x: Float[Array, "*B X"], by: Float[Array, "*R X"]) -> Float[Array, "*B X"]:
    """The last axis times a vector, or times one for each row where ``by`` leads with rows.

    Multiplied in float32 at least, and rounded once to the type of x.
    """
    acc = acc_dtype(x.dtype)
    by = jnp.expand_dims(by.astype(acc), tuple(range(by.ndim - 1, x.ndim - 1)))
    return (x.astype(acc) * jnp.broadcast_to(by, x.shape)).astype(x.dtype)


def add_update(kernel: Float[Array, "J O"], update: Float[Array, "J O"]) -> Float[Array, "J O"]:
    """Summed in float32 and rounded once to the type of the kernel.

    An update of the kernel's own type is added as it is. A GPU's matmul then takes the kernel as
    what it adds to, before it rounds, and the sum costs no pass over memory.
    """
    if kernel.dtype == update.dtype:
        return kernel + update
    acc = acc_dtype(kernel.dtype)
    return (kernel.astype(acc) + update.astype(acc)).astype(kernel.dtype)


def matmul_precision() -> str | None:
    """What ``jax.default_matmul_precision`` is here, as around an adapted layer; None if unset."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def full_precision(dtype: jax.typing.DTypeLike) -> jax.lax.PrecisionLike:
    """:func:`matmul_precision` where it is set.

    Else float32 gets float32 matmuls also where the backend would take fewer bits.
    """
    asked = matmul_precision()
    return jax.lax.Precision.HIGHEST if asked is None and dtype == jnp.float32 else asked
