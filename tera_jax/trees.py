"""Leaves of nested trees by name: ``layers/self_attn/q_proj/kernel``."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

SHARED = "shared"
"""Where the collection ``frozen`` keeps the sets that layers share."""


def name(path: tuple[Any, ...]) -> str:
    """Of a leaf, from the keys of its path as ``jax.tree_util`` gives them."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the order of the tree."""
    return {name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def not_finite(tree: Any) -> str | None:
    """The name of the first array with an entry that is NaN or infinite; None where all are finite.

    Computed where the arrays lie; one truth value an array reaches the host.
    """
    floats = {
        name: leaf for name, leaf in named(tree).items() if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    flags = jax.device_get(_are_finite(list(floats.values())))
    return next((name for name, flag in zip(floats, flags, strict=True) if not flag), None)


def require_finite(tree: Any, what: str) -> None:
    """Raise ``ValueError`` that names the first array with NaN or infinity.

    Args:
        tree: of arrays.
        what: they are, for the error.
    """
    name_ = not_finite(tree)
    if name_ is not None:
        raise ValueError(
            f"{name_} of {what} has entries that are NaN or infinite; nothing is written. Take an "
            "earlier checkpoint, or train again at a lower config.optim.learning_rate"
        )


@jax.jit
def _are_finite(leaves: list[Any]) -> list[jax.Array]:
    return [
        jnp.all(jnp.isfinite(leaf.astype(jnp.float32) if leaf.dtype.itemsize == 1 else leaf))
        for leaf in leaves
    ]


def same_arrays(a: Any, b: Any) -> bool:
    """Whether two trees hold the very same arrays, of which nothing is read."""
    leaves = [jax.tree.leaves(tree) for tree in (a, b)]
    return len(leaves[0]) == len(leaves[1]) and all(map(operator.is_, *leaves))
