"""Fingerprints of trees of arrays, the same on every mesh."""

import functools
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

from tera_jax import trees


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


def exact_fingerprint(params: Any, rounded: str) -> str:
    """The fingerprint of every bit of a base's ``params`` as they are held.

    Args:
        params: of the base, quantised or not.
        rounded: their :func:`base_fingerprint`, which is the answer where rounding to bfloat16
            loses no bit: for a base in bfloat16, int8 or fewer bits.
    """
    lossless = all(
        leaf.dtype == jnp.bfloat16 or leaf.dtype.itemsize == 1 for leaf in jax.tree.leaves(params)
    )
    return rounded if lossless else fingerprint(params)


def base_fingerprint(params: Any) -> str:
    """The fingerprint of a base's ``params``, the same whether held in float32 or bfloat16."""
    return fingerprint(params, rounded_to=jnp.bfloat16)
