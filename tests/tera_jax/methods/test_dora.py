import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from tera_jax.methods import dora, product
from tera_jax.methods.base import TargetLayer
from tera_jax.methods.dora import DoRA
from tests.margins import close, within
from tests.tera_jax.methods.one_layer import on_layer

SHAPES = [(24, 8), (8, 24), (16, 16)]
KEY = jax.random.key(0)


def build(shape, **fields):
    return on_layer(DoRA(**{"rank": 3, "alpha": 7.0, **fields}), (TargetLayer(("w",), shape),))


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_d(shape):
    return {
        "a": numbers((shape[0], 3), 3),
        "b": numbers((3, shape[1]), 4),
        "m": 1 + np.abs(numbers(shape[1], 5)),
    }


def peft_linear(kernel_IO, d=None, **fields):
    base = torch.nn.Sequential(torch.nn.Linear(*kernel_IO.shape, bias=False))
    base[0].weight.data = torch.tensor(kernel_IO.T)
    config = peft.LoraConfig(target_modules=["0"], r=3, lora_alpha=7, use_dora=True, **fields)
    layer = peft.get_peft_model(base, config).base_model.model[0].train()
    arrays = {
        "a": layer.lora_A["default"].weight,
        "b": layer.lora_B["default"].weight,
        "m": layer.lora_magnitude_vector["default"].weight,
    }
    for name, value in (d or {}).items():
        arrays[name].data = torch.tensor(np.asarray(value).T)
    return layer, arrays


def relative(ours, theirs):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_equal_peft(shape):
    kernel, x, weight = numbers(shape), numbers((2, 5, shape[0]), 1), numbers((2, 5, shape[1]), 2)
    method = build(shape)
    d = random_d(shape)
    layer, arrays = peft_linear(kernel, d)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = layer(x_torch)
    (y_torch * torch.tensor(weight)).sum().backward()

    @jax.jit
    def run(d, kernel, x):
        def loss(d, x):
            y = method.apply({}, d, kernel, x, None)
            return jnp.sum(y * weight), y

        return jax.grad(loss, (0, 1), has_aux=True)(d, x)

    @jax.jit
    def through_merge(d, kernel, x):
        return jax.grad(lambda d: jnp.sum((x @ method.merge({}, d, kernel)) * weight))(d)

    (grads, grad_x), y = run(d, kernel, x)
    within(relative(y, y_torch), 1e-5)
    within(relative(grad_x, x_torch.grad), 1e-5)
    of_merge = through_merge(d, kernel, x)
    for name, array in arrays.items():
        within(relative(grads[name], array.grad.T if name != "m" else array.grad), 1e-5)
        within(relative(of_merge[name], grads[name]), 1e-5)
    layer.merge(safe_merge=True)
    merged = jax.jit(method.merge)({}, d, kernel)
    within(relative(merged, layer.base_layer.weight.T), 1e-5)
    assert relative(merged, kernel) > 1e-2


@pytest.mark.usefixtures("in_float64")
def test_initial_values_are_those_of_peft():
    kernel = numbers((400, 8)).astype(np.float64)
    _, arrays = peft_linear(kernel)
    d = build((400, 8)).init_d(KEY, jnp.asarray(kernel), {})
    within(relative(d["m"], arrays["m"]), 1e-6)  # rounded once, to float32
    assert d["m"].dtype == jnp.float32
    bound = 1 / np.sqrt(400)
    assert 0.98 * bound < np.abs(d["a"]).max() <= bound
    assert not np.any(d["b"])


def test_dropout_equals_peft_on_the_same_mask():
    """The base reads all of x; (m / c - 1) x W and the low-rank branch read the dropped x."""
    shape = (24, 8)
    kernel, x = numbers(shape), numbers((3, 24), 1)
    d = random_d(shape)
    layer, _ = peft_linear(kernel, d, lora_dropout=0.3)
    dropped = np.asarray(product.drop(KEY, 0.3, jnp.asarray(x)))
    layer.lora_dropout["default"].forward = lambda _: torch.tensor(dropped)
    ours = jax.jit(build(shape, dropout=0.3).apply)({}, d, kernel, x, KEY)
    within(relative(ours, layer(torch.tensor(x))), 1e-5)
    assert relative(ours, layer.eval()(torch.tensor(x))) > 1e-2


def test_dropout_is_the_identity_on_average():
    kernel, x = jnp.asarray(numbers((24, 8))), jnp.asarray(numbers((3, 24), 1))
    d = jax.tree.map(jnp.asarray, random_d((24, 8)))
    apply = jax.jit(build((24, 8), dropout=0.3).apply)
    keys = jax.random.split(KEY, 4000)
    ys = jax.vmap(lambda key: apply({}, d, kernel, x, key))(keys)
    full = apply({}, d, kernel, x, None)
    error = jnp.abs(ys.mean(0) - full) / (ys.std(0) / np.sqrt(len(keys)))
    within(error.max(), 4.5, of_draws=True)
    once = apply({}, d, kernel, x, keys[0])
    assert jnp.array_equal(once, apply({}, d, kernel, x, keys[0]))
    close(once, ys[0], rtol=1e-4, atol=1e-4)
    assert not jnp.allclose(ys[0], ys[1])


def test_the_norms_are_those_of_the_columns():
    kernel = jnp.asarray([[3.0, 0.0], [4.0, 2.0]])
    assert jnp.array_equal(dora.column_norms(kernel), jnp.asarray([5.0, 2.0]))


def test_a_column_of_zeros_stays_zero_and_its_gradients_finite():
    kernel = jnp.asarray(numbers((24, 8))).at[:, 2].set(0)
    x = jnp.asarray(numbers((3, 24), 1))
    method = build((24, 8))
    d = method.init_d(KEY, kernel, {})
    loss = jax.jit(jax.value_and_grad(lambda d: jnp.sum(method.apply({}, d, kernel, x, None) ** 2)))
    value, grads = loss(d)
    within(abs(value - jnp.sum((x @ kernel) ** 2)), 1e-5 * value)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("fields", "message"), [({"alpha": -1.0}, "alpha -1.0"), ({"rank": 0}, "rank 0")]
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DoRA(**fields)
