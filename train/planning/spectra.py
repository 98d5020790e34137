"""Stable and entropy rank of a scheme's update at a random d, at its size or at a smaller one.

A random d has entries 1 + 0.3 N(0, 1), and that which starts at zero 0.3 N(0, 1). Orthogonal
factors change no singular value, so that for them and for identities the core alone is drawn.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tera_jax.analysis import spectrum
from tera_jax.network.tensorization import Tensorization

from .candidates import zeroed

STABLE_SIDE = 1024
"""The longest side at which the stable rank is taken."""
ENTROPY_SIDE = 96
"""Likewise for the entropy rank."""
_SPREAD = 0.3
_STEPS, _CLOSE = 100, 1e-4


class Ranks(NamedTuple):
    """Of an update.

    Attributes:
        stable: the squared Frobenius norm over the squared spectral norm.
        entropy: exp of the entropy of the singular values.
    """

    stable: float
    entropy: float


@functools.lru_cache(maxsize=256)
def ranks(scheme: Tensorization, zero: int | str, init: str, exact: bool, seed: int = 0) -> Ranks:
    """Both ranks.

    Args:
        scheme: of the kernel, all ranks full.
        zero: which d starts at zero.
        init: of the factors.
        exact: at the full size, from all singular values. Else the stable rank is by power
            iteration at sides of at most :data:`STABLE_SIDE`, and the entropy rank at
            :data:`ENTROPY_SIDE`.
        seed: of the random arrays.
    """
    if exact:
        values = spectrum.singular_values(update(scheme, zero, init, seed))
        return Ranks(spectrum.stable_rank(values), spectrum.entropy_rank(values))
    large = update(shrunk(scheme, STABLE_SIDE), zero, init, seed)
    small = update(shrunk(scheme, ENTROPY_SIDE), zero, init, seed)
    stable = float(np.sum(large**2)) / largest_singular_value(large, seed) ** 2
    return Ranks(stable, spectrum.entropy_rank(spectrum.singular_values(small)))


def shrunk(scheme: Tensorization, side: int) -> Tensorization:
    """A scheme with the same orders whose sides are at most so long.

    The longest mode of a side that is too long is halved until it fits; where all are 2, one goes.
    """
    sides = _shrunk(scheme.in_modes, side), _shrunk(scheme.out_modes, side)
    return Tensorization(*sides, *sides)


def _shrunk(modes: tuple[int, ...], side: int) -> tuple[int, ...]:
    left = list(modes)
    while math.prod(left) > side:
        longest = left.index(max(left))
        if left[longest] == 2:
            left.pop()
        else:
            left[longest] = -(-left[longest] // 2)
    return tuple(left)


def update(
    scheme: Tensorization, zero: int | str, init: str, seed: int = 0
) -> Float[np.ndarray, "J1 J2"]:
    """An update up to its scale and to rotations of its sides, float64."""
    random = np.random.default_rng(seed)
    vectors = [1 + _SPREAD * random.standard_normal(rank) for rank in scheme.ranks]
    index = zeroed(scheme, zero)
    vectors[index] = _SPREAD * random.standard_normal(scheme.ranks[index])
    core_RS = _core(scheme.core_shape, seed)
    in_R, out_S = _product(vectors[: scheme.split]), _product(vectors[scheme.split :])
    found_RS = in_R[:, None] * core_RS * out_S
    if init in ("orthogonal", "identity"):
        return found_RS
    tensor = found_RS.reshape(scheme.ranks)
    for axis, size in enumerate(scheme.ranks):
        factor = random.standard_normal((size, size))
        tensor = np.moveaxis(np.tensordot(tensor, factor, (axis, 0)), -1, axis)
    return tensor.reshape(scheme.shape)


def _product(vectors: Sequence[np.ndarray]) -> np.ndarray:
    found = np.ones(1)
    for vector in vectors:
        found = np.kron(found, vector)
    return found


@functools.lru_cache(maxsize=4)
def _core(shape: tuple[int, int], seed: int) -> Float[np.ndarray, "R S"]:
    return np.random.default_rng(seed + 1).standard_normal(shape)


def largest_singular_value(matrix_IO: Float[np.ndarray, "I O"], seed: int = 0) -> float:
    """By power iteration, until a step adds less than one part in ten thousand."""
    vector = np.random.default_rng(seed).standard_normal(matrix_IO.shape[1])
    value = 0.0
    for _ in range(_STEPS):
        # einsum, since a BLAS with threads is slow where other programs share the cores.
        along = np.einsum("io,o->i", matrix_IO, vector / np.linalg.norm(vector))
        before, value = value, float(np.linalg.norm(along))
        if value - before <= _CLOSE * value:
            break
        vector = np.einsum("i,io->o", along, matrix_IO)
    return value
