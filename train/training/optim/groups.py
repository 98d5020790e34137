"""Groups of the arrays of ``d`` by patterns of their paths: which decay, and how fast each moves.

A path has the names of the tree with slashes between them, such as
``layers/self_attn/v_proj/lora/a``. A pattern is one name or more, with the wildcards of
``fnmatch``. It matches where its names follow each other anywhere in a path: ``v_proj``, ``lora/b``
and ``*_proj/lora`` do.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import optax

from ...config import OptimConfig


def paths(d: Any) -> list[str]:
    """The path of each array of ``d``, abstract or real, in the order of its leaves."""
    return [_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(d)]


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern names the array at a path."""
    names, wanted = path.split("/"), pattern.split("/")
    return any(
        all(map(fnmatch.fnmatchcase, names[start:], wanted))
        for start in range(len(names) - len(wanted) + 1)
    )


def mask(d: Any, patterns: Sequence[str]) -> Any:
    """A tree like ``d`` that is true where a pattern matches; true everywhere for no pattern."""

    def is_named(keys: Any, _: Any) -> bool:
        path = _path(keys)
        return not patterns or any(matches(path, pattern) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(is_named, d)


def factors(d: Any, given: Sequence[tuple[str, float]]) -> Any:
    """A tree like ``d`` of factors of the rate: that of the first pattern that matches, or 1.

    Args:
        d: abstract or real.
        given: patterns and their factors.
    """

    def factor(keys: Any, _: Any) -> float:
        path = _path(keys)
        return next((factor for pattern, factor in given if matches(path, pattern)), 1.0)

    return jax.tree_util.tree_map_with_path(factor, d)


def scale(given: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Updates times the factors of :func:`factors`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scaled = jax.tree.map(lambda leaf, by: leaf * by, updates, factors(updates, given))
        return scaled, state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def require_patterns(config: OptimConfig, d: Any) -> None:
    """Check that each pattern of a configuration names an array, before long work starts.

    Args:
        config: of the optimizer.
        d: the trainable arrays, abstract or real.

    Raises:
        ValueError: for a pattern that names none, or none that an earlier one has left; it lists
            the paths.
    """
    known = paths(d)
    left = known
    for pattern, _ in config.factors:
        if not any(matches(path, pattern) for path in left):
            earlier = any(matches(path, pattern) for path in known)
            why = "names only arrays of earlier patterns" if earlier else "names no array of d"
            raise _unmatched("rate_factors", pattern, why, known)
        left = [path for path in left if not matches(path, pattern)]
    for pattern in config.weight_decay_mask:
        if not any(matches(path, pattern) for path in known):
            raise _unmatched("weight_decay_mask", pattern, "names no array of d", known)


def _unmatched(field: str, pattern: str, why: str, known: Sequence[str]) -> ValueError:
    return ValueError(
        f"config.optim.{field} has {pattern!r}, which {why}; there are {', '.join(known)}"
    )


def _path(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
