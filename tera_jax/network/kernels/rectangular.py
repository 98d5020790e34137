"""Pallas kernels for a network of fast transforms with a whole side and a longer, split one.

Beside :mod:`tera_jax.network.kernels.square` they take four cases:

- sides that are no powers of two, such as 11,008 = 86 x 128;
- a core whose tiles are not those of the whole side's transform;
- a network whose inputs are split;
- a split side of several tiles, such as 18,944 = 2 x 74 x 128.

The update, or its transposed for split inputs, is

    diag(s) H^T diag(d u) (C x D) diag(v) (diag(e) L x diag(f) M)

Here H diag(s) is the transform of the whole side J. The core has signs u and v on its two sides,
and two Kronecker factors: C and D, between tiles (P, Q) of the whole side and (A, B) of the other.

A core of three Kronecker factors has one before C and D. Of that only the first row is there, all
of whose entries are equal, for the whole side is no longer than one tile of the other. So each tile
of the split side is a network by itself, with numbers in place of the signs v: the first narrow
matrix sums the signs of all tiles. What d u gets back is the sum over the tiles.

The gradients are one kernel for both: they read the whole side's rows transformed, which layers of
one input share.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.network import hadamard
from tera_jax.network.kernels.tiles import (
    Parts,
    Sides,
    Sizes,
    params,
    sum_of_products,
    through_core,
)
from tera_jax.ops import dispatch, padded_tiles
from tera_jax.ops.padded_tiles import load_rows, pad, padded_side, rounded_side
from tera_jax.ops.two_sided_matmul import block, whole

ROWS = 8
"""Of the kernel, in one program."""
_TOKENS = 64
"""The most rows of the batch in one program, if that leaves ``_PROGRAMS``."""
_PROGRAMS = 128
"""A tile of 128 x 128 takes the registers of a streaming multiprocessor; an H100 has 132."""


def sizes(
    width: int, core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]], split_in: bool
) -> Sizes | None:
    """Of a network; None when the kernels do not take it.

    Args:
        width: of the whole side, J.
        core_shape: (R, S) of the core.
        narrow: (rank, mode) of the three groups of modes of the split side.
        split_in: whether that is the input side.
    """
    (c, z), (a, x), (b, y) = narrow
    whole_rank, split_rank = core_shape[::-1] if split_in else core_shape
    h, core = (hadamard.kronecker_sizes(size) for size in (width, max(core_shape)))
    if len(h) != 2 or whole_rank != width or split_rank != c * a * b or width % b:
        return None
    # Of three factors the first has one row in the core: a row of the whole side is in one tile.
    matches = core == (c, a, b) and width <= a * b if len(core) == 3 else (c, b) == (1, core[-1])
    if len(core) == 1 or not matches or not padded_tiles.fits(*h, a, b, x, y, width // b):
        return None
    found = Sizes(h, width // b, b, a, x, b, y, z)
    rows_of_one = y if split_in else h[1]  # of which a program has some
    return found if rows_of_one % ROWS == 0 else None


def flops(dims: Sizes, tokens: int, split_in: bool) -> tuple[int, int]:
    """Of W + dW and of the gradients of ``tokens`` rows, with the padding."""
    (first, second), b = map(padded_side, dims.h), padded_side(dims.b)
    y = padded_side(dims.y)
    p, a, x = map(rounded_side, (dims.p, dims.a, dims.x))
    transform = 2 * first * second * (first + second)
    core = 2 * p * b * (b + a)
    narrow = 2 * b * x * (y + a)
    update = 2 * padded_side(dims.p) * b * b + transform if split_in else core + dims.z * narrow
    rows = dims.z * dims.x * dims.y if split_in else dims.h[0] * dims.h[1]
    return rows * update, tokens * (transform + dims.z * (2 * core + narrow))


def buffers(dims: Sizes) -> int:
    """Tiles that the gradients' kernel loads ahead: three at the most, none where none fits.

    The matrices and so many tiles stand in the shared memory of a multiprocessor.
    """
    b, y = dims.rows_of_tile
    p, a, x = map(rounded_side, (dims.p, dims.a, dims.x))
    matrices = b * b + b * y + p * a + a * x
    rest = dispatch.shared_memory() - 2 * matrices
    return max(0, min(3, rest // (2 * (p * b + x * y))))


@functools.partial(jax.jit, static_argnames=("dims", "split_in", "interpret"))
def gradients(
    whole_TJ: Float[Array, "T J"],
    split_TK: Float[Array, "T K"],
    sides: Sides,
    dims: Sizes,
    split_in: bool,
    interpret: bool = False,
) -> tuple[Float[Array, " J"], Float[Array, "Z A B"]]:
    """Of the sum of ``ct * (x @ dW)``, with respect to the product d u and those e v f.

    Args:
        whole_TJ: rows of the whole side, x or ct, transformed by H diag(s).
        split_TK: rows of the split side.
        sides: of the network; L and M without e and f.
        dims: its :func:`sizes`.
        split_in: whether the inputs are split.
        interpret: run the kernel step by step in JAX, on any device.

    Returns:
        float32.
    """
    _, p, q, a, x, b, y, z = dims
    dtype = whole_TJ.dtype
    count = len(whole_TJ)
    tokens = next(
        n
        for n in (_TOKENS, _TOKENS // 2, 16, 8)
        if n == 8 or (z * count >= _PROGRAMS * n and count % n == 0)
    )
    programs = z * count // tokens  # one after the other for the tiles of some rows
    parts = Parts.of(dims)
    tiles = parts.tiles(dims)

    def program(z_ref: Any, g_ref: Any, *refs: Any) -> None:
        back_ref, scaled_ref, *matrix_refs, to_whole_ref, to_split_ref = refs
        core_p, core_q, left, right = parts.load(*matrix_refs)

        def token(t: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            g_XY = [load_rows(g_ref, t, rows, x, y) for rows in parts.x]
            half_BX = [triton.dot(right, each, trans_b=True).astype(dtype) for each in g_XY]
            g_BA = [sum_of_products(half_BX, row, True).astype(dtype) for row in left]
            z_PQ = [load_rows(z_ref, t, rows, p, q) for rows in parts.p]
            scaled_PQ = [
                each * scaled_ref[rows, :] for each, rows in zip(z_PQ, parts.p, strict=True)
            ]
            core_BA = through_core(scaled_PQ, core_p, core_q)
            to_split = [
                total + g.astype(jnp.float32) * core
                for total, g, core in zip(sums[1], g_BA, core_BA, strict=True)
            ]
            back_BA = [g * back_ref[:, at] for g, at in zip(g_BA, parts.a, strict=True)]
            half_BP = [sum_of_products(back_BA, row, True).astype(dtype) for row in core_p]
            to_whole = [
                total + z.T.astype(jnp.float32) * triton.dot(core_q, half)
                for total, z, half in zip(sums[0], z_PQ, half_BP, strict=True)
            ]
            return to_whole, to_split

        zeros = [
            [jnp.zeros((rows, at.stop - at.start), jnp.float32) for at in columns]
            for (rows, _), columns in zip(tiles, (parts.p, parts.a), strict=True)
        ]
        to_whole, to_split = jax.lax.fori_loop(0, tokens, token, tuple(zeros))
        for ref, found, columns in (
            (to_whole_ref, to_whole, parts.p),
            (to_split_ref, to_split, parts.a),
        ):
            for each, at in zip(found, columns, strict=True):
                ref[0, :, at] = each

    whole_QP, split_BA = tiles
    matrices = (
        pad(sides.whole_J.astype(dtype).reshape(p, q), shape=whole_QP[::-1]),
        *parts.matrices(sides, dims, split_in, dtype),
    )
    back_ZBA = pad(jnp.swapaxes(sides.split_ZAB, 1, 2), dtype, split_BA)
    to_whole_NQP, to_split_NBA = pl.pallas_call(
        program,
        grid=(programs,),
        in_specs=[
            pl.BlockSpec((tokens, p, q), lambda i: (i // z, 0, 0)),
            pl.BlockSpec((tokens, None, x, y), lambda i: (i // z, i % z, 0, 0)),
            pl.BlockSpec((None, *split_BA), lambda i: (i % z, 0, 0)),
            *(whole(*each.shape) for each in matrices),
        ],
        out_specs=[block(1, *tile) for tile in tiles],
        out_shape=[jax.ShapeDtypeStruct((programs, *tile), jnp.float32) for tile in tiles],
        interpret=interpret,
        compiler_params=params(dims, buffers(dims)),
        name="gradients_of_d",
    )(whole_TJ.reshape(-1, p, q), split_TK.reshape(-1, z, x, y), back_ZBA, *matrices)
    to_whole_QP = jnp.sum(to_whole_NQP, axis=0)
    to_split_ZBA = jnp.sum(to_split_NBA.reshape(-1, z, *split_BA), axis=0)
    return to_whole_QP[:q, :p].T.reshape(-1), jnp.swapaxes(to_split_ZBA[:, :b, :a], 1, 2)
