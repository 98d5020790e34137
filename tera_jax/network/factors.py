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
    factors, d = factors[start:stop], d[start:stop]
    ranks, modes = zip(*map(sizes, factors), strict=True)
    return [_one(factors[i:j], d[i:j]) for i, j in groups(ranks, modes)]


def _one(factors: Sequence[Array], d: Sequence[Array]) -> Factor:
    if sizes(factors[0])[0] > NARROW:
        return Factor(factors[0], d[0])
    acc = acc_dtype(factors[0].dtype)
    matrix = functools.reduce(jnp.kron, [factor.astype(acc) for factor in factors])
    return Factor(matrix, functools.reduce(jnp.kron, [vector.astype(acc) for vector in d]))
