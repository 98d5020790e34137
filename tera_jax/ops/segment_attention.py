"""Attention of rows that hold several segments, each to itself, by cuDNN.

``jax.nn.dot_product_attention`` knows segments as a mask, which cuDNN adds as a bias and does not
skip over. JAX's own function below it takes where segments begin and how long they are, and then
only their matmuls are computed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from tera_jax.ops import dispatch, on_mesh

try:
    from jax._src.cudnn import fused_attention_stablehlo as _cudnn
except ImportError:  # not part of JAX's public interface
    _cudnn: Any = None  # type: ignore[no-redef]


def supported(most: int, head_dim: int, rows: int = 1, heads: int = 1) -> bool:
    """Whether this process computes such attention: on GPUs of Hopper's generation or later.

    On a mesh each has a part of the rows and, over ``tensor``, of the heads.

    Args:
        most: M, the segments that a row can have. cuDNN keeps float32 statistics of each, of a
            row's length: of H / 4 segments they take half the memory of the queries, and no more
            are allowed.
        head_dim: H.
        rows: B.
        heads: K.
    """
    if _cudnn is None or not on_mesh.has_kernels():
        return False
    if not on_mesh.splits_rows(rows) or heads % on_mesh.parts("tensor"):
        return False
    return 4 * most < head_dim and dispatch.compute_capability() >= 9


def segment_ids(lengths_BM: Int[Array | np.ndarray, "B M"], length: int) -> Int[Array, "B L"]:
    """1, 2, ... for the tokens of segments that follow each other from a row's start; 0 after."""
    end_BM = jnp.cumsum(jnp.asarray(lengths_BM), axis=1)
    token_L = jnp.arange(length, dtype=end_BM.dtype)
    ended_BL = jnp.sum(end_BM[:, None, :] <= token_L[None, :, None], axis=2, dtype=end_BM.dtype)
    return jnp.where(token_L[None, :] < end_BM[:, -1:], ended_BL + 1, 0)


def segments(lengths_BM: Int[Array, "B M"], length: int) -> tuple[Array, Array]:
    """Where the segments of rows of ``length`` tokens begin, and how long they are.

    What is left at the end of a row is one more segment: no token is without one, and so none is
    left unwritten.

    Args:
        lengths_BM: int32 tokens of consecutive segments from a row's start on; 0 for none.
        length: L.

    Returns:
        ``(start_BN, size_BS)`` int32 with S = M + 1 and N = M + 2, -1 where there is no segment, as
        cuDNN's interface in JAX wants them.
    """
    rest_B1 = length - jnp.sum(lengths_BM, axis=1, keepdims=True)
    size_BS = jnp.concatenate([lengths_BM, rest_B1], axis=1)
    start_BS = jnp.cumsum(size_BS, axis=1) - size_BS
    start_BS = jnp.where(size_BS > 0, start_BS, -1)
    start_BN = jnp.pad(start_BS, ((0, 0), (0, 1)), constant_values=-1)
    return start_BN, jnp.where(size_BS > 0, size_BS, -1)


def attention(
    query_BLNH: Float[Array, "B L N H"],
    key_BLKH: Float[Array, "B L K H"],
    value_BLKH: Float[Array, "B L K H"],
    lengths_BM: Int[Array, "B M"],
    scale: float | None = None,
) -> Float[Array, "B L N H"]:
    """Causal attention of each token to its own segment, scaled by 1 / sqrt(H) or ``scale``.

    Args:
        query_BLNH: bfloat16 or float16.
        key_BLKH: of K heads, a divisor of N.
        value_BLKH: like the keys.
        lengths_BM: see :func:`segments`.
        scale: of the products of queries and keys.
    """
    heads, rows = P(on_mesh.BATCH, None, "tensor"), on_mesh.ROWS
    arrays = query_BLNH, key_BLKH, value_BLKH, lengths_BM
    part = functools.partial(_part, scale=scale)
    return on_mesh.run(part, (heads, heads, heads, rows), heads, *arrays)


def _part(
    query_BLNH: Array,
    key_BLKH: Array,
    value_BLKH: Array,
    lengths_BM: Array,
    scale: float | None,
) -> Array:
    """Of the rows and heads of one device."""
    _, length, heads, size = query_BLNH.shape
    start_BN, size_BS = segments(lengths_BM, length)
    # JAX reckons where a segment's keys begin by the heads of the queries: there must be as many.
    each = heads // key_BLKH.shape[2]
    key_BLNH, value_BLNH = (jnp.repeat(x, each, axis=2) for x in (key_BLKH, value_BLKH))
    with jax.numpy_dtype_promotion("standard"):  # as in jax.nn.dot_product_attention
        return _cudnn.dot_product_attention(
            query_BLNH,
            key_BLNH,
            value_BLNH,
            q_seqlen=size_BS,
            kv_seqlen=size_BS,
            q_offsets=start_BN,
            kv_offsets=start_BN,
            scale=size**-0.5 if scale is None else scale,
            mask_type=_cudnn.MaskType.CAUSAL,
        )
