"""Grouped query attention with rotary positions, and how it fills its cache.

Every matrix is a plain ``nn.Dense`` under Hugging Face's name, with its kernel stored (in, out): an
interceptor finds it there and may read its kernel differently.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from tera_jax.llama import rope
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.decode.cache import Slots
from tera_jax.ops import capped_attention, dispatch, segment_attention
from tera_jax.ops.numerics import acc_dtype
from tera_jax.ops.rms_norm import RMSNorm

ROTATED = "rotated"
"""The name under which a rematerialisation policy finds queries and keys with their positions."""


class Which(NamedTuple):
    """Which layer of a stack it is, and what tells it from the others where they differ.

    Attributes:
        number: int32.
        local: bool, whether the layer has the window; None where all layers are alike.
        table: int32, which of several rotary tables it has; None where there is one.
    """

    number: jax.Array
    local: jax.Array | None = None
    table: jax.Array | None = None


class Attention(nn.Module):
    """Grouped query attention with rotary positions."""

    config: LlamaConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        asking_BLD: jax.Array,
        x_BLD: jax.Array,
        cache: tuple[Slots, Slots] | None,
        which: Which,
        cos: jax.Array,
        sin: jax.Array,
        mask: jax.Array | tuple[jax.Array, jax.Array] | None,
        start: jax.Array | None,
        lengths_BM: jax.Array | None,
        target_positions_BT: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Slots, Slots] | None]:
        """Attends to ``x_BLD``, or to slots of ``(key, value)``, which it fills from ``start``.

        ``start`` is one number, or one for each row.

        The cache is that of all layers: in a stack this one's number says which part is its own,
        and of a tuple the first is. ``asking_BLD`` are the tokens that attend: ``x_BLD``, or those
        at ``target_positions_BT`` where these are given, which see what ``mask`` shows them. Of two
        masks the second is that of layers with a window.
        """
        config, layer = self.config, which.number
        if which.table is not None:
            cos, sin = (
                lax.dynamic_index_in_dim(each, which.table, keepdims=False) for each in (cos, sin)
            )
        if isinstance(mask, tuple):
            mask = mask[0] if which.local is None else jnp.where(which.local, mask[1], mask[0])
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def heads(name: str, count: int, inputs: jax.Array) -> jax.Array:
            width = count * config.head_dim
            y = nn.Dense(width, use_bias=config.attention_bias, name=name, **types)(inputs)
            return y.reshape((*inputs.shape[:2], count, config.head_dim))

        query_BLNH = heads("q_proj", config.num_heads, asking_BLD)
        key_BSKH = heads("k_proj", config.num_kv_heads, x_BLD)
        value_BSKH = heads("v_proj", config.num_kv_heads, x_BLD)
        query_BLNH = self._normed("q_norm", query_BLNH)
        key_BSKH = self._normed("k_norm", key_BSKH)
        at = [
            table if target_positions_BT is None else at_positions(table, target_positions_BT)
            for table in (cos, sin)
        ]
        query_BLNH = checkpoint_name(rope.rotate(query_BLNH, *at), ROTATED)
        key_BSKH = checkpoint_name(rope.rotate(key_BSKH, cos, sin), ROTATED)
        if cache is None:
            causal = target_positions_BT is None
            out_BLNH = self._attend(query_BLNH, key_BSKH, value_BSKH, mask, lengths_BM, causal)
        else:
            keys, key_BSKH = _write(cache[0], key_BSKH, layer, start)
            values, value_BSKH = _write(cache[1], value_BSKH, layer, start)
            cache = (keys, values)
            key_BSKH, value_BSKH = (own.astype(self.dtype) for own in (key_BSKH, value_BSKH))
            out_BLNH = self._attend_cached(query_BLNH, key_BSKH, value_BSKH, mask, start)
        out = out_BLNH.reshape((*asking_BLD.shape[:2], config.num_heads * config.head_dim))
        o_proj = nn.Dense(config.hidden_size, use_bias=config.output_bias, name="o_proj", **types)
        return o_proj(out), cache

    def _normed(self, name: str, x_BLNH: jax.Array) -> jax.Array:
        """Queries or keys, normed where the family does."""
        config = self.config
        if not config.qk_norm:
            return x_BLNH
        norm = RMSNorm(
            config.rms_norm_eps, self.dtype, self.param_dtype, config.norm_offset, name=name
        )
        if config.qk_norm_over == "head":
            return norm(x_BLNH)[1]
        return norm(x_BLNH.reshape((*x_BLNH.shape[:2], -1)))[1].reshape(x_BLNH.shape)

    def _attend_cached(
        self,
        query_BLNH: jax.Array,
        key_BSKH: jax.Array,
        value_BSKH: jax.Array,
        mask: jax.Array | None,
        start: Any,
    ) -> jax.Array:
        """By a mask that knows which slot each query is in; with lengths a row, by cuDNN.

        cuDNN reads the filled slots alone.
        """
        if self.config.attention_soft_cap is not None:
            return self._capped(query_BLNH, key_BSKH, value_BSKH, mask, causal=False, window=None)
        how: dict[str, Any] = {"mask": mask, "implementation": "xla"}
        one = query_BLNH.shape[1] == 1 and self.config.sliding_window is None
        if jnp.ndim(start) == 1 and one and self._takes_cudnn():
            how = {"key_value_seq_lengths": start + 1, "implementation": "cudnn"}
        scale = self.config.score_scale
        return _attention(query_BLNH, key_BSKH, value_BSKH, scale=scale, **how)

    def _capped(
        self,
        query_BLNH: jax.Array,
        key_BSKH: jax.Array,
        value_BSKH: jax.Array,
        mask: jax.Array | None,
        causal: bool,
        window: int | None,
    ) -> jax.Array:
        config = self.config
        scale, cap = config.score_scale, config.attention_soft_cap
        return capped_attention.attention(
            query_BLNH,
            key_BSKH,
            value_BSKH,
            mask,
            causal=causal,
            window=window,
            scale=config.head_dim**-0.5 if scale is None else scale,
            cap=1.0 if cap is None else cap,
        )

    def _takes_cudnn(self) -> bool:
        """What its flash attention asks for on every GPU that has it."""
        head_dim = self.config.head_dim
        fits = head_dim <= 128 and head_dim % 8 == 0 and self.config.attention_soft_cap is None
        return dispatch.on_gpu() and dispatch.is_half(self.dtype) and fits

    def _attend(
        self,
        query_BLNH: jax.Array,
        key_BSKH: jax.Array,
        value_BSKH: jax.Array,
        mask: jax.Array | None,
        lengths_BM: jax.Array | None,
        causal: bool,
    ) -> jax.Array:
        length, window = query_BLNH.shape[1], self.config.sliding_window
        # What is not causal has all of its rules in the mask.
        alike = causal and not self.config.mixes_windows
        window = None if window is None or window >= length or not alike else window
        # No array holds the causal mask: cuDNN skips the masked half instead of computing it.
        cudnn = self._takes_cudnn()
        if (
            cudnn
            and lengths_BM is not None
            and window is None
            and not self.config.mixes_windows
            and segment_attention.supported(
                lengths_BM.shape[1], self.config.head_dim, len(key_BSKH), key_BSKH.shape[2]
            )
        ):
            scale = self.config.score_scale
            return segment_attention.attention(query_BLNH, key_BSKH, value_BSKH, lengths_BM, scale)
        cudnn = cudnn and (mask is None or length % 2 == 0)
        if not cudnn:
            # XLA's gradient mixes bfloat16 with float32, which strict promotion refuses.
            acc = acc_dtype(self.dtype)
            query_BLNH, key_BSKH, value_BSKH = (
                x.astype(acc) for x in (query_BLNH, key_BSKH, value_BSKH)
            )
        if self.config.attention_soft_cap is not None:
            out_BLNH = self._capped(query_BLNH, key_BSKH, value_BSKH, mask, causal, window)
            return out_BLNH.astype(self.dtype)
        out_BLNH = _attention(
            query_BLNH,
            key_BSKH,
            value_BSKH,
            mask=mask,
            scale=self.config.score_scale,
            is_causal=causal,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn" if cudnn else "xla",
        )
        return out_BLNH.astype(self.dtype)


def _attention(*args: Any, **kwargs: Any) -> jax.Array:
    # JAX's own code promotes bfloat16 to float32, which it refuses under strict promotion.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(*args, **kwargs)


def _write(slots: Slots, new_BLKH: jax.Array, layer: Any, start: Any) -> tuple[Slots, jax.Array]:
    """All slots with the new tokens among this layer's, and this layer's ``(B, S, K, H)``.

    Slots in a tuple are taken from its front and put to its end: no layer has to know its number,
    and after all of them the order is what it was. With a ``start`` for each row, each has its
    tokens where it ends.
    """
    if jnp.ndim(start) == 1:
        return _write_rows(slots, new_BLKH, layer, start)
    zero = jnp.zeros_like(layer)
    start_at = (zero, start, zero, zero)
    if isinstance(slots, tuple):
        own_BSKH = lax.dynamic_update_slice(slots[0], new_BLKH.astype(slots[0].dtype), start_at)
        return (*slots[1:], own_BSKH), own_BSKH
    new_1BLKH = new_BLKH.astype(slots.dtype)[None]
    slots = lax.dynamic_update_slice(slots, new_1BLKH, (layer, *start_at))
    return slots, lax.dynamic_index_in_dim(slots, layer, keepdims=False)


def _write_rows(
    slots: Slots, new_BLKH: jax.Array, layer: Any, start_B: jax.Array
) -> tuple[Slots, jax.Array]:
    batch, length = new_BLKH.shape[:2]
    row_B1 = jnp.arange(batch, dtype=start_B.dtype)[:, None]
    at = (row_B1, start_B[:, None] + jnp.arange(length, dtype=start_B.dtype)[None, :])
    how: dict[str, Any] = {"mode": "promise_in_bounds", "unique_indices": True}
    if isinstance(slots, tuple):
        own_BSKH = slots[0].at[at].set(new_BLKH.astype(slots[0].dtype), **how)
        return (*slots[1:], own_BSKH), own_BSKH
    slots = slots.at[(layer, *at)].set(new_BLKH.astype(slots.dtype), **how)
    return slots, lax.dynamic_index_in_dim(slots, layer, keepdims=False)


def at_positions(x: jax.Array, target_positions_BT: jax.Array) -> jax.Array:
    """``(B, T, ...)``: the entries of ``x``, ``(B, L, ...)``, at some positions of each row."""
    return jnp.take_along_axis(
        x, target_positions_BT.reshape(*target_positions_BT.shape, *[1] * (x.ndim - 2)), axis=1
    )
