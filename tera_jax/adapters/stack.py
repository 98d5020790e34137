"""Functions of one layer, mapped over the stack that ``nn.scan`` made of the layers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tera_jax.methods.base import TargetLayer


def stack_keys(key: Key[Array, ""], layer: TargetLayer) -> Key[Array, "..."]:
    """A key for each layer of the stack."""
    count = math.prod(layer.stack)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(count))
    return keys.reshape(layer.stack)


def over_stack(function: Callable[..., Any], layer: TargetLayer) -> Callable[..., Any]:
    """``function`` over the stack axes of its arguments, one layer at a time."""
    for _ in layer.stack:
        function = _mapped(function)
    return function


def _mapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: jax.lax.map(lambda each: function(*each), args)
