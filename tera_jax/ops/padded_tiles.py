"""Tiles inside a Pallas kernel whose sides are no powers of two, padded with zeros.

Triton computes with tiles whose sides are powers of two, and its matmuls with sides of 16 or more.
A tile of 86 x 128 is read into one of 128 x 128 with a mask, and written back with it. A matrix
that tiles are multiplied with is padded before the kernel.

Less is added where a side is read in parts: 86 rows as 64 and 32, of which 10 are padding.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import triton
from jaxtyping import Array, Shaped

LEAST, MOST = 16, 128
"""Sides of a padded tile that a tensor core takes, and that registers hold."""


def padded_side(side: int) -> int:
    """The power of two from 16 on that a side is padded to.

    Example:
        >>> padded_side(5), padded_side(43), padded_side(64), padded_side(86)
        (16, 64, 64, 128)
    """
    return max(LEAST, 1 << (side - 1).bit_length())


def parts(side: int) -> tuple[slice, ...]:
    """A side, rounded up to a multiple of 16, in powers of two from 16 on.

    Example:
        >>> parts(86), parts(112)[-1], parts(64)
        ((slice(0, 64, None), slice(64, 96, None)), slice(96, 112, None), (slice(0, 64, None),))
    """
    end = rounded_side(side)
    found, start = [], 0
    while start < end:
        length = 1 << (end - start).bit_length() - 1
        found.append(slice(start, start + length))
        start += length
    return tuple(found)


def rounded_side(side: int) -> int:
    """The multiple of 16 that a side in :func:`parts` is padded to."""
    return -(-side // LEAST) * LEAST


def fits(*sides: int) -> bool:
    """Whether tiles and matrices of such sides fit into registers."""
    return all(1 <= side <= MOST for side in sides)


def pad(
    matrix: Shaped[Array | np.ndarray, "*N A B"],
    dtype: Any = None,
    shape: tuple[int, int] | None = None,
) -> Any:
    """A matrix, in a type if one is given, with zeros after its rows and columns; or several.

    To a shape, or each side to its :func:`padded_side`. What is not changed is the array itself, so
    that XLA finds that two uses of it are one.
    """
    matrix = matrix if dtype is None else matrix.astype(dtype, copy=False)
    several, sides = matrix.shape[:-2], matrix.shape[-2:]
    to = map(padded_side, sides) if shape is None else shape
    widths = [(0, after - side) for side, after in zip(sides, to, strict=True)]
    widths = [(0, 0)] * len(several) + widths
    return jnp.pad(matrix, widths) if any(after for _, after in widths) else matrix


def warps(*sides: int) -> int:
    """Of a program whose tiles have these padded sides: so many that the largest fits."""
    return 8 if max(sides) >= MOST else 4


def load(ref: Any, index: Any, x: int, y: int) -> Any:
    """The tile ``ref[index]`` of (x, y), padded with zeros, inside a kernel."""
    return load_rows(ref, index, slice(0, padded_side(x)), x, y)


def store(ref: Any, index: Any, tile: Any, x: int, y: int) -> None:
    """Write the first (x, y) of a padded tile to ``ref[index]``, inside a kernel."""
    store_rows(ref, index, slice(0, padded_side(x)), tile, x, y)


def load_rows(ref: Any, index: Any, rows: slice, x: int, y: int, zeros: bool = True) -> Any:
    """Some rows of the padded tile ``ref[index]``, a power of two of them, inside a kernel.

    Args:
        ref: of tiles (x, y).
        index: of the tile.
        rows: of it, with those of the padding.
        x: its rows.
        y: its columns.
        zeros: whether zeros stand in the padding, or anything.
    """
    positions, mask = _positions(rows, x, y)
    if mask is None:
        return ref[index, rows, :]
    return triton.load(ref.at[index, *positions], mask=mask, other=0 if zeros else None)


def store_rows(ref: Any, index: Any, rows: slice, tile: Any, x: int, y: int) -> None:
    """Write what of some rows of a padded tile is in (x, y) to ``ref[index]``, inside a kernel."""
    positions, mask = _positions(rows, x, y)
    if mask is None:
        ref[index, rows, :] = tile
    else:
        triton.store(ref.at[index, *positions], tile, mask=mask)


def _positions(rows: slice, x: int, y: int) -> tuple[list[Any], Any]:
    """Row and column of each entry of a part of a padded tile, and whether it is in the tile."""
    shape = rows.stop - rows.start, padded_side(y)
    row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    row = row + rows.start
    inside = [row < x] if rows.stop > x else []
    inside += [column < y] if shape[1] > y else []
    return [row, column], functools.reduce(jnp.logical_and, inside) if inside else None
