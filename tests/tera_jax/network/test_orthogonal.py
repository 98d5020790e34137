import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax.fingerprint import fingerprint
from tera_jax.methods import TargetLayer, tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import orthogonal
from tera_jax.network.tensorization import Tensorization
from tera_jax.random import seed_key
from tera_jax.sharding import make_mesh
from tests.marks import quick_only
from tests.tera_jax.methods.one_layer import on_layer

KEY = seed_key(0, "orthogonal")
SQUARE = [2, 3, 5, 8, 12, 24, 64, 65, 192, 576, 1024]
LOWER = [(1, 2), (2, 3), (5, 24), (63, 64), (1, 65), (8, 192), (191, 192), (100, 1024)]
SHAPES = [*((size, size) for size in SQUARE), *LOWER]
PINNED = {
    (24, 24): "d9c114d7d1aa06a9",
    (5, 24): "6299703dac5128a3",
    (100, 192): "ccb1b17ecc77f23a",
}
"""Fingerprints of the draws from ``KEY``: a narrow factor, one of a lower rank and a wide one."""

draw = jax.jit(orthogonal.draw, static_argnums=(1, 2, 3))
init_frozen = jax.jit(tera.init_frozen, static_argnums=(1, 2))


def drawn(shape, seed=0, std=None):
    """In float64; with orthonormal rows unless told otherwise."""
    std = 1 / math.sqrt(shape[1]) if std is None else std
    return np.asarray(draw(seed_key(seed, "orthogonal"), shape, std), np.float64)


def off(matrix):
    """The largest error of the rows' products."""
    return np.abs(matrix @ matrix.T - np.eye(len(matrix))).max()


def of(text, **fields):
    scheme, config = Tensorization.parse(text), TeRA(init="orthogonal", **fields)
    return scheme, init_frozen(KEY, scheme, config)


@pytest.mark.parametrize("shape", quick_only([*SHAPES][::4], SHAPES))
def test_rows_are_orthonormal_to_float32_rounding(shape):
    for seed in range(3):
        matrix = drawn(shape, seed)
        assert off(matrix) < 2**-22
    matrix[0, -1] += 1e-3
    assert off(matrix) > 1e-6


def test_a_mode_of_a_vocabulary():
    assert off(drawn((3, 151_936))) < 2**-22
    with pytest.raises(ValueError, match=r"orthogonal factor of mode 1048577, above 1048576"):
        orthogonal.draw(KEY, (2, 2**20 + 1), 1.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mean_square_is_exact(shape):
    assert abs(np.mean(drawn(shape, std=0.3) ** 2) / 0.09 - 1) < 1e-6


@pytest.mark.parametrize("shape", [(2, 2), (3, 7), (24, 24), (64, 64)])
def test_a_narrow_one_is_the_orthogonal_factor_of_a_gaussian_matrix(shape):
    """Of its polar decomposition, here by numpy's SVD; so its distribution is Haar's."""
    for seed in range(3):
        gaussian = np.asarray(orthogonal._gaussian(seed_key(seed, "orthogonal"), shape))
        left, _, right = np.linalg.svd(gaussian.astype(np.float64), full_matrices=False)
        assert np.abs(drawn(shape, seed) - left @ right).max() < 1e-5
    assert np.abs(drawn(shape) - left @ right).max() > 0.1  # another seed's


def test_nearly_dependent_rows_become_orthonormal_too():
    """The smallest singular value is a unit of the fixed-point numbers."""
    row = np.arange(1, 9) * 2**20
    rows = jnp.asarray([row, row + np.eye(8, dtype=int)[0]], jnp.int32)
    assert off(np.asarray(orthogonal._polar(rows), np.float64) * 2.0**-30) < 2**-26


@pytest.mark.parametrize("size", [2, 3, 8])
def test_narrow_ones_have_haars_moments(size):
    """E q^2 = 1 / n, E q^4 = 3 / n (n + 2), and the trace has mean 0 and variance 1."""
    shape, std = (size, size), 1 / math.sqrt(size)
    keys = jax.random.split(KEY, 4096)
    many = np.asarray(jax.jit(jax.vmap(lambda key: orthogonal.draw(key, shape, std)))(keys))
    trace = np.trace(many, axis1=1, axis2=2)
    assert abs(trace.mean()) < 5 / 64
    assert abs((trace**2).mean() - 1) < 0.15
    fourth = (many.astype(np.float64) ** 4).mean()
    assert abs(fourth * size * (size + 2) / 3 - 1) < 0.03
    assert (np.linalg.det(many) > 0).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("mode", [65, 576, 1021])
def test_the_table_holds_cosines(mode):
    """Beside numpy's. Their float32 rounding does not depend on a machine's own cosine."""
    angle = np.pi * (2 * np.arange(4 * mode) + 1) / (4 * mode)
    assert np.abs(orthogonal._table(mode, 1.0) - np.cos(angle)).max() < 2**-24
    assert np.abs(np.array(orthogonal._quarter(mode)) - np.cos(angle[:mode])).max() < 1e-15


def test_fixed_point_products_equal_those_of_64_bits():
    random = np.random.default_rng(0)
    ends = np.array([0, 1, -1, 2**15, -(2**15), 2**30 - 1, 2**30, -(2**30)])
    left, right = (random.integers(-(2**30), 2**30, 10_000) for _ in range(2))
    pairs = np.array([*itertools.product(ends, ends), *zip(left, right, strict=True)])
    found = orthogonal._times(*(jnp.asarray(side, jnp.int32) for side in pairs.T))
    exact = pairs[:, 0] * pairs[:, 1] / 2**30
    assert np.abs(np.asarray(found) - exact).max() <= 0.5 + 2**-14


@pytest.mark.parametrize("shape", PINNED)
def test_the_seed_gives_these_digits(shape):
    """Known answers: a change would orphan every adapter that was saved without its factors."""
    std = 1 / math.sqrt(shape[1])
    assert fingerprint(draw(KEY, shape, std)) == PINNED[shape]
    assert fingerprint(draw(seed_key(1, "orthogonal"), shape, std)) != PINNED[shape]


@pytest.mark.parametrize("shape", quick_only([*PINNED][:1], PINNED))
def test_jit_meshes_and_types_make_no_difference(shape):
    std = 1 / math.sqrt(shape[1])
    expected = draw(KEY, shape, std)
    assert jnp.array_equal(orthogonal.draw(KEY, shape, std), expected)
    assert jnp.array_equal(draw(KEY, shape, std, jnp.bfloat16), expected.astype(jnp.bfloat16))
    for spec in (P("tensor", None), P(None, "tensor"), P()):
        if all(size % 8 == 0 or axis is None for size, axis in zip(shape, spec, strict=False)):
            sharding = NamedSharding(make_mesh(1, 1, 8), spec)
            sharded = jax.jit(lambda key: orthogonal.draw(key, shape, std), out_shardings=sharding)(
                KEY
            )
            assert jnp.array_equal(sharded, expected)
    with jax.enable_x64(True):
        assert np.array_equal(orthogonal.draw(KEY, shape, std, jnp.float32), expected)


@pytest.mark.parametrize("seed", range(1, 4))
def test_seeds_differ(seed):
    for shape in [(2, 2), (24, 24), (5, 24), (192, 192), (8, 192)]:
        assert np.abs(drawn(shape) - drawn(shape, seed)).max() > 0.1


@pytest.mark.parametrize(
    "text",
    quick_only(
        ["24x24|12x16", "80:72|4:3x6:2"],
        ["6|4", "24x24|12x16", "72|2x3x4x6", "2x2x2|3x2x2x2x3", "80:72|4:3x6:2", "70:5|4"],
    ),
)
def test_factors_have_kaimings_mean_square_and_orthogonal_rows(text):
    scheme, frozen = of(text)
    gaussian = init_frozen(KEY, scheme, TeRA(init="normal"))
    assert jnp.array_equal(frozen["core"], gaussian["core"])
    assert not jnp.array_equal(frozen["factors"][0], gaussian["factors"][0])
    for i, (factor, rank) in enumerate(zip(frozen["factors"], scheme.ranks, strict=True)):
        matrix = np.asarray(factor, np.float64)
        fan_in = scheme.modes[i] if i < scheme.split else rank
        assert abs(np.mean(matrix**2) * fan_in - 1) < 1e-6
        assert off(matrix * math.sqrt(fan_in / scheme.modes[i])) < 2**-21
    everything = [fingerprint(factor) for factor in frozen["factors"]]
    assert len(set(everything)) == scheme.order  # also those of equal shapes


def test_a_transform_stays_one_beside_orthogonal_factors():
    _, fast = of("576|24x24", structure="hadamard")
    assert [factor.shape for factor in fast["factors"]] == [(576,), (24, 24), (24, 24)]
    _, dense = of("576|24x24")
    assert fingerprint(fast["factors"][1:]) == fingerprint(dense["factors"][1:])
    normal = TeRA(structure="hadamard_factor", init="normal")
    gaussian = init_frozen(KEY, Tensorization.parse("576|24x24"), normal)
    assert jnp.array_equal(gaussian["factors"][0], fast["factors"][0])
    assert not jnp.array_equal(gaussian["factors"][1], fast["factors"][1])


@pytest.mark.parametrize(
    "fields", [{}, {"structure": "hadamard_factor"}, {"structure": "hadamard"}, {"side": "in"}]
)
def test_apply_is_x_times_merge(fields):
    site = TargetLayer(("layer",), (96, 130))
    config = TeRA(num_modes=2, init="orthogonal", **fields)
    method = on_layer(config, (site,))
    random = np.random.default_rng(0)
    kernel = jnp.asarray(random.standard_normal(site.kernel_shape) / 6, jnp.float32)
    x = jnp.asarray(random.standard_normal((3, 5, 96)), jnp.float32)
    frozen = jax.jit(method.init_frozen)(seed_key(0), kernel)
    d = jax.jit(method.init_d)(seed_key(1), kernel, frozen)
    apply, merge = jax.jit(method.apply), jax.jit(method.merge)
    assert jnp.array_equal(merge(frozen, d, kernel), kernel)
    moved = jax.tree.map(
        lambda v: v + jnp.asarray(0.3 * random.standard_normal(v.shape), v.dtype), d
    )
    expected = np.asarray(x) @ np.asarray(merge(frozen, moved, kernel))
    largest = np.abs(expected).max()
    assert np.abs(apply(frozen, moved, kernel, x, None) - expected).max() < 1e-5 * largest
    assert np.abs(apply(frozen, d, kernel, x, None) - expected).max() > 1e-2 * largest


@functools.cache
def ranks(text, init, seed):
    """(rank at 1e-2 of the largest singular value, stable rank) of an update, in float64."""
    scheme, random = Tensorization.parse(text), np.random.default_rng(seed)
    frozen = init_frozen(seed_key(seed, "ranks"), scheme, TeRA(init=init))
    d = [1 + 0.3 * random.standard_normal(rank) for rank in scheme.ranks]
    d[0] -= 1  # that which starts at zero
    with jax.enable_x64(True):
        double = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), (frozen, d))
        update = np.asarray(tera.delta_w(*double, scheme))
    singular = np.linalg.svd(update, compute_uv=False)
    return (singular > 1e-2 * singular[0]).sum(), (singular**2).sum() / singular[0] ** 2


@pytest.mark.parametrize(
    "text",
    quick_only(["256|4x4x4x4"], ["256|4x4x4x4", "x".join(["2"] * 8) + "|" + "x".join(["2"] * 8)]),
)
def test_the_spectrum_does_not_collapse_with_the_order(text):
    for seed in range(3):
        rank, stable = ranks(text, "orthogonal", seed)
        gaussian_rank, gaussian_stable = ranks(text, "normal", seed)
        assert stable > 4 * gaussian_stable
        assert rank > 2 * gaussian_rank
