"""Adapters on a Llama in e4m3: gradients, cached decoding, residuals, matmuls and a mesh."""

import collections
import functools

import jax
import jax.extend
import jax.numpy as jnp

from tera_jax import float8, quantize
from tera_jax.llama import Llama, stacking
from tera_jax.llama.decode.cache import init_cache
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.network import cost_model
from tera_jax.ops import fp8_matmul
from tera_jax.sharding import make_mesh, replicated, rows
from tests import parts
from tests.margins import within
from tests.tera_jax.fp8 import cosine, error
from tests.tera_jax.quantized import CONFIG, assert_same, base, made


@functools.cache
def value_and_grad(adapter, model):
    return jax.jit(parts.value_and_grad(adapter, model))


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
