import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from tera_jax.adapters import factory
from tera_jax.adapters.targets import put
from tera_jax.fingerprint import fingerprint
from tera_jax.methods import TargetLayer, product, vera
from tera_jax.methods.vera import VeRA
from tera_jax.random import seed_key
from tests.margins import within
from tests.tera_jax.methods.one_layer import on_layer

SHAPES = {"q": (24, 10), "v": (16, 20)}  # neither has the largest of both sides
SITES = tuple(TargetLayer((name,), shape) for name, shape in SHAPES.items())


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


def test_outputs_gradients_and_merged_kernels_are_those_of_peft():
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({k: torch.nn.Linear(*v, bias=False) for k, v in SHAPES.items()})
    kernels = {k: jnp.asarray(base[k].weight.detach().numpy().T) for k in SHAPES}
    model = peft.get_peft_model(base, peft.VeraConfig(r=5, target_modules=["q", "v"])).base_model
    layers = {k: model.model[k] for k in SHAPES}
    method = on_layer(VeRA(rank=5), SITES)
    frozen = {
        "a": jnp.asarray(model.vera_A["default"].numpy().T),
        "b": jnp.asarray(model.vera_B["default"].numpy().T),
    }
    expected = jax.eval_shape(method.init_frozen, jax.random.key(0), kernels["q"])
    assert jax.tree.map(jnp.shape, frozen) == jax.tree.map(jnp.shape, expected)
    for name, layer in layers.items():
        initial = method.init_d(jax.random.key(0), kernels[name], frozen)
        trained = {
            "lambda_d": layer.vera_lambda_d["default"],
            "lambda_b": layer.vera_lambda_b["default"],
        }
        d = {}
        for key, parameter in trained.items():
            assert np.array_equal(initial[key], parameter.detach().numpy())
            parameter.data += torch.randn_like(parameter)
            d[key] = jnp.asarray(parameter.detach().numpy())
        x, weight = torch.randn(3, 4, SHAPES[name][0]), torch.randn(3, 4, SHAPES[name][1])
        y = layer(x)
        (weight * y).sum().backward()

        @jax.jit
        def loss(d, kernel, x, weight):
            ours = method.apply(frozen, d, kernel, x, None)
            return jnp.sum(weight * ours), ours

        arrays = d, kernels[name], jnp.asarray(x.numpy()), jnp.asarray(weight.numpy())
        grads, ours = jax.grad(loss, has_aux=True)(*arrays)
        within(relative(ours, y.detach()), 1e-5)
        assert relative(ours, x.numpy() @ np.asarray(kernels[name])) > 0.1
        for key, parameter in trained.items():
            within(relative(grads[key], parameter.grad), 1e-5)
        layer.merge()
        merged = method.merge(frozen, d, kernels[name])
        within(relative(merged.T, layer.get_base_layer().weight.detach()), 1e-5)


@pytest.mark.parametrize(
    ("v_shape", "count"), [((4096, 4096), 278_528), ((4096, 1024), 180_224)], ids=["llama2", "3"]
)
def test_the_default_has_the_published_count(v_shape, count):
    sites = tuple(
        TargetLayer(("layers", "self_attn", name), shape, (32,))
        for name, shape in [("q_proj", (4096, 4096)), ("v_proj", v_shape)]
    )
    made = factory.make("vera", VeRA(), sites)
    params = {}
    for site in sites:
        shape = (*site.stack, *site.kernel_shape)
        put(params, (*site.path, "kernel"), jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    frozen = jax.eval_shape(made.init_frozen, params)
    d = jax.eval_shape(made.init_d, params, frozen)
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == count
    # One set, at the size of the larger kernel, for both.
    assert [leaf.shape for leaf in jax.tree.leaves(frozen)] == [(4096, 256), (256, 4096)]


def test_projections_are_kaiming_uniform_with_the_full_size_fan_in():
    method = on_layer(
        VeRA(rank=300), (TargetLayer(("q",), (200, 40)), TargetLayer(("v",), (50, 100)))
    )
    assert method.regenerates
    arrays = jax.jit(method.init_frozen)(seed_key(0), jnp.zeros((50, 100)))
    for name, shape in {"a": (200, 300), "b": (300, 100)}.items():
        bound = np.sqrt(6 / shape[0])
        assert arrays[name].shape == shape
        assert 0.999 * bound < np.abs(arrays[name]).max() < bound
        within(abs(np.std(arrays[name]) / (bound / np.sqrt(3)) - 1), 0.01, of_draws=True)
        within(abs(np.mean(arrays[name])), 0.02 * bound, of_draws=True)
    assert len({method.method.frozen_set(layer) for layer in method.layers}) == 1
    other = jax.jit(method.init_frozen)(seed_key(1), jnp.zeros((50, 100)))
    assert fingerprint(other) != fingerprint(arrays)


def test_d_starts_at_the_configured_value_and_zero():
    d = vera.init_d(6, VeRA(rank=4, d_initial=0.5))
    assert np.array_equal(d["lambda_d"], np.full(4, 0.5))
    assert np.array_equal(d["lambda_b"], np.zeros(6))


def test_dropout_is_for_the_update_alone():
    method = on_layer(VeRA(rank=5, dropout=0.5), SITES)
    frozen = jax.jit(method.init_frozen)(seed_key(0), jnp.zeros((24, 10)))
    d = {"lambda_d": jnp.ones(5), "lambda_b": jnp.ones(10)}
    kernel, x = jax.random.normal(seed_key(1), (24, 10)), jax.random.normal(seed_key(2), (3, 24))
    key = jax.random.key(3)
    dropped = product.drop(key, 0.5, x)
    update = method.apply(frozen, d, jnp.zeros_like(kernel), dropped, None)
    y = method.apply(frozen, d, kernel, x, key)
    within(relative(y, x @ kernel + update), 1e-5)
    assert relative(y, method.apply(frozen, d, kernel, x, None)) > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rank": 0}, "rank 0"), ({"d_initial": 0.0}, "d_initial"), ({"dropout": 1.0}, "dropout 1.0")],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VeRA(**fields)
