"""The prepared arrays of the slots' adapters: a stack of layers, or a list of them.

At each layer they are (stack..., B, ...). Where the model unrolls its layers they are a list under
``layers``, whose arrays lead with the rows.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from tera_jax import sharding
from tera_jax.adapters import interceptor
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.stack import at_axes
from tera_jax.llama import stacking
from tera_jax.llama.decode import slot_layout
from tera_jax.llama.model import Llama


def empty(model: Llama, adapter: Adapter, row: Any, batch: int) -> dict[str, Any]:
    """Zeros for all slots.

    Args:
        model: says whether its layers are unrolled.
        adapter: of the rows.
        row: the arrays of one adapter, real or abstract, without an axis for the rows.
        batch: B.
    """

    def zeros(axis: int, leaf: Any) -> jax.Array:
        return jnp.zeros((*leaf.shape[:axis], batch, *leaf.shape[axis:]), leaf.dtype)

    rows = at_axes(adapter.layers, zeros, row)
    if not model.unroll or stacking.LAYERS not in rows:
        return rows
    stack, count = rows[stacking.LAYERS], model.config.num_layers
    layers = [jax.tree.map(lambda leaf, n=n: leaf[n], stack) for n in range(count)]
    return {**rows, stacking.LAYERS: layers}


def single(adapter: Adapter, row: Any) -> Any:
    """The arrays of one adapter with an axis for the rows, of which there is one."""
    return at_axes(adapter.layers, lambda axis, leaf: jnp.expand_dims(leaf, axis), row)


def stacked(rows: Mapping[str, Any]) -> dict[str, Any]:
    """With the layers in a stack, for use under ``jax.jit``."""
    return stacking.stacked(rows) if stacking.LAYERS in rows else dict(rows)


def put(adapter: Adapter, rows: Mapping[str, Any], slot_R: jax.Array, row_R: Any) -> dict[str, Any]:
    """The arrays of adapters at as many slots, int32."""
    layers = rows.get(stacking.LAYERS)
    if not isinstance(layers, list):

        def put_at(axis: int, leaf: jax.Array, value: jax.Array) -> jax.Array:
            return leaf.at[(*[slice(None)] * axis, slot_R)].set(value)

        return at_axes(adapter.layers, put_at, rows, row_R)

    def put_first(leaf: jax.Array, value: jax.Array) -> jax.Array:
        return leaf.at[slot_R].set(value)

    split = [
        jax.tree.map(lambda own, stack, n=n: put_first(own, stack[n]), own, row_R[stacking.LAYERS])
        for n, own in enumerate(layers)
    ]
    others = {k: v for k, v in rows.items() if k != stacking.LAYERS}
    rest = {k: v for k, v in row_R.items() if k != stacking.LAYERS}
    return {**jax.tree.map(put_first, others, rest), stacking.LAYERS: split}


def placed(adapter: Adapter, rows: Mapping[str, Any]) -> dict[str, Any]:
    """The same arrays, where the mesh has them."""
    if isinstance(rows.get(stacking.LAYERS), list):
        return dict(slot_layout.by_row(rows))

    def place(axis: int, leaf: jax.Array) -> jax.Array:
        return slot_layout.placed(leaf, P(*[None] * axis, sharding.BATCH))

    return at_axes(adapter.layers, place, rows)


def bound(
    model: Llama, adapter: Adapter | None, base: Mapping[str, Any], rows: Any
) -> Callable[..., Any]:
    """``model.apply`` of the base with the rows' adapters; the base alone with None."""
    params = stacking.stacked(base["params"])
    if adapter is None:
        return functools.partial(interceptor.apply_base, model, {"params": params})
    variables = {"params": params, "frozen": base["frozen"], "d": rows}
    return functools.partial(adapter.apply_rows, model, variables)
