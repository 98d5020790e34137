"""The keys and values of the tokens already seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tera_jax.llama.config import LlamaConfig

Slots = jax.Array | tuple[jax.Array, ...]


class Cache(NamedTuple):
    """Slots that are filled from the left, alike in all rows.

    Attributes:
        key: ``(layers, B, S, K, H)``, rotated; or so many arrays ``(B, S, K, H)``, for layers that
            are unrolled: nothing is cut out of a stack then, but a loop would copy them.
        value: like ``key``.
        segment_ids_BS: int32; 0 is an empty slot or padding, and a token attends to slots of its
            own segment only.
        length: int32 scalar, the next free slot.
    """

    key: Slots
    value: Slots
    segment_ids_BS: jax.Array
    length: jax.Array

    @property
    def size(self) -> int:
        """S."""
        return self.segment_ids_BS.shape[1]


class RowCache(NamedTuple):
    """Slots of rows that are filled from the left, each as far as it is.

    What lies behind a row's length is never read, and is written over.

    Attributes:
        key: as in :class:`Cache`, with S slots for each row.
        value: like ``key``.
        length_B: int32, the next free slot of each row.
    """

    key: Slots
    value: Slots
    length_B: jax.Array

    @property
    def size(self) -> int:
        """S."""
        return self.key[0].shape[1] if isinstance(self.key, tuple) else self.key.shape[2]


def init_cache(
    config: LlamaConfig,
    batch: int,
    slots: int,
    dtype: DTypeLike = jnp.float32,
    split: bool = False,
) -> Cache:
    """An empty cache of ``slots`` tokens for each of ``batch`` rows, split into layers or not.

    It takes ``2 * num_layers * batch * slots * num_kv_heads * head_dim`` elements of ``dtype``.
    """
    key, value = (_zeros(config, batch, slots, dtype, split) for _ in range(2))
    return Cache(
        key=key,
        value=value,
        segment_ids_BS=jnp.zeros((batch, slots), jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )


def init_row_cache(
    config: LlamaConfig,
    batch: int,
    slots: int,
    dtype: DTypeLike = jnp.float32,
    split: bool = False,
) -> RowCache:
    """Empty slots; arguments and size are those of :func:`init_cache`."""
    key, value = (_zeros(config, batch, slots, dtype, split) for _ in range(2))
    return RowCache(key, value, jnp.zeros(batch, jnp.int32))


def _zeros(config: LlamaConfig, batch: int, slots: int, dtype: DTypeLike, split: bool) -> Slots:
    shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
    if not split:
        return jnp.zeros(shape, dtype)
    return tuple(jnp.zeros(shape[1:], dtype) for _ in range(config.num_layers))
