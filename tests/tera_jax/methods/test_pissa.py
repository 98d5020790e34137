import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from tera_jax.methods.base import TargetLayer
from tera_jax.methods.pissa import PiSSA
from tera_jax.methods.product import drop
from tests.margins import close, within
from tests.tera_jax.methods.one_layer import on_layer

SHAPES = [(24, 8), (8, 24), (16, 16)]
KEY = jax.random.key(0)


def build(shape, **fields):
    return on_layer(PiSSA(**{"rank": 3, "alpha": 7.0, **fields}), (TargetLayer(("w",), shape),))


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kernels(shape):
    """Singular values 4, 2, 1, 1/2, ..: so far apart that their vectors are well defined."""
    left, _, right = np.linalg.svd(numbers(shape), full_matrices=False)
    return (left * 2.0 ** (2 - np.arange(len(right)))[None, :] @ right).astype(np.float32)


def peft_linear(kernel_IO, **fields):
    base = torch.nn.Sequential(torch.nn.Linear(*kernel_IO.shape, bias=False))
    base[0].weight.data = torch.tensor(kernel_IO.T)
    config = peft.LoraConfig(target_modules=["0"], r=3, lora_alpha=7, **fields)
    return peft.get_peft_model(base, config).base_model.model[0].train()


def relative(ours, theirs):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("shape", SHAPES)
def test_initial_values_outputs_and_gradients_equal_peft(shape):
    given = kernels(shape), numbers((2, 5, shape[0]), 1), numbers((2, 5, shape[1]), 2)
    kernel, x, weight = (array.astype(np.float64) for array in given)
    method = build(shape)
    frozen = jax.jit(method.init_frozen)(KEY, kernel)
    layer = peft_linear(kernel, init_lora_weights="pissa")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    signs = np.sign(np.sum(np.asarray(frozen["a"]) * a.detach().numpy().T, axis=0))  # an SVD's own
    within(relative(frozen["a"] * signs[None, :], a.T), 1e-12)
    within(relative(frozen["b"] * signs[:, None], b.T), 1e-12)
    zero = jax.tree.map(jnp.zeros_like, frozen)
    residual = jax.jit(method.merge)(frozen, zero, kernel)
    within(relative(residual, layer.base_layer.weight.T), 1e-12)

    steps = {"a": numbers((shape[0], 3), 3), "b": numbers((3, shape[1]), 4)}
    steps = jax.tree.map(np.float64, steps)
    d = jax.tree.map(lambda array, step: array + 0.3 * step, frozen, steps)
    a.data, b.data = (torch.tensor(np.asarray(d[name]).T) for name in ("a", "b"))
    y_torch = layer(torch.tensor(x))
    (y_torch * torch.tensor(weight)).sum().backward()

    @jax.jit
    def run(frozen, d, kernel, x):
        def loss(d):
            y = method.apply(frozen, d, kernel, x, None)
            return jnp.sum(y * weight), y

        return jax.grad(loss, has_aux=True)(d)

    grads, y = run(frozen, d, kernel, x)
    within(relative(y, y_torch), 1e-12)
    within(relative(grads["a"], a.grad.T), 1e-12)
    within(relative(grads["b"], b.grad.T), 1e-12)
    merged = jax.jit(method.merge)(frozen, d, kernel)
    within(relative(merged, (layer.weight + layer.get_delta_weight("default")).T), 1e-12)
    assert relative(merged, kernel) > 1e-2


@pytest.mark.parametrize(("dtype", "epsilon"), [(jnp.float32, 2.0**-22), (jnp.bfloat16, 2.0**-6)])
def test_step_0_is_exact_in_apply_and_rounds_the_residual_in_merge(dtype, epsilon):
    kernel = jnp.asarray(kernels((24, 8)), dtype)
    x = jnp.asarray(numbers((5, 24), 1), dtype)
    method = build((24, 8))
    frozen = jax.jit(method.init_frozen)(KEY, kernel)
    d = method.init_d(KEY, kernel, frozen)
    base = jax.jit(lambda x, kernel: jnp.einsum("...i,io->...o", x, kernel))(x, kernel)
    assert jnp.array_equal(jax.jit(method.apply)(frozen, d, kernel, x, None), base)
    merged = jax.jit(method.merge)(frozen, d, kernel)
    assert merged.dtype == dtype
    within(relative(merged.astype(jnp.float32), kernel.astype(jnp.float32)), epsilon)


def test_merge_rounds_the_residual_to_the_type_of_the_kernel():
    kernel = jnp.asarray(kernels((24, 8)), jnp.bfloat16)
    method = build((24, 8))
    # A large A0 B0, so that the rounding of the residual shows in the sum.
    frozen = {"a": jnp.asarray(numbers((24, 3), 3)), "b": jnp.asarray(numbers((3, 8), 4))}
    start = 7 / 3 * frozen["a"] @ frozen["b"]
    residual = (kernel.astype(jnp.float32) - start).astype(jnp.bfloat16)
    expected = (residual.astype(jnp.float32) + start).astype(jnp.bfloat16)
    merged = jax.jit(method.merge)(frozen, frozen, kernel)
    # Sums in another order may round to the other neighbour.
    within(jnp.mean(merged != expected), 0.03)
    assert jnp.mean(merged == kernel) < 0.3


def test_small_steps_survive_in_bfloat16():
    """Steps below the spacing of bfloat16 around A0 and B0, which autocast would lose."""
    kernel = jnp.asarray(kernels((24, 8)))
    x = jnp.asarray(numbers((64, 24), 1))
    method = build((24, 8))
    frozen = jax.jit(method.init_frozen)(KEY, kernel)
    steps = {"a": jnp.asarray(numbers((24, 3), 3)), "b": jnp.asarray(numbers((3, 8), 4))}
    d = jax.tree.map(lambda array, step: array + 1e-4 * step, frozen, steps)
    apply = jax.jit(method.apply)
    narrow = apply(frozen, d, jnp.zeros_like(kernel), x.astype(jnp.bfloat16), None)
    wide = apply(frozen, d, jnp.zeros_like(kernel), x, None)
    within(relative(narrow.astype(jnp.float32), wide), 2e-2)


def test_power_iterations_approach_the_full_svd():
    kernel = jnp.asarray(kernels((24, 8)))
    full = jax.jit(build((24, 8)).init_frozen)(KEY, kernel)
    errors = []
    for niter in (0, 1, 4):
        near = jax.jit(build((24, 8), niter=niter).init_frozen)(KEY, kernel)
        assert jax.tree.map(jnp.shape, near) == jax.tree.map(jnp.shape, full)
        errors.append(relative(near["a"] @ near["b"], full["a"] @ full["b"]))
    assert errors[0] > errors[1] > errors[2]
    within(errors[2], 1e-2)


def test_d_shares_no_memory_with_frozen():
    kernel = jnp.asarray(kernels((24, 8)))
    method = build((24, 8))
    frozen = jax.jit(method.init_frozen)(KEY, kernel)
    for init in (method.init_d, jax.jit(method.init_d)):
        for leaf in jax.tree.leaves(init(KEY, kernel, frozen)):
            leaf.delete()  # as a step does with a donated d
    assert np.all(np.isfinite(frozen["a"]))
    assert np.all(np.isfinite(frozen["b"]))


def test_dropout_is_the_identity_on_average_and_drops_the_principal_part_too():
    kernel, x = jnp.asarray(kernels((24, 8))), jnp.asarray(numbers((3, 24), 1))
    method = build((24, 8), dropout=0.3)
    frozen = jax.jit(method.init_frozen)(KEY, kernel)
    d = jax.tree.map(lambda array: 1.5 * array, frozen)
    apply = jax.jit(method.apply)
    keys = jax.random.split(KEY, 4000)
    ys = jax.vmap(lambda key: apply(frozen, d, kernel, x, key))(keys)
    full = apply(frozen, d, kernel, x, None)
    error = jnp.abs(ys.mean(0) - full) / (ys.std(0) / np.sqrt(len(keys)))
    within(error.max(), 4.5, of_draws=True)
    once = apply(frozen, d, kernel, x, keys[0])
    assert jnp.array_equal(once, apply(frozen, d, kernel, x, keys[0]))
    close(once, ys[0], rtol=1e-4, atol=1e-4)
    assert not jnp.allclose(ys[0], ys[1])
    # y = x W_res + s drop(x) A B.
    seen = drop(keys[0], 0.3, x)
    residual = kernel - 7 / 3 * frozen["a"] @ frozen["b"]
    within(relative(ys[0], x @ residual + 7 / 3 * seen @ d["a"] @ d["b"]), 1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"niter": -1}, "niter -1"), ({"niter": 101}, "at most 100"), ({"rank": 0}, "rank 0")],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PiSSA(**fields)
