"""The loss of a batch: the negative log-likelihood of its targets under the adapted model."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from tera_jax import sharding
from tera_jax.adapters.base import Adapter
from tera_jax.llama import Llama
from tera_jax.llama.layer import split_rows
from tera_jax.llama.sharding import with_whole_head
from tera_jax.ops.numerics import acc_dtype

from ...data import Batch

_LOGITS_AT_ONCE = 2**26
"""Entries of the logits that a device has in memory at a time, in float32: 256 MiB."""


class LossSum(NamedTuple):
    """Summed negative log-likelihood in nats, and the number of target tokens."""

    nll: Array
    tokens: Array


def loss_sum(
    model: Llama,
    adapter: Adapter,
    variables: Any,
    batch: Batch,
    dropout: Any = None,
    materialized: Any = None,
) -> LossSum:
    """Negative log-likelihood of the batch's targets under the adapted model.

    The arguments are those of :func:`loss_by_row`.
    """
    found = loss_by_row(model, adapter, variables, batch, dropout, materialized)
    return LossSum(jnp.sum(found.nll), jnp.sum(found.tokens))


def loss_by_row(
    model: Llama,
    adapter: Adapter,
    variables: Any,
    batch: Batch,
    dropout: Any = None,
    materialized: Any = None,
    rows: Any = None,
) -> LossSum:
    """:func:`loss_sum` of each row, (B,).

    Logits are computed at the target positions only, a limited number of them at a time, and so is
    the last layer where the layers are unrolled. ``dropout`` is a key, or None for none;
    ``materialized`` is from :meth:`Adapter.materialize`. With ``rows``, (B,) int32, ``d`` is
    that of several adapters and each row uses one of them, as in :meth:`Adapter.apply`.
    """
    rngs = None if dropout is None else {"dropout": dropout}
    picked = _are_picked(batch)
    state, _ = adapter.apply(
        model,
        variables,
        batch.tokens_BL,
        lengths_BM=batch.lengths_BM,
        target_positions_BT=jnp.asarray(batch.target_positions_BT) if picked else None,
        method="hidden",
        rngs=rngs,
        materialized=materialized,
        rows=rows,
    )
    nll = _nll_of(model, adapter, variables, materialized, rows)
    target, weight = (batch.target_BT, batch.weight_BT) if picked else _spread(batch)
    count, targets = target.shape
    size = chunk_size(count, targets, model.config.vocab_size)
    pieces = chunks(size, state, jnp.asarray(target), jnp.asarray(weight))
    nlls = jax.lax.map(lambda piece: nll(*piece), pieces)
    return LossSum(jnp.sum(nlls, axis=0), jnp.sum(batch.weight_BT, axis=1))


def _are_picked(batch: Batch) -> bool:
    """Whether the loss reads the states of targets alone.

    Not where most positions have a target: to pick them would cost their gradient a scatter, which
    is slower than the logits of a few positions more.
    """
    return 4 * batch.target_BT.shape[1] < 3 * batch.tokens_BL.shape[1]


def _spread(batch: Batch) -> tuple[Array, Array]:
    """Targets and weights ``(B, L)`` at the positions that predict them."""
    rows, length = batch.tokens_BL.shape
    at = jnp.arange(rows)[:, None], batch.target_positions_BT
    # Filling lies at position 0 without weight, and may share it with a target.
    target_BT = jnp.where(jnp.asarray(batch.weight_BT) > 0, batch.target_BT, 0)
    target_BL = jnp.zeros((rows, length), jnp.int32).at[at].max(target_BT)
    weight_BL = jnp.zeros((rows, length), jnp.float32).at[at].add(batch.weight_BT)
    return target_BL, weight_BL


def _nll_of(
    model: Llama, adapter: Adapter, variables: Any, materialized: Any, rows: Any
) -> Callable[[Array, Array, Array], Float[Array, " B"]]:
    """(states, targets, weights) -> the weighted sum of each row's negative log-likelihoods.

    No logits are residuals of the backward pass. Where the head is frozen the gradient of the
    hidden states is taken with the loss, of the logits that are there; else they are recomputed.
    """
    trained = adapter.adapts("lm_head")
    variables = {**variables, "params": with_whole_head(variables["params"])}

    def nll(state_BCD: Array, target_BC: Array, weight_BC: Array) -> Float[Array, " B"]:
        if trained:
            logits_BCV = adapter.apply(
                model,
                variables,
                state_BCD,
                method="logits",
                materialized=materialized,
                rows=rows,
            )
        else:
            logits_BCV = model.apply({"params": variables["params"]}, state_BCD, method="logits")
        nll_BC = optax.softmax_cross_entropy_with_integer_labels(logits_BCV, target_BC)
        return jnp.sum(nll_BC * weight_BC, axis=1)

    if trained:
        return jax.checkpoint(nll)

    def forward(state_BCD: Array, target_BC: Array, weight_BC: Array) -> tuple[Array, Array]:
        def logits(state_BCD: Array) -> Array:
            found: Any = model.apply({"params": variables["params"]}, state_BCD, method="logits")
            return found

        logits_BCV, pull = jax.vjp(logits, state_BCD)
        # Written out, so that XLA reads the logits three times in all: for their largest, for the
        # sum of their exponentials and for the slope. What optax differentiates to takes more.
        log_sum_BC1 = jax.nn.logsumexp(logits_BCV, axis=-1, keepdims=True)
        taken_BC1 = jnp.take_along_axis(logits_BCV, target_BC[:, :, None], axis=-1)
        nll_BC = (log_sum_BC1 - taken_BC1)[:, :, 0]
        is_target_BCV = jax.nn.one_hot(target_BC, logits_BCV.shape[-1], dtype=logits_BCV.dtype)
        slope_BCV = jnp.exp(logits_BCV - log_sum_BC1) - is_target_BCV
        (gradient_BCD,) = pull(slope_BCV * weight_BC[:, :, None])
        return jnp.sum(nll_BC * weight_BC, axis=1), split_rows(gradient_BCD)

    def backward(gradient_BCD: Array, cotangent_B: Array) -> tuple[Array, None, None]:
        acc = acc_dtype(gradient_BCD.dtype)
        scaled_BCD = gradient_BCD.astype(acc) * cotangent_B.astype(acc)[:, None, None]
        return scaled_BCD.astype(gradient_BCD.dtype), None, None

    with_gradient = jax.custom_vjp(nll)
    with_gradient.defvjp(forward, backward)
    return with_gradient


def chunk_size(rows: int, targets: int, vocab_size: int) -> int:
    """How many targets of each row have their logits in memory at a time, in equal chunks.

    Rows are those of all devices of the mesh that is set, each of which has its share of them.
    """
    most = max(1, _LOGITS_AT_ONCE * sharding.batch_shards() // (rows * vocab_size))
    return math.ceil(targets / math.ceil(targets / most)) if targets else 1


def chunks(size: int, *arrays_BT: Any) -> tuple[Array, ...]:
    """Arrays (B, T, ...) as (T / size, B, size, ...).

    The last chunk is filled up with zeros, which as weights are none.
    """

    def split(array_BT: Any) -> Array:
        rows, targets, *rest = array_BT.shape
        padded = jnp.pad(array_BT, ((0, 0), (0, -targets % size), *[(0, 0)] * len(rest)))
        return jnp.moveaxis(padded.reshape(rows, -1, size, *rest), 1, 0)

    return tuple(map(split, arrays_BT))
