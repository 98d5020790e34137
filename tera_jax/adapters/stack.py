"""Functions of one layer, mapped over the stack that ``nn.scan`` made of the layers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from tera_jax.methods.base import TargetLayer
from tera_jax.trees import SHARED


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


def at_axes(
    layers: Sequence[TargetLayer], function: Callable[..., Any], *trees: Mapping[str, Any]
) -> dict[str, Any]:
    """``function(axis, *leaves)`` of collections ``d`` with an axis for several adapters.

    The axis is behind those of a layer's stack, and is the first of what all layers read.
    """
    axes = {layer.path: len(layer.stack) for layer in layers}

    def at(path: Any, *leaves: Any) -> Any:
        keys = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        found = (axes[keys[:end]] for end in range(len(keys)) if keys[:end] in axes)
        return function(0 if keys[0] == SHARED else next(found), *leaves)

    first, *others = map(dict, trees)
    return jax.tree_util.tree_map_with_path(at, first, *others)


def take_entries(index_B: Int[Array, " B"]) -> Callable[[int, Array], Array]:
    """For :func:`at_axes`: some entries along the adapters' axis."""

    def take(axis: int, leaf: Array) -> Array:
        at = (*[slice(None)] * axis, index_B)
        return leaf.at[at].get(mode="promise_in_bounds")

    return take
