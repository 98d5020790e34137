"""The frozen core of a network: dense, or a fast random transform of which only signs are kept.

Unfolded to R input ranks by S output ranks, a fast core is

    diag(a) (H_1 x ... x H_k)[:R, :S] diag(b)

with the orthogonal H of :mod:`tera_jax.network.hadamard` for max(R, S), and signs a and b. Beside a
dense core of R S random numbers it has R + S random bits, and no multiplication of R by S. Products
of such transforms stand for Gaussian matrices in random features (Yu et al., "Orthogonal Random
Features", arXiv:1610.09072); docs/methods.md has the loss that TeRA reaches with it.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.network import hadamard

Core = Float[Array, "..."] | Sequence[Float[Array, " _"]]
"""(R_1..R_N), or [a, b]."""


def is_fast(core: Core) -> bool:
    """Whether a core is kept as its signs."""
    return isinstance(core, Sequence)


def draw(
    key: Key[Array, ""], in_rank: int, out_rank: int, std: float, dtype: jax.typing.DTypeLike
) -> list[Float[Array, " _"]]:
    """[a, b] of a fast core whose entries have the root mean square ``std``, which is in a.

    Raises:
        ValueError: when the larger rank is a size without transform.
    """
    size = max(in_rank, out_rank)
    hadamard.kronecker_sizes(size)
    before, after = (
        hadamard.signs(jax.random.fold_in(key, i), rank)
        for i, rank in enumerate((in_rank, out_rank))
    )
    return [(before * (std * math.sqrt(size))).astype(dtype), after.astype(dtype)]


def formed(core: Core) -> Float[Array, "..."]:
    """A dense core as it is, a fast one written out and still unfolded."""
    if not isinstance(core, Sequence):
        return core
    before_R, after_S = core
    factors = (
        hadamard.kronecker_factor(factor, before_R.dtype)
        for factor in hadamard.kronecker_sizes(max(before_R.size, after_S.size))
    )
    matrix_RS = functools.reduce(jnp.kron, factors)[: before_R.size, : after_S.size]
    return before_R[:, None] * matrix_RS * after_S[None, :]


def product(
    x_TR: Float[Array, "T R"], core: Core, precision: jax.lax.PrecisionLike = None
) -> Float[Array, "T S"]:
    """Rows with the unfolded core.

    Args:
        x_TR: T rows of the R input ranks, in the type of the core.
        core: (R_1..R_N) or [a, b].
        precision: of the product, as in ``jax.lax.dot_general``.
    """
    if not isinstance(core, Sequence):
        core_RS = core.reshape(x_TR.shape[1], -1)
        return jnp.einsum("tr,rs->ts", x_TR, core_RS, precision=precision)
    before_R, after_S = core
    rank, columns = before_R.size, after_S.size
    size = max(rank, columns)
    x_TN = jnp.pad(x_TR * before_R[None, :], ((0, 0), (0, size - rank)))
    after_N = jnp.pad(after_S, (0, size - columns))
    return hadamard.apply_transposed(after_N, x_TN, 1, precision)[:, :columns]
