"""An adapted layer multiplies with the precision of its ``nn.Dense``, forward and backward."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import DotAlgorithmPreset, Precision

from tera_jax import adapt
from tera_jax.methods import TABLE
from tera_jax.network import cost_model

TOKENS = 7  # an axis of this length is of tokens
X = jnp.asarray(np.random.default_rng(0).standard_normal((TOKENS, 96)), jnp.float32)
METHODS = {
    "lora": {"rank": 4},
    "dora": {"rank": 4, "dropout": 0.5},
    "vera": {"rank": 4},
    "hira": {"rank": 4},
    "toplora": {"rank": 4},
    "mora": {"rank": 4},
    "loretta": {"rank": 4},
    "quanta": {"axes": (6, 4, 4)},
    "pissa": {"rank": 4},
    "unires": {"rank": 4, "kernel_rank": 2, "readers": ("layers_0",)},
}
TERA = {"num_modes": 2, "tensorizations": ("96|8x6",)}
ROUTES = [
    *((route, structure) for route in ("through", "build") for structure in ("dense", "hadamard")),
    ("project", "dense"),
    ("project", "hadamard"),
]


def products(jaxpr):
    """(precision, shapes) of every product in a program."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
            found.append((equation.params["precision"], shapes))
    for inner in _inner(jaxpr):
        found += products(inner)
    return found


def _inner(jaxpr):
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield inner


def model(precision):
    return nn.Sequential([nn.Dense(48, precision=precision)])


def precisions(precision, method=None, of_tokens=False, **fields):
    """Of the products in a layer's value and gradients; of those with tokens alone, if asked."""
    layer, x = model(precision), X
    params = layer.init(jax.random.key(0), x)["params"]
    if method is None:
        variables, apply = {"params": params}, layer.apply
    else:
        config = TABLE[method](**fields)
        adapter = adapt(layer, x, method=method, config=config, targets="layers_0")
        frozen = adapter.init_frozen(params)
        d = adapter.init_d(params, frozen)
        variables = {"params": params, "frozen": frozen, "d": d}

        def apply(variables, x):
            rngs = {"dropout": jax.random.key(1)}
            return adapter.apply(layer, variables, x, rngs=rngs)

    def loss(trained, x):
        return jnp.sum(jnp.sin(apply({**variables, **trained}, x)))

    trained = {name: leaf for name, leaf in variables.items() if name != "frozen"}
    traced = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(trained, x)
    found = products(traced.jaxpr)
    assert len([shapes for _, shapes in found if any(TOKENS in shape for shape in shapes)]) >= 3
    return {
        precision
        for precision, shapes in found
        if not of_tokens or any(TOKENS in shape for shape in shapes)
    }


def pair(precision):
    return {(precision, precision)}


@pytest.mark.parametrize("method", METHODS)
def test_every_product_has_the_precision_of_the_layer(method):
    fields = METHODS[method]
    assert precisions(Precision.HIGHEST) == pair(Precision.HIGHEST)
    assert precisions(Precision.HIGHEST, method, **fields) == pair(Precision.HIGHEST)
    for precision in (Precision.HIGH, Precision.DEFAULT):
        assert precisions(precision) == pair(precision)
        assert precisions(precision, method, of_tokens=True, **fields) == pair(precision)
    assert precisions(None) == {None}
    assert precisions(None, method, of_tokens=True, **fields) == {None}


@pytest.mark.parametrize(("route", "structure"), ROUTES)
def test_the_routes_of_tera_have_it(monkeypatch, route, structure):
    monkeypatch.setattr(cost_model, "route", lambda *_: route)
    fields = {**TERA, "structure": structure}
    for precision in (Precision.HIGHEST, Precision.DEFAULT):
        assert precisions(precision, "tera", **fields) == pair(precision)
    # By itself float32 takes all bits in the network, and the backend's for the kernel.
    found = precisions(None, "tera", **fields)
    assert found == {None, *pair(Precision.HIGHEST)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("highest", Precision.HIGHEST),
        ("high", Precision.HIGH),
        ("default", Precision.DEFAULT),
        ((Precision.DEFAULT, Precision.HIGHEST), Precision.HIGHEST),
        (("high", "default"), Precision.HIGH),
    ],
)
def test_texts_and_pairs_work(given, expected):
    assert precisions(given, "lora", rank=4) == pair(expected)
    assert None not in precisions(given)


def test_an_algorithm_works():
    given = DotAlgorithmPreset.BF16_BF16_F32
    assert precisions(given, "lora", rank=4) == precisions(given) == {given}


def test_a_layer_leaves_others_alone():
    """The context ends with the layer."""
    layer = nn.Sequential([nn.Dense(96, precision="highest"), nn.Dense(5)])
    params = layer.init(jax.random.key(0), X)["params"]
    adapter = adapt(layer, X, method="lora", targets="layers_0", config=TABLE["lora"](rank=4))
    v = {"params": params, "frozen": {}, "d": adapter.init_d(params, {})}
    traced = jax.make_jaxpr(lambda v: adapter.apply(layer, v, X))(v)
    found = {shapes[1]: precision for precision, shapes in products(traced.jaxpr)}
    assert found[(96, 5)] is None
    assert {found[96, 96]} == pair(Precision.HIGHEST)
