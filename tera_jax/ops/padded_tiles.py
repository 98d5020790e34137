"""Tiles inside a Pallas kernel whose sides are no powers of two, padded with zeros.

Triton computes with tiles whose sides are powers of two, and its matmuls with sides of 16 or more.
A tile of 86 x 128 is read into one of 128 x 128 with a mask, and written back with it. A matrix
that tiles are multiplied with is padded before the kernel.
"""

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


def fits(*sides: int) -> bool:
    """Whether tiles and matrices of such sides fit into registers."""
    return all(1 <= side <= MOST for side in sides)


def pad(matrix: Shaped[Array | np.ndarray, "A B"], dtype: Any = None) -> Any:
    """A matrix, in a type if one is given, with zeros after its rows and columns.

    What is not changed is the array itself, so that XLA finds that two uses of it are one.
    """
    matrix = matrix if dtype is None else matrix.astype(dtype, copy=False)
    widths = [(0, padded_side(side) - side) for side in matrix.shape]
    return jnp.pad(matrix, widths) if any(after for _, after in widths) else matrix


def warps(*sides: int) -> int:
    """Of a program whose tiles have these padded sides: so many that the largest fits."""
    return 8 if max(sides) >= MOST else 4


def load(ref: Any, index: Any, x: int, y: int) -> Any:
    """The tile ``ref[index]`` of (x, y), padded with zeros, inside a kernel."""
    rows, columns, mask = _positions(x, y)
    if mask is None:
        return ref[index]
    return triton.load(ref.at[index, rows, columns], mask=mask, other=0)


def load_any(ref: Any, index: Any, x: int, y: int) -> Any:
    """:func:`load` without zeros: what stands in the padding is anything."""
    rows, columns, mask = _positions(x, y)
    if mask is None:
        return ref[index]
    return triton.load(ref.at[index, rows, columns], mask=mask)


def store(ref: Any, index: Any, tile: Any, x: int, y: int) -> None:
    """Write the first (x, y) of a padded tile to ``ref[index]``, inside a kernel."""
    rows, columns, mask = _positions(x, y)
    if mask is None:
        ref[index] = tile
    else:
        triton.store(ref.at[index, rows, columns], tile, mask=mask)


def _positions(x: int, y: int) -> tuple[Any, Any, Any]:
    """Row and column of each entry of a padded tile, and whether it is in the tile; else None."""
    shape = padded_side(x), padded_side(y)
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    inside = [at < side for at, side, to in zip((rows, columns), (x, y), shape, strict=True)
              if side < to]  # fmt: skip
    mask = inside[0] & inside[1] if len(inside) == 2 else inside[0] if inside else None
    return rows, columns, mask
