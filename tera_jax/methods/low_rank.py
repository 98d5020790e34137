"""What the methods with a rank share: its checks, dropout, and the matmul of two thin matrices."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, LinearMethod, TargetLayer, check_rank
from tera_jax.methods.limits import check_above_zero, check_at_least
from tera_jax.methods.product import linear
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class RankMethod(LinearMethod):
    """A method with a rank, whose update reads a dropped-out x.

    Attributes:
        rank: R.
        dropout: probability with which an entry of the input of the update is zeroed in training.
    """

    rank: int = 8
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, rank=self.rank)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; choose a probability of at least 0, below 1")


@dataclasses.dataclass(frozen=True)
class ScaledRank(RankMethod):
    """An update times a scale s.

    Attributes:
        rank: R.
        dropout: probability with which an entry of the input of the update is zeroed in training.
        alpha: numerator of the scale s = alpha / rank.
    """

    alpha: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(alpha=self.alpha)

    @property
    def scale(self) -> float:
        """The factor s of the update."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class LowRank(ScaledRank):
    """An update s A B, of a rank that every kernel has.

    Attributes:
        rank: R, of A and B.
        dropout: probability with which an entry of the input of A is zeroed in training.
        alpha: numerator of the scale s = alpha / rank.
    """

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when the rank is above that of a kernel."""
        check_rank(self.rank, layers)


@dataclasses.dataclass(frozen=True)
class ReadFactors(RankMethod):
    """An update A B, whose factors are read out of arrays that all layers share.

    Attributes:
        rank: R, of A and B.
        dropout: probability with which an entry of the input of A is zeroed in training.
    """

    @abc.abstractmethod
    def factors(self, frozen: Any, d: Any) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """A and B of one layer."""

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when the rank is above that of a kernel."""
        check_rank(self.rank, layers)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix A B."""
        del layer
        return update(*self.factors(frozen, d), 1.0, acc_dtype(kernel.dtype))

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product (x A) B."""
        del kernel, layer
        return through_factors(x, *self.factors(frozen, d), 1.0)

    def prepare_row(self, frozen: Any, d: Any, kernel: Any, layer: TargetLayer) -> Arrays:
        """A and B."""
        del kernel, layer
        return dict(zip("ab", self.factors(frozen, d), strict=True))

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The product with A and B of each row."""
        del frozen, kernel, layer
        return through_rows(x, row_B["a"], row_B["b"], 1.0)

    def max_rank(self, layer: TargetLayer) -> int:
        """That of A B."""
        del layer
        return self.rank


def init_factors(key: KeyArray, kernel: Float[Array, "I O"], rank: int) -> Arrays:
    """A ``a`` (I, R) and B ``b`` (R, O), float32: A uniform within 1 / sqrt(I), B zero.

    The bound is torch's ``kaiming_uniform_`` with a = sqrt(5).
    """
    rows, columns = kernel.shape
    limit = 1 / math.sqrt(rows)
    return {
        "a": jax.random.uniform(key, (rows, rank), jnp.float32, -limit, limit),
        "b": jnp.zeros((rank, columns), jnp.float32),
    }


def update(
    a_IR: Float[Array, "I R"], b_RO: Float[Array, "R O"], scale: float, dtype: DTypeLike
) -> Float[Array, "I O"]:
    """The matrix s A B in ``dtype``, with all of its bits also where matmuls take fewer."""
    product_IO = jnp.einsum(
        "ir,ro->io", a_IR.astype(dtype), b_RO.astype(dtype), precision=jax.lax.Precision.HIGHEST
    )
    return scale * product_IO


def through_factors(
    x: Float[Array, "*B I"], a_IR: Float[Array, "I R"], b_RO: Float[Array, "R O"], scale: float
) -> Float[Array, "*B O"]:
    """The product s (x A) B in the type of x, A and B rounded to it as under autocast in PEFT."""
    hidden = jnp.einsum("...i,ir->...r", x, a_IR.astype(x.dtype))
    return jnp.einsum("...r,ro->...o", scale * hidden, b_RO.astype(x.dtype))


def through_rows(
    x: Float[Array, "B *T I"],
    a_BIR: Float[Array, "B I R"],
    b_BRO: Float[Array, "B R O"],
    scale: float,
) -> Float[Array, "B *T O"]:
    """:func:`through_factors` with other factors in every row of a batch."""
    x_BTI = x.reshape(x.shape[0], -1, x.shape[-1])
    hidden_BTR = jnp.einsum("bti,bir->btr", x_BTI, a_BIR.astype(x.dtype))
    y_BTO = jnp.einsum("btr,bro->bto", scale * hidden_BTR, b_BRO.astype(x.dtype))
    return y_BTO.reshape(*x.shape[:-1], -1)


def through_kernel_rows(
    x: Float[Array, "B *T I"],
    kernel: Float[Array, "I O"],
    a_BIR: Float[Array, "B I R"],
    b_BRO: Float[Array, "B R O"],
) -> Float[Array, "B *T O"]:
    """The product x (W ⊙ A B), A and B of each row, by R products with W, which all rows share.

    It is the sum over k of ((x ⊙ a_k) W) ⊙ b_k, in the type of x.
    """
    x_BTI = x.reshape(x.shape[0], -1, x.shape[-1])
    acc = acc_dtype(x.dtype)
    a_BIR, b_BRO = a_BIR.astype(acc), b_BRO.astype(acc)
    scaled_BTRI = x_BTI.astype(acc)[:, :, None] * jnp.swapaxes(a_BIR, 1, 2)[:, None]
    y_BTRO = linear(scaled_BTRI.astype(x.dtype), kernel).astype(acc)
    y_BTO = jnp.sum(y_BTRO * b_BRO[:, None], axis=2)
    return y_BTO.astype(x.dtype).reshape(*x.shape[:-1], -1)


def by_row(vector_BX: Float[Array, "B X"], like: Float[Array, "B *T _"]) -> Array:
    """A vector a row, with as many axes as ``like`` and its type."""
    return vector_BX.astype(like.dtype).reshape(len(vector_BX), *[1] * (like.ndim - 2), -1)
