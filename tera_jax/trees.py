"""Leaves of nested trees by name: ``layers/self_attn/q_proj/kernel``."""

from typing import Any

import jax

SHARED = "shared"
"""Where the collection ``frozen`` keeps the sets that layers share."""


def name(path: tuple[Any, ...]) -> str:
    """Of a leaf, from the keys of its path as ``jax.tree_util`` gives them."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the order of the tree."""
    return {name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
