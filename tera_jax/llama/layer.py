"""One decoder layer and what it is made of.

Every matrix is a plain ``nn.Dense`` under Hugging Face's name, with its kernel stored (in, out): an
interceptor finds it there and may read its kernel differently.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from tera_jax import sharding
from tera_jax.llama import rope
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.decode.cache import Slots
from tera_jax.ops import dispatch, segment_attention
from tera_jax.ops.numerics import acc_dtype
from tera_jax.ops.rms_norm import RMSNorm

ROTATED = "rotated"
"""The name under which a rematerialisation policy finds queries and keys with their positions."""
RESIDUAL = "residual"
"""That of the residual stream after attention."""


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
        layer: jax.Array,
        cos: jax.Array,
        sin: jax.Array,
        mask: jax.Array | None,
        start: jax.Array | None,
        lengths_BM: jax.Array | None,
        target_positions_BT: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Slots, Slots] | None]:
        """Attends to ``x_BLD``, or to slots of ``(key, value)``, which it fills from ``start``.

        ``start`` is one number, or one for each row.

        The cache is that of all layers: in a stack this one's number says which part is its own,
        and of a tuple the first is. ``asking_BLD`` are the tokens that attend: ``x_BLD``, or those
        at ``target_positions_BT`` where these are given, which see what ``mask`` shows them.
        """
        config = self.config
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def heads(name: str, count: int, inputs: jax.Array) -> jax.Array:
            width = count * config.head_dim
            y = nn.Dense(width, use_bias=config.attention_bias, name=name, **types)(inputs)
            return y.reshape((*inputs.shape[:2], count, config.head_dim))

        query_BLNH = heads("q_proj", config.num_heads, asking_BLD)
        key_BSKH = heads("k_proj", config.num_kv_heads, x_BLD)
        value_BSKH = heads("v_proj", config.num_kv_heads, x_BLD)
        if config.qk_norm:
            _, query_BLNH = RMSNorm(config.rms_norm_eps, name="q_norm", **types)(query_BLNH)
            _, key_BSKH = RMSNorm(config.rms_norm_eps, name="k_norm", **types)(key_BSKH)
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
        o_proj = nn.Dense(config.hidden_size, use_bias=False, name="o_proj", **types)
        return o_proj(out), cache

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
        how: dict[str, Any] = {"mask": mask, "implementation": "xla"}
        one = query_BLNH.shape[1] == 1 and self.config.sliding_window is None
        if jnp.ndim(start) == 1 and one and self._takes_cudnn():
            how = {"key_value_seq_lengths": start + 1, "implementation": "cudnn"}
        return _attention(query_BLNH, key_BSKH, value_BSKH, **how)

    def _takes_cudnn(self) -> bool:
        """What its flash attention asks for on every GPU that has it."""
        head_dim = self.config.head_dim
        fits = head_dim <= 128 and head_dim % 8 == 0
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
        window = None if window is None or window >= length or not causal else window
        # No array holds the causal mask: cuDNN skips the masked half instead of computing it.
        cudnn = self._takes_cudnn()
        if (
            cudnn
            and lengths_BM is not None
            and window is None
            and segment_attention.supported(
                lengths_BM.shape[1], self.config.head_dim, len(key_BSKH), key_BSKH.shape[2]
            )
        ):
            return segment_attention.attention(query_BLNH, key_BSKH, value_BSKH, lengths_BM)
        cudnn = cudnn and (mask is None or length % 2 == 0)
        if not cudnn:
            # XLA's gradient mixes bfloat16 with float32, which strict promotion refuses.
            acc = acc_dtype(self.dtype)
            query_BLNH, key_BSKH, value_BSKH = (
                x.astype(acc) for x in (query_BLNH, key_BSKH, value_BSKH)
            )
        out_BLNH = _attention(
            query_BLNH,
            key_BSKH,
            value_BSKH,
            mask=mask,
            is_causal=causal,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn" if cudnn else "xla",
        )
        return out_BLNH.astype(self.dtype)


class MLP(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    config: LlamaConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Works on each token alone."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = self.config.intermediate_size
        gate_BLF = nn.Dense(width, use_bias=False, name="gate_proj", **types)(x_BLD)
        up_BLF = nn.Dense(width, use_bias=False, name="up_proj", **types)(x_BLD)
        down = nn.Dense(self.config.hidden_size, use_bias=False, name="down_proj", **types)
        return down(nn.silu(gate_BLF) * up_BLF)


class Layer(nn.Module):
    """Attention and MLP, each on a normed copy of the residual stream."""

    config: LlamaConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, carry: tuple[jax.Array, Any], *where: Any) -> tuple[Any, None]:
        """The body of the scan: ``where`` is as in :class:`Attention`.

        The cache is carried with the residual stream, so that it is written in place.
        """
        x_BLD, cache = carry
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        eps = self.config.rms_norm_eps
        norm = RMSNorm(eps, name="input_layernorm", **types)
        x_BLD, normed_BLD = norm(x_BLD)
        asking_BLD, target_positions_BT = normed_BLD, where[-1]
        if target_positions_BT is not None:
            x_BLD, asking_BLD = norm(at_positions(x_BLD, target_positions_BT))
        attended_BLD, cache = Attention(self.config, name="self_attn", **types)(
            asking_BLD, normed_BLD, cache, *where
        )
        x_BLD = checkpoint_name(x_BLD + attended_BLD, RESIDUAL)
        x_BLD, normed_BLD = RMSNorm(eps, name="post_attention_layernorm", **types)(x_BLD)
        x_BLD = x_BLD + MLP(self.config, name="mlp", **types)(normed_BLD)
        return (split_rows(x_BLD), cache), None


def at_positions(x: jax.Array, target_positions_BT: jax.Array) -> jax.Array:
    """``(B, T, ...)``: the entries of ``x``, ``(B, L, ...)``, at some positions of each row."""
    return jnp.take_along_axis(
        x, target_positions_BT.reshape(*target_positions_BT.shape, *[1] * (x.ndim - 2)), axis=1
    )


def split_rows(x_BLD: jax.Array) -> jax.Array:
    """Keeps the batch split by rows, under ``jax.set_mesh`` with the axes of ``make_mesh``.

    Left alone, XLA may follow the layout of a kernel and gather the batch.
    """
    if not set(sharding.BATCH) <= set(jax.sharding.get_abstract_mesh().axis_names):
        return x_BLD
    return lax.with_sharding_constraint(x_BLD, P(sharding.BATCH, None, None))


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
