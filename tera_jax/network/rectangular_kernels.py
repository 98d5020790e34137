"""Pallas kernels for a network of fast transforms with a whole side and a longer, split one.

Beside :mod:`tera_jax.network.square_kernels` they take three cases:

- sides that are no powers of two, such as 11,008 = 86 x 128;
- a core whose tiles are not those of the whole side's transform;
- a network whose inputs are split.

The update, or its transposed for split inputs, is

    diag(s) H^T diag(d u) (C x D) diag(v) (diag(e) L x diag(f) M)

Here H diag(s) is the transform of the whole side J. The core has signs u and v on its two sides,
and two Kronecker factors: C and D, between tiles (P, Q) of the whole side and (A, B) of the other.

Tiles are padded in registers (:mod:`tera_jax.ops.padded_tiles`). Hopper's tensor cores multiply
64 rows or more at a time, and a tile of the whole side has 32 rows of 128. So a tile is held as its
columns by its rows, (B, A) for (A, B): 128 rows for them, and the other side is in parts of powers
of two, which pads 86 to 96. A tile that was just computed is then the left operand of the next
matmul, and stays in registers.

The gradients are one kernel for both: they read the whole side's rows transformed, which layers of
one input share.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.network import hadamard
from tera_jax.ops import dispatch, padded_tiles
from tera_jax.ops.padded_tiles import load_rows, pad, padded_side, rounded_side
from tera_jax.ops.two_sided_matmul import block, whole

ROWS = 8
"""Of the kernel, in one program."""
_TOKENS = 64
"""The most rows of the batch in one program, if that leaves ``_PROGRAMS``."""
_PROGRAMS = 128
"""A tile of 128 x 128 takes the registers of a streaming multiprocessor; an H100 has 132."""


class Sizes(NamedTuple):
    """Sides of tiles: of the whole side's transform, of the core there, and of the split side."""

    h: tuple[int, int]
    p: int
    q: int
    a: int
    x: int
    b: int
    y: int

    @property
    def rows_of_tile(self) -> tuple[int, int]:
        """Padded, of tiles as they are held: those of the core's Q and B, which are equal, and Y."""
        return padded_side(self.q), padded_side(self.y)

    @property
    def reshapes(self) -> bool:
        """Whether a tile of the core becomes one of the transform in registers."""
        return all(side == padded_side(side) for side in (*self.h, self.p, self.q))


class Sides(NamedTuple):
    """The vectors and matrices of a network by side, in float32."""

    signs_J: Array  # s
    whole_J: Array  # d u
    split_AB: Array  # v
    left_AX: Array  # e L
    right_BY: Array  # f M


def sizes(
    width: int, core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]], split_in: bool
) -> Sizes | None:
    """Of a network; None when the kernels do not take it.

    Args:
        width: of the whole side, J.
        core_shape: (R, S) of the core.
        narrow: (rank, mode) of the two groups of modes of the split side.
        split_in: whether that is the input side.
    """
    (a, x), (b, y) = narrow
    whole_rank, split_rank = core_shape[::-1] if split_in else core_shape
    h, core = (hadamard.kronecker_sizes(size) for size in (width, max(core_shape)))
    if len(h) != 2 or len(core) != 2 or whole_rank != width or split_rank != a * b:
        return None
    if b != core[1] or width % b or not padded_tiles.fits(*h, a, b, x, y, width // b):
        return None
    found = Sizes(h, width // b, b, a, x, b, y)
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
    update = 2 * padded_side(dims.p) * b * b + transform if split_in else core + narrow
    rows = dims.x * dims.y if split_in else dims.h[0] * dims.h[1]
    return rows * update, tokens * (transform + 2 * core + narrow)


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
) -> tuple[Float[Array, " J"], Float[Array, "A B"]]:
    """Of the sum of ``ct * (x @ dW)``, with respect to the products d u and e v f.

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
    _, p, q, a, x, b, y = dims
    dtype = whole_TJ.dtype
    count = len(whole_TJ)
    tokens = next(n for n in (_TOKENS, _TOKENS // 2, 16, 8) if n == 8 or count >= _PROGRAMS * n)
    programs = count // tokens
    parts = Parts.of(dims)
    tiles = parts.tiles(dims)

    def program(z_ref: Any, g_ref: Any, *refs: Any) -> None:
        scaled_ref, back_ref, *matrix_refs, to_whole_ref, to_split_ref = refs
        core_p, core_q, left, right = parts.load(*matrix_refs)

        def token(t: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            g_XY = [load_rows(g_ref, t, rows, x, y) for rows in parts.x]
            half_BX = [triton.dot(right, each, trans_b=True).astype(dtype) for each in g_XY]
            g_BA = [_sum_of_products(half_BX, row, True).astype(dtype) for row in left]
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
            half_BP = [_sum_of_products(back_BA, row, True).astype(dtype) for row in core_p]
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
        pad(sides.split_AB.T, dtype, split_BA),
        *parts.matrices(sides, dims, split_in, dtype),
    )
    to_whole_NQP, to_split_NBA = pl.pallas_call(
        program,
        grid=(programs,),
        in_specs=[
            block(tokens, p, q),
            block(tokens, x, y),
            *(whole(*each.shape) for each in matrices),
        ],
        out_specs=[block(1, *tile) for tile in tiles],
        out_shape=[jax.ShapeDtypeStruct((programs, *tile), jnp.float32) for tile in tiles],
        interpret=interpret,
        compiler_params=params(dims, buffers(dims)),
        name="gradients_of_d",
    )(whole_TJ.reshape(-1, p, q), split_TK.reshape(-1, x, y), *matrices)
    to_whole_QP, to_split_BA = (jnp.sum(each, axis=0) for each in (to_whole_NQP, to_split_NBA))
    return to_whole_QP[:q, :p].T.reshape(-1), to_split_BA[:b, :a].T


class Parts(NamedTuple):
    """Of the sides of tiles that are columns where a tile is held (:func:`padded_tiles.parts`)."""

    p: tuple[slice, ...]
    a: tuple[slice, ...]
    x: tuple[slice, ...]

    @staticmethod
    def of(dims: Sizes) -> "Parts":
        """The parts of P, A and X."""
        return Parts(*map(padded_tiles.parts, (dims.p, dims.a, dims.x)))

    def tiles(self, dims: Sizes) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of the tiles (Q, P) and (B, A), padded."""
        rows, _ = dims.rows_of_tile
        return (rows, self.p[-1].stop), (rows, self.a[-1].stop)

    def matrices(self, sides: Sides, dims: Sizes, split_in: bool, dtype: Any) -> tuple[Any, ...]:
        """C, D, the left and the right matrix, padded."""
        p, a, x = (side[-1].stop for side in self)
        core_p, core_q = core_matrices(dims, split_in, dtype)
        left = pad(sides.left_AX, dtype, (a, x))
        return core_p[:p, :a], core_q, left, pad(sides.right_BY, dtype)

    def load(self, *refs: Any) -> tuple[list[list[Any]], Any, list[list[Any]], Any]:
        """:meth:`matrices` inside a kernel: rows of parts (P, A), D, rows of (A, X), the right."""
        core_p_ref, core_q_ref, left_ref, right_ref = refs
        core_p = [[core_p_ref[rows, at] for at in self.a] for rows in self.p]
        left = [[left_ref[rows, at] for at in self.x] for rows in self.a]
        return core_p, core_q_ref[...], left, right_ref[...]


def through_core(tile_PQ: Sequence[Any], core_p: Sequence[Sequence[Any]], core_q: Any) -> list[Any]:
    """``core_q.T @ tile.T @ core_p`` inside a kernel: the parts (B, A), in float32."""
    half_BP = [
        triton.dot(core_q, each, trans_a=True, trans_b=True).astype(each.dtype) for each in tile_PQ
    ]
    return [_sum_of_products(half_BP, column) for column in zip(*core_p, strict=True)]


def _sum_of_products(left: Sequence[Any], right: Sequence[Any], trans_b: bool = False) -> Any:
    """The matmul of parts that lie along the axis that it sums over, inside a kernel."""
    each = (triton.dot(a, b, trans_b=trans_b) for a, b in zip(left, right, strict=True))
    return functools.reduce(jnp.add, each)


def from_split(tile_BA: Sequence[Any], left: Sequence[Sequence[Any]], right: Any) -> list[Any]:
    """``right.T @ tile @ left`` inside a kernel: the parts (Y, X), in float32."""
    columns = zip(*left, strict=True)
    half_BX = [_sum_of_products(tile_BA, each).astype(tile_BA[0].dtype) for each in columns]
    return [triton.dot(right, half, trans_a=True) for half in half_BX]


def params(dims: Sizes, ahead: int) -> triton.CompilerParams:
    """Of a kernel whose tiles have 128 rows, or fewer, and are loaded so far ahead."""
    return triton.CompilerParams(num_warps=padded_tiles.warps(*dims.rows_of_tile), num_stages=ahead)


def padded_tile(vector: Array, first: int, second: int, dtype: Any) -> Array:
    """A vector as a padded tile (first, second)."""
    return pad(vector.astype(dtype).reshape(first, second))


@functools.cache
def transform_matrix(size: int, dtype: Any) -> np.ndarray:
    """One and the same array at each call, as in :func:`tera_jax.network.hadamard.apply`."""
    return hadamard.orthogonal(size).astype(dtype)


def core_matrices(dims: Sizes, split_in: bool, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """C and D, padded: those of the core, transposed where its inputs are the split side."""
    return _core_of(max(dims.p, dims.a), dims.p, dims.q, dims.a, split_in, jnp.dtype(dtype))


@functools.cache
def _core_of(
    first: int, p: int, q: int, a: int, split_in: bool, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    found = [hadamard.orthogonal(size).astype(dtype) for size in (first, q)]
    c, d = (matrix.T for matrix in found) if split_in else found
    return _on_host(c[:p, :a]), _on_host(d)


def _on_host(matrix: np.ndarray) -> np.ndarray:
    return np.pad(matrix, [(0, padded_side(side) - side) for side in matrix.shape])
