"""W + dW by the kernels of :mod:`tera_jax.network.kernels.rectangular`: one pass over W.

Where the inputs are split and the core's tile is not that of the whole side's transform, a first
kernel writes the rows before that transform, and a second transforms and adds them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import hadamard
from tera_jax.network.kernels.rectangular import ROWS
from tera_jax.network.kernels.tiles import (
    Parts,
    Sides,
    Sizes,
    core_matrices,
    from_split,
    padded_tile,
    params,
    through_core,
    transform_matrix,
)
from tera_jax.ops.padded_tiles import (
    load,
    load_rows,
    pad,
    padded_side,
    rounded_side,
    store,
    store_rows,
    warps,
)
from tera_jax.ops.two_sided_matmul import block, from_both_sides, whole

_ROWS = (32, 16, ROWS)
"""Of the kernel, in one program: the more the better, if that leaves ``_PROGRAMS``."""
_PROGRAMS = 128


@functools.partial(jax.jit, static_argnames=("dims", "dtype", "split_in", "interpret"))
def adapted(
    kernel_IO: Float[Array, "I O"] | Float8Kernel,
    sides: Sides,
    dims: Sizes,
    dtype: Any,
    split_in: bool,
    interpret: bool = False,
) -> Float[Array, "I O"]:
    """W + dW, summed in float32 and rounded once. Without gradients.

    Args:
        kernel_IO: W, of any type; of one in e4m3 the codes are read and scaled here.
        sides: of the network.
        dims: its :func:`sizes`.
        dtype: of the matmuls.
        split_in: whether the inputs are split.
        interpret: run the kernel step by step in JAX, on any device.
    """
    w_IO: Any = kernel_IO
    scales_O = None
    if isinstance(kernel_IO, Float8Kernel):
        w_IO, scales_O = kernel_IO.inputs_first(), kernel_IO.channel_scales
    out = jnp.dtype(kernel_IO.dtype)
    if not split_in:
        return _split_out(w_IO, scales_O, sides, dims, dtype, out, interpret)
    if dims.reshapes:
        return _split_in(w_IO, scales_O, sides, dims, dtype, out, interpret)
    inner_IJ = _split_in(None, None, sides, dims, dtype, dtype, interpret)
    return _add_transformed(w_IO, scales_O, inner_IJ, sides.signs_J, dims, out, interpret)


def _split_out(
    w_IO: Array,
    scales_O: Array | None,
    sides: Sides,
    dims: Sizes,
    dtype: Any,
    out: Any,
    interpret: bool,
) -> Array:
    """A row of dW: a row of the whole side's transform, through the core and the split modes."""
    (_, second), p, q, _, x, _, y, z = dims
    rows, columns = w_IO.shape
    count = next(n for n in _ROWS if n == ROWS or (second % n == 0 and rows >= _PROGRAMS * n))
    first_HPQ, second_HPQ = _transform_rows(dims, dtype)
    parts = Parts.of(dims)
    whole_QP, split_BA = parts.tiles(dims)
    scales = (
        []
        if scales_O is None
        else [pad(scales_O.reshape(z, x, y), shape=(parts.x[-1].stop, padded_side(y)))]
    )

    def program(w_ref: Any, s_ref: Any, first_ref: Any, second_ref: Any, *refs: Any) -> None:
        scaled_ref, v_ref, *matrix_refs, out_ref = refs
        core_p, core_q, left, right = parts.load(*matrix_refs[:4])
        scaled_PQ = [scaled_ref[at, :] * first_ref[0, at, :] for at in parts.p]

        def row(k: Any, carry: None) -> None:
            unit_PQ = [
                each * second_ref[k, at, :] * s_ref[k]
                for each, at in zip(scaled_PQ, parts.p, strict=True)
            ]
            core_BA = through_core(unit_PQ, core_p, core_q)
            core_BA = [each.astype(dtype) for each in core_BA]
            for tile in range(z):
                split_BA = [
                    each * v_ref[tile, :, at] for each, at in zip(core_BA, parts.a, strict=True)
                ]
                update_YX = from_split(split_BA, left, right)
                scales = [ref.at[tile] for ref in matrix_refs[4:]]
                for each, at in zip(update_YX, parts.x, strict=True):
                    _write(out_ref, k * z + tile, at, w_ref, scales, each.T, (x, y))
            return carry

        jax.lax.fori_loop(0, count, row, None)

    matrices = (
        pad(sides.whole_J.astype(dtype).reshape(p, q), shape=whole_QP[::-1]),
        pad(jnp.swapaxes(sides.split_ZAB, 1, 2), dtype, split_BA),
        *parts.matrices(sides, dims, False, dtype),
        *scales,
    )
    out_IXY = pl.pallas_call(
        program,
        grid=(rows // count,),
        in_specs=[
            block(count * z, x, y),
            block(count),
            pl.BlockSpec((1, *whole_QP[::-1]), lambda i: (i * count // second, 0, 0)),
            pl.BlockSpec((count, *whole_QP[::-1]), lambda i: (i % (second // count), 0, 0)),
            *(whole(*each.shape) for each in matrices),
        ],
        out_specs=block(count * z, x, y),
        out_shape=jax.ShapeDtypeStruct((rows * z, x, y), out),
        interpret=interpret,
        compiler_params=params(dims, 1),
        name="adapted_split_out",
    )(w_IO.reshape(-1, x, y), sides.signs_J.astype(dtype), first_HPQ, second_HPQ, *matrices)
    return out_IXY.reshape(rows, columns)


def _split_in(
    w_IO: Array | None,
    scales_O: Array | None,
    sides: Sides,
    dims: Sizes,
    dtype: Any,
    out: Any,
    interpret: bool,
) -> Array:
    """A row of dW: an outer product of two columns, through the core and the whole transform.

    Without W it is the row before that transform.
    """
    h, p, q, a, x, b, y, z = dims
    shape = (p, q) if w_IO is None else h
    scales = [] if scales_O is None else [scales_O.reshape(shape)]
    given = [] if w_IO is None else [w_IO.reshape(-1, *shape)]
    transform = [] if w_IO is None else [
        *(transform_matrix(side, dtype) for side in shape), sides.signs_J.reshape(shape)
    ]  # fmt: skip

    def program(left_ref: Any, right_ref: Any, *refs: Any) -> None:
        v_ref, core_p_ref, core_q_ref, scaled_ref, *more, out_ref = refs
        h_refs, more = more[: len(transform)], more[len(transform) :]
        core_q, scaled_PQ = core_q_ref[...], scaled_ref[...]
        # All rows of a program are of the same column of the left matrix.
        outer_AB = left_ref[0][:, None] * v_ref[...]
        half_PB = triton.dot(core_p_ref[...], outer_AB).astype(dtype)

        def row(k: Any, carry: None) -> None:
            scaled_PB = half_PB * right_ref[k][None, :]
            core_PQ = triton.dot(scaled_PB, core_q, trans_b=True).astype(dtype) * scaled_PQ
            if not h_refs:
                store(out_ref, k, core_PQ, p, q)
                return carry
            first_ref, second_ref, s_ref = h_refs
            tile = from_both_sides(first_ref[...], core_PQ.reshape(shape), second_ref[...])
            _write(out_ref, k, slice(0, shape[0]), more[-1], more[:-1], tile * s_ref[...], shape)
            return carry

        jax.lax.fori_loop(0, ROWS, row, None)

    matrices: tuple[Any, ...] = (
        pad(sides.split_ZAB, dtype),
        *core_matrices(dims, True, dtype),
        padded_tile(sides.whole_J, p, q, dtype),
        *transform,
        *scales,
    )
    left_XA, right_YB = (pad(m, dtype).T for m in (sides.left_AX, sides.right_BY))
    out_IPQ = pl.pallas_call(
        program,
        grid=(z * x * y // ROWS,),
        in_specs=[
            pl.BlockSpec((1, padded_side(a)), lambda i: (i * ROWS // y % x, 0)),
            pl.BlockSpec((ROWS, padded_side(b)), lambda i: (i % (y // ROWS), 0)),
            pl.BlockSpec(
                (None, padded_side(a), padded_side(b)), lambda i: (i * ROWS // (x * y), 0, 0)
            ),
            *(whole(*each.shape) for each in matrices[1:]),
            *(block(ROWS, *shape) for _ in given),
        ],
        out_specs=block(ROWS, *shape),
        out_shape=jax.ShapeDtypeStruct((z * x * y, *shape), out),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="adapted_split_in",
    )(left_XA, right_YB, *matrices, *given)
    return out_IPQ.reshape(z * x * y, -1)


def _add_transformed(
    w_IO: Array,
    scales_O: Array | None,
    inner_IJ: Array,
    signs_J: Array,
    dims: Sizes,
    out: Any,
    interpret: bool,
) -> Array:
    """W and the transform of the rows of dW before it."""
    first, second = dims.h
    scales = [] if scales_O is None else [pad(scales_O.reshape(first, second))]
    matrices = [
        *(pad(transform_matrix(side, inner_IJ.dtype)) for side in dims.h),
        pad(signs_J.reshape(first, second)),
        *scales,
    ]

    def program(w_ref: Any, inner_ref: Any, *refs: Any) -> None:
        first_ref, second_ref, s_ref, *more, out_ref = refs

        def row(k: Any, carry: None) -> None:
            tile = load(inner_ref, k, first, second)
            update = from_both_sides(first_ref[...], tile, second_ref[...]) * s_ref[...]
            _write(out_ref, k, slice(0, padded_side(first)), w_ref, more, update, dims.h)
            return carry

        jax.lax.fori_loop(0, ROWS, row, None)

    tiles = block(ROWS, first, second)
    out_IHH = pl.pallas_call(
        program,
        grid=(len(w_IO) // ROWS,),
        in_specs=[tiles, tiles, *(whole(*each.shape) for each in matrices)],
        out_specs=tiles,
        out_shape=jax.ShapeDtypeStruct((len(w_IO), first, second), out),
        interpret=interpret,
        compiler_params=triton.CompilerParams(
            num_warps=warps(*map(padded_side, dims.h)), num_stages=2
        ),
        name="adapted_whole_out",
    )(*(each.reshape(-1, first, second) for each in (w_IO, inner_IJ)), *matrices)
    return out_IHH.reshape(w_IO.shape)


def _write(
    out_ref: Any,
    k: Any,
    at: slice,
    w_ref: Any,
    scales: Sequence[Any],
    update: Any,
    tile: tuple[int, int],
) -> None:
    """W + dW of part of a row, with the scales of W's channels if it has any.

    Of the row as a tile, it is the rows ``at``.
    """
    w = load_rows(w_ref, k, at, *tile, zeros=False).astype(jnp.float32)
    for ref in scales:
        w = w * ref[at, :]
    store_rows(out_ref, k, at, (w + update).astype(out_ref.dtype), *tile)


def _transform_rows(dims: Sizes, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two tables, whose product for (i, k) is column i x second + k of H as a tile (P, Q)."""
    return _transform_rows_of(dims.h, dims.p, dims.q, jnp.dtype(dtype))


@functools.cache
def _transform_rows_of(
    h: tuple[int, int], p: int, q: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    first, second = (hadamard.orthogonal(size).astype(dtype).T for size in h)
    widths = [(0, 0), (0, rounded_side(p) - p), (0, padded_side(q) - q)]
    tables = np.repeat(first, h[1], axis=1), np.tile(second, (1, h[0]))
    first_HPQ, second_HPQ = (np.pad(table.reshape(-1, p, q), widths) for table in tables)
    return first_HPQ, second_HPQ
