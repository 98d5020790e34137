"""x times a network, with other vectors d in every row of a batch.

A *row* is the list of an adapter's d, those of modes that are contracted together multiplied out.
A network of transforms such as ``4096|8x8x8x8`` takes one pass of a Pallas kernel for all layers
that read one x (:mod:`tera_jax.network.kernels.batch_rows`); others are contracted mode after mode.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from tera_jax.network import core as cores
from tera_jax.network import structured
from tera_jax.network.contraction import through_groups
from tera_jax.network.contraction_order import ends_with_input, pairs
from tera_jax.network.core import Core
from tera_jax.network.factors import Factor, matrices, sizes, vectors
from tera_jax.network.kernels import batch_rows
from tera_jax.ops import dispatch, on_mesh


def row(
    factors: Sequence[Float[Array, "..."]], d: Sequence[Float[Array, " _"]], split: int
) -> list[Array]:
    """The d of each group of modes, of the input side and then of the output's.

    Args:
        factors: N arrays (R_i, I_i), or (I_i), the signs of a transform.
        d: N vectors (R_i).
        split: k, the number of input modes.
    """
    return [*vectors(factors, d, 0, split), *vectors(factors, d, split)]


def takes_kernel(
    x_BTJ: Float[Array, "B T J"], core: Core, factors: Sequence[Float[Array, "..."]]
) -> bool:
    """Whether :func:`through` takes one pass of a kernel for all layers."""
    taken = dispatch.takes_kernel(on_mesh.has_kernels() and dispatch.is_half(x_BTJ.dtype))
    taken = taken and on_mesh.splits_rows(len(x_BTJ))
    if not taken or not cores.is_fast(core) or factors[0].ndim != 1:
        return False
    ranks, modes = zip(*map(sizes, factors), strict=True)
    if not ends_with_input(ranks, modes, 1):
        return False
    before_J, after_S = core
    shape = before_J.size, after_S.size
    narrow = pairs(ranks[1:], modes[1:])  # of which a row has the d
    return len(narrow) == 2 and structured.fits_square(0, x_BTJ.shape[2], shape, narrow)


def through(
    x_BTJ: Float[Array, "B T J"],
    core: Core,
    factors: Sequence[Float[Array, "..."]],
    rows: Sequence[Sequence[Float[Array, "B _"]]],
    split: int,
    precision: Any = None,
) -> list[Float[Array, "B T O"]]:
    """:func:`tera_jax.network.contraction.through` with other d in every row, for several layers.

    Args:
        x_BTJ: B rows of T tokens, in the type of the core.
        core: (R_1..R_N), or the signs of a fast one.
        factors: N arrays (R_i, I_i) of the core's type, or (I_i), the signs of a transform.
        rows: for each layer what :func:`row` gave, stacked over the rows of the batch.
        split: k, the number of input modes.
        precision: of the matmuls, as in ``jax.lax.dot_general``.

    Returns:
        (B, T, O) in the type of the core, for each layer.
    """
    if isinstance(core, Sequence) and takes_kernel(x_BTJ, core, factors):
        network = structured.network(core, factors)
        trained = [structured.Vectors(*each) for each in rows]
        by_rows = on_mesh.ROWS

        def part(*arrays: Any) -> list[Array]:
            return batch_rows.through(*arrays, dispatch.interpret())

        specs = by_rows, P(), by_rows
        found: list[Array] = on_mesh.run(part, specs, by_rows, x_BTJ, network, trained)
        return found
    inward, outward = matrices(factors, 0, split), matrices(factors, split)

    def one(x_TJ: Array, d: Sequence[Array]) -> Array:
        count = len(inward)
        return through_groups(
            x_TJ,
            core,
            [Factor(*pair) for pair in zip(inward, d[:count], strict=True)],
            [Factor(*pair) for pair in zip(outward, d[count:], strict=True)],
            precision,
        )

    return [jax.vmap(one)(x_BTJ, list(each)) for each in rows]
