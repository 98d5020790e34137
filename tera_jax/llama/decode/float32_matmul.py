"""float32 matmuls of many rows on a GPU's matrix units.

A float32 number is the sum of three bfloat16 numbers; of the nine products of such parts, the six
larger ones give a float32 matmul to its rounding. Stacked along the contracted axis they are one
bfloat16 matmul that sums in float32: six times the arithmetic, at more than six times the rate of
float32's own units. (XLA's own ``BF16_BF16_F32_X6`` is no faster than these.)
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tera_jax.adapters.interceptor import calls, multiply

_ROWS = 512
"""The fewest rows for which it is worth taking a kernel apart."""


def matmul(x_TI: Float[Array, "T I"], kernel_IO: Float[Array, "I O"]) -> Float[Array, "T O"]:
    """``x @ kernel`` in float32, of six bfloat16 matmuls. Not for differentiation."""
    x1, x2, x3 = _parts(x_TI)
    k1, k2, k3 = _parts(kernel_IO)
    x_TJ = jnp.concatenate([x3, x1, x2, x2, x1, x1], axis=1).astype(jnp.bfloat16)
    kernel_JO = jnp.concatenate([k1, k3, k2, k1, k2, k1], axis=0).astype(jnp.bfloat16)
    return jnp.einsum("tj,jo->to", x_TJ, kernel_JO, preferred_element_type=jnp.float32)


def _body(module: Any, dense: Any, x: Array) -> Array:
    kernel: Array = module.get_variable("params", "kernel")
    few = x.size // x.shape[-1] < _ROWS
    if module.dot_general is not None or few or {x.dtype, kernel.dtype} != {_FLOAT32}:
        result: Array = dense(x)
        return result

    def apply(kernel: Array, x: Array, how: Any) -> Array:
        del how  # no dropout at inference
        return matmul(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)

    return multiply(module, lambda kernel: kernel, apply, x)


interceptor = calls(lambda module: isinstance(module, nn.Dense), _body)
"""Under which every ``nn.Dense`` in float32 takes :func:`matmul` for many rows.

For inference, and under ``jax_default_matmul_precision="highest"``: else XLA has faster ways.
"""

_FLOAT32 = jnp.dtype(jnp.float32)


def _parts(array: Array) -> tuple[Array, Array, Array]:
    """Three float32 arrays of bfloat16 numbers that sum up to one of float32 numbers."""
    first = _rounded(array)
    second = _rounded(array - first)
    return first, second, _rounded(array - first - second)


def _rounded(array: Array) -> Array:
    """To bfloat16 and back, which XLA would take for nothing if it were written as two casts."""
    return lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)
