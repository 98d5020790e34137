"""The keys and values of the tokens already seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tera_jax.llama.config import LlamaConfig


class Cache(NamedTuple):
    """Slots that are filled from the left, alike in all rows.

    Attributes:
        key: ``(layers, B, S, K, H)``, rotated.
        value: ``(layers, B, S, K, H)``.
        segment_ids_BS: int32; 0 is an empty slot or padding, and a token attends to slots of its
            own segment only.
        length: int32 scalar, the next free slot.
    """

    key: jax.Array
    value: jax.Array
    segment_ids_BS: jax.Array
    length: jax.Array


def init_cache(
    config: LlamaConfig, batch: int, slots: int, dtype: DTypeLike = jnp.float32
) -> Cache:
    """An empty cache of ``slots`` tokens for each of ``batch`` rows.

    It takes ``2 * num_layers * batch * slots * num_kv_heads * head_dim`` elements of ``dtype``.
    """
    shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
    return Cache(
        key=jnp.zeros(shape, dtype),
        value=jnp.zeros(shape, dtype),
        segment_ids_BS=jnp.zeros((batch, slots), jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )
