"""RMSNorm beside a residual stream, with a backward pass that goes through memory once.

Left to itself XLA reads a row for its sums, and again for the gradient: 0.14 ms in place of 0.10
for 8,192 rows of 4,096 in bfloat16 on an H100.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tera_jax.ops import dispatch, on_mesh
from tera_jax.ops.numerics import acc_dtype

_LEAST = 256
"""The narrowest part of a row that is worth a kernel."""


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) * (offset + scale)`` in float32 at least, in ``dtype``."""

    eps: float
    dtype: DTypeLike
    param_dtype: DTypeLike
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Gives x itself, for the residual stream, and x with its last axis normalised.

        Whoever goes on with this x has the gradients of both summed in one pass over memory.
        """
        start = nn.initializers.constant(1.0 - self.offset) if self.offset else nn.initializers.ones
        scale = self.param("scale", start, (x.shape[-1],), self.param_dtype)
        if self.offset:
            scale = scale.astype(acc_dtype(scale.dtype)) + self.offset
        if not _takes_kernel(x.shape):
            return x, normed(x, scale, self.eps, self.dtype)
        return _beside(self.eps, self.dtype, x, scale)


def normed(
    x: Float[Array, "*B D"], scale_D: Float[Array, " D"], eps: float, dtype: Any
) -> Float[Array, "*B D"]:
    """RMSNorm by its definition, over the last axis."""
    x = x.astype(acc_dtype(x.dtype))
    x = x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)
    scale = scale_D.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return (x * scale).astype(dtype)


def _takes_kernel(shape: tuple[int, ...]) -> bool:
    """Triton's arrays have powers of two of entries: a row is that many parts of such a length.

    On a mesh, each device has to have as many rows of the batch.
    """
    taken = dispatch.takes_kernel(on_mesh.has_kernels() and _part(shape[-1]) >= _LEAST)
    return taken and on_mesh.splits_rows(math.prod(shape[:-1][:1]))


def _part(width: int) -> int:
    """The largest power of two that divides the width."""
    return math.gcd(width, 2**20)


def _warps(width: int) -> int:
    """Of a program, which holds a row: 16 entries a thread, as far as there are threads."""
    return 1 << max(2, min(5, (width // 512).bit_length() - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _beside(eps: float, dtype: Any, x: Array, scale_D: Array) -> tuple[Array, Array]:
    return x, normed(x, scale_D, eps, dtype)


def _forward(eps: float, dtype: Any, x: Array, scale_D: Array) -> tuple[Any, Any]:
    return _beside(eps, dtype, x, scale_D), (x, scale_D)


def _backward(
    eps: float, dtype: Any, residuals: Any, cts: tuple[Array, Array]
) -> tuple[Array, Array]:
    x, scale_D = residuals
    _, pull = jax.vjp(lambda scale_D: normed(x, scale_D, eps, dtype), scale_D)

    def part(x: Array, ct_x: Array, ct_y: Array, scale_D: Array) -> Array:
        x_ND, ct_x_ND, ct_y_ND = (each.reshape(-1, x.shape[-1]) for each in (x, ct_x, ct_y))
        to_x_ND = gradient(x_ND, ct_x_ND, ct_y_ND, scale_D, eps, dispatch.interpret())
        return to_x_ND.reshape(x.shape)

    split = on_mesh.ROWS
    to_x = on_mesh.run(part, (split, split, split, P()), split, x, *cts, scale_D)
    return to_x, *pull(cts[1])


_beside.defvjp(_forward, _backward)


def gradient(
    x_ND: Float[Array, "N D"],
    ct_x_ND: Float[Array, "N D"],
    ct_y_ND: Float[Array, "N D"],
    scale_D: Float[Array, " D"],
    eps: float,
    interpret: bool = False,
) -> Float[Array, "N D"]:
    """What flows back to x, from its norm y and from x itself, by a Pallas kernel.

    Args:
        x_ND: one row for each program of the kernel.
        ct_x_ND: cotangent of x, of the type of x.
        ct_y_ND: cotangent of y.
        scale_D: of the norm.
        eps: of the norm.
        interpret: run the kernel step by step in JAX, on any device.
    """
    rows, width = x_ND.shape
    part = _part(width)
    parts = [pl.ds(start, part) for start in range(0, width, part)]

    def kernel(x_ref: Any, ct_x_ref: Any, ct_y_ref: Any, scale_ref: Any, out_ref: Any) -> None:
        xs = [x_ref[0, each].astype(jnp.float32) for each in parts]
        cts = [
            ct_y_ref[0, each].astype(jnp.float32) * scale_ref[each].astype(jnp.float32)
            for each in parts
        ]
        square = sum(jnp.sum(x * x) for x in xs)
        along = sum(jnp.sum(x * ct) for x, ct in zip(xs, cts, strict=True))
        inverse = lax.rsqrt(square / width + eps)
        back = along * inverse * inverse / width
        for each, x, ct in zip(parts, xs, cts, strict=True):
            found = ct_x_ref[0, each].astype(jnp.float32) + inverse * (ct - back * x)
            out_ref[0, each] = found.astype(out_ref.dtype)

    row = pl.BlockSpec((1, width), lambda program: (program, 0))
    return pl.pallas_call(
        kernel,
        grid=(rows,),
        in_specs=[row, row, row, pl.BlockSpec((width,), lambda program: (0,))],
        out_specs=row,
        out_shape=jax.ShapeDtypeStruct(x_ND.shape, x_ND.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=_warps(width)),
    )(x_ND, ct_x_ND, ct_y_ND, scale_D)
