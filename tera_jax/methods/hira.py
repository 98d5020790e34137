"""HiRA: each entry of the kernel scaled by one plus that of a low-rank matrix.

Source: Huang et al., "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language
Models", ICLR 2025. Formulas and initial values as in PEFT 0.21, which adds the
dropout; A and B start as LoRA's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer, check_rank
from tera_jax.methods.low_rank import RankMethod, init_factors, through_kernel_rows, update
from tera_jax.methods.product import linear
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class HiRA(RankMethod):
    """HiRA: y = x W + drop(x) (W ⊙ A B). It has no alpha.

    The base's product and the update's are taken apart, as in PEFT: in bfloat16 the one product
    with W ⊙ (1 + A B) would lose every entry of A B below 2^-9.

    Attributes:
        rank: r, of the matrix A B that scales the kernel.
        dropout: probability with which an entry of the input of the update is zeroed in training
            (PEFT's ``hira_dropout``; the official code has none).
    """

    rank: int = 32

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when the rank is above that of a kernel."""
        check_rank(self.rank, layers)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """A random, B zero."""
        del frozen, layer
        return init_factors(key, kernel, self.rank)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix W ⊙ A B."""
        del frozen, layer
        dtype = acc_dtype(kernel.dtype)
        return kernel.astype(dtype) * update(d["a"], d["b"], 1.0, dtype)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product x (W ⊙ A B); for rank 1 ((x ⊙ a) W) ⊙ b, without a matrix as large as W."""
        del frozen, layer
        kernel_IO, a_IR, b_RO = (array.astype(x.dtype) for array in (kernel, d["a"], d["b"]))
        if self.rank > 1:
            return linear(x, kernel_IO * linear(a_IR, b_RO))
        row = (1,) * (x.ndim - 1)
        return linear(x * a_IR.reshape(*row, -1), kernel_IO) * b_RO.reshape(*row, -1)

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The sum over k of ((x ⊙ a_k) W) ⊙ b_k: r products with W, which all rows share."""
        del frozen, layer
        return through_kernel_rows(x, kernel, row_B["a"], row_B["b"])
