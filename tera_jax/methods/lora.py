"""LoRA: a trained update of low rank.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Formulas and
initial values as in PEFT 0.21.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.low_rank import (
    LowRank,
    init_factors,
    through_factors,
    through_rows,
    update,
)
from tera_jax.ops import dispatch, low_rank_rows, on_mesh
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class LoRA(LowRank):
    """LoRA: y = x W + s drop(x) A B.

    Attributes:
        rank: R, of A and B.
        dropout: probability with which an entry of the input of A is zeroed in training.
        alpha: numerator of the scale s = alpha / rank.
    """

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """A random, B zero."""
        del frozen, layer
        return init_factors(key, kernel, self.rank)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix s A B."""
        del frozen, layer
        return update(d["a"], d["b"], self.scale, acc_dtype(kernel.dtype))

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product s (x A) B."""
        del frozen, kernel, layer
        return through_factors(x, d["a"], d["b"], self.scale)

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The same with A and B of each row."""
        del kernel
        found = self.branches(frozen, [row_B], x, [layer])
        return found[0] if found else through_rows(x, row_B["a"], row_B["b"], self.scale)

    def branches(
        self, frozen: Any, rows_B: Sequence[Any], x: Array, layers: Sequence[TargetLayer]
    ) -> list[Array] | None:
        """By one kernel for one token a row, on a GPU; it reads A and B once."""
        del frozen
        shapes = {layer.kernel_shape for layer in layers}
        usual = on_mesh.has_kernels() and dispatch.is_half(x.dtype)
        sides = (*layers[0].kernel_shape, self.rank)
        if len(shapes) > 1 or x.size != len(x) * x.shape[-1] or not low_rank_rows.fits(*sides):
            return None
        if not dispatch.takes_kernel(usual) or not on_mesh.splits_rows(len(x)):
            return None
        factors = [(row_B["a"], row_B["b"]) for row_B in rows_B]
        x_BI = x.reshape(len(x), -1)

        def part(*arrays: Any) -> list[Array]:
            return low_rank_rows.through(*arrays, self.scale, dispatch.interpret())

        split = on_mesh.ROWS
        found = on_mesh.run(part, (split, split), split, x_BI, factors)
        return [y_BO.reshape(*x.shape[:-1], -1) for y_BO in found]

    def max_rank(self, layer: TargetLayer) -> int:
        """That of A B."""
        del layer
        return self.rank
