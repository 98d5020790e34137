"""(IA)³: a trained factor for each output of a layer, or for each input of a feedforward one.

Source: Liu et al., NeurIPS 2022, arXiv:2205.05638. Formulas and initial values as in PEFT 0.21.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from tera_jax.methods.base import Arrays, KeyArray, LinearMethod, TargetLayer
from tera_jax.methods.product import PLAIN, Product
from tera_jax.ops.numerics import acc_dtype, scaled


@dataclasses.dataclass(frozen=True)
class IA3(LinearMethod):
    """(IA)³: y = l ⊙ (x W + bias), or (l ⊙ x) W + bias in a feedforward layer.

    Attributes:
        feedforward: patterns of the target layers whose input is scaled.
    """

    default_targets: ClassVar[tuple[str, ...]] = ("k_proj", "v_proj", "down_proj")
    feedforward: tuple[str, ...] = ("down_proj",)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """Ones."""
        return self.base_d(kernel, frozen, layer)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The kernel, its rows or columns times l - 1."""
        wide, less = kernel.astype(acc_dtype(kernel.dtype)), d["l"] - 1
        return scaled(wide.T, less).T if self._scales_input(layer) else scaled(wide, less)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The layer with l - 1 in the place of l."""
        return self.apply(frozen, {"l": d["l"] - 1}, kernel, x, layer)

    def apply(
        self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer, how: Product = PLAIN
    ) -> Array:
        """One product, beside which the factors cost nothing."""
        if self._scales_input(layer):
            return how.matmul(scaled(x, d["l"]), kernel)
        return scaled(how.matmul(x, kernel), d["l"])

    apply_rows = apply  # type: ignore[assignment]  # l may lead with rows

    def base_d(self, kernel: Any, frozen: Any, layer: TargetLayer) -> Arrays:
        """Ones."""
        return {"l": jnp.ones(kernel.shape[0 if self._scales_input(layer) else 1], jnp.float32)}

    def merge_bias(self, frozen: Any, d: Any, bias_O: Array, layer: TargetLayer) -> Array:
        """The bias times l, where that scales outputs."""
        return bias_O if self._scales_input(layer) else scaled(bias_O, d["l"])

    def _scales_input(self, layer: TargetLayer) -> bool:
        return any(map(layer.matches, self.feedforward))
