import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from tera_jax.methods import TargetLayer, tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import cost_model, hadamard, projection
from tera_jax.network.contraction import through
from tera_jax.network.contraction_order import ends_with_input
from tera_jax.network.tensorization import Tensorization
from tera_jax.ops import dispatch
from tera_jax.random import seed_key
from tests.margins import roundings, within
from tests.marks import quick_only
from tests.tera_jax.methods.one_layer import on_layer
from tests.tera_jax.network.networks import (
    SCHEMES,
    config_of,
    dense_core,
    example,
    far,
    scheme_of,
    unfolded,
)


def reference(core, factors, d, scheme):
    """Eq. 5 mode by mode in float64 NumPy, unfolded."""
    tensor = dense_core(core, scheme.ranks)
    factors = [hadamard.dense(factor) if factor.ndim == 1 else factor for factor in factors]
    for axis, (factor, vector) in enumerate(zip(factors, d, strict=True)):
        scaled = np.asarray(vector, np.float64)[:, None] * np.asarray(factor, np.float64)
        tensor = np.moveaxis(np.tensordot(tensor, scaled, axes=(axis, 0)), -1, axis)
    return tensor.reshape(scheme.shape)


def reference_gradients(core, factors, d, scheme, weight):
    """Of sum(weight * update): linear in every entry of d, so that unit vectors give it."""
    found = []
    for i, vector in enumerate(d):
        rows = []
        for r in range(len(vector)):
            unit = np.zeros(len(vector))
            unit[r] = 1
            update = reference(core, factors, [*d[:i], unit, *d[i + 1 :]], scheme)
            rows.append(np.sum(weight * update))
        found.append(np.array(rows))
    return found


def limit(text, dtype):
    """float32 has its sums beside the roundings: of each mode twice, and of both ends."""
    return max(1e-5, roundings(dtype, 2 * scheme_of(text).order + 2))


BOTH = list(itertools.product(["float32", "bfloat16"], SCHEMES))


@pytest.mark.parametrize(
    ("dtype", "text"),
    quick_only([*BOTH[: len(SCHEMES)], *BOTH[len(SCHEMES) :: 6]], BOTH, names=2),
)
def test_both_routes_equal_the_float64_reference(text, dtype):
    bound = limit(text, dtype)
    scheme, core, factors, d, random = example(text)
    core, factors = jax.tree.map(lambda a: a.astype(dtype), (core, factors))
    exact = reference(core, factors, d, scheme)
    update = jax.jit(unfolded, static_argnums=3)(core, factors, d, scheme)
    within(far(update, exact), bound)
    x = jnp.asarray(random.standard_normal((5, scheme.shape[0])), dtype)
    y = jax.jit(through, static_argnums=4)(x, core, factors, d, scheme.split)
    assert y.dtype == update.dtype == jnp.dtype(dtype)
    within(far(y, np.asarray(x, np.float64) @ exact), bound)


GRADIENTS = [
    "6|4",
    "80:72|4:3x6:2",
    "8x16|80",
    "2x3x4x2|4x3x2x2",
    "128|8x16",
    "130|4x3 fast",
    "8x3|144 fast",
    "72|66 fast",
    "72|3x8 fast core",
    "128|4x8 fast core",
]


def routes(text):
    scheme = scheme_of(text)
    projects = ends_with_input(scheme.ranks, scheme.modes, scheme.split)
    return ("build", "through", "project")[: 2 + projects]


ROUTES = [(text, route) for text in GRADIENTS for route in routes(text)]


@pytest.mark.parametrize(("text", "route"), quick_only(ROUTES[::4], ROUTES, names=2))
@pytest.mark.parametrize("dtype", quick_only(["float32"], ["float32", "bfloat16"]))
def test_the_gradient_of_every_d_equals_the_float64_reference(text, dtype, route):
    """Over four draws: a gradient of few entries may by chance be a small sum of large terms."""
    scheme = scheme_of(text)

    @jax.jit
    @jax.grad
    def gradient(d, core, factors, x, g):
        if route == "build":
            y = x @ unfolded(core, factors, d, scheme)
        elif route == "project":
            y = projection.product(x, jnp.zeros(scheme.shape, dtype), core, factors, d)
        else:
            y = through(x, core, factors, d, scheme.split)
        return jnp.sum((y * g).astype(jnp.float32))

    found, exact = [], []
    for seed in range(4):
        _, core, factors, d, random = example(text, seed)
        core, factors = jax.tree.map(lambda a: a.astype(dtype), (core, factors))
        x, g = (jnp.asarray(random.standard_normal((64, n)), dtype) for n in scheme.shape)
        weight = np.asarray(x, np.float64).T @ np.asarray(g, np.float64)
        found.append(gradient(d, core, factors, x, g))
        exact.append(reference_gradients(core, factors, d, scheme, weight))
    for mine, right in zip(zip(*found, strict=True), zip(*exact, strict=True), strict=True):
        error = np.concatenate(mine) - np.concatenate(right)
        within(np.linalg.norm(error), limit(text, dtype) * np.linalg.norm(np.concatenate(right)))


def products(function, *args):
    """(2 m n k) of every matrix product that counts, rematerialised ones included."""
    found = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (lhs, _), _ = eqn.params["dimension_numbers"]
                inner = math.prod(eqn.invars[0].aval.shape[axis] for axis in lhs)
                found.append(2 * math.prod(eqn.outvars[0].aval.shape) * inner)
            for value in eqn.params.values():
                for inner_jaxpr in value if isinstance(value, list | tuple) else [value]:
                    inner_jaxpr = getattr(inner_jaxpr, "jaxpr", inner_jaxpr)
                    if hasattr(inner_jaxpr, "eqns"):
                        walk(inner_jaxpr)

    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    walk(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])
    return found


@pytest.mark.parametrize(("route", "projections"), [("build", 0), ("project", 1)])
def test_a_training_step_has_one_wide_product_each_way_and_one_with_the_batch(
    route, projections, monkeypatch
):
    counts = products_of_a_step("128|8x16", 1024, route, monkeypatch)
    assert counts.count(2 * 128**3) == 2 - projections
    # y, x transposed with the cotangent of y and, if projected, x with the factor
    assert counts.count(2 * 1024 * 128**2) == 2 + projections
    small = [count for count in counts if count not in (2 * 128**3, 2 * 1024 * 128**2)]
    assert max(small) <= 2 * 128**2 * 16


def test_with_a_transform_it_has_none_but_those_with_the_batch(monkeypatch):
    wide, batch = 2 * 192**3, 2 * 1024 * 192**2
    assert products_of_a_step("192|8x24", 1024, "build", monkeypatch).count(wide) == 2
    counts = products_of_a_step("192|8x24 fast", 1024, "build", monkeypatch)
    assert counts.count(batch) == 2
    assert max(count for count in counts if count != batch) == 2 * 192**2 * 24  # a narrow factor
    for size in (12, 16):  # once each way
        assert counts.count(2 * 192**2 * size) == 2


def test_with_a_fast_core_as_well_nothing_is_multiplied_with_the_batch_but_the_kernel(monkeypatch):
    counts = products_of_a_step("192|8x24 fast core", 1024, "project", monkeypatch)
    assert counts.count(2 * 1024 * 192**2) == 1  # y
    assert max(count for count in counts if count != 2 * 1024 * 192**2) <= 2 * 1024 * 192 * 24


def products_of_a_step(text, tokens, route, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: route)
    scheme, core, factors, d, random = example(text)
    kernel = jnp.zeros(scheme.shape)
    method = on_layer(config_of(text), (TargetLayer(("q",), scheme.shape),))
    x = jnp.asarray(random.standard_normal((tokens, scheme.shape[0])), jnp.float32)
    frozen = {"core": core, "factors": factors}

    def loss(d):
        return jnp.sum(jnp.sin(method.apply(frozen, d, kernel, x, None)))

    return products(jax.value_and_grad(loss), d)


@pytest.mark.parametrize("text", quick_only(SCHEMES[::6], SCHEMES))
def test_apply_is_the_same_by_every_route(text, monkeypatch):
    scheme, core, factors, d, random = example(text)
    kernel = jnp.asarray(random.standard_normal(scheme.shape), jnp.float32)
    x = jnp.asarray(random.standard_normal((2, 3, scheme.shape[0])), jnp.float32)
    method = on_layer(config_of(text), (TargetLayer(("q",), scheme.shape),))
    frozen = {"core": core, "factors": factors}
    expected = x @ method.merge(frozen, d, kernel)
    for choice in routes(text):
        monkeypatch.setattr(cost_model, "route", lambda *_, choice=choice: choice)
        result = method.apply(frozen, d, kernel, x, None)
        assert result.shape == expected.shape
        within(far(result, expected), 1e-5)
        assert far(result, x @ kernel) > 1e-3


@pytest.mark.parametrize("structure", quick_only(["dense"], ["dense", "hadamard_factor"]))
@pytest.mark.parametrize("text", quick_only(["128|4x4x32"], ["128|4x4x32", "2x43x5|128"]))
def test_the_kernel_changes_nothing(text, structure):
    """Also that of padded tiles, 86 by 5, beside a factor of the output."""
    scheme = Tensorization.parse(text)
    frozen = jax.jit(tera.init_frozen, static_argnums=(1, 2))(
        seed_key(0, "kernel"), scheme, TeRA(gain=1.0, structure=structure)
    )
    _, _, _, d, random = example(text)
    weight = jnp.asarray(random.standard_normal(scheme.shape), jnp.float32)

    def loss(d):
        return jnp.sum(weight * unfolded(frozen["core"], frozen["factors"], d, scheme))

    results = []
    for kernels in (False, True):
        with dispatch.forced(kernels):
            assert ("pallas_call" in str(jax.make_jaxpr(loss)(d))) == kernels
            results.append(jax.value_and_grad(loss)(d))
    for mine, expected in zip(*map(jax.tree.leaves, results), strict=True):
        within(far(mine, expected), 1e-5)
