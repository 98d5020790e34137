"""The numbers of one kernel's update: ranks, spectrum, drift, intruders, directions."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tera_jax.analysis import spectrum, subspaces
from tera_jax.analysis.subspaces import Side
from tera_jax.analysis.updates import Update

RANKS = ("rank_float64", "rank_float32", "rank_1e-2")
"""Singular values above max(I, O) eps of float64 or of float32, or above 0.01, of the largest."""
SHARES = {"energy_rank_90": 0.9, "energy_rank_99": 0.99}
SMOOTH = ("stable_rank", "entropy_rank")
EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOP = 10
"""Directions of W + ΔW that may be intruders."""
KEPT = 8
"""Directions of ΔW that are compared between kernels."""
PLACES = 48
"""Singular values of a kernel that are written, at places evenly apart on a log scale."""


class Measured(NamedTuple):
    """One kernel's update.

    Attributes:
        path: of the layer, with slashes.
        module: the last name of it, such as ``q_proj``.
        layer: its number in the stack, from 0.
        shape: of the kernel, (I, O).
        norm: the Frobenius norm of ΔW.
        drift: that norm as a part of the kernel's.
        ranks: by name, of :data:`RANKS`, :data:`SHARES` and :data:`SMOOTH`.
        places: of singular values, from 1.
        spectrum: these values as parts of the largest; zeros for a ΔW of zeros.
        intruders: among the first :data:`TOP` directions, for each of :data:`EPSILONS`.
        directions: the first singular vectors of each side, at most :data:`KEPT`; none of ΔW = 0.
    """

    path: str
    module: str
    layer: int
    shape: tuple[int, int]
    norm: float
    drift: float
    ranks: dict[str, float]
    places: list[int]
    spectrum: list[float]
    intruders: list[int]
    directions: dict[Side, np.ndarray]


class Bases:
    """The input directions of the base's kernels, which runs share; up to a limit of bytes.

    Args:
        limit: bytes that are kept in memory. Those of further kernels are taken again each time.
    """

    def __init__(self, limit: int = 2**31) -> None:
        self._room = limit
        self._kept: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def directions(self, update: Update) -> Float[np.ndarray, "I K"]:
        """All of a kernel's."""
        key = update.layer.name, update.place
        if key in self._kept:
            return self._kept[key]
        found = subspaces.directions(update.kernel_IO, min(update.kernel_IO.shape), "in")
        if found.nbytes <= self._room:
            self._room -= found.nbytes
            self._kept[key] = found
        return found


def measure(update: Update, layer: int, bases: Bases) -> Measured:
    """The numbers of an update.

    Args:
        update: in float64.
        layer: its number.
        bases: directions that are known.

    Raises:
        ValueError: for a kernel of zeros.
    """
    delta_IO, kernel_IO = update.delta_IO, update.kernel_IO
    shape = delta_IO.shape[0], delta_IO.shape[1]
    left_IK, values_K, right_KO = np.linalg.svd(delta_IO, full_matrices=False)
    places = np.unique(np.round(np.geomspace(1, len(values_K), PLACES)).astype(int))
    shares = values_K / values_K[0] if values_K[0] else values_K
    ranks = _ranks(values_K, shape)
    kept = min(KEPT, int(ranks["rank_float32"]))
    tuned_IJ = subspaces.directions(kernel_IO + delta_IO, min(TOP, len(values_K)), "in")
    similar = subspaces.nearest(bases.directions(update), tuned_IJ)
    return Measured(
        path=update.layer.name,
        module=update.layer.path[-1],
        layer=layer,
        shape=shape,
        norm=float(np.linalg.norm(values_K)),
        drift=spectrum.drift(delta_IO, kernel_IO),
        ranks=ranks,
        places=[int(place) for place in places],
        spectrum=[float(value) for value in shares[places - 1]],
        intruders=subspaces.intruders(similar, EPSILONS),
        directions={"in": left_IK[:, :kept].copy(), "out": right_KO[:kept].T.copy()},
    )


def tolerances(shape: tuple[int, int]) -> dict[str, float]:
    """By the name of a rank, as parts of the largest singular value."""
    exact = max(shape) * float(np.finfo(np.float64).eps)
    found = (exact, spectrum.float32_tolerance(shape), 1e-2)
    return dict(zip(RANKS, found, strict=True))


def _ranks(values_K: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    counts: dict[str, float] = {
        name: spectrum.rank(values_K, tolerance) for name, tolerance in tolerances(shape).items()
    }
    counts |= {name: spectrum.energy_rank(values_K, share) for name, share in SHARES.items()}
    smooth = spectrum.stable_rank(values_K), spectrum.entropy_rank(values_K)
    return counts | dict(zip(SMOOTH, smooth, strict=True))
