"""Seeded frozen arrays that come out bit for bit the same on every backend, and fingerprints.

``jax.random.normal`` passes its random bits through functions whose last bit depends on the
backend. A frozen network must regenerate from its seed wherever the adapter is loaded, so the
draws here take the exact integer bits of Threefry, map them to a float32 without rounding or by a
table, and round once in one multiplication.
"""

import functools
import hashlib
import json
import math
import statistics
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree, UInt32

from tera_jax import trees

SHARED = "shared"
"""Where the collection ``frozen`` keeps the sets that layers share."""
_QUANTILE_BITS = 16


def seed_key(seed: int | Int[Array, ""], *address: str) -> Key[Array, ""]:
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


def fingerprint(tree: PyTree, rounded_to: Any = None) -> str:
    """16 hexadecimal digits that change with any path, shape, type or bit of the arrays.

    Computed where the arrays lie, in integer arithmetic, so that a sharded tree gives the same
    digits as one on a single device and nothing but two integers an array reaches the host. It
    tells things apart that were mixed up; it does not withstand an attacker.

    Args:
        tree: arrays of 8, 16 or 32 bits an entry; 64-bit ones need ``rounded_to``.
        rounded_to: a type that every array is rounded to first, so that the same weights held in
            a wider type have the same fingerprint.
    """
    leaves = [(name, jnp.asarray(leaf)) for name, leaf in trees.named(tree).items()]
    rows = [
        [path, list(leaf.shape), str(rounded_to or leaf.dtype), _checksum(leaf, rounded_to)]
        for path, leaf in leaves
    ]
    fetched = jax.device_get(rows)
    text = json.dumps([[path, shape, name, check.tolist()] for path, shape, name, check in fetched])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.partial(jax.jit, static_argnames="rounded_to")
def _checksum(leaf: Array, rounded_to: Any) -> UInt32[Array, "2"]:
    if rounded_to is not None:
        leaf = leaf.astype(rounded_to)
    width = leaf.dtype.itemsize * 8
    if width > 32:
        raise ValueError(f"a fingerprint of {leaf.dtype} entries; round them to 32 bits or fewer")
    word = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}")).astype(jnp.uint32)
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, leaf.shape, axis
        )
    lanes = [
        jnp.sum(_mix(word ^ _mix(position + np.uint32(salt))), dtype=jnp.uint32)
        for salt in (0x243F6A88, 0x85A308D3)
    ]
    return jnp.stack(lanes)


def _mix(word: Array) -> Array:
    """A bijection of 32-bit words in which every input bit reaches every output bit."""
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * np.uint32(0x846CA68B)
    return word ^ (word >> 16)
