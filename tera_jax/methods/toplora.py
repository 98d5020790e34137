"""TopLoRA: LoRA whose singular directions each token weighs for itself.

Source: Li et al., "Beyond Higher Rank: Token-wise Input-Output Projections for Efficient Low-Rank
Adaptation", NeurIPS 2025, and the constants of its published implementation.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.methods import lora
from tera_jax.methods.base import Method, NotMergeableError, Site
from tera_jax.ops import numerics


@dataclasses.dataclass(frozen=True)
class TopLoraConfig(lora.LowRankConfig):
    """TopLoRA: y = x W + s (drop(x) A * exp(RMSNorm(x Theta))) B.

    Attributes:
        rank: R, of A, B and Theta.
        alpha: numerator of the scale s = alpha / rank.
        dropout: probability with which an entry of the input of A is zeroed in training. Theta
            reads all of x.
        eps: added to the mean square in RMSNorm. By default float32's, which is what torch's
            ``RMSNorm`` takes when it is given none. Sums are taken in float32 for every narrower
            type, so that the function does not change with the type of x.
    """

    alpha: float = 16.0
    dropout: float = 0.05
    eps: float = 2.0**-23

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps {self.eps}; it must be finite and above 0")


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
    wide = numerics.accumulator(x.dtype)
    logits = jnp.einsum("...i,ir->...r", x, theta_IR.astype(x.dtype)).astype(wide)
    normed = logits * jax.lax.rsqrt(jnp.mean(jnp.square(logits), axis=-1, keepdims=True) + eps)
    return jnp.exp(normed * norm_R.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,)))


def method(config: TopLoraConfig, sites: tuple[Site, ...]) -> Method:
    """TopLoRA as a row of the methods' table.

    Raises:
        ValueError: when the rank is above that of a kernel.
    """
    config.check_sites(sites)

    def init_d(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del frozen  # TopLoRA has none
        a_key, theta_key = jax.random.split(key)
        return {
            **lora.init_d(a_key, kernel, config.rank),
            "theta": lora.init_d(theta_key, kernel, config.rank)["a"],  # drawn like A
            "norm": jnp.ones(config.rank, jnp.float32),
        }

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        raise NotMergeableError(
            "TopLoRA's update depends on the token, A diag(exp(RMSNorm(x Theta))) B, so no kernel "
            "holds it; serve base and adapter together"
        )

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        del frozen
        dropped = lora.drop(dropout, config.dropout, x)
        hidden = jnp.einsum("...i,ir->...r", dropped, d["a"].astype(x.dtype))
        weights = gate(x, d["theta"], d["norm"], config.eps)
        hidden = (config.scale * hidden.astype(weights.dtype) * weights).astype(x.dtype)
        low_rank = jnp.einsum("...r,ro->...o", hidden, d["b"].astype(x.dtype))
        return lora.linear(x, kernel) + low_rank

    return Method(
        0, True, lambda site: None, lora.no_frozen, init_d, merge, apply, lambda _: config.rank
    )
