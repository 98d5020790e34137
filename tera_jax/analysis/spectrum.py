"""Singular values, and the ranks that are read off them.

A rank needs a tolerance: of a float64 matrix nearly all singular values are above zero. Two ranks
need none and change little with noise: the stable rank, and the entropy rank (Roy and Vetterli,
"The effective rank", EUSIPCO 2007).
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Spectrum = Float[np.ndarray, " K"]
"""Singular values in descending order, float64."""


def singular_values(matrix_IO: ArrayLike) -> Spectrum:
    """Those of a matrix.

    Raises:
        ValueError: for what is no matrix, or has NaN or infinity.
    """
    return np.asarray(np.linalg.svd(finite_matrix(matrix_IO), compute_uv=False))


def finite_matrix(matrix_IO: ArrayLike) -> Float[np.ndarray, "I O"]:
    """A matrix in float64.

    Raises:
        ValueError: for what is no matrix, or has NaN or infinity.
    """
    found = np.asarray(matrix_IO, np.float64)
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"an array {found.shape} is no matrix with entries")
    if not np.isfinite(found).all():
        raise ValueError("the matrix has NaN or infinity")
    return found


def float32_tolerance(shape: tuple[int, int]) -> float:
    """The tolerance that numpy and torch take for a float32 matrix, as a part of the largest."""
    return max(shape) * float(np.finfo(np.float32).eps)


def rank(values_K: Spectrum, tolerance: float) -> int:
    """How many singular values are above a part of the largest.

    Args:
        values_K: of the matrix.
        tolerance: that part, such as :func:`float32_tolerance`.

    Raises:
        ValueError: for a tolerance that is not at least 0 and below 1.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; give a part of the largest singular value")
    return int(np.sum(values_K > tolerance * values_K[0]))


def stable_rank(values_K: Spectrum) -> float:
    """The squared Frobenius norm over the squared spectral norm; 0 of a zero matrix."""
    return float(np.sum(values_K**2) / values_K[0] ** 2) if values_K[0] else 0.0


def entropy_rank(values_K: Spectrum) -> float:
    """Exp of the entropy of the singular values as shares of their sum; 0 of a zero matrix."""
    if not values_K[0]:
        return 0.0
    shares_K = values_K / np.sum(values_K)
    present = shares_K[shares_K > 0]
    return float(np.exp(-np.sum(present * np.log(present))))


def energy_rank(values_K: Spectrum, share: float) -> int:
    """The fewest singular values that have a share of the squared Frobenius norm.

    Args:
        values_K: of the matrix.
        share: above 0 and at most 1.

    Raises:
        ValueError: for another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; give one above 0 and at most 1")
    if not values_K[0]:
        return 0
    energy_K = np.cumsum((values_K / values_K[0]) ** 2)
    # Of all of the energy the last sums may be equal, for what is added is rounded off.
    return int(np.searchsorted(energy_K, share * energy_K[-1])) + 1


def drift(update_IO: ArrayLike, kernel_IO: ArrayLike) -> float:
    """The Frobenius norm of an update as a part of its kernel's.

    Raises:
        ValueError: for other shapes than one, and a kernel of zeros.
    """
    update, kernel = finite_matrix(update_IO), finite_matrix(kernel_IO)
    if update.shape != kernel.shape:
        raise ValueError(f"an update {update.shape} of a kernel {kernel.shape}")
    whole = float(np.linalg.norm(kernel))
    if not whole:
        raise ValueError("the kernel is zero, so no update is a part of it")
    return float(np.linalg.norm(update)) / whole
