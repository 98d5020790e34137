import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.fingerprint import fingerprint
from tera_jax.network import hadamard
from tera_jax.random import seed_key
from tests.margins import close, within
from tests.marks import quick_only

SIZES = [2, 64, 128, 256, 576, 75, 125, 127, 130, 225, 105 * 3]
"""Powers of two, composites and odd numbers, a prime; one and two factors."""


def drawn(size, seed=0, dtype=jnp.float32):
    return hadamard.signs(seed_key(seed, "transform"), size, dtype)


def test_stages_are_few_and_nearly_equal():
    expected = {
        127: (127,),
        192: (12, 16),
        576: (24, 24),
        4096: (64, 64),
        5120: (64, 80),
        11008: (86, 128),
        14336: (112, 128),
        18944: (2, 74, 128),
        21504: (2, 84, 128),
        28672: (2, 112, 128),
        29568: (3, 77, 128),
    }
    assert {size: hadamard.kronecker_sizes(size) for size in expected} == expected
    for size in range(2, 3000):
        primes = [
            p for p in range(2, size + 1) if size % p == 0 and all(p % q for q in range(2, p))
        ]
        if primes[-1] <= hadamard.WIDEST:
            assert math.prod(hadamard.kronecker_sizes(size)) == size
            assert max(hadamard.kronecker_sizes(size)) <= hadamard.WIDEST


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1, "size 1: it is below 2; take a dense matrix"),
        (262, "size 262: its factor 131 has no divisor up to 128; take a dense matrix"),
    ],
)
def test_sizes_without_a_transform_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        hadamard.kronecker_sizes(size)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_orthogonal(size):
    matrix = hadamard.dense(drawn(size))
    within(np.abs(matrix @ matrix.T - np.eye(size)).max(), 1e-6)
    assert np.abs(matrix - np.eye(size)).max() > 0.5


@pytest.mark.parametrize("size", [4096, 11008])
def test_the_transposed_is_its_inverse_and_it_keeps_lengths(size):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, size)), jnp.float32)
    y = hadamard.apply(drawn(size), x, 1)
    close(jnp.linalg.norm(y, axis=1), jnp.linalg.norm(x, axis=1), rtol=1e-5)
    within(jnp.abs(hadamard.apply_transposed(drawn(size), y, 1) - x).max(), 1e-5)
    assert jnp.abs(hadamard.apply(drawn(size), y, 1) - x).max() > 1


def test_no_entry_is_near_to_another_rounding():
    """So that a sine wrong by several units in the last place gives the same float32 matrix."""
    for size in range(1, hadamard.WIDEST + 1):
        exact = hadamard._exact(size)
        for off in (1 - 2.0**-49, 1 + 2.0**-49):
            assert np.array_equal((exact * off).astype(np.float32), hadamard.orthogonal(size))
    assert hadamard.orthogonal(81)[1, 40] == 0  # the cosine of a right angle


def test_powers_of_two_are_hadamard_matrices():
    assert np.array_equal(
        2 * hadamard.orthogonal(4), [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    )
    assert np.array_equal(8 * np.abs(hadamard.orthogonal(64)), np.ones((64, 64)))


@pytest.mark.parametrize("size", [64, 130, 225])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    quick_only(
        [("float32", 1e-5)],
        [("float64", 1e-13), ("float32", 1e-5), ("bfloat16", 1e-2)],
        names=2,
    ),
)
def test_apply_is_the_product_with_the_matrix_along_every_axis(size, axis, dtype, bound):
    shape = [3, 4, 5]
    shape[axis] = size
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).standard_normal(shape), dtype)
        signs = drawn(size)
        found = hadamard.apply(signs, x, axis), hadamard.apply_transposed(signs, x, axis)
    matrix, exact = hadamard.dense(signs), np.asarray(x, np.float64)
    for y, a in zip(found, (matrix, matrix.T), strict=True):
        expected = np.moveaxis(np.tensordot(a, exact, axes=(1, axis)), 0, axis)
        assert y.dtype == jnp.dtype(dtype)
        error = np.asarray(y, np.float64) - expected
        within(np.linalg.norm(error), bound * np.linalg.norm(expected))
        other = np.moveaxis(np.tensordot(a.T, exact, axes=(1, axis)), 0, axis)
        assert np.linalg.norm(error + expected - other) > 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("route", [hadamard.apply, hadamard.apply_transposed])
def test_no_stage_moves_an_axis_of_the_tensor(route):
    """A transposition would cost as much as the matmul."""
    signs = jnp.ones(4096)
    for shape, axis in [((4096, 64), 0), ((2, 4096, 64), 1)]:
        jaxpr = jax.make_jaxpr(lambda x, axis=axis: route(signs, x, axis))(jnp.ones(shape))
        assert "transpose" not in str(jaxpr)
        assert str(jaxpr).count("dot_general") == 2


def test_every_sign_counts():
    x = jnp.asarray(np.random.default_rng(2).standard_normal((130, 2)), jnp.float32)
    signs = drawn(130)
    for i in (0, 77, 129):
        other = signs.at[i].multiply(-1)
        for route in (hadamard.apply, hadamard.apply_transposed):
            assert not jnp.allclose(route(signs, x, 0), route(other, x, 0))


def test_signs_are_even_and_follow_from_the_seed():
    signs = drawn(100_000)
    assert set(np.unique(signs)) == {-1, 1}
    within(abs(float(signs.mean())), 0.01, of_draws=True)
    assert jnp.array_equal(signs, drawn(100_000))
    assert not jnp.array_equal(signs, drawn(100_000, seed=1))
    assert drawn(64, dtype=jnp.bfloat16).dtype == jnp.bfloat16
    assert jnp.array_equal(drawn(64, dtype=jnp.bfloat16).astype(jnp.float32), drawn(64))


def test_the_seed_gives_these_digits():
    """A known answer: a change would orphan every adapter that was saved without its factors."""
    assert fingerprint(drawn(4096)) == "ebeaf3fb70a4121b"
    assert fingerprint(drawn(4096, dtype=jnp.bfloat16)) == "46f1410a5621a07a"


def test_the_gradient_is_the_other_direction():
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 130)), jnp.float32)
    _, pullback = jax.vjp(lambda x: hadamard.apply(drawn(130), x, 1), x)
    close(pullback(x)[0], hadamard.apply_transposed(drawn(130), x, 1), atol=1e-5)


def test_signs_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"64 signs for axis 1 of a tensor \(64, 65\)"):
        hadamard.apply(drawn(64), jnp.ones((64, 65)), 1)


@pytest.mark.parametrize("size", [256, 1024, 2048])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_rows_in_one_pass_are_the_product_with_the_matrix(size, dtype, bound):
    """Stages of unlike size among them."""
    signs = drawn(size, seed=3)
    x = jnp.asarray(np.random.default_rng(size).standard_normal((16, size)), dtype)
    found = hadamard.apply_to_rows(signs, x, interpret=True)
    exact = np.asarray(x, np.float64) @ hadamard.dense(signs).T
    assert found.dtype == dtype
    within(np.linalg.norm(np.asarray(found, np.float64) - exact), bound * np.linalg.norm(exact))


def test_which_rows_take_one_pass():
    assert hadamard.fits_rows(16, 4096)
    assert not hadamard.fits_rows(12, 4096)  # no whole program
    assert hadamard.fits_rows(16, 576)  # padded
    assert not hadamard.fits_rows(16, 64)  # one factor
    assert not hadamard.fits_rows(16, 65536)  # three
