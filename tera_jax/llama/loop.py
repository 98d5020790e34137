"""The layers of a stack one after the other, and what tells them from each other."""

from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tera_jax.llama import rope
from tera_jax.llama.attention import Which
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.layer import Layer

Ids: TypeAlias = jax.Array | np.ndarray
"""What comes with a batch: token ids, positions, segments, masks."""
_STACKED = ("params", "d", "frozen")
"""The collections in which arrays of a layer lead with the axis of the layers."""


def which_layers(config: LlamaConfig) -> Which:
    """Each array with an axis of all layers."""
    number_N = jnp.arange(config.num_layers, dtype=jnp.int32)
    tables_N = rope.kinds(config)
    return Which(
        number_N,
        jnp.asarray(config.sliding_layers) if config.mixes_windows else None,
        None if tables_N is None else jnp.asarray(tables_N),
    )


def one_layer(layer: Layer, carry: Any, *where: Any) -> Any:
    """A layer as a function, for linen's transforms."""
    return layer(carry, *where)


def one_after_another(length: int, unroll: bool) -> Any:
    """``(layers, carry, number_N, *where) -> (carry, None)`` for so many layers in a stack."""
    return nn.scan(
        one_layer,
        variable_axes=dict.fromkeys(_STACKED, 0),
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *(nn.broadcast,) * 6),
        length=length,
        unroll=length if unroll else 1,
    )


def of_stack(function: Any, index: Any) -> Any:
    """``function(layers, ...)`` of one layer of the stack, or of a slice of it."""

    def part(collections: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], collections)

    return nn.map_variables(function, _STACKED, trans_in_fn=part)


def positions(tokens_BL: Ids, segment_ids_BL: jax.Array | None) -> jax.Array:
    """0, 1, ... from the start of each row, or of each run of equal segment ids."""
    index_BL = lax.broadcasted_iota(jnp.int32, tokens_BL.shape, 1)
    if segment_ids_BL is None:
        return index_BL
    changed = segment_ids_BL[:, 1:] != segment_ids_BL[:, :-1]
    starts_BL = jnp.pad(changed, ((0, 0), (1, 0)), constant_values=True)
    return index_BL - lax.cummax(jnp.where(starts_BL, index_BL, 0), axis=1)
