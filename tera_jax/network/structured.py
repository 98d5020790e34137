"""A network of fast transforms by Pallas kernels: W + dW, and the gradients of d from x and g.

Two sets of kernels: :mod:`.kernels.square` for split outputs whose tiles are powers of two and
those of the input's transform, as ``4096|8x8x8x8`` has, and :mod:`.kernels.rectangular` for other
sizes and for split inputs. Nothing is made but W + dW, and x and g are read once for each kernel.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import hadamard
from tera_jax.network.contraction_order import halves, multiplied
from tera_jax.network.kernels import rectangular, rectangular_update, square, tiles
from tera_jax.network.kernels.square import Network as Network
from tera_jax.network.kernels.square import Vectors as Vectors
from tera_jax.ops.numerics import acc_dtype

Arguments = tuple[int, int, tuple[int, int], Sequence[tuple[int, int]], bool]
"""Of :func:`fits`."""
_TOKENS = 32
"""Rows of the batch that there have to be a multiple of."""


def fits(
    rows: int,
    width: int,
    core_shape: tuple[int, int],
    narrow: Sequence[tuple[int, int]],
    split_in: bool = False,
) -> bool:
    """Whether the kernels can: tiles that registers hold, and whole programs.

    Args:
        rows: of the batch.
        width: of the whole side, J.
        core_shape: (R, S) of the core.
        narrow: (rank, mode) of the groups of modes of the other side.
        split_in: whether that is the input side.
    """
    found = grouped(core_shape, narrow)
    if rows % _TOKENS or found is None:
        return False
    dims = rectangular.sizes(width, core_shape, found, split_in)
    if dims is None:
        return False
    in_square = not split_in and fits_square(rows, width, core_shape, narrow)
    return in_square or rectangular.buffers(dims) > 0


def flops(
    rows: int,
    width: int,
    core_shape: tuple[int, int],
    narrow: Sequence[tuple[int, int]],
    split_in: bool = False,
) -> tuple[int, int]:
    """Of W + dW and of the gradients, with the padding; none where only moving memory counts.

    Arguments are those of :func:`fits`, of a network that does.
    """
    found = grouped(core_shape, narrow)
    if found is None or (not split_in and fits_square(rows, width, core_shape, narrow)):
        return 0, 0
    dims = rectangular.sizes(width, core_shape, found, split_in)
    return (0, 0) if dims is None else rectangular.flops(dims, rows, split_in)


def fits_square(
    rows: int, width: int, core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]]
) -> bool:
    """Whether :mod:`.kernels.square` do. Arguments are those of :func:`fits`, for split outputs."""
    found = grouped(core_shape, narrow)
    one_tile = found is not None and found[0] == (1, 1)
    return found is not None and one_tile and square.fits(rows, width, core_shape, found[1:])


def grouped(
    core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]]
) -> list[tuple[int, int]] | None:
    """(rank, mode) of three groups, whose ranks are the core's Kronecker factors.

    The first is (1, 1) where there are two of those, and then the second may have fewer rows. None
    when the modes cannot be split so. Arguments are those of :func:`fits`.
    """
    at = _starts(core_shape, narrow)
    if at is None:
        return None
    return [multiplied(narrow[i:j]) for i, j in zip((0, *at), (*at, len(narrow)), strict=True)]


def _starts(
    core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Where the second and the third of the :func:`grouped` modes begin."""
    sizes = hadamard.kronecker_sizes(max(core_shape))
    ranks = [multiplied(narrow[:i])[0] for i in range(len(narrow))]
    if len(sizes) < 3:
        first = 0
    elif sizes[0] in ranks:
        first = ranks.index(sizes[0])
    else:
        return None
    at = halves(narrow[first:], sizes[-1])
    return None if at is None else (first, first + at)


def parts(
    core: Sequence[Float[Array, "..."]],
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    split_in: bool = False,
) -> tuple[Network, Vectors]:
    """What the kernels take of a network that :func:`fits`.

    Args:
        core: the signs of a fast one (:mod:`tera_jax.network.core`).
        factors: N, of which the first are the signs of a transform, or the last for split inputs.
        d: N vectors.
        split_in: whether the input side is split.
    """
    d_J, narrow = _whole_first(d, split_in)
    acc = acc_dtype(factors[0].dtype)
    d_C, d_A, d_B = _multiplied([each.astype(acc) for each in narrow], core, factors, split_in)
    return network(core, factors, split_in), Vectors(d_J, d_A, d_B, d_C)


def network(
    core: Sequence[Float[Array, "..."]],
    factors: Sequence[Float[Array, "..."]],
    split_in: bool = False,
) -> Network:
    """The frozen part of :func:`parts`."""
    signs_J, narrow = _whole_first(factors, split_in)
    acc = acc_dtype(signs_J.dtype)
    narrow = [each.astype(acc) for each in narrow]
    first_CZ, left_AX, right_BY = _multiplied(narrow, core, factors, split_in)
    before_R, after_S = core
    return Network(signs_J, before_R, after_S, left_AX, right_BY, first_CZ)


def _whole_first(modes: Sequence[Array], split_in: bool) -> tuple[Array, Sequence[Array]]:
    """That of the whole side, and the others."""
    return (modes[-1], modes[:-1]) if split_in else (modes[0], modes[1:])


def _multiplied(
    narrow: Sequence[Array], core: Sequence[Array], factors: Sequence[Array], split_in: bool
) -> list[Any]:
    """Those of each of the :func:`grouped` modes multiplied out; None for the first if empty."""
    shape = core[0].size, core[1].size
    _, split = _whole_first(factors, split_in)
    ranks_modes = [(factor.shape[0], factor.shape[1]) for factor in split]
    at = _starts(shape, ranks_modes)
    if at is None:
        raise ValueError(
            f"no kernels take a split side of (rank, mode) {ranks_modes} beside {shape}"
        )
    slices = zip((0, *at), (*at, None), strict=True)
    return [functools.reduce(jnp.kron, narrow[i:j]) if i != j else None for i, j in slices]


def adapted(
    kernel_JO: Float[Array, "J O"] | Float8Kernel,
    network: Network,
    trained: Vectors,
    interpret: bool = False,
    split_in: bool = False,
    start: Any = 0,
) -> Float[Array, "J O"]:
    """W + dW, summed in float32 and rounded once. Without gradients.

    Args:
        kernel_JO: W, of any type; of one in e4m3 the codes are read and scaled here. Where
            :func:`is_square` it may be some of the rows, of a number that
            :func:`tera_jax.network.kernels.square.divides`.
        network: of sizes that :func:`fits`, in half precision or float32.
        trained: d, e and f.
        interpret: run the kernel step by step in JAX, on any device.
        split_in: whether the input side is split, and (I, O) the shape of W.
        start: the first of these rows.
    """
    if is_square(network, split_in):
        return square.adapted(kernel_JO, network, trained, interpret, start)
    sides, dims = _sides(network, trained, split_in)
    sides = sides._replace(
        left_AX=network.left_AX * trained.d_A[:, None],
        right_BY=network.right_BY * trained.d_B[:, None],
    )
    dtype = network.signs_J.dtype
    return rectangular_update.adapted(kernel_JO, sides, dims, dtype, split_in, interpret)


def gradients(
    x_TJ: Float[Array, "T J"],
    ct_TO: Float[Array, "T O"],
    network: Network,
    trained: Vectors,
    interpret: bool = False,
    split_in: bool = False,
    start: Any = 0,
) -> Vectors:
    """Of the sum of ``ct * (x @ dW)``, with respect to d, e and f.

    Args:
        x_TJ: in the type of the network. Where :func:`is_square` it may be some of the entries, of
            a number that :func:`tera_jax.network.kernels.square.divides`; the rest count as zero.
        ct_TO: likewise, of as many rows.
        network: of sizes that :func:`fits`.
        trained: d, e and f.
        interpret: run the kernel step by step in JAX, on any device.
        split_in: whether the input side is split.
        start: the first of these entries of x.

    Returns:
        float32.
    """
    if is_square(network, split_in):
        return square.gradients(x_TJ, ct_TO, network, trained, interpret, start)
    sides, dims = _sides(network, trained, split_in)
    whole, split = (ct_TO, x_TJ) if split_in else (x_TJ, ct_TO)
    whole_TJ = hadamard.apply_to_rows(network.signs_J, whole, interpret)

    def tiles(trained: Vectors) -> Array:
        split_ZAB = _sides(network, trained, split_in)[0].split_ZAB
        return split_ZAB * (trained.d_A[:, None] * trained.d_B[None, :])[None]

    split_ZAB, pull = jax.vjp(tiles, trained)
    to_whole_J, to_split_ZAB = rectangular.gradients(
        whole_TJ, split, sides._replace(split_ZAB=split_ZAB), dims, split_in, interpret
    )
    signs_J = network.after_S if split_in else network.before_J
    (to_trained,) = pull(to_split_ZAB)
    return to_trained._replace(d_J=to_whole_J * signs_J.astype(jnp.float32))


def is_square(network: Network, split_in: bool) -> bool:
    """Whether :mod:`.kernels.square` take it: they can do a part of W, and of x."""
    shape = network.before_J.size, network.after_S.size
    first, *narrow = _narrow(network)
    one_tile = first == (1, 1) and not split_in
    return one_tile and square.fits(0, network.signs_J.size, shape, narrow)


def _narrow(network: Network) -> list[tuple[int, int]]:
    """(rank, mode) of the three groups of the split side."""
    first = (1, 1) if network.first_CZ is None else network.first_CZ.shape
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    return [first, (a, x), (b, y)]


def _sides(network: Network, trained: Vectors, split_in: bool) -> tuple[tiles.Sides, tiles.Sizes]:
    """By side, and with the signs of the core in float32."""
    core = [signs.astype(jnp.float32) for signs in (network.before_J, network.after_S)]
    shape = core[0].size, core[1].size
    whole_J, split_K = core[::-1] if split_in else core
    narrow = _narrow(network)
    dims = rectangular.sizes(network.signs_J.size, shape, narrow, split_in)
    if dims is None:
        raise ValueError(f"no kernels take a core {shape} with matrices {narrow}; build the update")
    split_CAB = split_K.reshape(-1, dims.a, dims.b)
    sides = tiles.Sides(
        network.signs_J.astype(jnp.float32),
        trained.d_J * whole_J,
        split_CAB if network.first_CZ is None else _through_first(network, trained, split_CAB),
        network.left_AX,
        network.right_BY,
    )
    return sides, dims


def _through_first(network: Network, trained: Vectors, signs_CAB: Array) -> Array:
    """The numbers that stand for the signs of the core in each tile (Z, A, B) of the split side."""
    count = network.first_CZ.shape[0]
    scaled_CZ = network.first_CZ * trained.d_C[:, None] / math.sqrt(count)
    return jnp.sum(scaled_CZ[:, :, None, None] * signs_CAB[:, None], axis=0)
