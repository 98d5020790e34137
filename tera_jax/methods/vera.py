"""VeRA: frozen random projections shared by all layers, two trained scaling vectors a layer.

Source: Kopiczko, Blankevoort and Asano, "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024.
Formulas and initial values as in PEFT 0.21.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax import random
from tera_jax.methods import lora
from tera_jax.methods.base import Method, Site
from tera_jax.ops import numerics


@dataclasses.dataclass(frozen=True)
class VeraConfig:
    """VeRA.

    PEFT draws its projections from torch's generator, which has no counterpart here: a seed gives
    other projections than the same ``projection_prng_key`` does there.

    Attributes:
        rank: r, the width of the projections. It may be above the kernel's own: the projections
            are not trained and cost nothing to store.
        d_initial: of every entry of lambda_d. lambda_b starts at zero.
        dropout: probability with which an entry of the input of A is zeroed in training.
        seed: of the projections; apart from the seed of the run.
    """

    rank: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank}; it must be at least 1")
        if self.d_initial == 0:
            raise ValueError(
                "d_initial 0.0; lambda_b starts at zero too, so nothing would have a gradient: "
                "choose another value, such as 0.1"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; choose a probability of at least 0, below 1")


def init_frozen(
    key: Key[Array, ""], max_in: int, max_out: int, rank: int
) -> dict[str, Float[Array, "_ _"]]:
    """The projections, as large as the largest side of any layer.

    Args:
        key: a Threefry key (:func:`tera_jax.random.seed_key`).
        max_in: the most input features of a layer.
        max_out: the most output features of a layer.
        rank: r.

    Returns:
        ``a`` (max_in, r) and ``b`` (r, max_out), the transposes of PEFT's ``vera_A`` and
        ``vera_B``: uniform on ±sqrt(6 / fan in), the fan in being max_in and r.
    """

    def kaiming(address: int, shape: tuple[int, int]) -> Array:
        return random.uniform(jax.random.fold_in(key, address), shape, math.sqrt(2 / shape[0]))

    return {"a": kaiming(0, (max_in, rank)), "b": kaiming(1, (rank, max_out))}


def init_d(features: int, config: VeraConfig) -> dict[str, Float[Array, " _"]]:
    """``lambda_d`` (r,), all at ``config.d_initial``, and ``lambda_b`` (out,), zero: float32."""
    return {
        "lambda_d": jnp.full(config.rank, config.d_initial, jnp.float32),
        "lambda_b": jnp.zeros(features, jnp.float32),
    }


def method(config: VeraConfig, sites: tuple[Site, ...]) -> Method:
    """VeRA as a row of the methods' table: x W + ((drop(x) A ⊙ lambda_d) B) ⊙ lambda_b.

    A layer reads the first rows of A and the first columns of B.
    """
    max_in = max(site.kernel_shape[0] for site in sites)
    max_out = max(site.kernel_shape[1] for site in sites)

    def init_frozen_(key: Key[Array, ""], kernel: Any) -> Any:
        del kernel  # one set for all shapes
        return init_frozen(key, max_in, max_out, config.rank)

    def init_d_(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del key, frozen  # constants need neither
        return init_d(kernel.shape[1], config)

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        wide = numerics.accumulator(kernel.dtype)
        a_IR, b_RO = (array.astype(wide) for array in _sliced(frozen, kernel))
        update_IO = jnp.matmul(
            a_IR * d["lambda_d"].astype(wide)[None, :],
            b_RO * d["lambda_b"].astype(wide)[None, :],
            precision=jax.lax.Precision.HIGHEST,
        )
        return (kernel.astype(wide) + update_IO).astype(kernel.dtype)

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        a_IR, b_RO = (array.astype(x.dtype) for array in _sliced(frozen, kernel))
        d = {name: vector.astype(x.dtype) for name, vector in d.items()}
        # The activations are scaled, not A and B: the gradient of a vector is then a sum over
        # tokens and costs no product of its own.
        row = (1,) * (x.ndim - 1)
        dropped = lora.drop(dropout, config.dropout, x)
        hidden = lora.linear(dropped, a_IR) * d["lambda_d"].reshape(*row, -1)
        update = lora.linear(hidden, b_RO) * d["lambda_b"].reshape(*row, -1)
        return lora.linear(x, kernel) + update

    def max_rank(site: Site) -> int:
        return min(config.rank, *site.kernel_shape)

    def frozen_set(site: Site) -> str:
        return f"{max_in}x{max_out}"

    return Method(config.seed, True, frozen_set, init_frozen_, init_d_, merge, apply, max_rank)


def _sliced(frozen: Any, kernel: Array) -> tuple[Array, Array]:
    return frozen["a"][: kernel.shape[0]], frozen["b"][:, : kernel.shape[1]]
