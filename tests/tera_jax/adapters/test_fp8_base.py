"""Adapters on layers in e4m3: what is multiplied in 8 bits, and what is not."""

from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt, float8, quantize
from tera_jax.adapters.bank import make_bank
from tera_jax.adapters.interceptor import dequantized
from tera_jax.methods import TABLE
from tera_jax.network import cost_model, structured
from tera_jax.ops import dispatch, fp8_matmul
from tests import initial
from tests.margins import within
from tests.tera_jax.fp8 import error, layers


def test_a_layer_multiplies_codes_and_one_that_does_not_fit_a_plain_kernel():
    model, kept, plain, x_BD = layers()
    assert isinstance(kept["b_proj"]["kernel"], float8.Float8Kernel)
    with nn.intercept_methods(dequantized):
        found_BD = model.apply({"params": kept}, x_BD)
    hidden_BD = fp8_matmul.matmul(x_BD, kept["a_proj"]["kernel"]) + plain["a_proj"]["bias"][None]
    expected_BD = hidden_BD @ plain["b_proj"]["kernel"] + plain["b_proj"]["bias"][None]
    np.testing.assert_allclose(found_BD, expected_BD, rtol=1e-5, atol=1e-6)
    assert error(found_BD, model.apply({"params": plain}, x_BD)) > 0.003


@pytest.mark.parametrize("route", ["build", "project", "through"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_adapted_kernel_is_never_rounded_to_e4m3(dtype, route, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: route)
    model, kept, plain, x_BD = layers(dtype)
    config = TABLE["tera"](num_modes=2)
    adapter = adapt(model, x_BD, method="tera", config=config, targets=("a_proj",))
    frozen = initial.frozen(adapter, kept)
    d = jax.tree.map(lambda leaf: leaf + 0.05, initial.d(adapter, kept, frozen))
    v = {"params": kept, "frozen": frozen, "d": d}
    zeros = jax.tree.map(jnp.zeros_like, quantize.dequantize(kept, jnp.float32))
    delta_IO = np.asarray(adapter.merge({**v, "params": zeros})["a_proj"]["kernel"], np.float64)
    kernel_IO = np.asarray(plain["a_proj"]["kernel"], np.float64)
    assert 0.01 < np.linalg.norm(delta_IO) / np.linalg.norm(kernel_IO) < 10
    merged_IO = adapter.merge(v)["a_proj"]["kernel"]
    assert merged_IO.dtype == dtype
    # one rounding, and float32's of the update
    within(error(merged_IO, kernel_IO + delta_IO), float(jnp.finfo(dtype).eps) / 2)
    rounded = float8.by_channels(merged_IO).dequantize()
    assert error(rounded, kernel_IO + delta_IO) > 0.02
    # Neither are the activations of such a layer: it is as on the plain weights.
    found, expected = (adapter.apply(model, {**v, "params": p}, x_BD) for p in (kept, plain))
    limit = 3e-6 if dtype == jnp.float32 else 3e-2  # scales come before the sum, or after it
    within(error(found, expected), limit if route == "through" else 0)
    with nn.intercept_methods(dequantized):  # as those of a layer beside it are
        base_BD = model.apply({"params": kept}, x_BD)
    assert not jnp.array_equal(base_BD, model.apply({"params": plain}, x_BD))


def test_a_branch_stands_beside_the_product_of_codes():
    model, kept, plain, x_BD = layers()
    adapter = adapt(model, x_BD, method="lora", config=TABLE["lora"](rank=4), targets=("a_proj",))
    d = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init_d(kept, {}))
    v = {"params": kept, "frozen": {}, "d": d}
    found_BD = adapter.apply(model, v, x_BD)
    factors = d["a_proj"]["lora"]
    hidden_BD = (
        fp8_matmul.matmul(x_BD, kept["a_proj"]["kernel"])
        + 2.0 * (x_BD @ factors["a"]) @ factors["b"]
        + plain["a_proj"]["bias"][None]
    )
    expected_BD = hidden_BD @ plain["b_proj"]["kernel"] + plain["b_proj"]["bias"][None]
    np.testing.assert_allclose(found_BD, expected_BD, rtol=1e-5, atol=1e-5)
    assert error(found_BD, adapter.apply(model, {**v, "params": plain}, x_BD)) > 1e-3


FIELDS = {
    "lora": {"rank": 4},
    "dora": {"rank": 4},
    "pissa": {"rank": 4},
    "toplora": {"rank": 4, "dropout": 0.0},
    "hira": {"rank": 4},
    "mora": {"rank": 4},
    "vera": {"rank": 4},
    "ia3": {},
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_method_that_does_nothing_yet_leaves_the_product_of_codes(name):
    model, kept, plain, x_BD = layers()
    config = TABLE[name](**FIELDS[name])
    adapter = adapt(model, x_BD, method=name, config=config, targets=("a_proj",))
    frozen = initial.frozen(adapter, kept)
    d = initial.d(adapter, kept, frozen)
    found, on_plain = (
        adapter.apply(model, {"params": params, "frozen": frozen, "d": d}, x_BD)
        for params in (kept, plain)
    )
    with nn.intercept_methods(dequantized):
        expected = model.apply({"params": kept}, x_BD)
    within(error(found, expected), 1e-5)
    assert error(found, on_plain) > 1e-3


ROUTES = [
    ("lora", {"rank": 4}, "through"),
    *(
        ("tera", {"tensorizations": ("128|8x4",), "structure": structure}, route)
        for structure in ("dense", "hadamard")
        for route in ("through", "project")
    ),
]


@pytest.mark.parametrize(("name", "fields", "route"), ROUTES)
def test_mixed_rows_are_what_each_gives_alone(name, fields, route, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: route)
    random = np.random.default_rng(0)
    x_BLD = jnp.asarray(random.standard_normal((3, 6, 128)), jnp.float32)
    model, params, _, _ = layers()
    adapter = adapt(model, x_BLD, method=name, config=TABLE[name](**fields), targets=("a_proj",))
    frozen = initial.frozen(adapter, params)
    first = initial.d(adapter, params, frozen)

    def moved(leaf):
        return leaf + 0.3 * jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype)

    each = [jax.tree.map(moved, first) for _ in range(2)]
    bank = make_bank(adapter, params, frozen, each)
    base = {"params": params, "frozen": frozen}
    found_BLO = adapter.apply_rows(model, {**base, "d": bank.gather(bank.index([2, 1, 2]))}, x_BLD)
    alone = [adapter.apply(model, {**base, "d": d}, x_BLD) for d in each]
    for row, entry in enumerate([2, 1, 2]):
        within(error(found_BLO[row], alone[entry - 1][row]), 1e-5)
        assert error(found_BLO[row], alone[2 - entry][row]) > 1e-2


@pytest.mark.parametrize("layouts", [1, 2])
def test_a_structured_layer_reads_codes_where_it_makes_its_kernel(layouts, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: "project")
    x_BD = jnp.asarray(np.random.default_rng(0).standard_normal((32, 256)), jnp.bfloat16)
    model = nn.Dense(256, use_bias=False, dtype=jnp.bfloat16)
    params = model.init(jax.random.key(0), x_BD)["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    kept = quantize.quantize(params, "fp8", targets=("",))
    kept = float8.with_both_layouts(kept) if layouts == 2 else kept
    fields = {"tensorizations": ("256|16x16",), "structure": "hadamard"}
    adapter = adapt(model, x_BD, method="tera", config=TABLE["tera"](**fields), targets=("",))
    frozen = initial.frozen(adapter, kept)
    d = jax.tree.map(lambda leaf: leaf + 0.05, initial.d(adapter, kept, frozen))

    def loss(d, params):
        y_BD = adapter.apply(model, {"params": params, "frozen": frozen, "d": d}, x_BD)
        return jnp.sum(jnp.sin(y_BD.astype(jnp.float32)))

    read = mock.Mock(wraps=structured.adapted)
    monkeypatch.setattr(structured, "adapted", read)
    with dispatch.forced(True):
        found = jax.value_and_grad(loss)(d, kept)
        expected = jax.value_and_grad(loss)(d, quantize.dequantize(kept))
    given = [call.args[0] for call in read.call_args_list]
    assert [isinstance(kernel, float8.Float8Kernel) for kernel in given] == [True, False]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.array_equal(a, b)
    # As without the Pallas kernel, but for the rounding of an update to bfloat16.
    with dispatch.forced(False):
        within(error(jax.value_and_grad(loss)(d, kept), found), 0.1)
