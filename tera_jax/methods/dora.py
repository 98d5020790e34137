"""DoRA: the magnitude of each column of the kernel is trained apart from its direction.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024. Formulas and initial
values as in PEFT 0.21.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.low_rank import (
    LowRank,
    by_row,
    init_factors,
    through_factors,
    through_rows,
    update,
)
from tera_jax.methods.product import PLAIN, Product, drop
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class DoRA(LowRank):
    """DoRA: y = x (W + s A B) diag(m / c), where c holds the column norms of W + s A B.

    The gradient takes the norm c for a constant (Section 4.3), in ``merge`` as in ``apply``, so it
    is not the slope of either.

    Attributes:
        rank: R, of A and B.
        dropout: probability with which an entry of x is zeroed in training. The update, which here
            includes (m / c - 1) x W, reads the dropped x, and only the base reads all of x.
        alpha: numerator of the scale s = alpha / rank.
    """

    prepare_reads_kernel: ClassVar[bool] = True

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """A random, B zero, and ``m`` (O,), the column norms of the kernel."""
        del frozen, layer
        norms_O = column_norms(kernel.astype(acc_dtype(kernel.dtype)))
        return {**init_factors(key, kernel, self.rank), "m": norms_O.astype(jnp.float32)}

    def _direction(self, d: Any, kernel: Array) -> tuple[Array, Array]:
        """W + s A B and m / c in the type of sums."""
        dtype = acc_dtype(kernel.dtype)
        sum_IO = kernel.astype(dtype) + update(d["a"], d["b"], self.scale, dtype)
        norms_O = jax.lax.stop_gradient(column_norms(jax.lax.stop_gradient(sum_IO)))
        # A column of zeros has no direction; whatever it is divided by, it stays zero.
        return sum_IO, d["m"].astype(dtype) / jnp.where(norms_O == 0, 1, norms_O)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """What the scaled columns differ from W by."""
        del frozen, layer
        sum_IO, ratio_O = self._direction(d, kernel)
        return sum_IO * ratio_O[None, :] - kernel.astype(sum_IO.dtype)

    def merge(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The scaled columns themselves: one rounding, and no difference is taken."""
        del frozen, layer
        sum_IO, ratio_O = self._direction(d, kernel)
        return (sum_IO * ratio_O[None, :]).astype(kernel.dtype)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product (m / c) (x W + s x A B) - x W."""
        del frozen, layer
        scaled, base = self._scaled(d, kernel, x, PLAIN)
        return (scaled - base).astype(x.dtype)

    def apply(
        self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer, how: Product = PLAIN
    ) -> Array:
        """All sums are taken before the one rounding; without dropout x W is in them once."""
        del frozen, layer
        dropped = drop(how.dropout, self.dropout, x)
        y, base = self._scaled(d, kernel, dropped, how)
        return self._summed(y, base, kernel, x, dropped, how)

    def base_d(self, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """A and B zero, ``m`` the kernel's own norms."""
        d = super().base_d(kernel, frozen, layer)
        return {**d, "m": column_norms(kernel.astype(acc_dtype(kernel.dtype))).astype(jnp.float32)}

    def prepare_row(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Arrays:
        """A, B and ``ratio`` (O,), the quotient m / c.

        |w + s A b|² of a column is |w|² + 2 s b·(Aᵀ w) + s² b·(Aᵀ A b), so that W + s A B is not
        made. Columns that s A B nearly cancels lose digits.
        """
        del frozen, layer
        dtype, scale = acc_dtype(kernel.dtype), self.scale
        wide, a_IR, b_RO = (
            jax.lax.stop_gradient(x.astype(dtype)) for x in (kernel, d["a"], d["b"])
        )
        times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        mixed_RO = 2 * scale * times(a_IR.T, wide) + scale**2 * times(times(a_IR.T, a_IR), b_RO)
        squares_O = jnp.square(column_norms(wide)) + jnp.sum(b_RO * mixed_RO, axis=0)
        # Without A and B it is the norm itself, to the bit.
        changed_O = jnp.any(b_RO != 0, axis=0)
        norms_O = jnp.where(changed_O, jnp.sqrt(jnp.maximum(squares_O, 0)), column_norms(wide))
        ratio_O = d["m"].astype(dtype) / jnp.where(norms_O == 0, 1, norms_O)
        return {"a": d["a"], "b": d["b"], "ratio": ratio_O}

    def apply_rows(
        self,
        frozen: Any,
        row_B: Any,
        kernel: Array,
        x: Array,
        layer: TargetLayer,
        how: Product = PLAIN,
    ) -> Array:
        """As :meth:`apply`, with the quotients of each row."""
        del frozen, layer
        dropped = drop(how.dropout, self.dropout, x)
        base = how.matmul(dropped, kernel).astype(acc_dtype(x.dtype))
        low_rank = through_rows(dropped, row_B["a"], row_B["b"], self.scale)
        y = by_row(row_B["ratio"], base) * (base + low_rank.astype(base.dtype))
        return self._summed(y, base, kernel, x, dropped, how)

    def _summed(
        self, y: Array, base: Array, kernel: Array, x: Array, dropped: Array, how: Product
    ) -> Array:
        """``y``, which has ``base``, x W of the dropped x; with x W of all of x in its place."""
        if dropped is not x:
            y = y - base + how.matmul(x, kernel).astype(y.dtype)
        return y.astype(x.dtype)

    def _scaled(self, d: Any, kernel: Array, x: Array, how: Product) -> tuple[Array, Array]:
        """The products (m / c) (x W + s x A B) and x W in the type of sums."""
        _, ratio_O = self._direction(d, kernel)
        dtype = acc_dtype(x.dtype)
        ratio = ratio_O.astype(dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        base = how.matmul(x, kernel).astype(dtype)
        low_rank = through_factors(x, d["a"], d["b"], self.scale).astype(dtype)
        return ratio * (base + low_rank), base


def column_norms(kernel: Float[Array, "I O"]) -> Float[Array, " O"]:
    """The Euclidean norm of each column, that is of the weights of each output."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))
