import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.methods import product, toplora
from tera_jax.methods.base import NotMergeableError, TargetLayer
from tera_jax.methods.toplora import TopLoRA
from tests.margins import close, within
from tests.tera_jax.methods.one_layer import on_layer

SHAPES = [(24, 8), (8, 24), (16, 16)]
KEY = jax.random.key(0)


def build(shape, **fields):
    config = TopLoRA(**{"rank": 3, "alpha": 7.0, "dropout": 0.0, **fields})
    return on_layer(config, (TargetLayer(("w",), shape),))


def numbers(shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def random_d(shape):
    return {
        "a": numbers((shape[0], 3), 3),
        "b": numbers((3, shape[1]), 4),
        "theta": numbers((shape[0], 3), 5),
        "norm": 1 + 0.5 * numbers(3, 6),
    }


def token_by_token(d, kernel, x, scale, eps):
    """One token, one direction, one entry after the other, in float64."""
    (inputs, outputs), rank = kernel.shape, len(d["norm"])
    y = np.zeros((len(x), outputs))
    for t, token in enumerate(x):
        logits = [sum(token[i] * d["theta"][i, r] for i in range(inputs)) for r in range(rank)]
        mean_square = sum(logit**2 for logit in logits) / rank
        for o in range(outputs):
            for i in range(inputs):
                y[t, o] += token[i] * kernel[i, o]
        for r in range(rank):
            weight = math.exp(logits[r] / math.sqrt(mean_square + eps) * d["norm"][r])
            hidden = sum(token[i] * d["a"][i, r] for i in range(inputs))
            for o in range(outputs):
                y[t, o] += scale * hidden * weight * d["b"][r, o]
    return y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [2.0**-23, 3.0])
def test_apply_equals_loops_over_the_definition(shape, eps):
    kernel, x, d = numbers(shape), numbers((4, shape[0]), 1), random_d(shape)
    expected = token_by_token(d, kernel, x, 7 / 3, eps)
    apply = jax.jit(build(shape, eps=eps).apply)
    single = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), v) for v in (d, kernel, x)]
    y = np.asarray(apply({}, *single, None))
    within(np.abs(y - expected).max(), 1e-5 * np.abs(expected).max())
    with jax.enable_x64(True):
        y = apply({}, *jax.tree.map(jnp.asarray, (d, kernel, x)), None)
        assert y.dtype == jnp.float64
        y = np.asarray(y)
        within(np.abs(y - expected).max(), 1e-12 * np.abs(expected).max())
    other = token_by_token(d, kernel, x, 7 / 3, eps + 0.1)
    assert np.abs(y - other).max() > 1e-4 * np.abs(expected).max()


def test_gradients_equal_finite_differences_of_the_loops():
    shape = (8, 5)
    kernel, x, d = numbers(shape), numbers((2, 8), 1), random_d(shape)
    weight = numbers((2, 5), 7)
    method = build(shape)

    def by_loops(d):
        return np.sum(weight * token_by_token(d, kernel, x, 7 / 3, 2.0**-23))

    with jax.enable_x64(True):
        loss = jax.jit(
            jax.grad(lambda d, kernel, x: jnp.sum(weight * method.apply({}, d, kernel, x, None)))
        )
        grads = loss(*jax.tree.map(jnp.asarray, (d, kernel, x)))
    for name, value in d.items():
        step = numbers(value.shape, 8, 1e-6)
        slope = (by_loops(d | {name: value + step}) - by_loops(d | {name: value - step})) / 2
        ours = np.sum(np.asarray(grads[name]) * step)
        within(abs(ours - slope), 1e-6 * max(abs(slope), 1e-6))
        assert slope != 0


def test_the_update_of_a_sum_is_not_the_sum_of_updates():
    """Else a kernel would hold it."""
    shape = (24, 8)
    kernel, x = numbers(shape), numbers((2, 24), 1)
    method = build(shape)
    arrays = (random_d(shape), kernel, np.stack([x[0], x[1], x[0] + x[1]]))
    y = jax.jit(method.apply)(
        {}, *jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), arrays), None
    )
    assert not np.allclose(y[0] + y[1], y[2], rtol=0.05)
    with pytest.raises(NotMergeableError, match="depends on the token"):
        method.merge({}, arrays[0], jnp.zeros(shape))


def test_initial_values():
    d = build((400, 8)).init_d(KEY, jnp.zeros((400, 8)), {})
    bound = 1 / np.sqrt(400)
    for name in ("a", "theta"):
        assert d[name].shape == (400, 3)
        assert 0.98 * bound < np.abs(d[name]).max() <= bound
        within(abs(np.std(d[name]) - bound / np.sqrt(3)), 0.05 * bound, of_draws=True)
    assert np.any(d["a"] != d["theta"])
    assert not np.any(d["b"])
    assert np.all(d["norm"] == 1)


def test_dropout_reaches_a_but_not_theta_and_is_the_identity_on_average():
    shape = (24, 8)
    arrays = jax.tree.map(
        lambda v: jnp.asarray(v, jnp.float32),
        (random_d(shape), numbers(shape), numbers((3, 24), 1)),
    )
    d, kernel, x = arrays
    apply = jax.jit(build(shape, dropout=0.3).apply)
    keys = jax.random.split(KEY, 4000)
    ys = jax.vmap(lambda key: apply({}, d, kernel, x, key))(keys)
    full = apply({}, d, kernel, x, None)
    error = jnp.abs(ys.mean(0) - full) / (ys.std(0) / np.sqrt(len(keys)))
    within(error.max(), 4.5, of_draws=True)
    once = apply({}, d, kernel, x, keys[0])
    assert jnp.array_equal(once, apply({}, d, kernel, x, keys[0]))
    close(once, ys[0], rtol=1e-4, atol=1e-4)
    weights = toplora.gate(x, d["theta"], d["norm"], 2.0**-23)
    hidden = (product.drop(keys[0], 0.3, x) @ d["a"]) * weights
    close(ys[0], x @ kernel + 7 / 3 * hidden @ d["b"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"), [({"eps": 0.0}, "eps 0.0"), ({"rank": 0}, "rank 0")]
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TopLoRA(**fields)
