"""The one table that says how each parameter of the Llama is laid out on the mesh."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax import sharding, trees

# Path of a parameter below `params` -> its layout. A leading None is the axis of scanned layers.
# The values and the scales of a quantised kernel are laid out like the kernel, and so are the fp8
# codes of the backward pass; other fp8 codes like its transpose, and their scales like its outputs.
_AS_KERNEL = r"(/values|/scales|/backward_codes)?"
_PARAMETERS: tuple[tuple[str, P], ...] = (
    (r"embed_tokens/embedding", P("tensor", "fsdp")),
    (r"lm_head/kernel", P("fsdp", "tensor")),
    (r"layers/self_attn/[qkv]_proj/kernel" + _AS_KERNEL, P(None, "fsdp", "tensor")),
    (r"layers/self_attn/[qkv]_proj/kernel/codes", P(None, "tensor", "fsdp")),
    (r"layers/self_attn/[qkv]_proj/kernel/channel_scales", P(None, "tensor")),
    (r"layers/self_attn/[qkv]_proj/bias", P(None, "tensor")),
    (r"layers/self_attn/o_proj/kernel" + _AS_KERNEL, P(None, "tensor", "fsdp")),
    (r"layers/self_attn/o_proj/kernel/codes", P(None, "fsdp", "tensor")),
    (r"layers/self_attn/o_proj/kernel/channel_scales", P(None, "fsdp")),
    (r"layers/self_attn/o_proj/bias", P(None, None)),
    (r"layers/self_attn/[qk]_norm/scale", P(None, None)),
    (r"layers/mlp/(gate|up)_proj/kernel" + _AS_KERNEL, P(None, "fsdp", "tensor")),
    (r"layers/mlp/(gate|up)_proj/kernel/codes", P(None, "tensor", "fsdp")),
    (r"layers/mlp/(gate|up)_proj/kernel/channel_scales", P(None, "tensor")),
    (r"layers/mlp/down_proj/kernel" + _AS_KERNEL, P(None, "tensor", "fsdp")),
    (r"layers/mlp/down_proj/kernel/codes", P(None, "fsdp", "tensor")),
    (r"layers/mlp/down_proj/kernel/channel_scales", P(None, "fsdp")),
    (r"layers/mlp/(gate|up)_proj/bias", P(None, "tensor")),
    (r"layers/mlp/down_proj/bias", P(None, None)),
    (r"layers/(input|post_attention|(pre|post)_feedforward)_layernorm/scale", P(None, None)),
    (r"norm/scale", P(None)),
)


def parameter_shardings(params: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    """The layout of every parameter of the Llama, by its path.

    Args:
        params: the ``params`` collection, abstract (``jax.eval_shape``) or real.
        mesh: from :func:`tera_jax.sharding.make_mesh` or
            :func:`tera_jax.sharding.abstract_mesh`.

    Returns:
        A tree like ``params`` of ``NamedSharding``.

    Raises:
        ValueError: for a path that no row of the table covers, or an axis that the mesh does not
            divide.
    """
    return jax.tree.map_with_path(lambda path, leaf: _sharding(path, leaf, mesh), params)


def with_whole_head(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with the head's matrix whole along ``fsdp``, for use under ``jax.jit``.

    A loop that reads the head would gather it in each iteration. XLA may even keep it split, and
    gather the batch's gradient of the logits in its place. Without ``fsdp`` nothing is changed.

    Args:
        params: the ``params`` collection. Where it has no ``lm_head`` the embedding is the head.
    """
    if sharding.axis_size("fsdp") == 1:
        return dict(params)
    head = "lm_head" if "lm_head" in params else "embed_tokens"

    def gather(path: tuple[Any, ...], leaf: Any) -> Any:
        spec = sharding.whole_along(_spec(trees.name(path), leaf))
        return jax.lax.with_sharding_constraint(leaf, spec)

    return {**params, **jax.tree.map_with_path(gather, {head: params[head]})}


def _sharding(path: tuple[Any, ...], leaf: Any, mesh: Mesh | AbstractMesh) -> NamedSharding:
    name = trees.name(path)
    spec = _spec(name, leaf)
    for size, axis in zip(leaf.shape, spec, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            other = ", or smaller blocks" if name.endswith("/scales") else ""
            raise ValueError(
                f"mesh axis {axis}={mesh.shape[axis]} does not divide an axis of length {size} "
                f"of parameter {name!r} {leaf.shape}; choose a divisor of {size}{other}"
            )
    return NamedSharding(mesh, spec)


def _spec(name: str, leaf: Any) -> P:
    spec = next((spec for row, spec in _PARAMETERS if re.fullmatch(row, name)), None)
    if spec is None or len(spec) != leaf.ndim:
        raise ValueError(
            f"no row of the sharding table covers parameter {name!r} of shape {leaf.shape}; "
            "add one to tera_jax/llama/sharding.py"
        )
    return spec
