"""The device mesh, and the one table that says how each parameter is laid out on it."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax import trees
from tera_jax.trees import SHARED

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are split."""

REPLICATED_BYTES = 2**28
"""A frozen array of more bytes is split over ``fsdp`` (:func:`frozen_shardings`): 256 MiB."""

# Path of a parameter below `params` -> its layout. A leading None is the axis of scanned layers.
# The values and the scales of a quantised kernel are laid out like the kernel.
_PARAMETERS: tuple[tuple[str, P], ...] = (
    (r"embed_tokens/embedding", P("tensor", "fsdp")),
    (r"lm_head/kernel", P("fsdp", "tensor")),
    (r"layers/self_attn/[qkv]_proj/kernel(/values|/scales)?", P(None, "fsdp", "tensor")),
    (r"layers/self_attn/[qkv]_proj/bias", P(None, "tensor")),
    (r"layers/self_attn/o_proj/kernel(/values|/scales)?", P(None, "tensor", "fsdp")),
    (r"layers/self_attn/[qk]_norm/scale", P(None, None)),
    (r"layers/mlp/(gate|up)_proj/kernel(/values|/scales)?", P(None, "fsdp", "tensor")),
    (r"layers/mlp/down_proj/kernel(/values|/scales)?", P(None, "tensor", "fsdp")),
    (r"layers/(input|post_attention)_layernorm/scale", P(None, None)),
    (r"norm/scale", P(None)),
)


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


def parameter_shardings(params: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    """The layout of every parameter of the Llama, by its path.

    Args:
        params: the ``params`` collection, abstract (``jax.eval_shape``) or real.
        mesh: from :func:`make_mesh` or :func:`abstract_mesh`.

    Returns:
        A tree like ``params`` of ``NamedSharding``.

    Raises:
        ValueError: for a path that no row of the table covers, or an axis that the mesh does not
            divide.
    """
    return jax.tree.map_with_path(lambda path, leaf: _sharding(path, leaf, mesh), params)


def _sharding(path: tuple[Any, ...], leaf: Any, mesh: Mesh | AbstractMesh) -> NamedSharding:
    name = trees.name(path)
    spec = next((spec for row, spec in _PARAMETERS if re.fullmatch(row, name)), None)
    if spec is None or len(spec) != leaf.ndim:
        raise ValueError(
            f"no row of the sharding table covers parameter {name!r} of shape {leaf.shape}; "
            "add one to tera_jax/sharding.py"
        )
    for size, axis in zip(leaf.shape, spec, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            other = ", or smaller blocks" if name.endswith("/scales") else ""
            raise ValueError(
                f"mesh axis {axis}={mesh.shape[axis]} does not divide an axis of length {size} "
                f"of parameter {name!r} {leaf.shape}; choose a divisor of {size}{other}"
            )
    return NamedSharding(mesh, spec)


def frozen_shardings(frozen: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    """The layout of the frozen network: every device holds all of it, but for very large arrays.

    Each layer reads the whole network, so a copy on every device saves sending it. An array of more
    than :data:`REPLICATED_BYTES` is split over ``fsdp`` instead, along the longest of its axes that
    ``fsdp`` divides; the axis of stacked layers is left whole, for a scan takes a layer of it.

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
