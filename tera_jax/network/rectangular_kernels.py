"""Pallas kernels for a network of fast transforms with a whole side and a longer, split one.

Beside :mod:`tera_jax.network.square_kernels` they take three cases:

- sides that are no powers of two, such as 11,008 = 86 x 128;
- a core whose tiles are not those of the whole side's transform;
- a network whose inputs are split.

The update, or its transposed for split inputs, is

    diag(s) H^T diag(d u) (C x D) diag(v) (diag(e) L x diag(f) M)

Here H diag(s) is the transform of the whole side J. The core has signs u and v on its two sides,
and two Kronecker factors: C and D, between tiles (P, Q) of the whole side and (A, B) of the other.

Tiles are padded to powers of two in registers (:mod:`tera_jax.ops.padded_tiles`). The gradients
are one kernel for both: they read the whole side's rows transformed, which layers of one input
share.
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
from tera_jax.ops import padded_tiles
from tera_jax.ops.padded_tiles import load, pad, padded_side, warps
from tera_jax.ops.two_sided_matmul import block, from_both_sides, to_both_sides, whole

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
    first, second, p, q, a, x, b, y = map(padded_side, (*dims.h, *dims[1:]))
    transform = 2 * first * second * (first + second)
    core = 2 * p * b * (q + a)
    narrow = 2 * a * y * (b + x)
    update = 2 * p * b * q + transform if split_in else core + narrow
    rows = dims.x * dims.y if split_in else dims.h[0] * dims.h[1]
    return rows * update, tokens * (transform + 2 * core + narrow)


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
    tile_PQ, tile_AB = (tuple(map(padded_side, pair)) for pair in ((p, q), (a, b)))

    def program(z_ref: Any, g_ref: Any, *refs: Any) -> None:
        scaled_ref, back_ref, *matrix_refs, to_whole_ref, to_split_ref = refs
        core_p, core_q, left, right = (ref[...] for ref in matrix_refs)

        def token(t: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            g_XY = load(g_ref, t, x, y)
            g_AB = to_both_sides(left, g_XY, right).astype(dtype)
            z_PQ = load(z_ref, t, p, q)
            core_AB = from_both_sides(core_p, z_PQ * scaled_ref[...], core_q)
            to_split = sums[1] + g_AB.astype(jnp.float32) * core_AB
            g_PQ = to_both_sides(core_p, g_AB * back_ref[...], core_q)
            return sums[0] + z_PQ.astype(jnp.float32) * g_PQ, to_split

        zeros = jnp.zeros(tile_PQ, jnp.float32), jnp.zeros(tile_AB, jnp.float32)
        to_whole_ref[0], to_split_ref[0] = jax.lax.fori_loop(0, tokens, token, zeros)

    matrices = (
        padded_tile(sides.whole_J, p, q, dtype),
        pad(sides.split_AB, dtype),
        *core_matrices(dims, split_in, dtype),
        pad(sides.left_AX, dtype),
        pad(sides.right_BY, dtype),
    )
    to_whole_NPQ, to_split_NAB = pl.pallas_call(
        program,
        grid=(programs,),
        in_specs=[
            block(tokens, p, q),
            block(tokens, x, y),
            *(whole(*each.shape) for each in matrices),
        ],
        out_specs=[block(1, *tile_PQ), block(1, *tile_AB)],
        out_shape=[
            jax.ShapeDtypeStruct((programs, *tile), jnp.float32) for tile in (tile_PQ, tile_AB)
        ],
        interpret=interpret,
        # Two buffers for tiles of 128 x 128 are more than there is shared memory.
        compiler_params=params(dims, 1),
        name="gradients_of_d",
    )(whole_TJ.reshape(-1, p, q), split_TK.reshape(-1, x, y), *matrices)
    to_whole_PQ, to_split_AB = (jnp.sum(each, axis=0) for each in (to_whole_NPQ, to_split_NAB))
    return to_whole_PQ[:p, :q].reshape(-1), to_split_AB[:a, :b]


def params(dims: Sizes, buffers: int) -> triton.CompilerParams:
    """Of a kernel with tiles of the split side."""
    sides = map(padded_side, (dims.a, dims.b, dims.x, dims.y))
    return triton.CompilerParams(num_warps=warps(*sides), num_stages=buffers)


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
