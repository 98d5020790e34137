"""Ranks at a random d against the library's own updates and numpy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.network import random_network
from tera_jax.network.tensorization import Tensorization
from tera_jax.network.update import delta_w
from tera_jax.random import seed_key
from train.planning import spectra


def shares(matrix):
    values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    return values / values[0]


def test_orthogonal_factors_and_identities_change_no_singular_value():
    """So that the core between the vectors d has the ranks of the library's update."""
    scheme = Tensorization.parse("4x4|4x4")
    random = np.random.default_rng(0)
    d = [1 + 0.3 * random.standard_normal(rank) for rank in scheme.ranks]
    sides = np.kron(*d[:2]), np.kron(*d[2:])
    off = {}
    for init in ("orthogonal", "identity", "normal"):
        key = seed_key(0, "planning")
        frozen = random_network.draw(key, scheme, init, 1.0, jnp.float32)
        core = np.asarray(frozen["core"], np.float64).reshape(scheme.core_shape)
        vectors = [jnp.asarray(each, jnp.float32) for each in d]
        found = delta_w(frozen, vectors, scheme, jax.lax.Precision.HIGHEST)
        off[init] = np.abs(shares(found) - shares(sides[0][:, None] * core * sides[1])).max()
    assert max(off["orthogonal"], off["identity"]) < 3e-6
    assert off["normal"] > 0.02


@pytest.mark.parametrize("init", ["orthogonal", "normal"])
def test_an_update_has_d_along_the_modes_of_its_core(init):
    scheme = Tensorization.parse("32|4x8")
    ranks = spectra.ranks(scheme, "longest", init, exact=True)
    found = spectra.ranks(scheme, "longest", init, exact=False)
    assert found.stable == pytest.approx(ranks.stable, rel=2e-2)  # the same matrix, by iteration
    assert found.entropy == ranks.entropy
    assert spectra.ranks(scheme, -1, init, exact=True).stable != ranks.stable


def test_gaussian_factors_lower_the_stable_rank_of_a_high_order():
    scheme = Tensorization.parse("x".join(["2"] * 7) + "|" + "x".join(["2"] * 7))
    ranks = [spectra.ranks(scheme, "longest", init, False) for init in ("identity", "normal")]
    assert ranks[0].stable > 2 * ranks[1].stable
    assert ranks[0].entropy > 2 * ranks[1].entropy


def test_power_iteration_finds_the_largest_singular_value():
    matrix = np.random.default_rng(1).standard_normal((60, 40)) @ np.diag(np.linspace(1, 3, 40))
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    assert spectra.largest_singular_value(matrix) == pytest.approx(largest, rel=1e-2)
    assert spectra.largest_singular_value(2 * matrix) == pytest.approx(2 * largest, rel=1e-2)


@pytest.mark.parametrize(
    ("text", "side", "smaller"),
    [
        ("4096|8x8x8x8", 96, "64|2x2x4x4"),
        ("576|24x24", 1024, "576|24x24"),
        ("2x2x2x2|3x2", 4, "2x2|2x2"),
    ],
)
def test_a_proxy_has_sides_that_fit(text, side, smaller):
    found = spectra.shrunk(Tensorization.parse(text), side)
    assert max(found.shape) <= side
    assert str(found) == smaller
