"""Directions of matrices that are known."""

import numpy as np
import pytest

from tera_jax.analysis import subspaces
from tests.margins import close


def orthogonal(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


U, V = orthogonal(20, 0), orthogonal(16, 1)
KERNEL = U[:, :16] * np.linspace(4, 1, 16) @ V


def test_equal_and_orthogonal_spaces():
    for side in ("in", "out"):
        close(subspaces.overlap(KERNEL, KERNEL, (4, 4), side), 1.0, rtol=1e-10, atol=0)
        close(subspaces.overlap(KERNEL, 2 * KERNEL, (4, 8), side), 1.0, rtol=1e-10, atol=0)
    other = U[:, 4:8] @ V[4:8]
    close(subspaces.overlap(KERNEL, other, (4, 4), "in"), 0.0, rtol=0, atol=1e-12)
    close(subspaces.overlap(KERNEL, other, (8, 4), "in"), 1.0, rtol=1e-10, atol=0)


@pytest.mark.parametrize("side", ["in", "out"])
def test_a_few_directions_are_the_first_of_all(side):
    few = subspaces.directions(KERNEL, 2, side)
    expected = U[:, :2] if side == "in" else V[:2].T
    close(np.abs(expected.T @ few), np.eye(2), rtol=0, atol=1e-13)
    close(few.T @ few, np.eye(2), rtol=0, atol=1e-13)


def test_random_directions_overlap_by_chance():
    random = np.random.default_rng(2)
    found = [
        subspaces.overlap(*random.standard_normal((2, 20, 16)), (4, 4), "in") for _ in range(40)
    ]
    assert abs(np.mean(found) - 4 / 20) < 0.05


def test_an_identity_has_no_intruders_and_a_planted_direction_is_one():
    plain = subspaces.similarities(KERNEL, KERNEL, 10)
    assert subspaces.intruders(plain, [0.3, 0.5, 0.9]) == [0, 0, 0]
    mixed = U[:, :16] @ np.full(16, 0.25)  # as near to each direction as to any other
    planted = subspaces.similarities(
        KERNEL, KERNEL + 9 * np.outer(mixed, V.T @ np.ones(16) / 4), 10
    )
    assert subspaces.intruders(planted, [0.1, 0.6]) == [0, 1]
    assert subspaces.intruders(planted, [1.0])[0] >= 1


def test_what_has_no_such_directions_is_refused():
    with pytest.raises(ValueError, match="count is 17"):
        subspaces.directions(KERNEL, 17, "in")
    with pytest.raises(ValueError, match="20 and 16"):
        subspaces.overlap(KERNEL, KERNEL.T, (2, 2), "in")
    with pytest.raises(ValueError, match=r"epsilon is 1\.5"):
        subspaces.intruders(np.ones(3), [0.5, 1.5])
    with pytest.raises(ValueError, match="a tuned one"):
        subspaces.similarities(KERNEL, KERNEL[:, :4], 2)
