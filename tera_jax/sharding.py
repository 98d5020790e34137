"""The device mesh, and layouts on it that hold for any model."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax.trees import SHARED

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are split."""

_INPUTS_OVER_TENSOR = ("o_proj", "down_proj")
"""Layers that read what ``tensor`` splits; all others make such outputs."""

REPLICATED_BYTES = 2**28
"""A frozen array of more bytes is split over ``fsdp`` (:func:`frozen_shardings`): 256 MiB."""


def parse_mesh(text: str) -> dict[str, int]:
    """The size of every axis from a text such as ``data=2,fsdp=4``; those left out are 1.

    Raises:
        ValueError: for an unknown axis, one that is named twice, or a size that is no integer of
            at least 1.

    Example:
        >>> parse_mesh("fsdp=8")
        {'data': 1, 'fsdp': 8, 'tensor': 1}
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        axis, _, size = part.partition("=")
        if axis not in AXES:
            raise ValueError(f"mesh {text!r} has an axis {axis!r}; the axes are {', '.join(AXES)}")
        if axis in sizes:
            raise ValueError(f"mesh {text!r} names {axis} twice; give it one size")
        if not size.isdecimal() or int(size) < 1:
            raise ValueError(
                f"mesh {text!r} gives {axis} the size {size!r}; write an integer of at least 1, "
                f"as in {axis}=2"
            )
        sizes[axis] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh with the axes ``data``, ``fsdp`` and ``tensor`` over the first devices.

    Raises:
        ValueError: when the three sizes need more devices than there are, or fewer where there are
            several processes, each of which must hold a part.
    """
    sizes = _checked(data, fsdp, tensor)
    needed, present = data * fsdp * tensor, jax.device_count()
    name = f"the mesh data={data}, fsdp={fsdp}, tensor={tensor} needs {needed} devices"
    if needed > present:
        raise ValueError(f"{name}, but JAX sees {present}; lower one of the three")
    if needed < present and jax.process_count() > 1:
        raise ValueError(
            f"{name}, but the {jax.process_count()} processes have {present}; a run of several "
            "processes uses them all: raise one of the three"
        )
    return jax.make_mesh(sizes, AXES, axis_types=_TYPES, devices=jax.devices()[:needed])


def abstract_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
    """A mesh without devices: layouts on it have shapes, for any number of devices."""
    return AbstractMesh(_checked(data, fsdp, tensor), AXES, axis_types=_TYPES)


_TYPES = (AxisType.Auto,) * len(AXES)


def _checked(*sizes: int) -> tuple[int, ...]:
    if min(sizes) < 1:
        raise ValueError(f"mesh sizes must be at least 1, not data, fsdp, tensor = {sizes}")
    return sizes


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def rows(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The leading axis, the rows of a batch, split over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


def kernel_axes(layer: str) -> tuple[str, str]:
    """The axes of the mesh over which a kernel (inputs, outputs) is split.

    Args:
        layer: the last name of its path, such as ``q_proj``.
    """
    return ("tensor", "fsdp") if layer in _INPUTS_OVER_TENSOR else ("fsdp", "tensor")


def rows_of_device(count: int) -> int:
    """Of so many rows, of a batch or of its tokens, those that one device has."""
    return -(-count // batch_shards())


def axis_size(axis: str) -> int:
    """Of the mesh that is set where this is traced (``jax.set_mesh``); 1 without one."""
    return int(jax.sharding.get_abstract_mesh().shape.get(axis, 1))


def batch_shards() -> int:
    """Parts that the rows of a batch are split into under the mesh that is set."""
    return math.prod(map(axis_size, BATCH))


def whole_along(spec: P, axis: str = "fsdp") -> P:
    """A layout in which nothing is split over an axis of the mesh."""
    return P(*(None if each == axis else each for each in spec))


def frozen_shardings(frozen: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    """The layout of the frozen network: every device holds all of it, but for very large arrays.

    Each layer reads the whole network, so a copy on every device saves sending it. An array of more
    than :data:`REPLICATED_BYTES` is split over ``fsdp`` instead, along the longest of its axes that
    ``fsdp`` divides. The axis of stacked layers is left whole, for a scan takes a layer of it.

    Args:
        frozen: the ``frozen`` collection, abstract or real.
        mesh: from :func:`make_mesh` or :func:`abstract_mesh`.

    Returns:
        A tree like ``frozen`` of ``NamedSharding``.
    """

    def layout(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        stacked = getattr(path[0], "key", None) != SHARED
        axes = [axis for axis in range(int(stacked), leaf.ndim) if not _rest(leaf, axis, mesh)]
        if leaf.size * np.dtype(leaf.dtype).itemsize <= REPLICATED_BYTES or not axes:
            return replicated(mesh)
        longest = max(axes, key=leaf.shape.__getitem__)
        return NamedSharding(mesh, P(*[None] * longest, "fsdp"))

    return jax.tree.map_with_path(layout, frozen)


def _rest(leaf: Any, axis: int, mesh: Mesh | AbstractMesh) -> int:
    return leaf.shape[axis] % mesh.shape["fsdp"]


def shard_bytes(tree: Any, shardings: Any) -> int:
    """Bytes of a tree that one device holds, by the layouts alone.

    Args:
        tree: arrays, abstract or real.
        shardings: a tree like it of ``NamedSharding``, on a mesh of devices or an abstract one.
    """
    sizes = jax.tree.map(
        lambda leaf, layout: (
            int(np.prod(layout.shard_shape(leaf.shape))) * np.dtype(leaf.dtype).itemsize
        ),
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))
