"""Where slots lie on a mesh: rows over ``data`` and ``fsdp``, heads of the cache over ``tensor``.

This holds under ``jax.set_mesh`` with the axes of :func:`tera_jax.sharding.make_mesh`. Elsewhere
every function but :func:`write` gives back what it got.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from tera_jax import sharding

Tree = TypeVar("Tree")


def on_mesh() -> bool:
    """Whether there is a mesh with our axes."""
    return bool(_sizes())


def shards() -> int:
    """Parts that the rows of a batch are split into; 1 without a mesh."""
    sizes = _sizes()
    return sizes.get("data", 1) * sizes.get("fsdp", 1)


def require_divisible(batch: int) -> None:
    """Check that the mesh divides the slots.

    Raises:
        ValueError: where it does not.
    """
    if batch % shards():
        raise ValueError(
            f"{batch} slots do not split over the {shards()} parts of mesh data x fsdp; choose a "
            f"multiple of {shards()}"
        )


def by_row(tree: Tree) -> Tree:
    """Arrays that lead with the rows of the batch."""
    return jax.tree.map(lambda leaf: placed(leaf, P(sharding.BATCH)), tree)


def cache(slots: Tree, rows: bool = True) -> Tree:
    """Keys or values ``(..., B, S, K, H)``.

    Args:
        slots: of all layers.
        rows: whether B is that of the batch; else every device of ``data`` has all of it.
    """

    def place(leaf: jax.Array) -> jax.Array:
        size = _sizes().get("tensor", 1)
        heads = "tensor" if size > 1 and leaf.shape[-2] % size == 0 else None
        first = sharding.BATCH if rows else None
        return placed(leaf, P(*[None] * (leaf.ndim - 4), first, None, heads, None))

    return jax.tree.map(place, slots)


def everywhere(tree: Tree) -> Tree:
    """Arrays that every device has."""
    return jax.tree.map(lambda leaf: placed(leaf, P()), tree)


def placed(leaf: jax.Array, spec: P) -> jax.Array:
    """An array as the mesh is to have it."""
    return lax.with_sharding_constraint(leaf, spec) if _sizes() else leaf


def _sizes() -> dict[str, int]:
    """Of the mesh's axes; none where it is not one of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    return dict(mesh.shape) if {*sharding.AXES} <= {*mesh.axis_names} else {}


def write(slots_BSKH: jax.Array, slot_R: jax.Array, new_RLKH: jax.Array) -> jax.Array:
    """Keys or values of R prompts into R slots, of one layer or, with an axis in front, a stack."""
    axis, size = slots_BSKH.ndim - 4, new_RLKH.shape[-3]
    new_RLKH = new_RLKH.astype(slots_BSKH.dtype)
    if not on_mesh():
        at = (*[slice(None)] * axis, slot_R, slice(size))
        return slots_BSKH.at[at].set(new_RLKH, mode="promise_in_bounds", unique_indices=True)

    def one(place: Any, slots_BSKH: jax.Array) -> jax.Array:
        """One update after the other: a scatter would bring the cache to every device."""
        new_1LKH = lax.dynamic_slice_in_dim(new_RLKH, place, 1, axis)
        zero = jnp.zeros_like(slot_R[0])
        start = (*[zero] * axis, slot_R[place], zero, zero, zero)
        return lax.dynamic_update_slice(slots_BSKH, new_1LKH, start)

    return lax.fori_loop(0, len(slot_R), one, slots_BSKH)
