"""The product with an e4m3 kernel against float64 of the same codes, and its gradient."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import float8
from tera_jax.ops import dispatch, fp8_matmul
from tests.margins import roundings, within

SHAPES = [(7, 64, 48), (32, 48, 160)]


def arrays(tokens, inputs, outputs, dtype=jnp.float32):
    """Rows of unlike size with an outlier, and a kernel of channels of unlike size."""
    random = np.random.default_rng(0)
    x_TI = random.standard_normal((tokens, inputs)) * np.exp2(random.integers(-6, 6, (tokens, 1)))
    x_TI[:, 3] *= 20
    ct_TO = 1e-4 * random.standard_normal((tokens, outputs))
    kernel_IO = random.standard_normal((inputs, outputs)) * np.exp(random.normal(size=outputs))
    return (
        jnp.asarray(x_TI, dtype),
        float8.by_channels(jnp.asarray(0.02 * kernel_IO, dtype)),
        jnp.asarray(ct_TO, dtype),
    )


def product_and_gradient(x_TI, kernel, ct_TO):
    y_TO, pull = jax.vjp(lambda x: fp8_matmul.matmul(x, kernel), x_TI)
    return y_TO, *pull(ct_TO)


def exact(rows):
    """What rows stand for, in float64: their codes times their scales."""
    codes, scales = float8.by_rows(rows)
    return np.asarray(codes, np.float64) * np.asarray(scales, np.float64)


def references(x_TI, kernel, ct_TO):
    codes_OI = np.asarray(kernel.codes, np.float64)
    scales_O = np.asarray(kernel.channel_scales, np.float64)
    kernel_IO = (codes_OI * scales_O[:, None]).T
    scaled_TO = ct_TO.astype(jnp.float32) * kernel.channel_scales[None, :]
    return exact(x_TI) @ kernel_IO, exact(scaled_TO) @ codes_OI


def error(found, expected):
    return np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_and_gradient_are_float64_s_of_the_same_codes(shape, dtype):
    given = arrays(*shape, dtype=dtype)
    found = jax.jit(product_and_gradient)(*given)
    # float32: a sum's roundings, and two scales'. bfloat16: of the sum, and of the scaled result.
    limits = {
        jnp.float32: [roundings(jnp.float32, side + 3) for side in (shape[1], shape[2])],
        jnp.bfloat16: [3e-3] * 2,
    }[dtype]
    for one, expected, limit in zip(found, references(*given), limits, strict=True):
        assert one.dtype == dtype
        within(error(one, expected), limit)
    # The codes are not the numbers: a product of these is another, and so is its gradient.
    x_TI, kernel, ct_TO = (
        np.asarray(jnp.asarray(a, jnp.float32), np.float64)
        for a in (given[0], given[1].dequantize(jnp.float32), given[2])
    )
    assert 4e-3 < error(found[0], x_TI @ kernel) < 0.06
    assert 4e-3 < error(found[1], ct_TO @ kernel.T) < 0.06


def test_codes_in_both_layouts_give_the_same_and_nothing_is_read_across():
    given = x_TI, kernel, ct_TO = arrays(32, 48, 160)
    both = float8.with_both_layouts(kernel)
    expected = jax.jit(product_and_gradient)(*given)
    for a, b in zip(jax.jit(product_and_gradient)(x_TI, both, ct_TO), expected, strict=True):
        within(error(a, np.asarray(b, np.float64)), roundings(jnp.float32, 160))
    # The backward pass reads the second layout, and both directions sum along the last axis.
    zeros = both.replace(backward_codes=jnp.zeros_like(both.backward_codes))
    y_TO, to_x_TI = product_and_gradient(x_TI, zeros, ct_TO)
    assert jnp.array_equal(y_TO, fp8_matmul.matmul(x_TI, kernel))
    assert not jnp.any(to_x_TI)
    across = [
        str(jax.make_jaxpr(product_and_gradient)(x_TI, each, ct_TO)).count("([1], [0])")
        for each in (kernel, both)
    ]
    assert across == [1, 0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("layouts", [1, 2])
def test_a_product_with_uncast_input_is_that_of_the_dequantised_kernel(layouts, dtype):
    x_TI, kernel, ct_TO = arrays(5, 32, 160, dtype)
    stored = float8.with_both_layouts(kernel) if layouts == 2 else kernel
    y_TO, pull = jax.vjp(lambda x_TI: fp8_matmul.with_uncast_input(x_TI, stored), x_TI)
    found = y_TO, pull(ct_TO)[0]
    plain = np.asarray(kernel.dequantize(jnp.float32), np.float64)
    expected = np.asarray(x_TI, np.float64) @ plain, np.asarray(ct_TO, np.float64) @ plain.T
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        within(error(a, b), roundings(dtype, 160))
    assert error(fp8_matmul.matmul(x_TI, stored), expected[0]) > 4e-3
    stacked = fp8_matmul.with_uncast_input(x_TI[None], stored)
    assert jnp.array_equal(stacked[0], y_TO)


def test_leading_axes_are_rows():
    x_TI, kernel, _ = arrays(6, 32, 16)
    found = fp8_matmul.matmul(x_TI.reshape(2, 3, 32), kernel)
    assert jnp.array_equal(found.reshape(6, 16), fp8_matmul.matmul(x_TI, kernel))
    # A row has a scale of its own: the other rows do not change it.
    other = x_TI.at[1:].multiply(1e3)
    assert jnp.array_equal(fp8_matmul.matmul(other, kernel)[0], found[0, 0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_zeros_and_huge_numbers_stay_finite(dtype):
    x_TI, kernel, ct_TO = arrays(8, 32, 16, dtype)
    huge = float(jnp.finfo(dtype).max) / 4
    x_TI = x_TI.at[0].set(0).at[1].set(0).at[1, 5].set(huge).at[2].set(1e-30)
    small = float8.by_channels(jnp.asarray(np.asarray(kernel.dequantize(jnp.float32)) * 1e-3))
    small = float8.by_channels(small.dequantize(jnp.float32).at[:, 4].set(0))
    ct_TO = ct_TO.at[3].set(0).at[4].set(huge)
    y_TO, to_x_TI = product_and_gradient(x_TI, small, ct_TO)
    assert jnp.all(jnp.isfinite(y_TO))
    assert jnp.all(jnp.isfinite(to_x_TI))
    assert jnp.all(y_TO[0] == 0)
    assert jnp.all(y_TO[:, 4] == 0)
    assert jnp.all(to_x_TI[3] == 0)
    expected = huge * np.asarray(small.dequantize(jnp.float32), np.float64)[5]
    np.testing.assert_allclose(np.asarray(y_TO[1], np.float64), expected, rtol=1e-2)
    assert jnp.all(jnp.abs(to_x_TI[4]) > 1e30)
    assert jnp.any(y_TO[2] != 0)


def test_what_is_not_finite_is_not_hidden():
    x_TI, kernel, _ = arrays(4, 32, 16)
    y_TO = fp8_matmul.matmul(x_TI.at[1, 2].set(jnp.nan).at[2, 3].set(jnp.inf), kernel)
    assert not jnp.any(jnp.isfinite(y_TO[1:3]))
    assert jnp.all(jnp.isfinite(y_TO[jnp.asarray([0, 3])]))


def test_nothing_is_kept_of_the_activations_and_the_kernel_gets_no_gradient():
    x_TI, kernel, _ = arrays(512, 32, 16)
    pull = jax.eval_shape(lambda x: jax.vjp(lambda x: fp8_matmul.matmul(x, kernel), x)[1], x_TI)
    kept = jax.tree.leaves(pull)
    assert max((leaf.size for leaf in kept), default=0) <= kernel.size
    text = str(jax.make_jaxpr(product_and_gradient)(x_TI, kernel, x_TI[:, :16]))
    assert text.count("dot_general[") == 2
    assert text.count("f8_e4m3fn[16,32]") >= 1


def test_a_sum_has_all_bits_where_matmuls_are_to(monkeypatch):
    x_TI, kernel, ct_TO = arrays(16, 32, 16)

    def precisions():
        text = str(jax.make_jaxpr(product_and_gradient)(x_TI, kernel, ct_TO))
        return text.count("Precision.HIGHEST"), text.count("Precision.DEFAULT")

    usual = precisions()
    assert usual[0] == 0
    assert usual[1] > 0
    with jax.default_matmul_precision("highest"):
        exact_ = precisions()  # the backward pass too
    assert exact_ == usual[::-1]


def test_what_does_not_fit_is_refused_with_one_line(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    fp8_matmul._refused.cache_clear()
    _, kernel, _ = arrays(4, 32, 16)
    assert fp8_matmul.takes(kernel)
    odd = float8.by_channels(jnp.ones((32, 24)))
    stack = float8.by_channels(jnp.ones((2, 32, 16)))
    assert not caplog.messages
    assert not any(map(fp8_matmul.takes, (odd, odd, stack)))
    assert [message[:35] for message in caplog.messages] == [
        "no fp8 matmul: a kernel (32, 24) is",
        "no fp8 matmul: a kernel (2, 32, 16)",
    ]
    monkeypatch.setattr(dispatch, "on_gpu", lambda: True)
    for capability, taken in ((8.0, False), (8.9, True), (9.0, True)):
        monkeypatch.setattr(dispatch, "compute_capability", lambda c=capability: c)
        assert fp8_matmul.takes(kernel) == taken
    assert "compute capability is below 8.9" in caplog.messages[-1]
    fp8_matmul._refused.cache_clear()
