"""The kernel of low-rank updates in mixed rows, beside the formula and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.ops import low_rank_rows
from tests.margins import within


def made(dtype=jnp.float32, batch=3, layers=2):
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape) / 8, dtype)

    pairs = [(normal(batch, 128, 8), normal(batch, 8, 64)) for _ in range(layers)]
    return normal(batch, 128), pairs


@pytest.fixture(autouse=True)
def several_parts(monkeypatch):
    monkeypatch.setattr(low_rank_rows, "_PART", 8 * 32)


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in tree)))


@pytest.mark.parametrize("programs", [1, 128])
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_every_row_reads_its_own_factors(dtype, bound, programs, monkeypatch):
    monkeypatch.setattr(low_rank_rows, "_PROGRAMS", programs)  # of one row one, or eight
    x_BI, pairs = made(dtype)
    found = low_rank_rows.through(x_BI, pairs, 0.5, True)
    assert [y.dtype for y in found] == [dtype] * 2
    for y_BO, (a_BIR, b_BRO) in zip(found, pairs, strict=True):
        x, a, b = (np.asarray(v, np.float64) for v in (x_BI, a_BIR, b_BRO))
        for row in range(3):
            expected = 0.5 * (x[row] @ a[row]) @ b[row]
            found_O = np.asarray(y_BO[row], np.float64)
            size = np.linalg.norm(expected)
            within(np.linalg.norm(found_O - expected), bound * size)
            other = 0.5 * (x[row] @ a[row]) @ b[row - 1]
            assert np.linalg.norm(found_O - other) > 0.1 * size


def test_gradients_are_those_of_the_formula():
    x_BI, pairs = made()

    def loss(function, x_BI, pairs):
        one, two = function(x_BI, pairs)
        return jnp.sum(jnp.sin(one) * jnp.cos(2 * two))

    def graded(function):
        return jax.jit(jax.grad(lambda x, pairs: loss(function, x, pairs), (0, 1)))(x_BI, pairs)

    found = graded(lambda x, pairs: low_rank_rows.through(x, pairs, 0.5, True))
    expected = graded(lambda x, pairs: low_rank_rows.by_xla(x, pairs, 0.5))
    other = graded(lambda x, pairs: low_rank_rows.by_xla(x, pairs, 0.6))
    leaves = zip(*map(jax.tree.leaves, (found, expected, other)), strict=True)
    for a, b, c in leaves:
        within(norm([a - b]), 1e-5 * norm([b]))
        assert norm([c - b]) > 1e-2 * norm([b])


def test_what_the_kernel_takes():
    assert low_rank_rows.fits(32, 64, 8)
    assert not low_rank_rows.fits(48, 64, 8)
    assert not low_rank_rows.fits(32, 48, 8)
    assert not low_rank_rows.fits(32, 64, 12)
    assert not low_rank_rows.fits(32, 64, 4)
