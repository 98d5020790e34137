"""The frozen factors of a network with their vectors d, multiplied out for contraction."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.network.contraction_order import NARROW, groups
from tera_jax.ops.numerics import acc_dtype


class Factor(NamedTuple):
    """A group's matrix and the d along its rows, those of its modes multiplied out.

    A narrow matrix is in float32 at least. A wide one may be the signs of a transform.
    """

    matrix: Array
    d_R: Array

    @property
    def is_wide(self) -> bool:
        """Whether it has more than ``NARROW`` rows."""
        return sizes(self.matrix)[0] > NARROW


def sizes(factor: Float[Array, "..."]) -> tuple[int, ...]:
    """(R, I) of a factor, also of one that holds the signs of a transform; else its shape."""
    return 2 * factor.shape if factor.ndim == 1 and factor.size > NARROW else factor.shape


def joined(
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    start: int = 0,
    stop: int | None = None,
) -> list[Factor]:
    """The groups among the modes from ``start`` to ``stop``."""
    pairs = zip(matrices(factors, start, stop), vectors(factors, d, start, stop), strict=True)
    return [Factor(matrix, d_R) for matrix, d_R in pairs]


def multiplied_factors(narrow: Sequence[Factor]) -> Factor:
    """Several narrow factors as one."""
    matrix = functools.reduce(jnp.kron, [factor.matrix for factor in narrow])
    return Factor(matrix, functools.reduce(jnp.kron, [factor.d_R for factor in narrow]))


def matrices(
    factors: Sequence[Float[Array, "..."]], start: int = 0, stop: int | None = None
) -> list[Array]:
    """Of the groups among the modes from ``start`` to ``stop``, without their d."""
    factors = factors[start:stop]
    return [_matrix(factors[i:j]) for i, j in _groups(factors)]


def vectors(
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    start: int = 0,
    stop: int | None = None,
) -> list[Array]:
    """The d of the groups among the modes from ``start`` to ``stop``, multiplied out."""
    factors, d = factors[start:stop], d[start:stop]
    return [_vector(factors[i], d[i:j]) for i, j in _groups(factors)]


def _groups(factors: Sequence[Array]) -> list[tuple[int, int]]:
    ranks, modes = zip(*map(sizes, factors), strict=True)
    return groups(ranks, modes)


def _matrix(factors: Sequence[Array]) -> Array:
    if sizes(factors[0])[0] > NARROW:
        return factors[0]
    acc = acc_dtype(factors[0].dtype)
    return functools.reduce(jnp.kron, [factor.astype(acc) for factor in factors])


def _vector(factor: Array, d: Sequence[Array]) -> Array:
    """Of a group that begins with the factor."""
    if sizes(factor)[0] > NARROW:
        return d[0]
    acc = acc_dtype(factor.dtype)
    return functools.reduce(jnp.kron, [vector.astype(acc) for vector in d])
