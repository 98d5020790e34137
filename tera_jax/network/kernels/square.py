"""Pallas kernels of :mod:`tera_jax.network.structured` for sides that are powers of two.

With one wide input mode, a fast core of its Kronecker factors and two narrow groups of output
modes, such as ``4096|8x8x8x8`` has,

    dW = diag(s) H^T diag(d a) H[:, :S] diag(b) (diag(e) L x diag(f) M)

for the Kronecker product H of two square matrices P and Q, the network's signs s, a and b, and
d, e and f that are trained. Any row vector times this is a few matmuls from both sides of that
vector as a tile. Rows of dW are those of unit vectors. What d gets back is a sum over the rows of x
and of the cotangent g. Nothing is made but W + dW, and x and g are read once for each kernel.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import hadamard
from tera_jax.ops import two_sided_matmul
from tera_jax.ops.two_sided_matmul import block, from_both_sides, to_both_sides, whole

_ROWS = 8
"""Of the kernel, in one program of :func:`adapted`."""
_TOKENS = 32
"""Rows of the batch that there have to be a multiple of, and the most in one program."""
_PROGRAMS = 256
"""Of :func:`gradients`, if that leaves eight tokens or more in each: one takes half the registers
of a streaming multiprocessor, of which an H100 has 132."""


class Network(NamedTuple):
    """What is frozen. Signs are vectors in the type of x, ``before_J`` times the gain."""

    signs_J: Array  # s
    before_J: Array  # a
    after_S: Array  # b
    left_AX: Array  # L, float32
    right_BY: Array  # M, float32
    first_CZ: Any = None  # of a third group of modes, before these; only where tiles are padded


class Vectors(NamedTuple):
    """The trainable d of the modes, float32."""

    d_J: Array
    d_A: Array
    d_B: Array
    d_C: Any = None


def fits(
    rows: int, width: int, core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]]
) -> bool:
    """Whether the kernels can: all matmuls of middling powers of two, and whole programs.

    Args:
        rows: of the batch.
        width: of the input, J.
        core_shape: (R, S) of the core.
        narrow: (rank, mode) of the two groups of output modes.
    """
    sizes = hadamard.kronecker_sizes(width)
    if len(sizes) != 2 or len(narrow) != 2 or core_shape[0] != width or core_shape[1] > width:
        return False
    (a, x), (b, y) = narrow
    fitting = rows % _TOKENS == 0 and b == sizes[1] and a * b == core_shape[1]
    return fitting and two_sided_matmul.fits(width, *sizes, a, b, x, y)


def divides(width: int, shards: int, least: int = 1) -> bool:
    """Whether the kernels can do one of so many equal parts of the J inputs of a network.

    Args:
        width: J.
        shards: of :func:`adapted`'s rows; of the inputs of :func:`gradients` with ``least=16``.
        least: columns of the first matrix that a part has to have.
    """
    first, _ = hadamard.kronecker_sizes(width)
    return first % shards == 0 and first // shards >= least


def adapted(
    kernel_JO: Float[Array, "J O"] | Float8Kernel,
    network: Network,
    trained: Vectors,
    interpret: bool = False,
    start: Any = 0,
) -> Float[Array, "J O"]:
    """W + dW, summed in float32 and rounded once. Without gradients.

    Args:
        kernel_JO: W, of any type; of one in e4m3 the codes are read and scaled here. It may be some
            of the rows, of a number that :func:`divides`.
        network: of sizes that :func:`fits`, in half precision or float32.
        trained: d, e and f.
        interpret: run the kernel step by step in JAX, on any device.
        start: the first of these rows.
    """
    dtype = network.signs_J.dtype
    p, q = hadamard.kronecker_sizes(network.signs_J.size)
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    first_PP, second_QQ = (hadamard.kronecker_factor(size, dtype) for size in (p, q))
    scaled_PQ = _scaled(network, trained).astype(dtype).reshape(p, q)
    left_AX = (network.left_AX * trained.d_A[:, None]).astype(dtype)
    right_BY = (network.right_BY * trained.d_B[:, None]).astype(dtype)
    part = kernel_JO.shape[0] // q
    turned_PP = jax.lax.dynamic_slice_in_dim(first_PP.T, start // q, part)

    def program(w_ref: Any, s_ref: Any, scaled_ref: Any, *refs: Any) -> None:
        *given, out_ref = refs
        turned_p_ref, turned_q_ref, first_ref, second_ref, b_ref, left_ref, right_ref, *more = given
        second, after, left, right = second_ref[...], b_ref[...], left_ref[...], right_ref[...]
        start = pl.program_id(0) * _ROWS
        # All rows of a program are of the same column of the first matrix.
        unit_PQ = scaled_ref[...] * turned_p_ref[start // q][:, None]
        half_AQ = triton.dot(first_ref[...], unit_PQ, trans_a=True).astype(dtype)

        def row(k: Any, carry: None) -> None:
            unit_AQ = half_AQ * (turned_q_ref[(start + k) % q] * s_ref[k])[None, :]
            core_AB = triton.dot(unit_AQ, second).astype(dtype) * after
            update_XY = from_both_sides(left, core_AB, right)
            w_XY = w_ref[k].astype(jnp.float32)
            for scales_ref in more:
                w_XY = w_XY * scales_ref[...]
            out_ref[k] = (w_XY + update_XY).astype(out_ref.dtype)
            return carry

        jax.lax.fori_loop(0, _ROWS, row, None)

    if isinstance(kernel_JO, Float8Kernel):
        w_JO, scales = kernel_JO.inputs_first(), [kernel_JO.channel_scales.reshape(x, y)]
    else:
        w_JO, scales = kernel_JO, []
    out_JXY = pl.pallas_call(
        program,
        grid=(kernel_JO.shape[0] // _ROWS,),
        in_specs=[
            block(_ROWS, x, y),
            block(_ROWS),
            *(
                whole(*sides)
                for sides in [(p, q), (part, p), (q, q), (p, a), (q, b), (a, b), (a, x), (b, y)]
            ),
            *(whole(x, y) for _ in scales),
        ],
        out_specs=block(_ROWS, x, y),
        out_shape=jax.ShapeDtypeStruct((kernel_JO.shape[0], x, y), kernel_JO.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )(
        w_JO.reshape(-1, x, y),
        jax.lax.dynamic_slice_in_dim(network.signs_J, start, kernel_JO.shape[0]),
        scaled_PQ,
        turned_PP,
        second_QQ.T,
        first_PP[:, :a],
        second_QQ,
        network.after_S.reshape(a, b),
        left_AX,
        right_BY,
        *scales,
    )
    return out_JXY.reshape(kernel_JO.shape)


def gradients(
    x_TJ: Float[Array, "T J"],
    ct_TO: Float[Array, "T O"],
    network: Network,
    trained: Vectors,
    interpret: bool = False,
    start: Any = 0,
) -> Vectors:
    """Of the sum of ``ct * (x @ dW)``, with respect to d, e and f.

    Args:
        x_TJ: in the type of the network. It may be some of the entries, of a number that
            :func:`divides`; the rest count as zero.
        ct_TO: likewise, of as many rows.
        network: of sizes that :func:`fits`.
        trained: d, e and f.
        interpret: run the kernel step by step in JAX, on any device.
        start: the first of these entries of x.

    Returns:
        float32.
    """
    dtype = x_TJ.dtype
    p, q = hadamard.kronecker_sizes(network.signs_J.size)
    part = x_TJ.shape[1] // q
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    tokens = next(n for n in (_TOKENS, _TOKENS // 2, 8) if n == 8 or len(x_TJ) >= _PROGRAMS * n)
    programs = len(x_TJ) // tokens
    first_PP, second_QQ = (hadamard.kronecker_factor(size, dtype) for size in (p, q))
    after_AB = network.after_S.reshape(a, b).astype(jnp.float32)

    def program(
        x_ref: Any, g_ref: Any, s_ref: Any, scaled_ref: Any, back_ref: Any, *refs: Any
    ) -> None:
        first_ref, second_ref, narrow_ref, left_ref, right_ref, to_scaled_ref, to_core_ref = refs
        signs, scaled, back = s_ref[...], scaled_ref[...], back_ref[...]
        first, second, narrow = first_ref[...], second_ref[...], narrow_ref[...]
        left, right = left_ref[...], right_ref[...]

        def token(t: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            z_PQ = to_both_sides(first, x_ref[t] * signs, second).astype(dtype)
            g_AB = to_both_sides(left, g_ref[t], right).astype(dtype)
            core_AB = from_both_sides(narrow, z_PQ * scaled, second)
            g_PQ = to_both_sides(narrow, g_AB * back, second)
            z_PQ, g_AB = z_PQ.astype(jnp.float32), g_AB.astype(jnp.float32)
            return sums[0] + z_PQ * g_PQ, sums[1] + g_AB * core_AB

        zeros = jnp.zeros((p, q), jnp.float32), jnp.zeros((a, b), jnp.float32)
        to_scaled_ref[0], to_core_ref[0] = jax.lax.fori_loop(0, tokens, token, zeros)

    to_scaled_NPQ, to_core_NAB = pl.pallas_call(
        program,
        grid=(programs,),
        in_specs=[
            block(tokens, part, q),
            block(tokens, x, y),
            *(
                whole(*sides)
                for sides in [(part, q), (p, q), (a, b), (p, part), (q, q), (p, a), (a, x), (b, y)]
            ),
        ],
        out_specs=[block(1, p, q), block(1, a, b)],
        out_shape=[
            jax.ShapeDtypeStruct((programs, p, q), jnp.float32),
            jax.ShapeDtypeStruct((programs, a, b), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
    )(
        x_TJ.reshape(-1, part, q),
        ct_TO.reshape(-1, x, y),
        jax.lax.dynamic_slice_in_dim(network.signs_J, start, part * q).reshape(part, q),
        _scaled(network, trained).reshape(p, q).astype(dtype),
        (trained.d_A[:, None] * trained.d_B[None, :] * after_AB).astype(dtype),
        jax.lax.dynamic_slice_in_dim(first_PP, start // q, part, axis=1),
        second_QQ,
        first_PP[:, :a],
        network.left_AX.astype(dtype),
        network.right_BY.astype(dtype),
    )
    to_scaled_J = jnp.sum(to_scaled_NPQ, axis=0).reshape(-1)
    to_core_AB = jnp.sum(to_core_NAB, axis=0) * after_AB
    return to_vectors(to_scaled_J, to_core_AB, network.before_J, trained)


def to_vectors(to_scaled_J: Array, to_core_AB: Array, signs_J: Array, trained: Vectors) -> Vectors:
    """What d, e and f get from the gradients of d a and of e x f."""
    return Vectors(
        signs_J.astype(jnp.float32) * to_scaled_J,
        jnp.sum(to_core_AB * trained.d_B[None, :], axis=1),
        jnp.sum(to_core_AB * trained.d_A[:, None], axis=0),
    )


def _scaled(network: Network, trained: Vectors) -> Array:
    """The product d a, in float32."""
    return trained.d_J * network.before_J.astype(jnp.float32)
