"""Pallas kernels for a network of fast transforms with other vectors d in every row of a batch.

A token of x is a tile, and x dW a few matmuls of 64 x 64 from both sides of it
(:mod:`tera_jax.network.structured`). A program does some tokens of one row for one of the layers
that read x; a decoding step of 64 rows, q and v is 128 programs of one kernel.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.network import hadamard
from tera_jax.network.structured import Network, Vectors
from tera_jax.ops.two_sided_matmul import from_both_sides, to_both_sides

_TOKENS = 8
"""The most in one program."""
_PROGRAMS = 512
"""There are to be, before a program gets more than one token."""


def through(
    x_BTJ: Float[Array, "B T J"],
    network: Network,
    trained: Sequence[Vectors],
    interpret: bool = False,
) -> list[Float[Array, "B T O"]]:
    """The product x dW of each layer.

    Args:
        x_BTJ: in the type of the network.
        network: of sizes that :func:`tera_jax.network.structured.fits`.
        trained: for each layer d, e and f with the rows leading: (B, J), (B, A) and (B, B').
        interpret: run the kernel step by step in JAX, on any device.
    """
    batch, length, width = x_BTJ.shape
    dtype, layers = x_BTJ.dtype, len(trained)
    p, q = hadamard.kronecker_sizes(width)
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    tokens = _tokens(batch, length, layers)
    first_PP, second_QQ = (jnp.asarray(hadamard.orthogonal(size).astype(dtype)) for size in (p, q))

    def program(*refs: Any) -> None:
        x_ref, s_ref, before_ref, after_ref, first_ref, second_ref, narrow_ref, *rest = refs
        left_ref, right_ref, *rest = rest
        given, outs = rest[:-layers], rest[-layers:]
        signs, first, second = s_ref[...], first_ref[...], second_ref[...]
        narrow, left, right = narrow_ref[...], left_ref[...], right_ref[...]

        def one(layer: int) -> None:
            d_ref, d_a_ref, d_b_ref = given[3 * layer : 3 * layer + 3]
            before = d_ref[0].astype(jnp.float32) * before_ref[...].astype(jnp.float32)
            outer = d_a_ref[0].astype(jnp.float32)[:, None] * d_b_ref[0].astype(jnp.float32)[None]
            scaled, after = before.astype(dtype), outer * after_ref[...].astype(jnp.float32)

            def token(t: Any, carry: None) -> None:
                z_PQ = to_both_sides(first, x_ref[t] * signs, second).astype(dtype)
                core_AB = from_both_sides(narrow, z_PQ * scaled, second)
                core_AB = (core_AB * after).astype(dtype)
                outs[layer][t] = from_both_sides(left, core_AB, right).astype(dtype)
                return carry

            jax.lax.fori_loop(0, tokens, token, None) if tokens > 1 else token(0, None)

        for layer in range(layers):
            pl.when(pl.program_id(1) == layer)(functools.partial(one, layer))

    def whole(*sides: int) -> pl.BlockSpec:
        return pl.BlockSpec(sides, lambda i, j: (0,) * len(sides))

    def own(*sides: int) -> pl.BlockSpec:
        each = length // tokens
        return pl.BlockSpec((1, *sides), lambda i, j: (i // each, *[0] * len(sides)))

    def part(*sides: int) -> pl.BlockSpec:
        return pl.BlockSpec((tokens, *sides), lambda i, j: (i, 0, 0))

    found = pl.pallas_call(
        program,
        grid=(batch * length // tokens, layers),
        in_specs=[
            part(p, q),
            *(
                whole(*sides)
                for sides in [(p, q), (p, q), (a, b), (p, p), (q, q), (p, a), (a, x), (b, y)]
            ),
            *(own(*sides) for _ in trained for sides in [(p, q), (a,), (b,)]),
        ],
        out_specs=[part(x, y)] * layers,
        out_shape=[jax.ShapeDtypeStruct((batch * length, x, y), dtype)] * layers,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        name="rows_through",
    )(
        x_BTJ.reshape(-1, p, q),
        network.signs_J.reshape(p, q),
        network.before_J.reshape(p, q),
        network.after_S.reshape(a, b),
        first_PP,
        second_QQ,
        first_PP[:, :a],
        network.left_AX.astype(dtype),
        network.right_BY.astype(dtype),
        *(
            array
            for each in trained
            for array in (each.d_J.reshape(batch, p, q), each.d_A, each.d_B)
        ),
    )
    return [out.reshape(batch, length, x * y) for out in found]


def _tokens(batch: int, length: int, layers: int) -> int:
    """Of a program: a divisor of a row's, such that there are enough programs."""
    tokens = _TOKENS
    while length % tokens or (tokens > 1 and batch * length * layers < tokens * _PROGRAMS):
        tokens //= 2
    return tokens
