"""Pallas kernels for a network of fast transforms with other vectors d in every row of a batch.

A token of x is a tile, and x dW a few matmuls of 64 x 64 from both sides of it
(:mod:`tera_jax.network.structured`). A program does some tokens of one row for one of the layers
that read x; a decoding step of 64 rows, q and v is 128 programs of one kernel. The backward pass
reads x and the cotangents once, and sums the gradients of d over the tokens of a row.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.network import hadamard
from tera_jax.network.kernels.square import Network, Vectors
from tera_jax.ops.two_sided_matmul import from_both_sides, to_both_sides

_PROGRAMS = 512
"""There are to be, before a program gets more than one token."""
_FORWARD, _BACKWARD = 8, 32
"""The most tokens of one program."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def through(
    x_BTJ: Float[Array, "B T J"],
    network: Network,
    trained: Sequence[Vectors],
    interpret: bool = False,
) -> list[Float[Array, "B T O"]]:
    """The product x dW of each layer. The frozen network gets no gradient.

    Args:
        x_BTJ: in the type of the network.
        network: of sizes that :func:`tera_jax.network.structured.fits`.
        trained: for each layer d, e and f with the rows leading: (B, J), (B, A) and (B, B').
        interpret: run the kernel step by step in JAX, on any device.
    """
    batch, length, _ = x_BTJ.shape
    dtype, (x, y) = x_BTJ.dtype, (network.left_AX.shape[1], network.right_BY.shape[1])
    tokens = _tokens(_FORWARD, batch, length, len(trained))

    def one(tile: Any, frozen: Any, own: Any, _: Any, outs: Any) -> None:
        signs, before, after, first, second, narrow, left, right = (ref[...] for ref in frozen)
        scaled, back = _scales(before, after, own, dtype)
        (out_ref,) = outs

        def token(t: Any, carry: None) -> None:
            z_PQ = to_both_sides(first, tile[t] * signs, second).astype(dtype)
            core_AB = (from_both_sides(narrow, z_PQ * scaled, second) * back).astype(dtype)
            out_ref[t] = from_both_sides(left, core_AB, right).astype(dtype)
            return carry

        _loop(tokens, token, None)

    shape = jax.ShapeDtypeStruct((batch * length, x, y), dtype)
    found = _call("rows_through", one, tokens, x_BTJ, network, trained, [], [shape], interpret)
    return [out.reshape(batch, length, x * y) for (out,) in found]


def _forward(
    x_BTJ: Array, network: Network, trained: Sequence[Vectors], interpret: bool
) -> tuple[list[Array], Any]:
    return through(x_BTJ, network, trained, interpret), (x_BTJ, network, trained)


def _backward(interpret: bool, residuals: Any, cts: Sequence[Array]) -> tuple[Array, None, Any]:
    x_BTJ, network, trained = residuals
    to_x, to_trained = gradients(x_BTJ, network, trained, cts, interpret)
    return to_x, None, to_trained


through.defvjp(_forward, _backward)


def gradients(
    x_BTJ: Float[Array, "B T J"],
    network: Network,
    trained: Sequence[Vectors],
    cts: Sequence[Float[Array, "B T O"]],
    interpret: bool = False,
) -> tuple[Float[Array, "B T J"], list[Vectors]]:
    """What x and the d of each row get from the cotangents of :func:`through`.

    Args:
        x_BTJ: as there.
        network: as there.
        trained: as there.
        cts: for each layer, in the type of x.
        interpret: run the kernel step by step in JAX, on any device.
    """
    batch, length, width = x_BTJ.shape
    dtype = x_BTJ.dtype
    p, q = hadamard.kronecker_sizes(width)
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    tokens = _tokens(_BACKWARD, batch, length, len(trained))
    programs = batch * length // tokens

    def one(tile: Any, frozen: Any, own: Any, ct_ref: Any, outs: Any) -> None:
        signs, before, after, first, second, narrow, left, right = (ref[...] for ref in frozen)
        scaled, back = _scales(before, after, own, dtype)
        back = back.astype(dtype)
        to_x_ref, to_scaled_ref, to_core_ref = outs

        def token(t: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            z_PQ = to_both_sides(first, tile[t] * signs, second).astype(dtype)
            g_AB = to_both_sides(left, ct_ref[t], right).astype(dtype)
            core_AB = from_both_sides(narrow, z_PQ * scaled, second)
            g_PQ = to_both_sides(narrow, g_AB * back, second)
            x_PQ = from_both_sides(first, g_PQ.astype(dtype) * scaled, second)
            to_x_ref[t] = x_PQ.astype(dtype) * signs
            z_PQ, g_AB = z_PQ.astype(jnp.float32), g_AB.astype(jnp.float32)
            return sums[0] + z_PQ * g_PQ, sums[1] + g_AB * core_AB

        zeros = jnp.zeros((p, q), jnp.float32), jnp.zeros((a, b), jnp.float32)
        to_scaled_ref[0], to_core_ref[0] = _loop(tokens, token, zeros)

    shapes = [
        jax.ShapeDtypeStruct((batch * length, p, q), dtype),
        jax.ShapeDtypeStruct((programs, p, q), jnp.float32),
        jax.ShapeDtypeStruct((programs, a, b), jnp.float32),
    ]
    tiles = [ct.reshape(-1, x, y) for ct in cts]
    found = _call("rows_back", one, tokens, x_BTJ, network, trained, tiles, shapes, interpret)
    total = sum(to_x.astype(jnp.float32) for to_x, _, _ in found)
    to_x_BTJ = jnp.asarray(total).astype(dtype).reshape(x_BTJ.shape)
    before_J = network.before_J.astype(jnp.float32)
    after_AB = network.after_S.astype(jnp.float32).reshape(a, b)

    def of_rows(each: Vectors, to_scaled: Array, to_core: Array) -> Vectors:
        """The sums over the programs of each row."""
        to_J = jnp.sum(to_scaled.reshape(batch, -1, width), axis=1) * before_J[None]
        to_BAB = jnp.sum(to_core.reshape(batch, -1, a, b), axis=1) * after_AB[None]
        d_A, d_B = each.d_A.astype(jnp.float32), each.d_B.astype(jnp.float32)
        to_A = jnp.sum(to_BAB * d_B[:, None, :], axis=2)
        to_B = jnp.sum(to_BAB * d_A[:, :, None], axis=1)
        sums = Vectors(to_J, to_A, to_B)
        return jax.tree.map(lambda to, d: to.astype(d.dtype), sums, each)

    return to_x_BTJ, [of_rows(each, *sums) for each, (_, *sums) in zip(trained, found, strict=True)]


def _scales(before: Any, after: Any, own: Any, dtype: Any) -> tuple[Any, Any]:
    """The product d a in the type of x, and e x f times b in float32."""
    d_ref, d_a_ref, d_b_ref = own
    scaled = d_ref[0].astype(jnp.float32) * before.astype(jnp.float32)
    outer = d_a_ref[0].astype(jnp.float32)[:, None] * d_b_ref[0].astype(jnp.float32)[None]
    return scaled.astype(dtype), outer * after.astype(jnp.float32)


def _loop(tokens: int, body: Callable[..., Any], carry: Any) -> Any:
    return body(0, carry) if tokens == 1 else jax.lax.fori_loop(0, tokens, body, carry)


def _call(
    name: str,
    one: Callable[..., None],
    tokens: int,
    x_BTJ: Array,
    network: Network,
    trained: Sequence[Vectors],
    cts: Sequence[Array],
    shapes: Sequence[jax.ShapeDtypeStruct],
    interpret: bool,
) -> list[list[Array]]:
    """``one(x, frozen, own d, cotangent, outputs)`` for some tokens of a row and for each layer.

    ``shapes`` are those of a layer's outputs: of all tokens, or of one part for each program.
    """
    batch, length, width = x_BTJ.shape
    dtype, layers = x_BTJ.dtype, len(trained)
    p, q = hadamard.kronecker_sizes(width)
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    first_PP, second_QQ = (jnp.asarray(hadamard.orthogonal(size)).astype(dtype) for size in (p, q))
    frozen = (
        network.signs_J.reshape(p, q),
        network.before_J.reshape(p, q),
        network.after_S.reshape(a, b),
        first_PP,
        second_QQ,
        first_PP[:, :a],
        network.left_AX.astype(dtype),
        network.right_BY.astype(dtype),
    )
    own = [(each.d_J.reshape(batch, p, q), each.d_A, each.d_B) for each in trained]
    programs = batch * length // tokens

    def program(x_ref: Any, *refs: Any) -> None:
        frozen_refs, rest = refs[: len(frozen)], refs[len(frozen) :]
        own_refs, rest = rest[: 3 * layers], rest[3 * layers :]
        ct_refs, out_refs = rest[: len(cts)], rest[len(cts) :]
        each = len(shapes)
        for layer in range(layers):
            pl.when(pl.program_id(1) == layer)(
                functools.partial(
                    one,
                    x_ref,
                    frozen_refs,
                    own_refs[3 * layer : 3 * layer + 3],
                    ct_refs[layer] if cts else None,
                    out_refs[each * layer : each * layer + each],
                )
            )

    def whole(array: Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda i, j: (0,) * array.ndim)

    def of_row(array: Array) -> pl.BlockSpec:
        parts = length // tokens
        sides = array.shape[1:]
        return pl.BlockSpec((1, *sides), lambda i, j: (i // parts, *[0] * len(sides)))

    def part(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec((shape[0] // programs, *shape[1:]), lambda i, j: (i, 0, 0))

    flat = pl.pallas_call(
        program,
        grid=(programs, layers),
        in_specs=[
            part((batch * length, p, q)),
            *map(whole, frozen),
            *(of_row(array) for each in own for array in each),
            *(part((batch * length, x, y)) for _ in cts),
        ],
        out_specs=[part(shape.shape) for shape in shapes] * layers,
        out_shape=[*shapes] * layers,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        name=name,
    )(x_BTJ.reshape(-1, p, q), *frozen, *(array for each in own for array in each), *cts)
    return [list(flat[len(shapes) * n : len(shapes) * (n + 1)]) for n in range(layers)]


def _tokens(most: int, batch: int, length: int, layers: int) -> int:
    """Of a program: a divisor of a row's, such that there are enough programs."""
    tokens = most
    while length % tokens or (tokens > 1 and batch * length * layers < tokens * _PROGRAMS):
        tokens //= 2
    return tokens
