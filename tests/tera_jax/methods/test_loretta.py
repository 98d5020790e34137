import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.adapters import factory
from tera_jax.adapters.targets import put
from tera_jax.methods import TargetLayer, product
from tera_jax.methods.loretta import LoRETTA
from tests.margins import within
from tests.tera_jax.methods.one_layer import on_layer

CASES = [  # (in, out), settings
    ((24, 8), {"rank": 4}),
    ((20, 12), {"rank": 3, "modes": ("6x10", "3x3x4")}),
    ((12, 20), {"rank": 2, "tt_rank": 5, "alpha": 3.0}),
    ((7, 5), {"rank": 1}),  # primes: trains of one core
]


KEY = jax.random.key(0)


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


def entries(cores):
    """All entries of a tensor train, one after the other."""
    for index in itertools.product(*(range(core.shape[1]) for core in cores)):
        row = np.ones((1, 1))
        for core, i in zip(cores, index, strict=True):
            row = row @ core[:, i, :]
        yield row[0, 0]


@pytest.mark.parametrize(("shape", "settings"), CASES)
def test_output_and_merged_kernel_are_those_of_the_definition(shape, settings):
    config = LoRETTA(**settings)
    method = on_layer(config, (TargetLayer(("q",), shape),))
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal((2, 3, shape[0])), random.standard_normal(shape)
    with jax.enable_x64(True):
        d = jax.jit(method.init_d)(KEY, jnp.asarray(kernel), {})
        double = jax.tree.map(lambda core: np.asarray(core, np.float64), d)
        a = np.array(list(entries(double["a"]))).reshape(shape[0], config.rank)
        b = np.array(list(entries(double["b"]))).reshape(config.rank, shape[1])
        expected = kernel + config.alpha / config.rank * a @ b
        y = jax.jit(method.apply)({}, d, jnp.asarray(kernel), jnp.asarray(x), None)
        assert y.dtype == jnp.float64
        within(relative(y, x @ expected), 1e-13)
        assert relative(y, x @ kernel) > 1e-2
        within(relative(jax.jit(method.merge)({}, d, jnp.asarray(kernel)), expected), 1e-13)


@pytest.mark.parametrize(("name", "features"), [("a", 32), ("b", 16)])
def test_entries_start_with_the_published_standard_deviation(name, features):
    """Of A and B sqrt(1 / (features + r)): the variance of a core times the paths it adds."""
    config = LoRETTA(rank=8, tt_rank=64)
    method = on_layer(config, (TargetLayer(("q",), (32, 16)),))
    cores = jax.jit(method.init_d)(KEY, jnp.zeros((32, 16)), {})[name]
    for core in cores:
        share = core.shape[2] * np.var(core)
        within(
            abs(share * (features + 8) ** (1 / len(cores)) - 1),
            4 * math.sqrt(2 / core.size),
            of_draws=True,
        )


def test_core_shapes():
    assert LoRETTA(rank=32).shape(4096) == (16, 16, 16, 8, 4)
    assert LoRETTA(rank=32).shape(1024) == (4, 8, 32, 8, 4)
    assert LoRETTA().shape(4096) == (8, 8, 8, 8, 8)
    assert math.prod(LoRETTA().shape(576)) == 576 * 8
    assert len(LoRETTA().shape(576)) == 5
    assert LoRETTA(modes=("64x72",)).shape(576) == (64, 72)
    config = LoRETTA(rank=2, tt_rank=3, modes=("4x6x1",))
    method = on_layer(config, (TargetLayer(("q",), (12, 5)),))
    kernel = jax.ShapeDtypeStruct((12, 5), jnp.float32)
    d = jax.eval_shape(lambda key, kernel: method.init_d(key, kernel, {}), KEY, kernel)
    assert [core.shape for core in d["a"]] == [(1, 4, 3), (3, 6, 3), (3, 1, 1)]
    assert [core.shape for core in d["b"]] == [(1, 2, 3), (3, 5, 1)]


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({"tt_rank": 8}, 8),
        ({"tt_rank": 2}, 4),
        ({"tt_rank": 2, "modes": ("16x8",)}, 2),  # A's cut lies at the bond
        ({"tt_rank": 1, "modes": ("16x8",)}, 1),
    ],
)
def test_the_rank_of_the_update_is_bounded_by_the_bonds(settings, rank):
    site = TargetLayer(("q",), (16, 24))
    method = on_layer(LoRETTA(rank=8, **settings), (site,))
    d = jax.jit(method.init_d)(KEY, jnp.zeros((16, 24)), {})
    with jax.enable_x64(True):
        double = jax.tree.map(lambda core: core.astype(jnp.float64), d)
        update = jax.jit(method.merge)({}, double, jnp.zeros((16, 24)))
    assert np.linalg.matrix_rank(np.asarray(update)) == method.max_rank == rank


def test_at_the_settings_of_teras_tables_the_rank_is_8():
    method = on_layer(LoRETTA(rank=32), ())
    assert method.method.max_rank(TargetLayer(("q",), (4096, 4096))) == 8
    assert method.method.max_rank(TargetLayer(("v",), (4096, 1024))) == 8


@pytest.mark.parametrize(
    ("v_shape", "count"), [((4096, 4096), 348_160), ((4096, 1024), 361_472)], ids=["llama2", "3"]
)
def test_rank_32_has_the_published_count(v_shape, count):
    sites = tuple(
        TargetLayer(("layers", "self_attn", name), shape, (32,))
        for name, shape in [("q_proj", (4096, 4096)), ("v_proj", v_shape)]
    )
    made = factory.make("loretta", LoRETTA(rank=32), sites)
    params = {}
    for site in sites:
        shape = (*site.stack, *site.kernel_shape)
        put(params, (*site.path, "kernel"), jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    d = jax.eval_shape(made.init_d, params, {})
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == count


def test_dropout_is_for_the_update_alone():
    method = on_layer(LoRETTA(rank=4, dropout=0.5), (TargetLayer(("q",), (24, 10)),))
    kernel = jax.random.normal(jax.random.key(1), (24, 10))
    x = jax.random.normal(jax.random.key(2), (3, 24))
    key = jax.random.key(3)
    d = jax.jit(method.init_d)(KEY, kernel, {})
    update = method.apply({}, d, jnp.zeros_like(kernel), product.drop(key, 0.5, x), None)
    y = method.apply({}, d, kernel, x, key)
    within(relative(y, x @ kernel + update), 1e-5)
    assert relative(y, method.apply({}, d, kernel, x, None)) > 1e-2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank 0"),
        ({"tt_rank": 0}, "tt_rank 0"),
        ({"alpha": 0.0}, "alpha 0.0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"modes": ("8x",)}, "'8x' are not of the form"),
        ({"modes": ("8x0",)}, "each is at least 1"),
        ({"modes": ("8x9", "9x8")}, "two modes for matrices of 72"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LoRETTA(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modes": ("8x8",)}, r"multiply out to 64, but .* rank 8 are \[80, 192\]"),
        ({"rank": 11}, "rank 11"),
    ],
)
def test_settings_that_do_not_fit_a_kernel_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        on_layer(LoRETTA(**fields), (TargetLayer(("q",), (24, 10)),))
