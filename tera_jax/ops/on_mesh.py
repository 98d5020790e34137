"""Functions that XLA cannot split over devices, such as our kernels: each device does its part.

A part is run under ``jax.shard_map`` over the mesh that is set (``jax.set_mesh``). Derivatives are
taken inside: whoever has a backward pass of its own calls :func:`run` once in each direction.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from tera_jax import sharding
from tera_jax.ops import dispatch

BATCH = sharding.BATCH
"""The axes of the mesh that split the rows of a batch."""
ROWS = P(BATCH)
"""The layout of an array whose leading axis are the rows of a batch."""


def is_split() -> bool:
    """Whether XLA splits what is traced now over several devices, along the axes of our meshes."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = mesh.axis_names == sharding.AXES
    return ours and mesh.size > 1 and set(mesh.axis_types) == {AxisType.Auto}


def has_kernels() -> bool:
    """Whether what is traced now runs on GPUs, and each can run kernels on its part."""
    return dispatch.on_one_gpu() or (dispatch.on_gpu() and is_split())


def splits_rows(rows: int) -> bool:
    """Whether every device has as many of so many rows, as on one it has."""
    return not is_split() or rows % sharding.batch_shards() == 0


def parts(*axes: str | None) -> int:
    """Into how many an axis of an array is split over these axes of the mesh; 1 without a mesh."""
    return math.prod(sharding.axis_size(axis) for axis in axes if axis) if is_split() else 1


def run(
    function: Callable[..., Any],
    in_specs: Sequence[Any],
    out_specs: Any,
    *args: Any,
) -> Any:
    """``function(*args)``: as it is where nothing is split, else of each device's part.

    Args:
        function: of the parts. What it returns whole has to be the same on all devices:
            :func:`total` of their sums is.
        in_specs: for each argument how it is split, or a tree of that.
        out_specs: likewise of the result.
        args: the whole arrays.
    """
    if not is_split():
        return function(*args)
    mapped = jax.shard_map(
        function,
        in_specs=tuple(in_specs),
        out_specs=out_specs,
        check_vma=False,
    )
    return mapped(*args)


def total(tree: Any, axes: Sequence[str] = sharding.AXES) -> Any:
    """Inside of :func:`run`: the sum over the devices, by one collective for all arrays."""
    present = [axis for axis in axes if parts_inside(axis) > 1]
    return jax.lax.psum(tree, tuple(present)) if present else tree


def among_zeros(x_TC: Float[Array, "T C"], axis: str | None, count: int) -> Float[Array, "T N"]:
    """Inside of :func:`run`: this device's columns where they belong among zeros.

    Args:
        x_TC: its columns.
        axis: of the mesh that splits them, if one does.
        count: N, of all devices.
    """
    if x_TC.shape[1] == count:
        return x_TC
    start = first(axis, x_TC.shape[1])
    return jax.lax.dynamic_update_slice_in_dim(
        jnp.zeros((len(x_TC), count), x_TC.dtype), x_TC, start, axis=1
    )


def whole(tree: Any) -> Any:
    """Arrays of which every device of the mesh has all."""
    if not is_split():
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, P()), tree)


def parts_inside(axis: str) -> int:
    """Inside of :func:`run`: devices along an axis of the mesh, or 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return int(mesh.shape[axis]) if axis in mesh.manual_axes else 1


def first(axis: str | None, count: int) -> Any:
    """Inside of :func:`run`: where this device's ``count`` entries of an array's axis begin.

    Args:
        axis: of the mesh, along which the array's axis is split, if it is.
        count: entries of each device.
    """
    return 0 if axis is None or parts_inside(axis) == 1 else jax.lax.axis_index(axis) * count
