"""Attention whose scores are capped by a tanh, which no fused kernel here computes."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from tera_jax.ops.numerics import acc_dtype


def attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BSKH: Float[Array, "B S K H"],
    value_BSKH: Float[Array, "B S K H"],
    mask: Bool[Array, "#B 1 #T #S"] | None,
    *,
    causal: bool,
    window: int | None,
    scale: float,
    cap: float,
) -> Float[Array, "B T N H"]:
    """Attention by scores ``cap * tanh(scale * q k / cap)``, in float32 at least.

    Args:
        query_BTNH: of N heads.
        key_BSKH: of K heads, a divisor of N.
        value_BSKH: like the keys.
        mask: which tokens are seen; None for all.
        causal: whether token t sees those up to t alone.
        window: how many of these it sees; None for all. Used where ``causal``.
        scale: of the products.
        cap: the bound of the scores' size.
    """
    batch, length, heads, size = query_BTNH.shape
    groups = key_BSKH.shape[2]
    acc = acc_dtype(query_BTNH.dtype)
    query_BTKGH = query_BTNH.reshape(batch, length, groups, heads // groups, size)
    score_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", query_BTKGH, key_BSKH, preferred_element_type=acc)
    score_BKGTS = cap * jnp.tanh(score_BKGTS * (scale / cap))
    if causal:
        age_TS = lax.broadcasted_iota(jnp.int32, (length, key_BSKH.shape[1]), 0)
        age_TS -= lax.broadcasted_iota(jnp.int32, age_TS.shape, 1)
        seen_TS = age_TS >= 0
        seen_TS &= True if window is None else age_TS < window
        mask = seen_TS[None, None] if mask is None else mask & seen_TS[None, None]
    if mask is not None:
        score_BKGTS = jnp.where(mask[:, :, None], score_BKGTS, jnp.finfo(acc).min / 2)
    weight_BKGTS = jax.nn.softmax(score_BKGTS, axis=-1).astype(value_BSKH.dtype)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", weight_BKGTS, value_BSKH)
    return out_BTKGH.reshape(query_BTNH.shape).astype(query_BTNH.dtype)
