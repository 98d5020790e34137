import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from tera_jax.adapters import factory
from tera_jax.adapters.targets import put
from tera_jax.methods import TargetLayer, product
from tera_jax.methods.hira import HiRA
from tests.margins import within
from tests.tera_jax.methods.one_layer import on_layer


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_outputs_gradients_and_merged_kernels_are_those_of_peft(rank, shape):
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({"q": torch.nn.Linear(*shape, bias=False)})
    kernel = jnp.asarray(base["q"].weight.detach().numpy().T)
    config = peft.HiraConfig(r=rank, target_modules=["q"])
    layer = peft.get_peft_model(base, config).base_model.model["q"]
    method = on_layer(HiRA(rank=rank), (TargetLayer(("q",), shape),))
    trained = {"a": layer.hira_A["default"], "b": layer.hira_B["default"]}
    for parameter in trained.values():
        parameter.data += torch.randn_like(parameter)
    d = {key: jnp.asarray(parameter.detach().numpy().T) for key, parameter in trained.items()}
    x, weight = torch.randn(3, 4, shape[0]), torch.randn(3, 4, shape[1])
    y = layer(x)
    (weight * y).sum().backward()

    @jax.jit
    def loss(d, x, weight):
        ours = method.apply({}, d, kernel, x, None)
        return jnp.sum(weight * ours), ours

    arrays = jnp.asarray(x.numpy()), jnp.asarray(weight.numpy())
    grads, ours = jax.grad(loss, has_aux=True)(d, *arrays)
    within(relative(ours, y.detach()), 1e-5)
    assert relative(ours, x.numpy() @ np.asarray(kernel)) > 0.1
    for key, parameter in trained.items():
        within(relative(grads[key].T, parameter.grad), 1e-5)
    layer.merge()
    merged = method.merge({}, d, kernel)
    within(relative(merged.T, layer.get_base_layer().weight.detach()), 1e-5)


@pytest.mark.parametrize(
    ("v_shape", "rank", "count"),
    [
        ((4096, 4096), 32, 16_777_216),
        ((4096, 1024), 32, 13_631_488),
        ((4096, 4096), 1, 524_288),
        ((4096, 1024), 1, 425_984),
    ],
)
def test_the_count_is_the_published_one(v_shape, rank, count):
    assert HiRA().rank == 32
    sites = tuple(
        TargetLayer(("layers", "self_attn", name), shape, (32,))
        for name, shape in [("q_proj", (4096, 4096)), ("v_proj", v_shape)]
    )
    made = factory.make("hira", HiRA(rank=rank), sites)
    params = {}
    for site in sites:
        shape = (*site.stack, *site.kernel_shape)
        put(params, (*site.path, "kernel"), jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    d = jax.eval_shape(made.init_d, params, {})
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == count


def test_a_is_uniform_and_b_zero():
    method = on_layer(HiRA(rank=50), (TargetLayer(("q",), (400, 60)),))
    d = jax.jit(method.init_d)(jax.random.key(0), jnp.zeros((400, 60)), {})
    assert d["a"].shape == (400, 50)
    assert 0.999 / 20 < np.abs(d["a"]).max() <= 1 / 20
    within(abs(np.std(d["a"]) * 20 * np.sqrt(3) - 1), 0.02, of_draws=True)
    assert np.array_equal(d["b"], np.zeros((50, 60)))


def test_apply_keeps_updates_that_bfloat16_kernels_round_away():
    method = on_layer(HiRA(rank=1), (TargetLayer(("q",), (64, 8)),))
    signs = jnp.tile(jnp.array([1.0, -1.0]), 32)
    d = {"a": 2.0**-6 * signs[:, None], "b": jnp.full((1, 8), 2.0**-6)}
    kernel = jnp.ones((64, 8), jnp.bfloat16)
    assert jnp.all(method.merge({}, d, kernel) == kernel)  # 1 ± 2^-12
    y = method.apply({}, d, kernel, signs[None].astype(jnp.bfloat16), None)
    assert jnp.all(y == 64 * 2.0**-12)  # the base's own product is zero


@pytest.mark.parametrize("rank", [1, 3])
def test_dropout_is_for_the_update_alone(rank):
    method = on_layer(HiRA(rank=rank, dropout=0.5), (TargetLayer(("q",), (24, 10)),))
    d = {"a": jnp.ones((24, rank)), "b": jnp.ones((rank, 10))}
    kernel = jax.random.normal(jax.random.key(1), (24, 10))
    x = jax.random.normal(jax.random.key(2), (3, 24))
    key = jax.random.key(3)
    dropped = product.drop(key, 0.5, x)
    y = method.apply({}, d, kernel, x, key)
    within(relative(y, x @ kernel + rank * dropped @ kernel), 1e-5)
    assert relative(y, method.apply({}, d, kernel, x, None)) > 0.1


@pytest.mark.parametrize(
    ("fields", "message"), [({"rank": 0}, "rank 0"), ({"dropout": -0.1}, "dropout -0.1")]
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HiRA(**fields)


def test_a_rank_above_the_kernels_is_refused():
    with pytest.raises(ValueError, match=r"rank 32, .* \(24, 10\) of layer 'q' has rank 10"):
        on_layer(HiRA(), (TargetLayer(("q",), (24, 10)),))
