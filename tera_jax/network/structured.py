"""A network of fast transforms by Pallas kernels: W + dW, and the gradients of d from x and g.

Two sets of kernels: :mod:`.kernels.square` for split outputs whose tiles are powers of two and
those of the input's transform, as ``4096|8x8x8x8`` has, and :mod:`.kernels.rectangular` for other
sizes and for split inputs. Nothing is made but W + dW, and x and g are read once for each kernel.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import hadamard
from tera_jax.network.contraction_order import halves, multiplied, pairs
from tera_jax.network.factors import matrices, sizes, vectors
from tera_jax.network.kernels import rectangular, rectangular_update, square, tiles
from tera_jax.network.kernels.square import Network as Network
from tera_jax.network.kernels.square import Vectors as Vectors
from tera_jax.network.kernels.square import to_vectors

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
    found = halved(core_shape, narrow)
    if rows % _TOKENS or found is None:
        return False
    dims = rectangular.sizes(width, core_shape, found, split_in)
    if dims is None:
        return False
    in_square = not split_in and square.fits(rows, width, core_shape, found)
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
    found = halved(core_shape, narrow)
    if found is None or (not split_in and square.fits(rows, width, core_shape, found)):
        return 0, 0
    dims = rectangular.sizes(width, core_shape, found, split_in)
    return (0, 0) if dims is None else rectangular.flops(dims, rows, split_in)


def fits_square(
    rows: int, width: int, core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]]
) -> bool:
    """Whether :mod:`.kernels.square` do. Arguments are those of :func:`fits`, for split outputs."""
    found = halved(core_shape, narrow)
    return found is not None and square.fits(rows, width, core_shape, found)


def halved(
    core_shape: tuple[int, int], narrow: Sequence[tuple[int, int]]
) -> list[tuple[int, int]] | None:
    """(rank, mode) of two groups, of which the second has the core's last Kronecker factor.

    None when the modes cannot be split so. Arguments are those of :func:`fits`.
    """
    at = halves(narrow, hadamard.kronecker_sizes(max(core_shape))[-1])
    return None if at is None else [multiplied(narrow[:at]), multiplied(narrow[at:])]


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
    found = network(core, factors, split_in)
    wide_J, narrow = _whole_first(vectors(factors, d), split_in)
    at = _at(core, factors, split_in)
    halves = (functools.reduce(jnp.kron, each) for each in (narrow[:at], narrow[at:]))
    return found, Vectors(wide_J, *halves)


def network(
    core: Sequence[Float[Array, "..."]],
    factors: Sequence[Float[Array, "..."]],
    split_in: bool = False,
) -> Network:
    """The frozen part of :func:`parts`."""
    wide_J, narrow = _whole_first(matrices(factors), split_in)
    at = _at(core, factors, split_in)
    left_AX, right_BY = (functools.reduce(jnp.kron, each) for each in (narrow[:at], narrow[at:]))
    before_R, after_S = core
    return Network(wide_J, before_R, after_S, left_AX, right_BY)


def _whole_first(groups: Sequence[Array], split_in: bool) -> tuple[Array, Sequence[Array]]:
    """The group of the whole side, and the others."""
    return (groups[-1], groups[:-1]) if split_in else (groups[0], groups[1:])


def _at(core: Sequence[Array], factors: Sequence[Array], split_in: bool) -> int:
    """Where the groups of the split side are split in two."""
    shape = core[0].size, core[1].size
    _, split = _whole_first(factors, split_in)
    narrow = pairs(*zip(*map(sizes, split), strict=True))
    at = halves(narrow, hadamard.kronecker_sizes(max(shape))[-1])
    if at is None:
        raise ValueError(f"no kernels take a split side of (rank, mode) {narrow} beside {shape}")
    return at


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
    signs_AB = sides.split_AB
    e_f_AB = trained.d_A[:, None] * trained.d_B[None, :]
    whole, split = (ct_TO, x_TJ) if split_in else (x_TJ, ct_TO)
    whole_TJ = hadamard.apply_to_rows(network.signs_J, whole, interpret)
    scaled = sides._replace(split_AB=signs_AB * e_f_AB)
    to_whole_J, to_split_AB = rectangular.gradients(
        whole_TJ, split, scaled, dims, split_in, interpret
    )
    signs_J = network.after_S if split_in else network.before_J
    return to_vectors(to_whole_J, to_split_AB * signs_AB, signs_J, trained)


def is_square(network: Network, split_in: bool) -> bool:
    """Whether :mod:`.kernels.square` take it: they can do a part of W, and of x."""
    shape = network.before_J.size, network.after_S.size
    narrow = _narrow(network)
    return not split_in and square.fits(0, network.signs_J.size, shape, narrow)


def _narrow(network: Network) -> list[tuple[int, int]]:
    """(rank, mode) of both halves of the split side."""
    (a, x), (b, y) = network.left_AX.shape, network.right_BY.shape
    return [(a, x), (b, y)]


def _sides(network: Network, trained: Vectors, split_in: bool) -> tuple[tiles.Sides, tiles.Sizes]:
    """By side, and with the signs of the core in float32."""
    core = [signs.astype(jnp.float32) for signs in (network.before_J, network.after_S)]
    shape = core[0].size, core[1].size
    whole_J, split_K = core[::-1] if split_in else core
    narrow = _narrow(network)
    dims = rectangular.sizes(network.signs_J.size, shape, narrow, split_in)
    if dims is None:
        raise ValueError(f"no kernels take a core {shape} with matrices {narrow}; build the update")
    sides = tiles.Sides(
        network.signs_J.astype(jnp.float32),
        trained.d_J * whole_J,
        split_K.reshape(dims.a, dims.b),
        network.left_AX,
        network.right_BY,
    )
    return sides, dims
