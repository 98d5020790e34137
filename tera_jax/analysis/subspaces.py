"""Singular directions of two matrices beside each other."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tera_jax.analysis.spectrum import finite_matrix

_FEW = 8
"""One vector of so many is few."""
Side = Literal["in", "out"]
"""Of a kernel (I, O): its left singular vectors are directions of inputs."""


def directions(matrix_IO: ArrayLike, count: int, side: Side) -> Float[np.ndarray, "N K"]:
    """The first singular vectors of a side, as orthonormal columns.

    A few of them are taken as eigenvectors of the matrix times its transpose. This takes a part of
    the time of all, and rounding moves vector k by about eps times (s_1 / s_k)^2.

    Args:
        matrix_IO: a kernel or an update.
        count: of the vectors.
        side: inputs or outputs.

    Raises:
        ValueError: for more vectors than the matrix has.
    """
    matrix = finite_matrix(matrix_IO)
    if not 1 <= count <= min(matrix.shape):
        raise ValueError(f"count is {count}; a matrix {matrix.shape} has 1 to {min(matrix.shape)}")
    wide_NM = matrix if side == "in" else matrix.T
    if count * _FEW > min(matrix.shape):
        return np.asarray(np.linalg.svd(wide_NM, full_matrices=False)[0][:, :count])
    ascending_NN = np.linalg.eigh(wide_NM @ wide_NM.T).eigenvectors
    return np.asarray(ascending_NN[:, ::-1][:, :count])


def overlap(
    first_IO: ArrayLike, second_IO: ArrayLike, counts: tuple[int, int], side: Side
) -> float:
    """How far the first singular directions of two matrices span the same space, from 0 to 1.

    It is |U1^T U2|^2 / min(i, j) of the LoRA paper (arXiv:2106.09685, section 7.2). Directions
    drawn at random of N have about max(i, j) / N.

    Args:
        first_IO: a matrix.
        second_IO: another one with the same side.
        counts: i and j, directions of each.
        side: inputs or outputs.

    Raises:
        ValueError: for sides of two lengths, or more directions than there are.
    """
    first_NI, second_NJ = (
        directions(matrix, count, side)
        for matrix, count in zip((first_IO, second_IO), counts, strict=True)
    )
    return common_part(first_NI, second_NJ)


def common_part(first_NI: Float[np.ndarray, "N I"], second_NJ: Float[np.ndarray, "N2 J"]) -> float:
    """:func:`overlap` of orthonormal columns from :func:`directions`.

    Raises:
        ValueError: for sides of two lengths.
    """
    if len(first_NI) != len(second_NJ):
        raise ValueError(f"sides of {len(first_NI)} and {len(second_NJ)} have no common space")
    count = min(first_NI.shape[1], second_NJ.shape[1])
    return float(np.sum((first_NI.T @ second_NJ) ** 2) / count)


def similarities(kernel_IO: ArrayLike, tuned_IO: ArrayLike, count: int) -> Float[np.ndarray, " K"]:
    """For each of the first directions of a tuned kernel, how near the nearest of the base's is.

    Args:
        kernel_IO: the base's.
        tuned_IO: the base's and its update, summed in float64.
        count: directions of the tuned one, the largest singular values first.

    Returns:
        Cosines without their signs, of input directions.

    Raises:
        ValueError: for two shapes, or more directions than there are.
    """
    kernel, tuned = finite_matrix(kernel_IO), finite_matrix(tuned_IO)
    if kernel.shape != tuned.shape:
        raise ValueError(f"a kernel {kernel.shape} and a tuned one {tuned.shape}")
    base_IK = directions(kernel, min(kernel.shape), "in")
    return nearest(base_IK, directions(tuned, count, "in"))


def nearest(
    base_IK: Float[np.ndarray, "I K"], tuned_IJ: Float[np.ndarray, "I J"]
) -> Float[np.ndarray, " J"]:
    """:func:`similarities` of directions that are known, all of the base's among them."""
    return np.asarray(np.max(np.abs(base_IK.T @ tuned_IJ), axis=0))


def intruders(similarities_K: Float[np.ndarray, " K"], epsilons: Sequence[float]) -> list[int]:
    """How many directions are like none of the base's, for each bound of the likeness.

    Intruder dimensions are those of arXiv:2410.21228. One bound alone says little, so the paper
    takes several.

    Args:
        similarities_K: from :func:`similarities`.
        epsilons: bounds between 0 and 1. A direction below one is an intruder.

    Raises:
        ValueError: for a bound that is none.
    """
    wrong = [epsilon for epsilon in epsilons if not 0 <= epsilon <= 1]
    if wrong:
        raise ValueError(f"epsilon is {wrong[0]}; give bounds between 0 and 1")
    return [int(np.sum(similarities_K < epsilon)) for epsilon in epsilons]
