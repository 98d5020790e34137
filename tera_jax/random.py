"""Seeded random arrays that come out bit for bit the same on every backend.

``jax.random.normal`` passes its random bits through functions whose last bit depends on the
backend. A frozen network must regenerate from its seed wherever the adapter is loaded. So the draws
here take the exact integer bits of Threefry, map them to a float32 without rounding or by a table,
and round once in one multiplication.
"""

import functools
import math
import statistics
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, Key

_QUANTILE_BITS = 16


def seed_key(seed: int | Integer[Array, ""], *address: str) -> Key[Array, ""]:
    """The Threefry key of a seed, which may be traced, and an address, as the name of a frozen set.

    The address goes in by its CRC-32, so that a set's values do not depend on which others exist.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    for name in address:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    # Under jit XLA would otherwise compute everything that follows from a constant at compile time.
    data = jax.lax.optimization_barrier(jax.random.key_data(key))
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def uniform(
    key: Key[Array, ""], shape: tuple[int, ...], std: float, dtype: Any = jnp.float32
) -> Array:
    """Uniform on (-sqrt(3) std, sqrt(3) std): 2^24 equally likely values, none of them zero.

    Args:
        key: a Threefry key.
        shape: of the result.
        std: its standard deviation.
        dtype: float32 or, rounded from it once, a narrower type.
    """
    odd = 2 * (jax.random.bits(key, shape, jnp.uint32) >> 8).astype(jnp.int32) + 1 - 2**24
    return _scale(odd.astype(jnp.float32), math.sqrt(3.0) * std * 2.0**-24, dtype)


def normal(
    key: Key[Array, ""], shape: tuple[int, ...], std: float, dtype: Any = jnp.float32
) -> Array:
    """Normal with mean 0: the 2^16 mid-point quantiles of its distribution, equally likely.

    The largest draw is 4.3 standard deviations; mean and variance are exact.

    Args:
        key: a Threefry key.
        shape: of the result.
        std: its standard deviation.
        dtype: float32 or, rounded from it once, a narrower type.
    """
    index = jax.random.bits(key, shape, jnp.uint32) >> (32 - _QUANTILE_BITS)
    return _scale(jnp.asarray(_normal_quantiles())[index], std, dtype)


def _scale(values: Array, factor: float, dtype: Any) -> Array:
    return (values * np.float32(factor)).astype(dtype)


@functools.cache
def _normal_quantiles() -> np.ndarray:
    half = 2 ** (_QUANTILE_BITS - 1)
    inverse = statistics.NormalDist().inv_cdf
    upper = np.array([inverse(0.5 + (i + 0.5) / (2 * half)) for i in range(half)])
    upper /= np.sqrt(np.mean(upper**2))
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)
