"""LoRA: a trained update of low rank.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Formulas and
initial values as in PEFT 0.21.
"""

import dataclasses
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
        del frozen, kernel, layer
        return through_rows(x, row_B["a"], row_B["b"], self.scale)

    def max_rank(self, layer: TargetLayer) -> int:
        """That of A B."""
        del layer
        return self.rank
