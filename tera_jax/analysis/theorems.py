"""The bounds of the TeRA paper (arXiv:2509.03234), in numbers.

The update is L E G F M. G is the core unfolded to (R, S), the products of the input and of the
output ranks. L (J1, R) and M (S, J2) are the Kronecker products of the factors, E and F those of d.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tera_jax.analysis.spectral_norm import STARTS, spectral_norm
from tera_jax.analysis.spectrum import finite_matrix

Form = Literal["pseudoinverse", "transposed"]
"""Of Z: that of the proof, and the one printed in the paper's main text, which is no bound."""


class FullRankCounts(NamedTuple):
    """The fewest trainable parameters that can give an update (J1, J2) of full rank (Theorem 2)."""

    tera: int
    vera: int
    hira: int
    lora: int


class Network(NamedTuple):
    """The frozen part of a TeRA update, float64.

    Attributes:
        left_JR: L.
        core_RS: G.
        right_SO: M.
        in_ranks: of the input modes, whose product is R.
        out_ranks: of the output modes, whose product is S.
    """

    left_JR: Float[np.ndarray, "J R"]
    core_RS: Float[np.ndarray, "R S"]
    right_SO: Float[np.ndarray, "S O"]
    in_ranks: tuple[int, ...]
    out_ranks: tuple[int, ...]


class Bound(NamedTuple):
    """Theorem 3 for one update that is wanted: squared Frobenius norms.

    Attributes:
        outside: what no core can reach, the first term.
        inside: the second term.
        tight: the second term with the spectral norms of L and M in place of Frobenius norms, which
            the same proof gives.
        norm: the spectral norm of Z as a tensor, as far as it was found.
        vectors: d of an update that is no further away than the bound: those of the rank-one tensor
            that is nearest to Z.
    """

    outside: float
    inside: float
    tight: float
    norm: float
    vectors: tuple[Float[np.ndarray, " _"], ...]

    @property
    def total(self) -> float:
        """The bound of Eq. 9."""
        return self.outside + self.inside


def rank_bound(in_ranks: Sequence[int], out_ranks: Sequence[int]) -> int:
    """The largest rank of the update (Theorem 1)."""
    return min(math.prod(in_ranks), math.prod(out_ranks))


def full_rank_counts(in_modes: Sequence[int], out_modes: Sequence[int]) -> FullRankCounts:
    """Theorem 2, for a kernel tensorized into these modes.

    Raises:
        ValueError: for modes below 2, for which the theorem does not hold.
    """
    modes = [*in_modes, *out_modes]
    if not in_modes or not out_modes or min(modes) < 2:
        raise ValueError(f"modes {modes}: give each side one of at least 2")
    j1, j2 = math.prod(in_modes), math.prod(out_modes)
    return FullRankCounts(sum(modes), j1 + j2, j1 + j2, (j1 + j2) * min(j1, j2))


def approximation_bound(
    wanted_JO: ArrayLike,
    network: Network,
    form: Form = "pseudoinverse",
    starts: int = STARTS,
    seed: int = 0,
) -> Bound:
    """Theorem 3: how near an update of a frozen network can come to the one that is wanted.

    The largest entry of the core counts by its magnitude. A spectral norm that was not found makes
    the bound larger, and never wrong.

    Args:
        wanted_JO: W*.
        network: the frozen part.
        form: of Z.
        starts: of the search for the spectral norm.
        seed: likewise.

    Raises:
        ValueError: for arrays that do not fit together, and a core with an entry of zero.
    """
    wanted = finite_matrix(wanted_JO)
    left, core, right = map(finite_matrix, network[:3])
    _require_fit(wanted, left, core, right, network)
    inverses = np.linalg.pinv(left), np.linalg.pinv(right)
    reached = inverses[0] @ wanted @ inverses[1]
    turned = left.T @ wanted @ inverses[1] if form == "transposed" else reached
    z_RS = turned / core
    z_tensor = z_RS.reshape(*network.in_ranks, *network.out_ranks)
    norm, (first, *others) = spectral_norm(z_tensor, starts, seed)
    rest = np.max(np.abs(core)) ** 2 * max(float(np.sum(z_RS**2)) - norm**2, 0.0)
    inside, tight = (
        rest * float(np.linalg.norm(left, order) ** 2 * np.linalg.norm(right, order) ** 2)
        for order in (None, 2)
    )
    outside = float(np.sum((wanted - left @ reached @ right) ** 2))
    return Bound(outside, inside, tight, norm, (norm * first, *others))


def _require_fit(
    wanted: np.ndarray, left: np.ndarray, core: np.ndarray, right: np.ndarray, network: Network
) -> None:
    ranks = math.prod(network.in_ranks), math.prod(network.out_ranks)
    shapes = (left.shape[0], ranks[0]), ranks, (ranks[1], right.shape[1])
    found = left.shape, core.shape, right.shape
    if found != shapes or wanted.shape != (left.shape[0], right.shape[1]):
        raise ValueError(
            f"L {left.shape}, G {core.shape} and M {right.shape} of ranks {network.in_ranks} and "
            f"{network.out_ranks} make no update {wanted.shape}"
        )
    if not core.all():
        raise ValueError("the core has an entry of zero, by which Z is divided; draw another one")
