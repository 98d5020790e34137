"""e4m3 kernels and rows against ml_dtypes and the definition of their scales."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tera_jax import float8
from tera_jax.float8 import E4M3, LARGEST

BOOK = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)


def kernel(*shape, dtype=jnp.float32):
    random = np.random.default_rng(0)
    array = random.standard_normal(shape) * np.exp(2 * random.standard_normal(shape[-1:]))
    return jnp.asarray(array, dtype)


def test_the_largest_code_is_448():
    assert float(jnp.finfo(E4M3).max) == LARGEST == np.nanmax(BOOK)


def test_scales_are_the_least_powers_of_two_that_do():
    kernel_IO = kernel(64, 48).at[:, 0].set(448.0).at[:, 1].set(jnp.nextafter(448.0, 1e3))
    kernel_IO = kernel_IO.at[:, 2].set(1e-30).at[:, 3].set(3e38)
    found = float8.by_channels(kernel_IO)
    scales = np.asarray(found.channel_scales, np.float64)
    largest = np.abs(np.asarray(kernel_IO, np.float64)).max(axis=0)
    assert np.all(np.frexp(scales)[0] == 0.5)
    assert np.all(largest <= LARGEST * scales)
    assert np.all(largest > LARGEST * scales / 2)
    assert scales[:2].tolist() == [1.0, 2.0]
    assert found.channel_scales.dtype == jnp.float32


def test_a_kernel_reads_as_its_nearest_codes():
    kernel_IO = kernel(32, 16)
    found = float8.by_channels(kernel_IO)
    assert (found.shape, found.ndim, found.size) == ((32, 16), 2, 512)
    assert found.codes.shape == (16, 32)
    book = np.sort(BOOK[np.isfinite(BOOK)])
    scales = np.asarray(found.channel_scales, np.float64)
    scaled = np.asarray(kernel_IO, np.float64) / scales
    nearest = book[np.argmin(np.abs(scaled[..., None] - book), axis=-1)] * scales
    np.testing.assert_array_equal(np.asarray(found.dequantize(), np.float64), nearest)
    assert not np.array_equal(kernel_IO, nearest)


def test_bfloat16_holds_what_a_kernel_reads_as():
    found = float8.by_channels(kernel(32, 16, dtype=jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    half, whole = found.dequantize(), found.dequantize(jnp.float32)
    assert half.dtype == jnp.bfloat16
    assert jnp.array_equal(half.astype(jnp.float32), whole)
    other = found.replace(channel_scales=found.channel_scales * 1.1)
    assert not jnp.array_equal(other.dequantize().astype(jnp.float32), other.dequantize("float32"))
    # and so the second quantisation of a kernel loses nothing
    again = float8.by_channels(half)
    assert jnp.array_equal(again.dequantize(), half)


def test_rows_have_scales_of_their_own():
    x_TK = kernel(16, 32).T
    codes, scales = float8.by_rows(x_TK)
    assert (codes.dtype, codes.shape, scales.shape) == (E4M3, (32, 16), (32, 1))
    largest = np.abs(np.asarray(x_TK)).max(axis=1, keepdims=True)
    np.testing.assert_allclose(scales, largest / 448, rtol=1e-6)
    assert np.all(np.abs(np.asarray(codes, np.float32)).max(axis=1) == 448)
    error = np.abs(np.asarray(codes, np.float64) * np.asarray(scales, np.float64) - x_TK)
    # half of the last bit of three, or of the least codes' spacing of 2^-9
    limit = np.maximum(np.abs(x_TK) / 16, scales * 2**-10) * (1 + 1e-5)
    assert np.all(error <= limit)
    assert np.any(error > 0.9 * np.abs(x_TK) / 17)


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-38])
def test_zeros_and_the_least_numbers_have_finite_codes(tiny):
    x_TK = jnp.full((4, 16), tiny, jnp.float32)
    codes, scales = float8.by_rows(x_TK)
    found = float8.by_channels(x_TK)
    for array in (codes, scales, found.codes, found.channel_scales, found.dequantize()):
        assert np.all(np.isfinite(np.asarray(array, np.float64)))
    if tiny == 0:
        assert not np.any(np.asarray(codes, np.float32))
        assert not np.any(np.asarray(found.dequantize()))


def test_what_is_not_finite_is_not_hidden():
    for value in (jnp.inf, jnp.nan):
        found = float8.by_channels(kernel(16, 4).at[3, 1].set(value))
        assert jnp.all(jnp.isnan(found.dequantize()[:, 1]))
        assert jnp.all(jnp.isfinite(found.dequantize()[:, 2]))


def test_a_kernel_is_a_pytree_of_two_arrays():
    leaves = jax.tree.leaves_with_path(float8.by_channels(kernel(16, 8)))
    names = [jax.tree_util.keystr(path, simple=True) for path, _ in leaves]
    assert names == ["codes", "channel_scales"]
