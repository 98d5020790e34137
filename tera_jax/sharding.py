"""The device mesh, and the one table that says how each parameter is laid out on it."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are split."""

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


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh with the axes ``data``, ``fsdp`` and ``tensor`` over the first devices.

    Raises:
        ValueError: when the three sizes need more devices than there are.
    """
    sizes = (data, fsdp, tensor)
    if min(sizes) < 1:
        raise ValueError(f"mesh sizes must be at least 1, not data, fsdp, tensor = {sizes}")
    needed, present = data * fsdp * tensor, jax.device_count()
    if needed > present:
        raise ValueError(
            f"the mesh data={data}, fsdp={fsdp}, tensor={tensor} needs {needed} devices, "
            f"but JAX sees {present}; lower one of the three"
        )
    return jax.make_mesh(
        sizes,
        AXES,
        axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
        devices=jax.devices()[:needed],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def rows(mesh: Mesh) -> NamedSharding:
    """The leading axis, the rows of a batch, split over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


def parameter_shardings(params: Mapping[str, Any], mesh: Mesh) -> Any:
    """The layout of every parameter of the Llama, by its path.

    Args:
        params: the ``params`` collection, abstract (``jax.eval_shape``) or real.
        mesh: from :func:`make_mesh`.

    Returns:
        A tree like ``params`` of ``NamedSharding``.

    Raises:
        ValueError: for a path that no row of the table covers, or an axis that the mesh does not
            divide.
    """
    return jax.tree.map_with_path(lambda path, leaf: _sharding(path, leaf, mesh), params)


def _sharding(path: tuple[Any, ...], leaf: Any, mesh: Mesh) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
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
