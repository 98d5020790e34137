"""The parameters of the layers as one stack, or as a list.

A scan copies each layer's kernels out of their stack, and what the backward pass needs into other
stacks and out of them: a tenth of a training step. Where the layers are unrolled (``Llama.unroll``)
and their parameters a list, XLA sees through the stack that :func:`stacked` writes down, and
nothing is copied.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax import sharding
from tera_jax.llama.sharding import parameter_shardings

LAYERS = "layers"


def is_split(params: Mapping[str, Any]) -> bool:
    """Whether the layers are a list."""
    return isinstance(params[LAYERS], list)


def unrolling_pays(remat: str) -> bool:
    """Whether training had better unroll the layers, on a GPU.

    Where memory is saved by doing a layer twice (``full``), a loop keeps no two layers in memory at
    once, and with a quantised base takes as long (docs/quantisation.md).
    """
    return remat != "full"


def stacked(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with the layers in a stack, for use under ``jax.jit``."""
    if not is_split(params):
        return dict(params)
    return {**params, LAYERS: jax.tree.map(lambda *each: jnp.stack(each), *params[LAYERS])}


def split(params: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
    """``params`` with the layers in a list.

    Takes the arrays of the stack, unless told to ``keep`` them: one stack at a time is copied and
    deleted, so that no more than one stands beside its copy.
    """
    stacks, tree = jax.tree.flatten(params[LAYERS])
    columns = [_split(stack, keep) for stack in stacks]
    layers = [jax.tree.unflatten(tree, each) for each in zip(*columns, strict=True)]
    return {**params, LAYERS: layers}


def join(params: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`split` was given; takes the arrays of the list."""
    rows = [jax.tree.leaves(layer) for layer in params[LAYERS]]
    tree = jax.tree.structure(params[LAYERS][0])
    stacks = [_join(list(column)) for column in zip(*rows, strict=True)]
    return {**params, LAYERS: jax.tree.unflatten(tree, stacks)}


def shardings(params: Mapping[str, Any], mesh: Mesh) -> Any:
    """:func:`tera_jax.llama.sharding.parameter_shardings` of either form, abstract or real."""
    layout = parameter_shardings(jax.eval_shape(stacked, params), mesh)
    if not is_split(params):
        return layout
    layer = jax.tree.map(lambda each: _with_spec(each, each.spec[1:]), layout[LAYERS])
    return {**layout, LAYERS: [layer] * len(params[LAYERS])}


def with_whole_layers(params: Mapping[str, Any], mesh: Mesh, count: int) -> dict[str, Any]:
    """``params`` with the last layers of a list whole along ``fsdp``, for use under ``jax.jit``.

    Left alone, XLA gathers a kernel in the forward pass and again in the backward pass. One that is
    gathered here is kept from one to the other.

    Args:
        params: with the layers in a list. A stack, or a mesh without ``fsdp``, is left as it is.
        mesh: of the step.
        count: how many layers; all where there are fewer.
    """
    if not count or not is_split(params) or mesh.shape["fsdp"] == 1:
        return dict(params)

    def gather(leaf: jax.Array, layout: NamedSharding) -> jax.Array:
        whole = NamedSharding(mesh, sharding.whole_along(layout.spec))
        return jax.lax.with_sharding_constraint(leaf, whole)

    layers = params[LAYERS]
    last = jax.tree.map(gather, layers[-count:], shardings(params, mesh)[LAYERS][-count:])
    return {**params, LAYERS: [*layers[:-count], *last]}


def _split(stack: jax.Array, keep: bool) -> list[jax.Array]:
    layout = _with_spec(stack.sharding, _spec(stack)[1:])
    made = jax.jit(list, out_shardings=layout)(stack)
    return _in_place_of([] if keep else [stack], made)


def _join(layers: list[jax.Array]) -> jax.Array:
    layout = _with_spec(layers[0].sharding, (None, *_spec(layers[0])))
    return _in_place_of(layers, jax.jit(jnp.stack, out_shardings=layout)(layers))


def _in_place_of(old: list[jax.Array], new: Any) -> Any:
    jax.block_until_ready(new)
    for array in old:
        array.delete()
    return new


def _spec(array: jax.Array) -> tuple[Any, ...]:
    """One entry for each axis."""
    spec = array.sharding.spec if isinstance(array.sharding, NamedSharding) else ()
    return (*spec, *[None] * (array.ndim - len(spec)))


def _with_spec(layout: Any, spec: tuple[Any, ...]) -> Any:
    return NamedSharding(layout.mesh, P(*spec)) if isinstance(layout, NamedSharding) else layout
