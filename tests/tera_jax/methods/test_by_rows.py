"""Another adapter in every row of a batch, on one layer: a row is what its adapter alone gives."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tera_jax.methods import TABLE, TargetLayer
from tera_jax.methods.base import LinearMethod, bind
from tera_jax.methods.product import PLAIN, Product
from tera_jax.random import seed_key
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.methods.test_methods import NOT_MERGEABLE, relative, widened

SETTINGS = {
    "dora": {"rank": 4},
    "fourierft": {"num_frequencies": 300, "scaling": 150.0},
    "hira": {"rank": 3},
    "ia3": {},
    "ia3 feedforward": {"feedforward": ("layer",)},
    "lora": {"rank": 4},
    "loretta": {"rank": 4},
    "mora": {"rank": 2},
    "pissa": {"rank": 4},
    "quanta": {"axes": (8, 4, 4)},
    "randlora": {"rank": 20, "alpha": 20.0},
    "randlora basis by basis": {"rank": 3, "alpha": 3.0},
    "tera": {"num_modes": 2},
    "tera hadamard_factor": {"num_modes": 2, "structure": "hadamard_factor"},
    "tera hadamard": {"num_modes": 2, "structure": "hadamard"},
    "tera in": {"num_modes": 3, "side": "in"},
    "tera_iden": {"num_modes": 2},
    "tera_unique": {"num_modes": 2},
    "toplora": {"rank": 4},
    "unilora": {"rank": 4, "length": 50, "init_bound": 0.2},
    "unires": {"rank": 4, "init_bound": 0.2, "readers": ("layer",)},
    "unires kernel": {"rank": 4, "init_bound": 0.2, "kernel_rank": 2, "writers": ("layer",)},
    "vblora": {"rank": 4, "num_vectors": 30, "vector_length": 16},
    "vera": {"rank": 8},
}
SIDE, ROWS, TOKENS = 128, 4, 3
KERNEL_METHODS = [name for name, row in TABLE.items() if issubclass(row, LinearMethod)]


def test_every_linear_method_is_here():
    assert {name.split()[0] for name in SETTINGS} == set(KERNEL_METHODS)


@functools.cache
def made(name):
    """Method, layer, frozen, several d with their rows (the first is the base), kernel and x."""
    (layer,) = bind(
        method := TABLE[name.split()[0]](**SETTINGS[name]), [TargetLayer(("layer",), (SIDE, SIDE))]
    )
    random = np.random.default_rng(0)
    kernel = jnp.asarray(random.standard_normal((SIDE, SIDE)) / 11, jnp.float32)
    x = jnp.asarray(random.standard_normal((ROWS, TOKENS, SIDE)), jnp.float32)
    together = method.init_frozen_all((layer,))
    if together is not None:
        frozen = {**together.own["layer"], **together.shared}
    else:
        frozen = jax.jit(lambda k, W: method.init_frozen(k, W, layer))(seed_key(0), kernel)
    first = method.init_d(seed_key(1), kernel, frozen, layer)
    shared = method.init_shared_d(seed_key(1), (layer,))
    base = method.base_d(kernel, frozen, layer)
    base = {**base, **jax.tree.map(jnp.zeros_like, shared)} if shared else base
    d = [
        jax.tree.map(
            lambda v: v + jnp.asarray(0.3 * random.standard_normal(v.shape), v.dtype),
            {**first, **shared} if shared else first,
        )
        for _ in range(ROWS - 1)
    ]
    return method, layer, frozen, [base, *d], kernel, x


def prepared(name, frozen, d, kernel):
    method, layer, *_ = made(name)
    rows = [method.prepare_row(frozen, each, kernel, layer) for each in d]
    return jax.tree.map(lambda *each: jnp.stack(each), *rows)


def apply_rows(name, frozen, row_B, kernel, x, how=PLAIN):
    method, layer, *_ = made(name)
    return method.apply_rows(frozen, row_B, kernel, x, layer, how)


@pytest.mark.parametrize(
    ("wide", "bound"), quick_only([(False, 2e-5)], [(False, 2e-5), (True, 1e-12)], 2)
)
@pytest.mark.parametrize("name", quick_only([*SETTINGS][::2], SETTINGS))
def test_each_row_is_the_product_with_its_own_merged_kernel(name, wide, bound):
    """Or what the row alone gives, where nothing merges; in float64 to 1e-12."""
    method, layer, *arrays = made(name)
    with jax.enable_x64(wide):
        frozen, d, kernel, x = widened(arrays) if wide else arrays
        row_B = prepared(name, frozen, d, kernel)
        y = jax.jit(functools.partial(apply_rows, name))(frozen, row_B, kernel, x)
        assert y.dtype == x.dtype
        for row, each in enumerate(d):
            if name in NOT_MERGEABLE:
                expected = method.apply(frozen, each, kernel, x[row], layer)
            else:
                expected = x[row] @ method.merge(frozen, each, kernel, layer)
            within(relative(y[row], expected), bound)
            other = relative(y[row], x[row] @ kernel)
            assert other > 10 * bound if row else other < 1e-6  # the first is the base


@pytest.mark.parametrize("name", quick_only(["tera hadamard", "dora", "hira"], SETTINGS))
def test_another_rows_d_leaves_a_row_as_it_is_to_the_bit(name):
    _, _, frozen, d, kernel, x = made(name)
    step = jax.jit(lambda d: apply_rows(name, frozen, prepared(name, frozen, d, kernel), kernel, x))
    one, two = step(d), step([d[0], d[1], d[3], d[3]])
    assert jnp.array_equal(one[:2], two[:2])
    assert jnp.array_equal(one[3], two[3])
    assert relative(one[2], two[2]) > 1e-3


def arrays_of(jaxpr):
    """The shapes of all that a program computes, also inside of what it calls."""
    for equation in jaxpr.eqns:
        yield from (out.aval.shape for out in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from arrays_of(inner)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_kernel_a_row_is_made(name):
    """Neither when a row is prepared nor when it is used."""
    method, layer, frozen, d, kernel, x = made(name)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *d)
    limit = ROWS * SIDE * SIDE

    def prepare(d_B):
        return jax.vmap(lambda d: method.prepare_row(frozen, d, kernel, layer))(d_B)

    def largest(function, *args):
        found = arrays_of(jax.make_jaxpr(function)(*args).jaxpr)
        return max(map(math.prod, found), default=0)

    row_B = prepare(stacked)
    x = x[:, :1]
    assert largest(prepare, stacked) < limit
    assert largest(functools.partial(apply_rows, name), frozen, row_B, kernel, x) < limit
    if name not in NOT_MERGEABLE:

        def merged(d_B):
            return jax.vmap(lambda d: method.merge(frozen, d, kernel, layer))(d_B)

        assert largest(merged, stacked) >= limit


@pytest.mark.parametrize(
    "name", quick_only(["dora", "unilora"], ["tera hadamard", "lora", "dora", "hira", "unilora"])
)
def test_gradients_are_those_of_each_row_alone(name):
    method, layer, *arrays = made(name)
    with jax.enable_x64(True):
        frozen, d, kernel, x = widened(arrays)

        def mixed(d):
            return jnp.sum(
                jnp.sin(apply_rows(name, frozen, prepared(name, frozen, d, kernel), kernel, x))
            )

        def alone(d):
            rows = [method.apply(frozen, each, kernel, x[i], layer) for i, each in enumerate(d)]
            return jnp.sum(jnp.sin(jnp.stack(rows)))

        found, expected = jax.jit(jax.grad(mixed))(d), jax.jit(jax.grad(alone))(d)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        within(np.abs(a - b).max(), 1e-9 * max(1.0, np.abs(b).max()))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    "name",
    quick_only(["lora"], ["lora", "dora", "hira", "pissa", "toplora", "unilora", "loretta"]),
)
def test_dropout_is_of_each_row_and_needs_a_key(name):
    _, layer, frozen, d, kernel, x = made(name)
    settings = {**SETTINGS[name], "dropout": 0.5}
    row_B = prepared(name, frozen, d, kernel)
    dropping = TABLE[name](**settings)

    def run(how):
        return dropping.apply_rows(frozen, row_B, kernel, x, layer, how)

    without = run(PLAIN)
    one, two = (run(Product(dropout=jax.random.key(seed))) for seed in (1, 2))
    np.testing.assert_allclose(without, apply_rows(name, frozen, row_B, kernel, x), atol=1e-5)
    assert relative(one[1:], two[1:]) > 1e-2
    assert relative(one[1:], without[1:]) > 1e-2
