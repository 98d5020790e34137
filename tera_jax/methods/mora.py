"""MoRA: one trained square matrix between a fixed compression and a fixed decompression.

Source: Jiang et al., "MoRA: High-Rank Updating for Parameter-Efficient Fine-Tuning",
arXiv:2405.12130; the types are those of the official code.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import PrecisionLike
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, LinearMethod, TargetLayer
from tera_jax.methods.limits import check_at_least
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class MoRA(LinearMethod):
    """MoRA. It has no alpha. The one trained array is M (r-hat, r-hat), from zero.

    Attributes:
        rank: r of the LoRA with as many parameters; the side of the square matrix follows from it.
        type: 1 sums the groups of the input and repeats the one output (sharing, published for
            large ranks). 6 tells the groups apart by rotating group t as RoPE does position t, and
            puts their outputs one after the other. It is published for small ranks, and the counts
            in TeRA's Tables 2 and 3 fit it. Where a layer has fewer outputs than inputs, type 6
            never reads the last groups of the input, as published.
    """

    rank: int = 32
    type: Literal[1, 6] = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, rank=self.rank)

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when the rank gives a matrix that a kernel has no room for."""
        for layer in layers:
            self.side(layer.kernel_shape)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """M, zero."""
        del key, frozen, layer
        side = self.side(kernel.shape)
        return {"m": jnp.zeros((side, side), jnp.float32)}

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """What is added to the outputs of the unit vectors."""
        del frozen, layer
        dtype = acc_dtype(kernel.dtype)
        identity = jnp.eye(kernel.shape[0], dtype=dtype)
        matrix_RR = d["m"].astype(dtype)
        highest = jax.lax.Precision.HIGHEST
        return update(identity, matrix_RR, kernel.shape[1], self._rotates, highest)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """Compressed, times M, decompressed."""
        del frozen, layer
        return update(x, d["m"].astype(x.dtype), kernel.shape[1], self._rotates)

    def max_rank(self, layer: TargetLayer) -> int:
        """Type 6 has a block for each group of inputs that is kept, type 1 one for all."""
        side = self.side(layer.kernel_shape)
        blocks = math.ceil(layer.kernel_shape[0] / side) if self._rotates else 1
        return min(blocks * side, *layer.kernel_shape)

    @property
    def _rotates(self) -> bool:
        return self.type == 6

    def side(self, kernel_shape: tuple[int, ...]) -> int:
        """The side r-hat of the square matrix: sqrt((in + out) r), for type 6 rounded to even.

        Raises:
            ValueError: when it is 0 or above both sides of the kernel.
        """
        side = int(math.sqrt(sum(kernel_shape) * self.rank) + 0.5)
        if self.type == 6:
            side -= side % 2
        if not 1 <= side <= max(kernel_shape):
            raise ValueError(
                f"rank {self.rank} gives type {self.type} a square matrix of side {side} for a "
                f"kernel {kernel_shape}; choose a {'higher' if side < 1 else 'lower'} rank"
            )
        return side


def update(
    x: Float[Array, "*_ _"],
    matrix_RR: Float[Array, "R R"],
    features: int,
    rotate: bool,
    precision: PrecisionLike = None,
) -> Float[Array, "*_ _"]:
    """What MoRA adds to the output: linear in x.

    Args:
        x: (..., in).
        matrix_RR: M, of the type of x; the transpose of the official weight.
        features: of the output.
        rotate: whether the groups are rotated (type 6) or summed (type 1).
        precision: of the product, as in ``jax.lax.dot_general``.

    Returns:
        (..., out) in the type of x.
    """
    side = matrix_RR.shape[0]
    groups = -(-x.shape[-1] // side)
    if rotate:  # groups beyond the last output are cut off below: leave them out
        groups = min(groups, -(-features // side))
    # The end is filled up with x's own first entries.
    x = jnp.take(x, np.arange(groups * side) % x.shape[-1], axis=-1)
    x_GR = x.reshape(*x.shape[:-1], groups, side)
    if rotate:
        y_GR = jnp.matmul(_rope(x_GR), matrix_RR, precision=precision)
        y = y_GR.reshape(*x.shape[:-1], groups * side)
    else:
        y = jnp.matmul(x_GR.sum(axis=-2), matrix_RR, precision=precision)
    return jnp.take(y, np.arange(features) % y.shape[-1], axis=-1)


def _rope(x_GR: Array) -> Array:
    """Group t rotated as position t: entries i and i + R/2 by the angle t 10000^(-2i/R)."""
    groups, side = x_GR.shape[-2:]
    angle_GH = np.outer(np.arange(groups), 10000.0 ** (-np.arange(0, side, 2) / side))
    leading = (1,) * (x_GR.ndim - 2)
    cos_GH, sin_GH = (
        jnp.asarray(table, x_GR.dtype).reshape(*leading, groups, side // 2)
        for table in (np.cos(angle_GH), np.sin(angle_GH))
    )
    low_GH, high_GH = jnp.split(x_GR, 2, axis=-1)
    return jnp.concatenate(
        [low_GH * cos_GH - high_GH * sin_GH, high_GH * cos_GH + low_GH * sin_GH], axis=-1
    )
