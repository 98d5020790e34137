"""DoRA: the magnitude of each column of the kernel is trained apart from its direction.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024. Formulas and initial
values as in PEFT 0.21.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.methods import lora
from tera_jax.methods.base import Method, Site
from tera_jax.ops import numerics


@dataclasses.dataclass(frozen=True)
class DoraConfig(lora.LowRankConfig):
    """DoRA: y = x (W + s A B) diag(m / c), where c holds the column norms of W + s A B.

    Attributes:
        rank: R, of A and B.
        alpha: numerator of the scale s = alpha / rank.
        dropout: probability with which an entry of x is zeroed in training. The update, which here
            includes (m / c - 1) x W, reads the dropped x, and only the base reads all of x.
    """


def column_norms(kernel: Float[Array, "I O"]) -> Float[Array, " O"]:
    """The Euclidean norm of each column, that is of the weights of each output."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))


def method(config: DoraConfig, sites: tuple[Site, ...]) -> Method:
    """DoRA as a row of the methods' table.

    The gradient takes the norm c for a constant (Section 4.3), in ``merge`` as in ``apply``, so it
    is not the slope of either.

    Raises:
        ValueError: when the rank is above that of a kernel.
    """
    config.check_sites(sites)

    def init_d(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del frozen  # DoRA has none
        norms_O = column_norms(kernel.astype(numerics.accumulator(kernel.dtype)))
        return {**lora.init_d(key, kernel, config.rank), "m": norms_O.astype(jnp.float32)}

    def direction(d: Any, kernel: Array) -> tuple[Array, Array]:
        """W + s A B and m / c in the type of sums."""
        wide = numerics.accumulator(kernel.dtype)
        sum_IO = kernel.astype(wide) + lora.update(d["a"], d["b"], config.scale, wide)
        norms_O = jax.lax.stop_gradient(column_norms(jax.lax.stop_gradient(sum_IO)))
        # A column of zeros has no direction; whatever it is divided by, it stays zero.
        return sum_IO, d["m"].astype(wide) / jnp.where(norms_O == 0, 1, norms_O)

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        del frozen
        sum_IO, ratio_O = direction(d, kernel)
        return (sum_IO * ratio_O[None, :]).astype(kernel.dtype)

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        del frozen
        _, ratio_O = direction(d, kernel)
        wide = numerics.accumulator(x.dtype)
        ratio = ratio_O.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))
        dropped = lora.drop(dropout, config.dropout, x)
        base = lora.linear(dropped, kernel).astype(wide)
        low_rank = lora.branch(dropped, d["a"], d["b"], config.scale).astype(wide)
        y = ratio * (base + low_rank)
        if dropped is not x:
            y = y - base + lora.linear(x, kernel).astype(wide)
        return y.astype(x.dtype)

    return Method(
        0,
        True,
        lambda site: None,
        lora.no_frozen,
        init_d,
        merge,
        apply,
        lambda site: min(site.kernel_shape),
    )
