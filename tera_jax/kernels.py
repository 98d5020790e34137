"""A Pallas kernel for the narrow modes of a network with one wide factor.

``4096|8x8x8x8`` is, but for its wide factor, a matrix product from the left and one from the right
with each of 4,096 tiles of 64 x 64, and a scale for each tile. XLA makes that in passes over memory
of the core's size, several of them transpositions; here the core is read once and the result
written once, and the gradients of all three read core and cotangent once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

_TILES, _TILES_BACK = 8, 16
"""Of one program, forward and backward."""
_LEAST, _MOST = 16, 128
"""Sides of the matrices that a tensor core takes, and that registers hold."""


def fits(tiles: int, *sides: int) -> bool:
    """Whether the kernel can do it: sides and tiles that are powers of two, of a middling size."""
    powers = all(n & (n - 1) == 0 for n in (tiles, *sides))
    return powers and tiles % _TILES_BACK == 0 and all(_LEAST <= n <= _MOST for n in sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def two_sided(
    core_RAB: Float[Array, "R A B"],
    d_R: Float[Array, " R"],
    left_AX: Float[Array, "A X"],
    right_BY: Float[Array, "B Y"],
    interpret: bool = False,
) -> Float[Array, "R X Y"]:
    """``d_R[r] * left_AX.T @ core_RAB[r] @ right_BY`` for every r, in the type of the core.

    The matrices are rounded to the type of the core for the products, which sum in float32; their
    gradients and that of d are float32. The core has none.

    Args:
        core_RAB: bfloat16 or float32, of sizes that :func:`fits`.
        d_R: float32.
        left_AX: float32.
        right_BY: float32.
        interpret: run the kernel step by step in JAX, on any device.
    """
    tiles, a, b = core_RAB.shape
    x, y = left_AX.shape[1], right_BY.shape[1]

    def kernel(core_ref: Any, d_ref: Any, left_ref: Any, right_ref: Any, out_ref: Any) -> None:
        left, right = left_ref[...], right_ref[...]

        def tile(r: Any, carry: None) -> None:
            core = core_ref[r]
            half = triton.dot(core, right).astype(core.dtype)
            whole = triton.dot(left, half, trans_a=True)
            out_ref[r] = (whole * d_ref[r]).astype(out_ref.dtype)
            return carry

        jax.lax.fori_loop(0, _TILES, tile, None)

    return pl.pallas_call(
        kernel,
        grid=(tiles // _TILES,),
        in_specs=[_tiles(_TILES, a, b), _scales(_TILES), _matrix(a, x), _matrix(b, y)],
        out_specs=_tiles(_TILES, x, y),
        out_shape=jax.ShapeDtypeStruct((tiles, x, y), core_RAB.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )(core_RAB, d_R, left_AX.astype(core_RAB.dtype), right_BY.astype(core_RAB.dtype))


def _forward(
    core_RAB: Array, d_R: Array, left_AX: Array, right_BY: Array, interpret: bool
) -> tuple[Array, Any]:
    out_RXY = two_sided(core_RAB, d_R, left_AX, right_BY, interpret)
    return out_RXY, (core_RAB, d_R, left_AX, right_BY)


def _backward(interpret: bool, kept: Any, ct_RXY: Array) -> tuple[None, Array, Array, Array]:
    core_RAB, d_R, left_AX, right_BY = kept
    tiles, a, b = core_RAB.shape
    x, y = left_AX.shape[1], right_BY.shape[1]
    programs = tiles // _TILES_BACK

    def kernel(core_ref, d_ref, left_ref, right_ref, ct_ref, to_d_ref, to_left_ref, to_right_ref):
        left, right = left_ref[...], right_ref[...]

        def tile(r: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            core, ct = core_ref[r], ct_ref[r]
            half = triton.dot(core, right).astype(core.dtype)
            to_left = triton.dot(half, ct, trans_b=True)
            to_d_ref[r] = jnp.sum(to_left * left.astype(jnp.float32))
            back = triton.dot(left, ct).astype(core.dtype)
            to_right = triton.dot(core, back, trans_a=True)
            return sums[0] + to_left * d_ref[r], sums[1] + to_right * d_ref[r]

        zeros = jnp.zeros((a, x), jnp.float32), jnp.zeros((b, y), jnp.float32)
        to_left_ref[0], to_right_ref[0] = jax.lax.fori_loop(0, _TILES_BACK, tile, zeros)

    to_d_R, to_left_PAX, to_right_PBY = pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=[
            _tiles(_TILES_BACK, a, b),
            _scales(_TILES_BACK),
            _matrix(a, x),
            _matrix(b, y),
            _tiles(_TILES_BACK, x, y),
        ],
        out_specs=[_scales(_TILES_BACK), _part(a, x), _part(b, y)],
        out_shape=[
            jax.ShapeDtypeStruct((tiles,), jnp.float32),
            jax.ShapeDtypeStruct((programs, a, x), jnp.float32),
            jax.ShapeDtypeStruct((programs, b, y), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
    )(core_RAB, d_R, left_AX.astype(core_RAB.dtype), right_BY.astype(core_RAB.dtype), ct_RXY)
    return None, to_d_R, jnp.sum(to_left_PAX, axis=0), jnp.sum(to_right_PBY, axis=0)


two_sided.defvjp(_forward, _backward)


def _tiles(count: int, rows: int, columns: int) -> pl.BlockSpec:
    return pl.BlockSpec((count, rows, columns), lambda program: (program, 0, 0))


def _scales(count: int) -> pl.BlockSpec:
    return pl.BlockSpec((count,), lambda program: (program,))


def _matrix(rows: int, columns: int) -> pl.BlockSpec:
    return pl.BlockSpec((rows, columns), lambda program: (0, 0))


def _part(rows: int, columns: int) -> pl.BlockSpec:
    """Of each program its own."""
    return pl.BlockSpec((1, rows, columns), lambda program: (program, 0, 0))
