"""LoRA, and what the methods built on its product A B share with it.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Formulas and
initial values as in PEFT 0.21.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.methods.base import Method, Site
from tera_jax.ops import numerics


@dataclasses.dataclass(frozen=True)
class LowRankConfig:
    """What every method with an update s A B configures.

    Attributes:
        rank: R, of A and B.
        alpha: numerator of the scale s = alpha / rank.
        dropout: probability with which an entry of the input of A is zeroed in training.
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank}; it must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha {self.alpha}; it must be finite and above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; choose a probability of at least 0, below 1")

    @property
    def scale(self) -> float:
        """The factor s of A B."""
        return self.alpha / self.rank

    def check_sites(self, sites: tuple[Site, ...]) -> None:
        """Raise ``ValueError`` when the rank is above that of a kernel."""
        for site in sites:
            limit = min(site.kernel_shape)
            if self.rank > limit:
                raise ValueError(
                    f"rank {self.rank}, but the kernel {site.kernel_shape} of layer {site.name!r} "
                    f"has rank {limit} at most; choose a rank up to {limit}, or other targets"
                )


@dataclasses.dataclass(frozen=True)
class LoraConfig(LowRankConfig):
    """LoRA: y = x W + s drop(x) A B.

    Attributes:
        rank: R, of A and B.
        alpha: numerator of the scale s = alpha / rank.
        dropout: probability with which an entry of the input of A is zeroed in training.
    """


def init_d(key: Key[Array, ""], kernel: Float[Array, "I O"], rank: int) -> dict[str, Array]:
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
    a_IR: Float[Array, "I R"], b_RO: Float[Array, "R O"], scale: float, dtype: Any
) -> Float[Array, "I O"]:
    """The matrix s A B in ``dtype``, with all of its bits also where products take fewer."""
    product_IO = jnp.einsum(
        "ir,ro->io", a_IR.astype(dtype), b_RO.astype(dtype), precision=jax.lax.Precision.HIGHEST
    )
    return scale * product_IO


def branch(
    x: Float[Array, "*B I"], a_IR: Float[Array, "I R"], b_RO: Float[Array, "R O"], scale: float
) -> Float[Array, "*B O"]:
    """The product s (x A) B in the type of x, A and B rounded to it as under autocast in PEFT."""
    hidden = jnp.einsum("...i,ir->...r", x, a_IR.astype(x.dtype))
    return jnp.einsum("...r,ro->...o", scale * hidden, b_RO.astype(x.dtype))


def linear(x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
    """The product x W in the type of x."""
    return jnp.einsum("...i,io->...o", x, kernel.astype(x.dtype))


def drop(key: Any, rate: float, x: Float[Array, "*B I"]) -> Float[Array, "*B I"]:
    """Inverted dropout, its expectation being x; all of x when ``key`` is None or ``rate`` 0."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def no_frozen(key: Any, kernel: Any) -> dict[str, Any]:
    """``init_frozen`` of a method without frozen arrays."""
    del key, kernel
    return {}


def method(config: LoraConfig, sites: tuple[Site, ...]) -> Method:
    """LoRA as a row of the methods' table.

    Raises:
        ValueError: when the rank is above that of a kernel.
    """
    config.check_sites(sites)

    def init_d_(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del frozen  # LoRA has none
        return init_d(key, kernel, config.rank)

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        del frozen
        wide = numerics.accumulator(kernel.dtype)
        delta_IO = update(d["a"], d["b"], config.scale, wide)
        return (kernel.astype(wide) + delta_IO).astype(kernel.dtype)

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        del frozen
        dropped = drop(dropout, config.dropout, x)
        return linear(x, kernel) + branch(dropped, d["a"], d["b"], config.scale)

    return Method(
        0, True, lambda site: None, no_frozen, init_d_, merge, apply, lambda _: config.rank
    )
