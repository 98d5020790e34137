"""A Pallas kernel for (x A) B with other A and B in every row of a batch, one token each.

A decoding step has to read A and B of every row, and does nothing else that takes time. XLA makes
two passes of it, the first of which sums along an axis that is not contiguous. Here one program
streams A and then B of one row, for one of the layers that read x. Several programs share the
outputs of a row where there are few rows.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

_PART = 2**14
"""Entries of A or B that a program has in flight: 32 KiB, as much as hides memory's latency."""
_PROGRAMS = 128
"""The most, where a few rows are shared among several programs: about as an H100 has units."""
_SHARES = 8
"""The most programs for the outputs of one row, each of which computes x A for itself."""


def fits(in_features: int, out_features: int, rank: int) -> bool:
    """Whether the kernel can: a middling power of two as rank, and whole parts."""
    part = _PART // rank
    middling = rank & (rank - 1) == 0 and 8 <= rank <= 128
    return middling and in_features % part == out_features % part == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def through(
    x_BI: Float[Array, "B I"],
    factors: Sequence[tuple[Float[Array, "B I R"], Float[Array, "B R O"]]],
    scale: float,
    interpret: bool = False,
) -> list[Float[Array, "B O"]]:
    """The matmuls s (x A) B of each layer; x A is rounded to the type of x, sums are in float32.

    Args:
        x_BI: one token a row.
        factors: A and B of each layer, of sizes that :func:`fits`.
        scale: s.
        interpret: run the kernel step by step in JAX, on any device.
    """
    layers = len(factors)
    batch, width = x_BI.shape
    rank, features = factors[0][1].shape[1:]
    dtype, part = x_BI.dtype, _PART // rank
    shares = _SHARES
    while shares > 1 and batch * layers * shares > _PROGRAMS:
        shares //= 2
    share = features // shares
    last = min(part, share)

    def one(x_ref: Any, a_ref: Any, b_ref: Any, out_ref: Any) -> None:
        def add(n: Any, sum_PR: Any) -> Any:
            at = pl.ds(n * part, part)
            x_P = x_ref[0, at].astype(jnp.float32)
            return sum_PR + x_P[:, None] * a_ref[0, at, :].astype(jnp.float32)

        zeros = jnp.zeros((part, rank), jnp.float32)
        sum_PR = jax.lax.fori_loop(0, width // part, add, zeros)
        hidden_R = (scale * jnp.sum(sum_PR, axis=0).astype(dtype)).astype(jnp.float32)

        def put(n: Any, carry: None) -> None:
            at = pl.ds(n * last, last)
            y_RP = hidden_R[:, None] * b_ref[0, :, at].astype(jnp.float32)
            out_ref[0, at] = jnp.sum(y_RP, axis=0).astype(dtype)
            return carry

        jax.lax.fori_loop(0, share // last, put, None)

    def program(x_ref: Any, *refs: Any) -> None:
        for layer in range(layers):
            mine = (*refs[2 * layer : 2 * layer + 2], refs[2 * layers + layer])
            pl.when(pl.program_id(1) == layer)(functools.partial(one, x_ref, *mine))

    def own(*sides: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, *sides), lambda i, j, k: (i, *[0] * len(sides)))

    b_spec = pl.BlockSpec((1, rank, share), lambda i, j, k: (i, 0, k))

    found = pl.pallas_call(
        program,
        grid=(batch, layers, shares),
        in_specs=[own(width), *[own(width, rank), b_spec] * layers],
        out_specs=[pl.BlockSpec((1, share), lambda i, j, k: (i, k))] * layers,
        out_shape=[jax.ShapeDtypeStruct((batch, features), dtype)] * layers,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        name="low_rank_rows",
    )(x_BI, *(array for pair in factors for array in pair))
    return list(found)


def by_xla(
    x_BI: Float[Array, "B I"],
    factors: Sequence[tuple[Float[Array, "B I R"], Float[Array, "B R O"]]],
    scale: float,
) -> list[Float[Array, "B O"]]:
    """:func:`through`, written out."""

    def one(a_BIR: Array, b_BRO: Array) -> Array:
        hidden_BR = jnp.einsum("bi,bir->br", x_BI, a_BIR.astype(x_BI.dtype))
        return jnp.einsum("br,bro->bo", scale * hidden_BR, b_BRO.astype(x_BI.dtype))

    return [one(*pair) for pair in factors]


def _forward(x_BI: Array, factors: Any, scale: float, interpret: bool) -> tuple[list[Array], Any]:
    return through(x_BI, factors, scale, interpret), (x_BI, factors)


def _backward(scale: float, interpret: bool, residuals: Any, cts: list[Array]) -> tuple[Any, Any]:
    del interpret
    _, pull = jax.vjp(functools.partial(by_xla, scale=scale), *residuals)
    to_x, to_factors = pull(cts)
    return to_x, to_factors


through.defvjp(_forward, _backward)
