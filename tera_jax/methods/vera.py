"""VeRA: frozen random projections shared by all layers, two trained scaling vectors a layer.

Source: Kopiczko, Blankevoort and Asano, "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024.
Formulas and initial values as in PEFT 0.21.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.limits import LEAST
from tera_jax.methods.low_rank import RankMethod
from tera_jax.methods.product import linear
from tera_jax.ops.numerics import acc_dtype
from tera_jax.random import uniform


@dataclasses.dataclass(frozen=True)
class VeRA(RankMethod):
    """VeRA: y = x W + ((drop(x) A ⊙ lambda_d) B) ⊙ lambda_b.

    A and B are as large as the largest side of any layer; a layer reads the first rows of A and the
    first columns of B. PEFT draws its projections from torch's generator, which has no counterpart
    here: a seed gives other projections than the same ``projection_prng_key`` does there.

    Attributes:
        rank: r, the width of the projections. It may be above the kernel's own: the projections
            are not trained and cost nothing to store.
        dropout: probability with which an entry of the input of A is zeroed in training.
        d_initial: of every entry of lambda_d. lambda_b starts at zero.
        seed: of the projections; apart from the seed of the run.
    """

    rank: int = 256
    d_initial: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.d_initial) < LEAST:
            raise ValueError(
                f"d_initial {self.d_initial}; lambda_b starts at zero too, so nothing would have a "
                "gradient: choose another value, such as 0.1"
            )

    def frozen_set(self, layer: TargetLayer) -> str:
        """One set for all layers, of the largest sides."""
        return "x".join(map(str, layer.largest))

    def init_frozen(self, key: KeyArray, kernel: Any, layer: TargetLayer) -> Arrays:
        """A and B."""
        del kernel
        max_in, max_out = layer.largest
        return init_frozen(key, max_in, max_out, self.rank)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """Constants."""
        del key, frozen, layer
        return init_d(kernel.shape[1], self)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix (A diag(lambda_d) B) diag(lambda_b)."""
        del layer
        dtype = acc_dtype(kernel.dtype)
        a_IR, b_RO = (array.astype(dtype) for array in _sliced(frozen, kernel))
        return jnp.matmul(
            a_IR * d["lambda_d"].astype(dtype)[None, :],
            b_RO * d["lambda_b"].astype(dtype)[None, :],
            precision=jax.lax.Precision.HIGHEST,
        )

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The activations are scaled, not A and B.

        The gradient of a vector is then a sum over tokens and costs no matmul of its own.
        """
        del layer
        a_IR, b_RO = (array.astype(x.dtype) for array in _sliced(frozen, kernel))
        d = {name: vector.astype(x.dtype) for name, vector in d.items()}
        row = (1,) * (x.ndim - 1)
        hidden = linear(x, a_IR) * d["lambda_d"].reshape(*row, -1)
        return linear(hidden, b_RO) * d["lambda_b"].reshape(*row, -1)

    def max_rank(self, layer: TargetLayer) -> int:
        """That of A B."""
        return min(self.rank, *layer.kernel_shape)


def init_frozen(
    key: KeyArray, max_in: int, max_out: int, rank: int
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
        return uniform(jax.random.fold_in(key, address), shape, math.sqrt(2 / shape[0]))

    return {"a": kaiming(0, (max_in, rank)), "b": kaiming(1, (rank, max_out))}


def init_d(features: int, config: VeRA) -> dict[str, Float[Array, " _"]]:
    """``lambda_d`` (r,), all at ``config.d_initial``, and ``lambda_b`` (out,), zero: float32."""
    return {
        "lambda_d": jnp.full(config.rank, config.d_initial, jnp.float32),
        "lambda_b": jnp.zeros(features, jnp.float32),
    }


def _sliced(frozen: Any, kernel: Array) -> tuple[Array, Array]:
    return frozen["a"][: kernel.shape[0]], frozen["b"][:, : kernel.shape[1]]
