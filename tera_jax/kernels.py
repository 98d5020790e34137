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

_TILES, _TILES_BACK = 8, 8
"""Of one program, forward and backward."""
_WARPS_BACK = 4
_LEAST, _MOST = 16, 128
"""Sides of the matrices that a tensor core takes, and that registers hold."""


def fits(tiles: int, *sides: int) -> bool:
    """Whether the kernel can do it: sides and tiles that are powers of two, of a middling size."""
    powers = all(n & (n - 1) == 0 for n in (tiles, *sides))
    return powers and tiles % _TILES_BACK == 0 and all(_LEAST <= n <= _MOST for n in sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def two_sided(
    core_RAB: Float[Array, "R A B"],
    d_R: Float[Array, " R"],
    d_A: Float[Array, " A"],
    d_B: Float[Array, " B"],
    left_AX: Float[Array, "A X"],
    right_BY: Float[Array, "B Y"],
    interpret: bool = False,
) -> Float[Array, "R X Y"]:
    """The core times every ``d``, then ``left_AX.T @ scaled[r] @ right_BY`` for every r.

    Products are of matrices in the type of the core, which is that of the result, and sum in
    float32. The gradients of the vectors are float32; core and matrices have none.

    Args:
        core_RAB: bfloat16 or float32, of sizes that :func:`fits`.
        d_R: float32, like the other two.
        d_A: along the rows of the left matrix.
        d_B: along the rows of the right one.
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

    scaled_AX, scaled_BY = left_AX * d_A[:, None], right_BY * d_B[:, None]
    return pl.pallas_call(
        kernel,
        grid=(tiles // _TILES,),
        in_specs=[_tiles(_TILES, a, b), _scales(_TILES), _matrix(a, x), _matrix(b, y)],
        out_specs=_tiles(_TILES, x, y),
        out_shape=jax.ShapeDtypeStruct((tiles, x, y), core_RAB.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )(core_RAB, d_R, scaled_AX.astype(core_RAB.dtype), scaled_BY.astype(core_RAB.dtype))


def _forward(
    core_RAB: Array,
    d_R: Array,
    d_A: Array,
    d_B: Array,
    left_AX: Array,
    right_BY: Array,
    interpret: bool,
) -> tuple[Array, Any]:
    out_RXY = two_sided(core_RAB, d_R, d_A, d_B, left_AX, right_BY, interpret)
    return out_RXY, (core_RAB, d_R, d_A, d_B, left_AX, right_BY)


def _backward(interpret: bool, kept: Any, ct_RXY: Array) -> tuple[Array | None, ...]:
    """Of the scaled core it is ``left @ ct[r] @ right.T``, and all three are sums over that."""
    core_RAB, d_R, d_A, d_B, left_AX, right_BY = kept
    tiles, a, b = core_RAB.shape
    x, y = left_AX.shape[1], right_BY.shape[1]
    programs = tiles // _TILES_BACK

    def kernel(
        core_ref, d_ref, d_a_ref, d_b_ref, left_ref, right_ref, ct_ref, to_d_ref, to_a_ref, to_b_ref
    ):
        left, right = left_ref[...], right_ref[...]
        d_a, d_b = d_a_ref[...][:, None], d_b_ref[...][None, :]

        def tile(r: Any, sum_AB: Any) -> Any:
            half = triton.dot(left, ct_ref[r]).astype(left.dtype)
            product = core_ref[r].astype(jnp.float32) * triton.dot(half, right, trans_b=True)
            to_d_ref[r] = jnp.sum(product * (d_a * d_b))
            return sum_AB + product * d_ref[r]

        zeros = jnp.zeros((a, b), jnp.float32)
        sum_AB = jax.lax.fori_loop(0, _TILES_BACK, tile, zeros)
        to_a_ref[0], to_b_ref[0] = jnp.sum(sum_AB * d_b, axis=1), jnp.sum(sum_AB * d_a, axis=0)

    to_d_R, to_a_PA, to_b_PB = pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=[
            _tiles(_TILES_BACK, a, b),
            _scales(_TILES_BACK),
            _vector(a),
            _vector(b),
            _matrix(a, x),
            _matrix(b, y),
            _tiles(_TILES_BACK, x, y),
        ],
        out_specs=[_scales(_TILES_BACK), _part(a), _part(b)],
        out_shape=[
            jax.ShapeDtypeStruct((tiles,), jnp.float32),
            jax.ShapeDtypeStruct((programs, a), jnp.float32),
            jax.ShapeDtypeStruct((programs, b), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=_WARPS_BACK, num_stages=2),
    )(
        core_RAB,
        d_R,
        d_A,
        d_B,
        left_AX.astype(core_RAB.dtype),
        right_BY.astype(core_RAB.dtype),
        ct_RXY,
    )
    return None, to_d_R, jnp.sum(to_a_PA, axis=0), jnp.sum(to_b_PB, axis=0), None, None


two_sided.defvjp(_forward, _backward)


def _tiles(count: int, rows: int, columns: int) -> pl.BlockSpec:
    return pl.BlockSpec((count, rows, columns), lambda program: (program, 0, 0))


def _scales(count: int) -> pl.BlockSpec:
    return pl.BlockSpec((count,), lambda program: (program,))


def _matrix(rows: int, columns: int) -> pl.BlockSpec:
    return pl.BlockSpec((rows, columns), lambda program: (0, 0))


def _vector(length: int) -> pl.BlockSpec:
    return pl.BlockSpec((length,), lambda program: (0,))


def _part(length: int) -> pl.BlockSpec:
    """Of each program its own."""
    return pl.BlockSpec((1, length), lambda program: (program, 0))
