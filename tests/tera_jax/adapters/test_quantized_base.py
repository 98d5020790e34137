"""Every method on a base that is quantised, on one device and on several."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt, quantize
from tera_jax.adapters.interceptor import dequantized
from tera_jax.io.adapter_files import load_adapter, save_adapter
from tera_jax.llama import Llama
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.sharding import make_mesh, replicated, rows
from tests import parts
from tests.marks import quick_only
from tests.tera_jax.quantized import (
    BLOCK,
    CONFIG,
    SETTINGS,
    assert_close,
    assert_same,
    base,
    leaves,
    made,
)


def value_and_grad(adapter, model):
    return jax.jit(parts.value_and_grad(adapter, model))


@pytest.mark.parametrize(
    ("name", "kind"),
    quick_only(
        [("tera", "nf4")],
        [("tera", "int8"), ("tera", "int4"), *((name, "nf4") for name in SETTINGS)],
        names=2,
    ),
)
def test_a_method_on_a_quantised_base_is_the_method_on_what_it_stands_for(name, kind):
    adapter, model, v, tokens_BL = made(name, kind)
    plain = quantize.dequantize(v["params"])
    step = value_and_grad(adapter, model)
    found = step(v["d"], v["params"], v["frozen"], tokens_BL)
    assert_close(found, step(v["d"], plain, v["frozen"], tokens_BL))
    assert all(jnp.any(gradient != 0) for gradient in jax.tree.leaves(found[1]))
    # W itself is read at the start by PiSSA and DoRA.
    assert_close(adapter.init_frozen(v["params"]), adapter.init_frozen(plain))
    assert_close(adapter.init_d(v["params"], v["frozen"]), adapter.init_d(plain, v["frozen"]))
    before, _ = step(v["d"], base()[1], v["frozen"], tokens_BL)
    assert abs(found[0] - before) > 1e-4


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_no_plain_kernel_is_kept_for_the_backward_pass(remat):
    adapter, _, v, tokens_BL = made("tera")

    def kept(remat):
        def loss(d):
            model = Llama(CONFIG, remat=remat)
            return jnp.sum(adapter.apply(model, {**v, "d": d}, tokens_BL)[0] ** 2)

        residuals = jax.tree.leaves(jax.eval_shape(lambda d: jax.vjp(loss, d)[1], v["d"]))
        kernels = [
            (2, 32, 48),
            (2, 48, 32),
        ]  # gate, up and down, of which no method builds the first
        return [
            leaf for leaf in residuals if leaf.shape == kernels[0] and leaf.dtype == jnp.float32
        ]

    assert not kept(remat)
    assert kept("none")


def test_nothing_is_built_ahead_on_a_quantised_base():
    adapter, _, v, _ = made("tera")
    plain = {**v, "params": quantize.dequantize(v["params"])}
    assert leaves(jax.eval_shape(lambda v: adapter.materialize(v, 2**20), plain))
    assert adapter.materialize(v, 2**20) == {}


def test_a_sharded_base_equals_one_device():
    adapter, model, v, tokens_BL = made("tera")
    mesh = make_mesh(2, 2, 2)
    plain = jax.device_put(base()[1], parameter_shardings(base()[1], mesh))
    params = quantize.quantize(
        plain, "nf4", BLOCK, functools.partial(parameter_shardings, mesh=mesh)
    )
    assert_same(params, v["params"])
    gate = params["layers"]["mlp"]["gate_proj"]["kernel"]
    assert gate.values.addressable_shards[0].data.shape == (2, 16 // 2, 48 // 2)
    assert gate.scales.addressable_shards[0].data.shape == (2, 4 // 2, 48 // 2)
    with jax.set_mesh(mesh):
        found = value_and_grad(adapter, model)(
            *jax.device_put((v["d"],), replicated(mesh)),
            params,
            jax.device_put(v["frozen"], replicated(mesh)),
            jax.device_put(tokens_BL, rows(mesh)),
        )
    expected = value_and_grad(adapter, model)(v["d"], v["params"], v["frozen"], tokens_BL)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max())
    moved = gate.replace(scales=jnp.roll(gate.scales, 1, axis=1))
    assert not np.allclose(moved.dequantize(), gate.dequantize(), rtol=1e-2)


class Layers(nn.Module):
    """Layers with a bias, with several axes, and with a product of their own."""

    @nn.compact
    def __call__(self, x_BD):
        def wide(lhs, rhs, dimensions, precision=None):
            return jax.lax.dot_general(
                lhs, rhs, dimensions, precision, preferred_element_type=jnp.float32
            )

        x_BD = nn.Dense(16, name="a_proj", bias_init=nn.initializers.ones)(x_BD)
        x_BD = nn.Dense(16, name="b_proj", dot_general=wide)(nn.tanh(x_BD))
        return nn.Dense(4, name="head")(x_BD)


def test_any_linen_model_reads_its_quantised_kernels():
    x_BD = jnp.asarray(np.random.default_rng(0).standard_normal((5, 16)), jnp.float32)
    params = Layers().init(jax.random.key(0), x_BD)["params"]
    kept = quantize.quantize(params, "int4", 4)
    with nn.intercept_methods(dequantized):
        found = Layers().apply({"params": kept}, x_BD)
        plain = Layers().apply({"params": params}, x_BD)
    expected = Layers().apply({"params": quantize.dequantize(kept)}, x_BD)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert jnp.array_equal(plain, Layers().apply({"params": params}, x_BD))
    assert not np.allclose(found, plain, atol=1e-3)


def test_an_adapter_belongs_to_its_quantised_base(tmp_path):
    adapter, _, v, _ = made("tera")
    save_adapter(tmp_path / "a", adapter, v, "base")
    loaded, found = load_adapter(tmp_path / "a", v["params"])
    assert loaded == adapter
    assert_same(found["d"], v["d"])
    with pytest.raises(ValueError, match="allow_other_base=True"):
        load_adapter(tmp_path / "a", base()[1])


def test_full_fine_tuning_of_a_quantised_base_is_refused():
    model, params = base()
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method="full")
    assert leaves(adapter.init_d(params, {}))
    with pytest.raises(ValueError, match="full fine-tuning trains the base's own weights"):
        adapter.init_d(quantize.quantize(params, "int8", BLOCK), {})
