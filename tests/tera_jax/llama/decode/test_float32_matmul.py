import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.llama.decode import float32_matmul
from tests.margins import roundings, within


def test_six_products_are_a_float32_product():
    a, b = (
        np.random.default_rng(i).normal(size=shape)
        for i, shape in enumerate([(96, 200), (200, 64)])
    )
    x_TI, kernel_IO = a.astype(np.float32), b.astype(np.float32)
    exact = x_TI.astype(np.float64) @ kernel_IO.astype(np.float64)
    scale = np.abs(exact).max()

    def error(function):
        return np.abs(np.asarray(function(x_TI, kernel_IO), np.float64) - exact).max() / scale

    def three(x_TI, kernel_IO):
        (x1, x2, _), (k1, k2, _) = (
            [np.asarray(part, np.float32) for part in float32_matmul._parts(jnp.asarray(each))]
            for each in (x_TI, kernel_IO)
        )
        return x1 @ k1 + x1 @ k2 + x2 @ k1

    within(error(jax.jit(float32_matmul.matmul)), 1e-6)
    assert error(three) > 2e-6


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_dense_layer_takes_them_for_many_rows_in_float32(use_bias):
    layer = nn.Dense(32, use_bias=use_bias, bias_init=nn.initializers.normal())
    x_BLD = jax.random.normal(jax.random.key(0), (2, 300, 48))
    variables = layer.init(jax.random.key(1), x_BLD)

    def apply(x_BLD):
        with nn.intercept_methods(float32_matmul.interceptor):
            return layer.apply(variables, x_BLD)

    found, expected = apply(x_BLD), layer.apply(variables, x_BLD)
    bound = roundings("float32", x_BLD.shape[-1])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=bound * np.abs(expected).max())
    for given, taken in ((x_BLD, True), (x_BLD[:, :200], False)):
        assert ("bf16" in str(jax.make_jaxpr(apply)(given))) == taken


def test_a_layer_in_another_type_is_left_alone():
    layer = nn.Dense(32, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    x_BD = jax.random.normal(jax.random.key(0), (float32_matmul._ROWS, 48), jnp.bfloat16)
    variables = layer.init(jax.random.key(1), x_BD)
    with nn.intercept_methods(float32_matmul.interceptor):
        found = layer.apply(variables, x_BD)
    np.testing.assert_array_equal(found, layer.apply(variables, x_BD))
