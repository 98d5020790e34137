"""TopLoRA: LoRA whose singular directions each token weighs for itself.

Source: Li et al., "Beyond Higher Rank: Token-wise Input-Output Projections for Efficient Low-Rank
Adaptation", NeurIPS 2025, and the constants of its published implementation.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, NotMergeableError, TargetLayer
from tera_jax.methods.limits import check_above_zero
from tera_jax.methods.low_rank import LowRank, init_factors
from tera_jax.methods.product import PLAIN, Product, drop
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class TopLoRA(LowRank):
    """TopLoRA: y = x W + s (drop(x) A * exp(RMSNorm(x Theta))) B.

    Attributes:
        rank: R, of A, B and Theta.
        dropout: probability with which an entry of the input of A is zeroed in training. Theta
            reads all of x.
        alpha: numerator of the scale s = alpha / rank.
        eps: added to the mean square in RMSNorm. By default float32's, which is what torch's
            ``RMSNorm`` takes when it is given none. Sums are taken in float32 for every narrower
            type, so that the function does not change with the type of x.
    """

    mergeable: ClassVar[bool] = False

    alpha: float = 16.0
    dropout: float = 0.05
    eps: float = 2.0**-23

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(eps=self.eps)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """A and Theta random alike, B zero, the norm's factors one."""
        del frozen, layer
        a_key, theta_key = jax.random.split(key)
        return {
            **init_factors(a_key, kernel, self.rank),
            "theta": init_factors(theta_key, kernel, self.rank)["a"],
            "norm": jnp.ones(self.rank, jnp.float32),
        }

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """Raises :class:`NotMergeableError`."""
        raise NotMergeableError(
            "TopLoRA's update depends on the token, A diag(exp(RMSNorm(x Theta))) B, so no kernel "
            "holds it; serve base and adapter together"
        )

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product s (x A * gate(x)) B."""
        del frozen, kernel, layer
        return self._gated(d, x, x)

    def apply(
        self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer, how: Product = PLAIN
    ) -> Array:
        """Only A reads the dropped x."""
        del frozen, layer
        dropped = drop(how.dropout, self.dropout, x)
        return how.matmul(x, kernel) + self._gated(d, dropped, x)

    def apply_rows(
        self,
        frozen: Any,
        row_B: Any,
        kernel: Array,
        x: Array,
        layer: TargetLayer,
        how: Product = PLAIN,
    ) -> Array:
        """As :meth:`apply`, row by row but for W."""
        del frozen, layer
        dropped = drop(how.dropout, self.dropout, x)
        return how.matmul(x, kernel) + jax.vmap(self._gated)(row_B, dropped, x)

    def max_rank(self, layer: TargetLayer) -> int:
        """For one token, that of A B."""
        del layer
        return self.rank

    def _gated(self, d: Any, dropped: Array, x: Array) -> Array:
        hidden = jnp.einsum("...i,ir->...r", dropped, d["a"].astype(x.dtype))
        weights = gate(x, d["theta"], d["norm"], self.eps)
        hidden = (self.scale * hidden.astype(weights.dtype) * weights).astype(x.dtype)
        return jnp.einsum("...r,ro->...o", hidden, d["b"].astype(x.dtype))


def gate(
    x: Float[Array, "*B I"],
    theta_IR: Float[Array, "I R"],
    norm_R: Float[Array, " R"],
    eps: float,
) -> Float[Array, "*B R"]:
    """The weights exp(RMSNorm(x Theta)) of the R directions for each token.

    Args:
        x: the input of the layer.
        theta_IR: Theta.
        norm_R: the factors of RMSNorm.
        eps: added to the mean square over R.

    Returns:
        In float32, or float64 when x is.
    """
    dtype = acc_dtype(x.dtype)
    logits = jnp.einsum("...i,ir->...r", x, theta_IR.astype(x.dtype)).astype(dtype)
    normed = logits * jax.lax.rsqrt(jnp.mean(jnp.square(logits), axis=-1, keepdims=True) + eps)
    return jnp.exp(normed * norm_R.astype(dtype).reshape((1,) * (x.ndim - 1) + (-1,)))
