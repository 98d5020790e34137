import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from tera_jax import sharding
from tera_jax.methods import TABLE, product
from tera_jax.methods.base import TargetLayer
from tera_jax.methods.lora import LoRA
from tera_jax.ops import dispatch
from tests.margins import close, within
from tests.tera_jax.methods.one_layer import on_layer

SHAPES = [(24, 8), (8, 24), (16, 16)]  # the first as SmolLM2's v_proj, the second as an MLP's


def site(shape):
    return (TargetLayer(("layer",), shape),)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def peft_linear(kernel_IO, **fields):
    """PEFT's layer for one ``nn.Linear`` without bias."""
    base = torch.nn.Sequential(torch.nn.Linear(*kernel_IO.shape, bias=False))
    base[0].weight.data = torch.tensor(kernel_IO.T)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["0"], **fields))
    return model.base_model.model[0].train()


def relative(ours, theirs):
    theirs = theirs.detach().numpy()
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_equal_peft(shape):
    kernel, x, weight = numbers(shape), numbers((2, 5, shape[0]), 1), numbers((2, 5, shape[1]), 2)
    d = {"a": numbers((shape[0], 3), 3), "b": numbers((3, shape[1]), 4)}
    method = on_layer(LoRA(rank=3, alpha=7.0), site(shape))

    layer = peft_linear(kernel, r=3, lora_alpha=7)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    a.data, b.data = torch.tensor(d["a"].T), torch.tensor(d["b"].T)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = layer(x_torch)
    (y_torch * torch.tensor(weight)).sum().backward()

    @jax.jit
    def run(d, kernel, x):
        def loss(d, x):
            y = method.apply({}, d, kernel, x, None)
            return jnp.sum(y * weight), y

        return jax.grad(loss, (0, 1), has_aux=True)(d, x)

    (grads, grad_x), y = run(d, kernel, x)
    within(relative(y, y_torch), 1e-5)
    within(relative(grad_x, x_torch.grad), 1e-5)
    within(relative(grads["a"], a.grad.T), 1e-5)
    within(relative(grads["b"], b.grad.T), 1e-5)
    merged = jax.jit(method.merge)({}, d, kernel)
    within(relative(merged, (layer.weight + layer.get_delta_weight("default")).T), 1e-5)
    assert relative(y, y_torch + 1) > 1e-2


def test_initial_values_are_those_of_peft():
    shape = (400, 8)
    method = on_layer(LoRA(), site(shape))
    d = method.init_d(jax.random.key(0), jnp.zeros(shape), {})
    theirs = peft_linear(numbers(shape))
    for ours, linear in ((d["a"], theirs.lora_A), (d["b"], theirs.lora_B)):
        expected = linear["default"].weight.T
        assert ours.shape == expected.shape
        assert ours.dtype == jnp.float32
        within(abs(np.std(ours) - expected.std().item()), 0.05 * np.std(ours), of_draws=True)
    bound = 1 / np.sqrt(400)
    assert 0.98 * bound < np.abs(d["a"]).max() <= bound
    assert not np.any(d["b"])
    other = method.init_d(jax.random.key(1), jnp.zeros(shape), {})
    assert np.any(other["a"] != d["a"])


def test_dropout_leaves_the_base_alone_and_is_the_identity_on_average():
    shape = (24, 8)
    kernel, x = jnp.asarray(numbers(shape)), jnp.asarray(numbers((3, 24), 1))
    d = {"a": jnp.asarray(numbers((24, 3), 3)), "b": jnp.asarray(numbers((3, 8), 4))}
    apply = jax.jit(on_layer(LoRA(rank=3, dropout=0.3), site(shape)).apply)
    keys = jax.random.split(jax.random.key(0), 4000)
    ys = jax.vmap(lambda key: apply({}, d, kernel, x, key))(keys)
    full = apply({}, d, kernel, x, None)
    error = jnp.abs(ys.mean(0) - full) / (ys.std(0) / np.sqrt(len(keys)))
    within(error.max(), 4.5, of_draws=True)  # standard errors, over 24 outputs
    once = apply({}, d, kernel, x, keys[0])
    assert jnp.array_equal(once, apply({}, d, kernel, x, keys[0]))
    close(once, ys[0], rtol=1e-4, atol=1e-4)
    assert not jnp.allclose(ys[0], ys[1])
    unadapted = d | {"b": jnp.zeros((3, 8))}
    unadapted_y = jax.jit(product.linear)(x, kernel)
    assert jnp.array_equal(apply({}, unadapted, kernel, x, keys[0]), unadapted_y)
    without = jax.jit(on_layer(LoRA(rank=3), site(shape)).apply)
    assert jnp.array_equal(without({}, d, kernel, x, keys[0]), full)


def test_dropped_entries_are_zero_and_the_rest_is_scaled_up():
    x = jnp.ones((100, 100))
    dropped = product.drop(jax.random.key(0), 0.2, x)
    close(np.unique(dropped), [0, 1.25])
    within(abs(jnp.mean(dropped == 0) - 0.2), 0.02, of_draws=True)


@pytest.mark.parametrize("name", ["lora", "pissa", "dora", "toplora"])
@pytest.mark.parametrize(
    ("kernel_type", "x_type"),
    [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.float32, jnp.float64)],
)
def test_the_result_has_the_type_of_x(name, kernel_type, x_type):
    with jax.enable_x64(True):
        kernel = jnp.asarray(numbers((24, 8)), kernel_type)
        x = jnp.asarray(numbers((2, 5, 24), 1), x_type)
        entry = TABLE[name]
        method = on_layer(entry(rank=3, dropout=0.1), site((24, 8)))
        key = jax.random.key(0)

        @jax.jit
        def run(kernel, x):
            frozen = method.init_frozen(key, kernel)
            d = method.init_d(key, kernel, frozen)
            plain, dropped = (method.apply(frozen, d, kernel, x, k) for k in (None, key))
            return d, plain, dropped

        d, plain, dropped = run(kernel, x)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(d))
        assert plain.dtype == dropped.dtype == x_type
        expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
        tolerance = 2e-2 if x_type == jnp.bfloat16 else 1e-6
        within(np.abs(np.asarray(plain, np.float64) - expected).max(), tolerance * 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank 0; it must be at least 1"),
        ({"alpha": 0.0}, "alpha 0.0"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"dropout": -0.1}, "dropout -0.1"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**fields)


@pytest.mark.parametrize("name", ["lora", "pissa", "dora", "toplora"])
def test_a_rank_above_that_of_the_kernel_is_refused(name):
    entry = TABLE[name]
    on_layer(entry(rank=8), site((24, 8)))
    with pytest.raises(ValueError, match=r"rank 9, but the kernel \(24, 8\) of layer 'layer'"):
        on_layer(entry(rank=9), site((24, 8)))


@pytest.mark.long
def test_on_a_mesh_each_device_has_the_adapters_of_its_rows():
    lora, layer = LoRA(rank=8), TargetLayer(("q_proj",), (2048, 2048))
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    kernel = jnp.zeros(layer.kernel_shape)
    x_B1I, row_B = normal(4, 1, 2048), {"a": normal(4, 2048, 8), "b": normal(4, 8, 2048)}

    def branch(x, row_B):
        return lora.branch_rows(None, row_B, kernel, x, layer)

    expected = branch(x_B1I, row_B)
    with dispatch.forced(True), jax.set_mesh(mesh := sharding.make_mesh(2, 1, 2)):
        placed = jax.device_put((x_B1I, row_B), sharding.rows(mesh))
        assert "shard_map[" in str(jax.make_jaxpr(branch)(*placed))
        found = jax.jit(branch)(*placed)
        assert lora.branches(None, [row_B], x_B1I[:3], [layer]) is None
    within(np.abs(found - expected).max(), 1e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()
