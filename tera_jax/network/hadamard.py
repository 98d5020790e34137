"""A random orthogonal matrix that is never formed: random signs, then a Kronecker product.

A = (H_1 x ... x H_k) diag(s), N by N, with N signs s and small orthogonal matrices H. Along an axis
of N entries each H takes the time of reading and writing the tensor, where a dense matrix takes N
multiplications an entry: two such passes for N = 4096 = 64 x 64.

It is the randomised Hadamard transform (Tropp, "Improved analysis of the subsampled randomized
Hadamard transform", arXiv:1011.1595), with cosines for sizes that are no powers of two.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from tera_jax.ops import two_sided_matmul

WIDEST = 128
"""The most rows of an H: a product with so many still takes little more than reading its input."""


@functools.cache
def kronecker_sizes(size: int) -> tuple[int, ...]:
    """The rows of H_1..H_k in ascending order: as few as can be, then the largest as small.

    Of three the first is as small as can be, and then the last as large: the other two make tiles,
    and the kernels of :mod:`tera_jax.network.structured` compute each tile of a side by itself.

    Raises:
        ValueError: when the size is below 2 or has a prime factor above ``WIDEST``.

    Example:
        >>> kronecker_sizes(4096), kronecker_sizes(11008), kronecker_sizes(28672)
        ((64, 64), (86, 128), (2, 112, 128))
    """
    rest = size
    for divisor in range(2, WIDEST + 1):
        while rest > 1 and rest % divisor == 0:
            rest //= divisor
    if size < 2 or rest > 1:
        why = "it is below 2" if size < 2 else f"its factor {rest} has no divisor up to {WIDEST}"
        raise ValueError(f"no fast transform of size {size}: {why}; take a dense matrix there")
    found = (list(_factorisations(size, parts)) for parts in itertools.count(1))
    return min(next(filter(None, found)), key=_order)


def _order(factors: tuple[int, ...]) -> tuple[int, ...]:
    return (factors[0], -factors[-1]) if len(factors) == 3 else factors[::-1]


def _factorisations(size: int, parts: int, least: int = 2) -> Iterator[tuple[int, ...]]:
    """Ascending, into ``parts`` factors from ``least`` to ``WIDEST``."""
    if parts == 1:
        if least <= size <= WIDEST:
            yield (size,)
        return
    for factor in range(least, min(WIDEST, math.isqrt(size)) + 1):
        if size % factor == 0:
            for others in _factorisations(size // factor, parts - 1, factor):
                yield (factor, *others)


@functools.cache
def orthogonal(size: int) -> Float[np.ndarray, "F F"]:
    """Orthonormal rows: Sylvester's Hadamard matrix for a power of two, else the cosines of DCT-II.

    Computed in float64 and rounded once to float32, the same on every machine. A library's sine of
    an angle below a right one is wrong by a few units in the last place of float64. No entry lies
    so near to the middle of two float32 numbers, as is tested for all sizes.
    """
    return _exact(size).astype(np.float32)


def _exact(size: int) -> np.ndarray:
    row, column = np.arange(size)[:, None], np.arange(size)[None, :]
    if size & (size - 1) == 0:
        return np.where(np.bitwise_count(row & column) % 2, -1.0, 1.0) / math.sqrt(size)
    turn = row * (2 * column + 1) % (4 * size)  # cos(pi turn / 2 size), and 4 size is a full turn
    cosine = np.sin(np.pi * (size - np.minimum(turn, 4 * size - turn)) / (2 * size))
    return cosine * np.where(row == 0, math.sqrt(1 / size), math.sqrt(2 / size))


@functools.cache
def _matrix(size: int, dtype: Any, transposed: bool) -> np.ndarray:
    """One and the same array at each call: XLA then finds that two transforms of one x are one."""
    matrix_FF = orthogonal(size).astype(dtype)
    return np.ascontiguousarray(matrix_FF.T) if transposed else matrix_FF


def kronecker_factor(size: int, dtype: Any, transposed: bool = False) -> Float[Array, "F F"]:
    """H in a type, such that XLA does not multiply out at compile time what is made of it."""
    return lax.optimization_barrier(_matrix(size, dtype, transposed))


def signs(key: Key[Array, ""], size: int, dtype: Any = jnp.float32) -> Float[Array, " N"]:
    """+1 and -1 with equal chances, by the exact bits of Threefry: the same on every backend."""
    bits = jax.random.bits(key, (size,), jnp.uint32) >> 31
    return (1 - 2 * bits.astype(jnp.int32)).astype(dtype)


def apply(
    signs_N: Float[Array, " N"], tensor: Float[Array, "..."], axis: int, precision: Any = None
) -> Float[Array, "..."]:
    """A along an axis: y[.. r ..] = sum_i A[r, i] x[.. i ..].

    Args:
        signs_N: s.
        tensor: with N entries along ``axis``.
        axis: of the tensor.
        precision: of the matmuls, as in ``jax.lax.dot_general``; they are in the tensor's type.

    Raises:
        ValueError: when the axis has another length than s, or for a size without such factors.
    """
    return _kronecker(tensor * _beside(signs_N, tensor, axis), axis, False, precision)


def apply_transposed(
    signs_N: Float[Array, " N"], tensor: Float[Array, "..."], axis: int, precision: Any = None
) -> Float[Array, "..."]:
    """A transposed, its inverse, along an axis: y[.. i ..] = sum_r x[.. r ..] A[r, i].

    Arguments, result and errors are those of :func:`apply`.
    """
    return _beside(signs_N, tensor, axis) * _kronecker(tensor, axis, True, precision)


def apply_to_rows(
    signs_N: Float[Array, " N"], x_TN: Float[Array, "T N"], interpret: bool = False
) -> Float[Array, "T N"]:
    """:func:`apply` along the rows of a batch, in one pass over memory and without a gradient.

    Args:
        signs_N: s.
        x_TN: of sizes that :func:`fits_rows`.
        interpret: run the kernel step by step in JAX, on any device.
    """
    first, second = kronecker_sizes(x_TN.shape[1])
    left_AX, right_BY = (_matrix(size, x_TN.dtype, True) for size in (first, second))
    tiles_TAB = x_TN.reshape(-1, first, second)
    scale_AB = signs_N.astype(x_TN.dtype).reshape(first, second)
    out_TXY = two_sided_matmul.matmul(tiles_TAB, scale_AB, left_AX, right_BY, interpret)
    return out_TXY.reshape(x_TN.shape)


def fits_rows(rows: int, size: int) -> bool:
    """Whether :func:`apply_to_rows` can: two Kronecker factors, of sizes that its kernel takes."""
    found = kronecker_sizes(size)
    return len(found) == 2 and two_sided_matmul.fits_padded(rows, *found)


def _beside(signs_N: Array, tensor: Array, axis: int) -> Array:
    """The signs in the type of the tensor, with an axis for each of its axes."""
    if tensor.shape[axis] != len(signs_N):
        raise ValueError(
            f"{len(signs_N)} signs for axis {axis} of a tensor {tensor.shape}; give one an entry"
        )
    others = [i for i in range(tensor.ndim) if i != axis % tensor.ndim]
    return jnp.expand_dims(signs_N.astype(tensor.dtype), others)


def _kronecker(tensor: Array, axis: int, transposed: bool, precision: Any) -> Array:
    """H_1 x ... x H_k, or its transposed, along an axis, whose slowest part H_1 acts on."""
    shape, axis = tensor.shape, axis % tensor.ndim
    before, after = math.prod(shape[:axis]), math.prod(shape[axis:])
    for factor in kronecker_sizes(shape[axis]):
        after //= factor
        # Lest XLA make one matmul of two kernels' tensors side by side, and cut them apart.
        matrix: Any = kronecker_factor if transposed else _matrix
        matrix_FF = matrix(factor, tensor.dtype, transposed)
        flat_aFb = tensor.reshape(before, factor, after)
        if after < factor:
            flat_abF = jnp.swapaxes(flat_aFb, 1, 2)
            product_abG = jnp.einsum("abf,gf->abg", flat_abF, matrix_FF, precision=precision)
            tensor = jnp.swapaxes(product_abG, 1, 2)
        else:
            # Copies of H, no larger than the tensor, make this a batched matmul. With a single
            # H, XLA would copy the tensor before and after to bring the axis to its end.
            copies_aFF = jnp.broadcast_to(matrix_FF, (before, factor, factor))
            tensor = jnp.matmul(copies_aFF, flat_aFb, precision=precision)
        before *= factor
    return tensor.reshape(shape)


def dense(signs_N: Float[Array, " N"]) -> Float[np.ndarray, "N N"]:
    """A itself in float64, on the host: the definition, for tests."""
    matrix_NN: np.ndarray = np.ones((1, 1))
    for factor in kronecker_sizes(len(signs_N)):
        matrix_NN = np.kron(matrix_NN, orthogonal(factor).astype(np.float64))
    return matrix_NN * np.asarray(signs_N, np.float64)
