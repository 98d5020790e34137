"""Pallas kernels for matmuls from both sides with each of many small tiles.

``4096|8x8x8x8`` is, but for its wide factor, a matmul from the left and one from the right
with each of 4,096 tiles of 64 x 64, and a scale for each tile. XLA makes that in passes over memory
of the core's size, several of them transpositions. Here the core is read once and the result
written once, and the gradients of all d read core and cotangent once. A fast transform of 4,096
entries is of the same form, with each row of a batch as a tile.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.ops import padded_tiles
from tera_jax.ops.padded_tiles import load, pad, padded_side, store

_TILES = 8
"""Of one program."""


def fits(tiles: int, *sides: int) -> bool:
    """Whether the kernels can do it without padding: whole programs, and middling powers of two."""
    return fits_padded(tiles, *sides) and all(n == padded_side(n) for n in sides)


def fits_padded(tiles: int, *sides: int) -> bool:
    """Whether the kernels can do it: whole programs, and tiles that registers hold."""
    return tiles % _TILES == 0 and padded_tiles.fits(*sides)


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

    Matmuls are in the type of the core, which is that of the result, and sum in
    float32. The gradients of the vectors are float32; core and matrices have none.

    Args:
        core_RAB: bfloat16 or float32, of sizes that :func:`fits_padded`.
        d_R: float32, like the other two.
        d_A: along the rows of the left matrix.
        d_B: along the rows of the right one.
        left_AX: float32.
        right_BY: float32.
        interpret: run the kernel step by step in JAX, on any device.
    """
    scaled_AX, scaled_BY = left_AX * d_A[:, None], right_BY * d_B[:, None]
    return _matmuls(core_RAB, scaled_AX, scaled_BY, interpret, d_R=d_R)


# Traced once for all callers: XLA then finds that two calls on one tensor are one. It does not find
# that where the kernels' debug locations differ.
@functools.partial(jax.jit, static_argnames=("interpret",))
def matmul(
    tensor_RAB: Float[Array, "R A B"],
    scale_AB: Float[Array, "A B"],
    left_AX: Float[Array | np.ndarray, "A X"],
    right_BY: Float[Array | np.ndarray, "B Y"],
    interpret: bool = False,
) -> Float[Array, "R X Y"]:
    """``left_AX.T @ (scale_AB * tensor_RAB[r]) @ right_BY`` for every r, without gradients.

    Args:
        tensor_RAB: bfloat16 or float32, of sizes that :func:`fits_padded`.
        scale_AB: such as signs; its product with the tensor is rounded to the tensor's type.
        left_AX: rounded to the type of the tensor.
        right_BY: likewise.
        interpret: run the kernel step by step in JAX, on any device.
    """
    return _matmuls(tensor_RAB, left_AX, right_BY, interpret, scale_AB=scale_AB)


def _matmuls(
    core_RAB: Array,
    left_AX: Any,
    right_BY: Any,
    interpret: bool,
    d_R: Array | None = None,
    scale_AB: Array | None = None,
) -> Array:
    """From both sides, of tiles that are scaled before entry by entry, or after as a whole."""
    tiles, a, b = core_RAB.shape
    x, y = left_AX.shape[1], right_BY.shape[1]
    left_AX, right_BY = (pad(matrix, core_RAB.dtype) for matrix in (left_AX, right_BY))
    scale_AB = None if scale_AB is None else pad(scale_AB)
    given = {
        "d": (d_R, block(_TILES)),
        "scale": (scale_AB, whole(padded_side(a), padded_side(b))),
    }
    given = {name: pair for name, pair in given.items() if pair[0] is not None}

    def kernel(core_ref: Any, left_ref: Any, right_ref: Any, *refs: Any) -> None:
        left, right = left_ref[...], right_ref[...]
        ref = dict(zip((*given, "out"), refs, strict=True))

        def tile(r: Any, carry: None) -> None:
            core = load(core_ref, r, a, b)
            if "scale" in ref:
                core = (core * ref["scale"][...]).astype(core.dtype)
            product = from_both_sides(left, core, right)
            if "d" in ref:
                product = product * ref["d"][r]
            store(ref["out"], r, product.astype(core.dtype), x, y)
            return carry

        jax.lax.fori_loop(0, _TILES, tile, None)

    return pl.pallas_call(
        kernel,
        grid=(tiles // _TILES,),
        in_specs=[
            block(_TILES, a, b),
            whole(*left_AX.shape),
            whole(*right_BY.shape),
            *(spec for _, spec in given.values()),
        ],
        out_specs=block(_TILES, x, y),
        out_shape=jax.ShapeDtypeStruct((tiles, x, y), core_RAB.dtype),
        interpret=interpret,
        compiler_params=_params(*left_AX.shape, *right_BY.shape),
    )(core_RAB, left_AX, right_BY, *(array for array, _ in given.values()))


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


def _backward(interpret: bool, residuals: Any, ct_RXY: Array) -> tuple[Array | None, ...]:
    """Of the scaled core it is ``left @ ct[r] @ right.T``, and all three are sums over that."""
    core_RAB, d_R, d_A, d_B, left_AX, right_BY = residuals
    tiles, a, b = core_RAB.shape
    x, y = left_AX.shape[1], right_BY.shape[1]
    programs = tiles // _TILES
    left_AX, right_BY = (pad(matrix, core_RAB.dtype) for matrix in (left_AX, right_BY))
    (padded_a, _), (padded_b, _) = left_AX.shape, right_BY.shape
    padded_d_A, padded_d_B = jnp.pad(d_A, (0, padded_a - a)), jnp.pad(d_B, (0, padded_b - b))

    def kernel(core_ref: Any, d_ref: Any, d_a_ref: Any, d_b_ref: Any, *refs: Any) -> None:
        left_ref, right_ref, ct_ref, to_d_ref, to_a_ref, to_b_ref = refs
        left, right = left_ref[...], right_ref[...]
        d_a, d_b = d_a_ref[...][:, None], d_b_ref[...][None, :]

        def tile(r: Any, sum_AB: Any) -> Any:
            core, ct = load(core_ref, r, a, b), load(ct_ref, r, x, y)
            product = core.astype(jnp.float32) * to_both_sides(left, ct, right)
            to_d_ref[r] = jnp.sum(product * (d_a * d_b))
            return sum_AB + product * d_ref[r]

        zeros = jnp.zeros((padded_a, padded_b), jnp.float32)
        sum_AB = jax.lax.fori_loop(0, _TILES, tile, zeros)
        to_a_ref[0], to_b_ref[0] = jnp.sum(sum_AB * d_b, axis=1), jnp.sum(sum_AB * d_a, axis=0)

    to_d_R, to_a_PA, to_b_PB = pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=[
            block(_TILES, a, b),
            block(_TILES),
            whole(padded_a),
            whole(padded_b),
            whole(*left_AX.shape),
            whole(*right_BY.shape),
            block(_TILES, x, y),
        ],
        out_specs=[block(_TILES), block(1, padded_a), block(1, padded_b)],
        out_shape=[
            jax.ShapeDtypeStruct((tiles,), jnp.float32),
            jax.ShapeDtypeStruct((programs, padded_a), jnp.float32),
            jax.ShapeDtypeStruct((programs, padded_b), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=_params(*left_AX.shape, *right_BY.shape),
    )(core_RAB, d_R, padded_d_A, padded_d_B, left_AX, right_BY, ct_RXY)
    to_d_A, to_d_B = jnp.sum(to_a_PA, axis=0)[:a], jnp.sum(to_b_PB, axis=0)[:b]
    return None, to_d_R, to_d_A, to_d_B, None, None


def _params(*sides: int) -> triton.CompilerParams:
    return triton.CompilerParams(num_warps=padded_tiles.warps(*sides), num_stages=2)


two_sided.defvjp(_forward, _backward)


def from_both_sides(left_AX: Any, tile_AB: Any, right_BY: Any) -> Any:
    """``left.T @ tile @ right`` inside a kernel, in float32."""
    half_AY = triton.dot(tile_AB, right_BY).astype(tile_AB.dtype)
    return triton.dot(left_AX, half_AY, trans_a=True)


def to_both_sides(left_AX: Any, tile_XY: Any, right_BY: Any) -> Any:
    """``left @ tile @ right.T`` inside a kernel, in float32."""
    half_AY = triton.dot(left_AX, tile_XY).astype(tile_XY.dtype)
    return triton.dot(half_AY, right_BY, trans_b=True)


def block(count: int, *sides: int) -> pl.BlockSpec:
    """Of each program its own ``count`` entries of the first axis."""
    return pl.BlockSpec((count, *sides), lambda program: (program, *[0] * len(sides)))


def whole(*sides: int) -> pl.BlockSpec:
    """All of an array for each program."""
    return pl.BlockSpec(sides, lambda program: (0,) * len(sides))
