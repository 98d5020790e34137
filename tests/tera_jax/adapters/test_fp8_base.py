"""Adapters on a base in e4m3: what is multiplied in 8 bits, and what is not."""

import collections
import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt, float8, quantize
from tera_jax.adapters.interceptor import dequantized
from tera_jax.llama import Llama, stacking
from tera_jax.llama.decode.cache import init_cache
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.methods import TABLE
from tera_jax.network import cost_model, structured
from tera_jax.ops import dispatch, fp8_matmul
from tera_jax.sharding import make_mesh, replicated, rows
from tests import parts
from tests.margins import within
from tests.tera_jax.quantized import CONFIG, assert_same, base, made


class Layers(nn.Module):
    """Two linear layers of which the second has sides that no e4m3 matmul takes."""

    dtype: object = None
    outputs: int = 24

    @nn.compact
    def __call__(self, x_BD):
        x_BD = nn.Dense(32, name="a_proj", dtype=self.dtype)(x_BD)
        return nn.Dense(self.outputs, name="b_proj", dtype=self.dtype)(x_BD)


def layers(dtype=jnp.float32):
    """The model, its kernels in e4m3 and as these read, and rows."""
    x_BD = jnp.asarray(np.random.default_rng(0).standard_normal((5, 128)), dtype)
    params = Layers().init(jax.random.key(0), x_BD.astype(jnp.float32))["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    kept = quantize.quantize(params, "fp8")
    return Layers(dtype), kept, quantize.dequantize(kept), x_BD


def flat(tree):
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    )


def error(found, expected):
    return np.linalg.norm(flat(found) - flat(expected)) / np.linalg.norm(flat(expected))


def cosine(found, expected):
    a, b = flat(found), flat(expected)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@functools.cache
def value_and_grad(adapter, model):
    return jax.jit(parts.value_and_grad(adapter, model))


def test_a_layer_multiplies_codes_and_one_that_does_not_fit_a_plain_kernel():
    model, kept, plain, x_BD = layers()
    assert isinstance(kept["b_proj"]["kernel"], float8.Float8Kernel)
    with nn.intercept_methods(dequantized):
        found_BD = model.apply({"params": kept}, x_BD)
    hidden_BD = fp8_matmul.matmul(x_BD, kept["a_proj"]["kernel"]) + plain["a_proj"]["bias"][None]
    expected_BD = hidden_BD @ plain["b_proj"]["kernel"] + plain["b_proj"]["bias"][None]
    np.testing.assert_allclose(found_BD, expected_BD, rtol=1e-5, atol=1e-6)
    assert error(found_BD, model.apply({"params": plain}, x_BD)) > 0.003


@pytest.mark.parametrize("route", ["build", "project"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_adapted_kernel_is_never_rounded_to_e4m3(dtype, route, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: route)
    model, kept, plain, x_BD = layers(dtype)
    config = TABLE["tera"](num_modes=2)
    adapter = adapt(model, x_BD, method="tera", config=config, targets=("a_proj",))
    frozen = adapter.init_frozen(kept)
    d = jax.tree.map(lambda leaf: leaf + 0.05, adapter.init_d(kept, frozen))
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
    assert jnp.array_equal(found, expected)
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
    "tera": {"num_modes": 2},
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_method_that_does_nothing_yet_leaves_the_product_of_codes(name, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: "through")
    model, kept, plain, x_BD = layers()
    config = TABLE[name](**FIELDS[name])
    adapter = adapt(model, x_BD, method=name, config=config, targets=("a_proj",))
    frozen = adapter.init_frozen(kept)
    d = adapter.init_d(kept, frozen)
    found, on_plain = (
        adapter.apply(model, {"params": params, "frozen": frozen, "d": d}, x_BD)
        for params in (kept, plain)
    )
    with nn.intercept_methods(dequantized):
        expected = model.apply({"params": kept}, x_BD)
    within(error(found, expected), 1e-5)
    assert error(found, on_plain) > 1e-3


def test_gradients_point_where_those_of_the_plain_base_do():
    adapter, model, v, tokens_BL = made("lora", "fp8")
    plain = quantize.dequantize(v["params"])
    step = value_and_grad(adapter, model)
    loss, found = step(v["d"], v["params"], v["frozen"], tokens_BL)
    expected_loss, expected = step(v["d"], plain, v["frozen"], tokens_BL)
    within(abs(loss / expected_loss - 1), 0.03)
    assert 0.98 < cosine(found, expected) < 1 - 1e-6
    # each layer's own gradient, not only the largest
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert cosine(a, b) > 0.9


def test_loops_unrolled_layers_and_rematerialisation_agree():
    adapter, model, v, tokens_BL = made("lora", "fp8")
    args = v["d"], v["params"], v["frozen"], tokens_BL
    expected = value_and_grad(adapter, model)(*args)
    for remat, unroll in (("dots", False), ("full", True)):
        other = Llama(CONFIG, remat=remat, unroll=unroll)
        within(error(value_and_grad(adapter, other)(*args), expected), 1e-4)
    split = stacking.split(v["params"], keep=True)
    assert split["layers"][0]["mlp"]["up_proj"]["kernel"].shape == (32, 48)
    assert_same(jax.jit(stacking.stacked)(split), v["params"])


def test_cached_decoding_scores_as_the_whole_text_does():
    adapter, model, v, tokens_BL = made("lora", "fp8")
    apply = jax.jit(functools.partial(adapter.apply, model))
    expected_BLV, _ = apply(v, tokens_BL)
    cache = init_cache(CONFIG, *tokens_BL.shape)
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1])[None], tokens_BL.shape)
    found = []
    for start, end in (
        (0, 7),
        (7, 8),
        (8, 9),
    ):  # a row is cast by itself, whatever stands beside it
        part = slice(start, end)
        logits_BLV, cache = apply(v, tokens_BL[:, part], positions_BL[:, part], cache=cache)
        found.append(logits_BLV)
    within(error(jnp.concatenate(found, axis=1), expected_BLV), 1e-4)
    plain_BLV, _ = apply({**v, "params": quantize.dequantize(v["params"])}, tokens_BL)
    assert error(plain_BLV, expected_BLV) > 1e-3


def test_no_plain_kernel_is_kept_for_the_backward_pass():
    adapter, model, v, tokens_BL = made("lora", "fp8")

    def loss(d, params):
        return jnp.sum(adapter.apply(model, {**v, "d": d, "params": params}, tokens_BL)[0] ** 2)

    def kept(params):
        pull = jax.eval_shape(lambda d: jax.vjp(lambda d: loss(d, params), d)[1], v["d"])
        sides = {(2, 32, 48), (2, 48, 32)}
        return [
            leaf
            for leaf in jax.tree.leaves(pull)
            if leaf.shape in sides and leaf.dtype == jnp.float32
        ]

    assert not kept(v["params"])
    assert kept(quantize.quantize(base()[1], "int8", 8))


def equations(jaxpr):
    """All, those inside of loops and calls too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def products(adapter, model, v, tokens_BL):
    """(type of the kernel, how many) of a step's matmuls with an array of a kernel's sides."""
    leaves = jax.tree.leaves(v["params"]["layers"], is_leaf=quantize.is_quantized)
    sides = {tuple(sorted(leaf.shape[-2:])) for leaf in leaves if quantize.is_quantized(leaf)}
    step = parts.value_and_grad(adapter, model)
    jaxpr = jax.make_jaxpr(step)(v["d"], v["params"], v["frozen"], tokens_BL)
    return collections.Counter(
        equation.invars[1].aval.dtype.name
        for equation in equations(jaxpr.jaxpr)
        if equation.primitive.name == "dot_general"
        and tuple(sorted(equation.invars[1].aval.shape)) in sides
    )


def test_every_frozen_matmul_of_the_layers_is_of_codes(monkeypatch):
    tokens_BL = jnp.ones((1, 13), jnp.int32)
    adapter, model, v, _ = made("lora", "fp8")
    assert products(adapter, model, v, tokens_BL) == {"float8_e4m3fn": 14}
    # W + dW of q, v and down: forward and backward, and what their update gets is as large.
    monkeypatch.setattr(cost_model, "route", lambda *_: "build")
    adapter, model, v, _ = made("tera", "fp8")
    found = products(adapter, model, v, tokens_BL)
    assert found["float8_e4m3fn"] == 8
    assert found["float32"] >= 6
    monkeypatch.setattr(fp8_matmul, "takes", lambda _: False)
    assert "float8_e4m3fn" not in products(adapter, model, v, tokens_BL)


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
    frozen = adapter.init_frozen(kept)
    d = jax.tree.map(lambda leaf: leaf + 0.05, adapter.init_d(kept, frozen))

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


def test_a_sharded_base_equals_one_device():
    adapter, model, v, tokens_BL = made("lora", "fp8")
    mesh = make_mesh(2, 2, 2)
    layout = functools.partial(parameter_shardings, mesh=mesh)
    plain = jax.device_put(base()[1], layout(base()[1]))
    params = quantize.quantize(plain, "fp8", layout=layout)
    assert_same(params, v["params"])
    params = float8.with_both_layouts(params, layout)
    assert_same(float8.with_one_layout(params), v["params"])
    down = params["layers"]["mlp"]["down_proj"]["kernel"]
    assert down.codes.addressable_shards[0].data.shape == (2, 32 // 2, 48 // 2)
    assert down.backward_codes.addressable_shards[0].data.shape == (2, 48 // 2, 32 // 2)
    assert down.channel_scales.addressable_shards[0].data.shape == (2, 32 // 2)
    with jax.set_mesh(mesh):
        found = value_and_grad(adapter, model)(
            jax.device_put(v["d"], replicated(mesh)),
            params,
            v["frozen"],
            jax.device_put(tokens_BL, rows(mesh)),
        )
    step = value_and_grad(adapter, model)
    expected = step(v["d"], v["params"], v["frozen"], tokens_BL)
    within(error(found, expected), 1e-4)
    plain = quantize.dequantize(v["params"])
    assert error(step(v["d"], plain, v["frozen"], tokens_BL), expected) > 0.01
