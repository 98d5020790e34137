"""The product of a layer's input with its kernel, beside which a method stands."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.float8 import Float8Kernel

Rng: TypeAlias = Key[Array, ""] | None
"""A random key, or None where nothing is to be drawn."""


def linear(x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
    """The product x W in the type of x."""
    return jnp.einsum("...i,io->...o", x, kernel.astype(x.dtype))


class Product(NamedTuple):
    """How a layer multiplies.

    Attributes:
        matmul: (x, W) -> x W in the type of x, for W as the base stores it.
        dropout: a key, or None to leave all of x.
        stored: W as the base stores it where ``matmul`` reads that, else None. Who makes W + ΔW can
            read it in W's place.
    """

    matmul: Callable[[Array, Array], Array] = linear
    dropout: Rng = None
    stored: Float8Kernel | None = None


PLAIN = Product()


def drop(key: Rng, rate: float, x: Float[Array, "*B I"]) -> Float[Array, "*B I"]:
    """Inverted dropout, its expectation being x; all of x when ``key`` is None or ``rate`` 0."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
