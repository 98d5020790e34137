"""Tiles of a network with a whole and a split side, and their matmuls inside a Pallas kernel.

Tiles are padded in registers (:mod:`tera_jax.ops.padded_tiles`). Hopper's tensor cores multiply
64 rows or more at a time, and a tile of the whole side has 32 rows of 128. So a tile (A, B) is held
turned, as (B, A): 128 rows, and A in parts of powers of two, which pads 86 to 96. What was just
computed is then the left operand of the next matmul, and stays in registers.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import triton
from jaxtyping import Array

from tera_jax.network import hadamard
from tera_jax.ops import padded_tiles
from tera_jax.ops.padded_tiles import pad, padded_side


class Sizes(NamedTuple):
    """Sides of tiles: of the whole side's transform, of the core there, and of the split side."""

    h: tuple[int, int]
    p: int
    q: int
    a: int
    x: int
    b: int
    y: int
    z: int = 1  # tiles of the split side

    @property
    def rows_of_tile(self) -> tuple[int, int]:
        """Padded, of held tiles: those of Q and B, which are equal, and of Y."""
        return padded_side(self.q), padded_side(self.y)

    @property
    def reshapes(self) -> bool:
        """Whether a tile of the core becomes one of the transform in registers."""
        return all(side == padded_side(side) for side in (*self.h, self.p, self.q))


class Sides(NamedTuple):
    """The vectors and matrices of a network by side, in float32."""

    signs_J: Array  # s
    whole_J: Array  # d u
    split_ZAB: Array  # v, of each tile of the split side
    left_AX: Array  # e L
    right_BY: Array  # f M


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
    return [sum_of_products(half_BP, column) for column in zip(*core_p, strict=True)]


def sum_of_products(left: Sequence[Any], right: Sequence[Any], trans_b: bool = False) -> Any:
    """The matmul of parts that lie along the axis that it sums over, inside a kernel."""
    each = (triton.dot(a, b, trans_b=trans_b) for a, b in zip(left, right, strict=True))
    return functools.reduce(jnp.add, each)


def from_split(tile_BA: Sequence[Any], left: Sequence[Sequence[Any]], right: Any) -> list[Any]:
    """``right.T @ tile @ left`` inside a kernel: the parts (Y, X), in float32."""
    columns = zip(*left, strict=True)
    half_BX = [sum_of_products(tile_BA, each).astype(tile_BA[0].dtype) for each in columns]
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
