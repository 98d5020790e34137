"""The spectral norm of a tensor: the most that unit vectors along all of its modes give.

The higher-order power method (De Lathauwer et al., "On the best rank-1 and rank-(R1, ..., RN)
approximation of higher-order tensors", 2000) sets one vector after the other. It can stop at a
local maximum, so it starts several times: from the singular vectors of the unfoldings, and at
random.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

STARTS = 8
"""At random, beside the one from singular vectors."""
_MOST = 1000


class RankOne(NamedTuple):
    """The largest value that was found, and the unit vectors that give it.

    Attributes:
        value: at most the spectral norm, up to rounding.
        vectors: one of each mode.
    """

    value: float
    vectors: tuple[Float[np.ndarray, " _"], ...]


def spectral_norm(tensor: ArrayLike, starts: int = STARTS, seed: int = 0) -> RankOne:
    """The best found. Of a matrix it is the largest singular value.

    Args:
        tensor: of one mode or more.
        starts: at random.
        seed: of these.

    Raises:
        ValueError: for a number alone, no entries, NaN or infinity.
    """
    given = np.asarray(tensor, np.float64)
    if not given.ndim or not given.size or not np.isfinite(given).all():
        raise ValueError(f"an array {given.shape} is no tensor of finite entries")
    random = np.random.default_rng(seed)
    begun: list[list[np.ndarray]] = [[_first_direction(given, mode) for mode in range(given.ndim)]]
    begun += [[random.standard_normal((size,)) for size in given.shape] for _ in range(starts)]
    return max((_climb(given, each) for each in begun), key=lambda found: found.value)


def _first_direction(tensor: np.ndarray, mode: int) -> np.ndarray:
    unfolded = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
    return np.asarray(np.linalg.svd(unfolded, full_matrices=False)[0][:, 0])


def _climb(tensor: np.ndarray, vectors: list[np.ndarray]) -> RankOne:
    units, value = [vector / np.linalg.norm(vector) for vector in vectors], 0.0
    for _ in range(_MOST):
        before = value
        for mode in range(tensor.ndim):
            along = _contracted(tensor, units, mode)
            value = float(np.linalg.norm(along))
            if not value:
                return RankOne(0.0, tuple(units))
            units[mode] = along / value
        if value - before <= 1e-13 * value:
            break
    return RankOne(value, tuple(units))


def _contracted(tensor: np.ndarray, units: list[np.ndarray], but: int) -> np.ndarray:
    for mode in reversed(range(tensor.ndim)):
        if mode != but:
            tensor = np.tensordot(tensor, units[mode], (mode, 0))
    return tensor
