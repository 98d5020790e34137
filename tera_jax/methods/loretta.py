"""LoRETTA (the variant _rep): LoRA whose two matrices are tensor trains.

Source: Yang et al., "LoRETTA: Low-Rank Economic Tensor-Train Adaptation for Ultra-Low-Parameter
Fine-Tuning of Large Language Models", NAACL 2024; initial values as in the official code.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.limits import check_at_least
from tera_jax.methods.low_rank import LowRank, through_factors, through_rows, update
from tera_jax.network.tensorization import balanced_factors
from tera_jax.ops.numerics import acc_dtype

_CORES = 5

# (features, rank) of Llama's q and v under TeRA's setting. The official table does not multiply
# out; these are inferred from the counts in TeRA's Tables 2 and 3.
_LLAMA = {(4096, 32): (16, 16, 16, 8, 4), (1024, 32): (4, 8, 32, 8, 4)}


@dataclasses.dataclass(frozen=True)
class LoRETTA(LowRank):
    """LoRETTA_rep: y = x W + s drop(x) A B.

    A (in, r) and B (r, out) are the tensor trains ``a`` and ``b``, each a list of cores. Both start
    away from zero, as published: the adapted model is not the base at step 0.

    Attributes:
        rank: r, between the two matrices; TeRA's tables have 32.
        dropout: probability with which an entry of the input of A is zeroed in training.
        alpha: numerator of the scale s = alpha / r.
        tt_rank: of the tensor trains, at all of their inner bonds.
        modes: the sizes of the cores, such as ``"16x16x16x8x4"``, for matrices that are not to get
            the default ones. They go to the matrices, (in, r) or (r, out), that have as many
            entries as they multiply out to.
    """

    alpha: float = 16.0
    dropout: float = 0.05
    tt_rank: int = 8
    modes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, tt_rank=self.tt_rank)
        sizes = [math.prod(_parse(text)) for text in self.modes]
        for size in sizes:
            if sizes.count(size) > 1:
                raise ValueError(f"two modes for matrices of {size} among {self.modes}; keep one")

    def shape(self, features: int) -> tuple[int, ...]:
        """The sizes of the cores for a side with that many features.

        The listed one, or the one inferred for Llama, or five nearly equal factors; fewer where
        features × rank has fewer prime factors.
        """
        for modes in map(_parse, self.modes):
            if math.prod(modes) == features * self.rank:
                return modes
        return _LLAMA.get((features, self.rank)) or balanced_factors(features * self.rank, _CORES)

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when the rank is above a kernel's, or listed modes fit no matrix."""
        super().check(layers)
        features = {side for layer in layers for side in layer.kernel_shape}
        for text in self.modes:
            sizes = {side * self.rank for side in features}
            if math.prod(_parse(text)) not in sizes:
                raise ValueError(
                    f"modes {text!r} multiply out to {math.prod(_parse(text))}, but the targets' "
                    f"features times rank {self.rank} are {sorted(sizes)}; fit one of these"
                )

    def init_d(
        self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer
    ) -> dict[str, list[Array]]:
        """The cores of both trains, random."""
        del frozen, layer

        def train(address: int, side: int) -> list[Array]:
            std = 1 / math.sqrt(side + self.rank)
            address_key = jax.random.fold_in(key, address)
            return init_cores(address_key, self.shape(side), self.tt_rank, std)

        return {"a": train(0, kernel.shape[0]), "b": train(1, kernel.shape[1])}

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix s A B."""
        del frozen, layer
        dtype = acc_dtype(kernel.dtype)
        a_IR, b_RO = self._matrices(d, dtype, jax.lax.Precision.HIGHEST)
        return update(a_IR, b_RO, self.scale, dtype)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product s (x A) B."""
        del frozen, kernel, layer
        return through_factors(x, *self._matrices(d, x.dtype, None), self.scale)

    def prepare_row(self, frozen: Any, d: Any, kernel: Any, layer: TargetLayer) -> Arrays:
        """A and B, of which the trains are contracted."""
        del frozen, layer
        return dict(zip("ab", self._matrices(d, kernel.dtype, None), strict=True))

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The product with A and B of each row."""
        del frozen, kernel, layer
        return through_rows(x, row_B["a"], row_B["b"], self.scale)

    def max_rank(self, layer: TargetLayer) -> int:
        """The least of the bounds of the two trains."""
        rows_of = zip(layer.kernel_shape, (layer.kernel_shape[0], self.rank), strict=True)
        return min(train_rank(self.shape(side), self.tt_rank, rows) for side, rows in rows_of)

    def _matrices(self, d: Any, dtype: DTypeLike, precision: PrecisionLike) -> tuple[Array, Array]:
        """A and B. They are small, so the trains are contracted in float32 at least."""
        cores = jax.tree.map(lambda core: core.astype(acc_dtype(dtype)), d)
        a_IR = contract(cores["a"], precision).reshape(-1, self.rank)
        b_RO = contract(cores["b"], precision).reshape(self.rank, -1)
        return a_IR.astype(dtype), b_RO.astype(dtype)


def _parse(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise ValueError(f"modes {text!r} are not of the form '16x16x16x8x4'")
    modes = tuple(map(int, text.split("x")))
    if min(modes) < 1:
        raise ValueError(f"modes {text!r}; each is at least 1")
    return modes


def init_cores(
    key: KeyArray, modes: tuple[int, ...], tt_rank: int, std: float
) -> list[Float[Array, "_ _ _"]]:
    """The cores of one tensor train, whose entries have about standard deviation ``std``.

    Args:
        key: of the draws.
        modes: the sizes n_1..n_d.
        tt_rank: rho.
        std: of the product's entries.

    Returns:
        d arrays (rho_{i-1}, n_i, rho_i), float32, normal with standard deviation
        std^(1/d) / sqrt(rho_i); the outer ranks are 1.
    """
    ranks = (1, *[tt_rank] * (len(modes) - 1), 1)
    cores = []
    for i, mode in enumerate(modes):
        shape = (ranks[i], mode, ranks[i + 1])
        scale = std ** (1 / len(modes)) / math.sqrt(ranks[i + 1])
        cores.append(scale * jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32))
    return cores


def contract(
    cores: list[Float[Array, "_ _ _"]], precision: PrecisionLike = None
) -> Float[Array, " _"]:
    """All entries of a tensor train, row-major."""
    train = cores[0].reshape(-1, cores[0].shape[2])
    for core in cores[1:]:
        product = jnp.einsum("ar,rnq->anq", train, core, precision=precision)
        train = product.reshape(-1, core.shape[2])
    return train.reshape(-1)


def train_rank(modes: tuple[int, ...], tt_rank: int, rows: int) -> int:
    """A bound on the rank of a tensor train that is reshaped to a matrix.

    A bond of the train is its cut into a matrix of at most ``tt_rank``. Moving the cut by a factor
    of q multiplies the bound by q. With the modes inferred for TeRA's tables, the cut of A lies at
    a bond, so that the update there has rank 8 at most, and not 32.

    Args:
        modes: the sizes of the cores.
        tt_rank: of the inner bonds.
        rows: of the matrix; they divide the product of the modes.
    """
    bounds = [rows, math.prod(modes) // rows]
    for i in range(1, len(modes)):
        at = math.prod(modes[:i])
        if max(at, rows) % min(at, rows) == 0:
            bounds.append(tt_rank * max(at, rows) // min(at, rows))
    return min(bounds)
