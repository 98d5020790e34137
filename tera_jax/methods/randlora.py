"""RandLoRA: a full-rank sum of frozen random low-rank products, scaled by trained vectors.

Source: Albert, Zhang, Saratchandran, Rodriguez-Opazo, Teney and Abbasnejad, "RandLoRA: Full-Rank
Parameter-Efficient Fine-Tuning of Large Models", ICLR 2025 (arXiv 2502.00987). Formulas, initial
values and defaults as in PEFT 0.21.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.low_rank import ScaledRank
from tera_jax.ops.numerics import acc_dtype
from tera_jax.random import uniform


@dataclasses.dataclass(frozen=True)
class RandLoRA(ScaledRank):
    """RandLoRA: y = x W + s drop(x) ΔW, ΔW the product of two random matrices, one of them scaled.

    Let S be the shorter and L the longer side of W, and n = ceil(S / r) the number of bases. A
    frozen B (L, M), M = n r, stands at the longer side. At the shorter stands C (M, S), whose row
    m = k n + j is ``lam`` [k, j] A[k] ⊙ ``gamma`` [j], with a frozen A (r, S). So ΔW is B C, or
    (B C)^T where the inputs are the shorter side, and s = alpha / r. The columns of B have the
    order (j, k), as in PEFT: a row of C does not meet the column of its own j and k.

    ``lam`` (r, n) and ``gamma`` (n, S) are trained; A and B are shared by all layers, which read
    their first entries. A smaller rank has more bases, and more trainable parameters.

    The branch goes through B and C, or makes ΔW, by what multiplies less for so many tokens. Mixed
    rows scale activations in place of C, one basis at a time unless a row has few tokens.

    A and B are drawn uniform with unit variance from this library's seed. PEFT's come from torch's
    generator, may be sparse, and are read from its adapter.

    Attributes:
        rank: r, of a basis; it may be above the kernel's own.
        dropout: probability with which an entry of the update's input is zeroed in training.
        alpha: numerator of the scale s = alpha / r; by default that is 20.
        seed: of A and B; apart from the seed of the run.
    """

    rank: int = 32
    alpha: float = 640.0
    seed: int = 0

    def bases(self, side: int) -> int:
        """The number n of bases of a shorter side."""
        return -(-side // self.rank)

    def frozen_set(self, layer: TargetLayer) -> str:
        """One set for all layers, of the largest sides."""
        return "x".join(map(str, layer.largest))

    def init_frozen(self, key: KeyArray, kernel: Any, layer: TargetLayer) -> Arrays:
        """``a`` (r, S) and ``b`` (L, n, r), of the largest sides of any layer."""
        del kernel
        short, long = min(layer.largest), max(layer.largest)
        shapes = {"a": (self.rank, short), "b": (long, self.bases(short), self.rank)}
        return {
            name: uniform(jax.random.fold_in(key, address), shape, 1.0)
            for address, (name, shape) in enumerate(shapes.items())
        }

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """``lam`` zero; ``gamma`` one over its longer side."""
        del key, frozen, layer
        short = min(kernel.shape)
        bases = self.bases(short)
        return {
            "lam": jnp.zeros((self.rank, bases), jnp.float32),
            "gamma": jnp.full((bases, short), 1 / max(bases, short), jnp.float32),
        }

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix s B C, transposed where the inputs are the shorter side."""
        del layer
        return self._delta(frozen, d, kernel, acc_dtype(kernel.dtype), jax.lax.Precision.HIGHEST)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """Through B and C, or with ΔW."""
        del layer
        inputs, outputs = kernel.shape
        middle = self.rank * self.bases(min(kernel.shape))
        tokens = math.prod(x.shape[:-1])
        if tokens * middle * (inputs + outputs) > (middle + tokens) * inputs * outputs:
            return jnp.einsum("...i,io->...o", x, self._delta(frozen, d, kernel, x.dtype))
        b_LM, c_MS = self._factors(frozen, d, kernel, x.dtype)
        first, second = (b_LM, c_MS) if inputs > outputs else (c_MS.T, b_LM.T)
        hidden = jnp.einsum("...i,im->...m", x, first)
        return jnp.einsum("...m,mo->...o", self.scale * hidden, second)

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The sum over bases, each of which scales what goes through A."""
        del layer
        inputs, outputs = kernel.shape
        x_BTI = x.reshape(x.shape[0], -1, inputs)
        a_RS, b_LNR = (array.astype(x.dtype) for array in self._sliced(frozen, kernel))
        lam_NBR = jnp.moveaxis(row_B["lam"].astype(x.dtype), 2, 0)
        gamma_NBS = jnp.moveaxis(row_B["gamma"].astype(x.dtype), 1, 0)
        # Column m = k n + j of B, which row (k, j) of C meets, stands at (m // r, m % r).
        b_NLR = jnp.moveaxis(b_LNR.reshape(len(b_LNR), self.rank, -1), 2, 0)

        def several(bases: tuple[Array, ...]) -> Array:
            lam_NBR, gamma_NBS, b_NLR = bases
            if inputs > outputs:
                hidden_NBTR = jnp.einsum("btl,nlr->nbtr", x_BTI, b_NLR) * lam_NBR[:, :, None]
                return jnp.einsum("nbts,nbs->bts", jnp.matmul(hidden_NBTR, a_RS), gamma_NBS)
            scaled_NBTS = x_BTI[None] * gamma_NBS[:, :, None]
            hidden_NBTR = jnp.matmul(scaled_NBTS, a_RS.T) * lam_NBR[:, :, None]
            return jnp.einsum("nbtr,nlr->btl", hidden_NBTR, b_NLR)

        bases = lam_NBR, gamma_NBS, b_NLR
        if x_BTI.shape[1] < self.rank:  # what all bases make is then smaller than a kernel
            y_BTO = several(bases)
        else:
            y_BTO = _summed(several, bases, (*x_BTI.shape[:2], outputs), x.dtype)
        return (self.scale * y_BTO).reshape(*x.shape[:-1], -1)

    def _sliced(self, frozen: Any, kernel: Array) -> tuple[Array, Array]:
        """A (r, S) and B (L, n, r) of a kernel."""
        short, long = min(kernel.shape), max(kernel.shape)
        return frozen["a"][:, :short], frozen["b"][:long, : self.bases(short)]

    def _factors(
        self, frozen: Any, d: Any, kernel: Array, dtype: Any
    ) -> tuple[Float[Array, "L M"], Float[Array, "M S"]]:
        """B and C in a type; C is multiplied in float32 at least."""
        acc = acc_dtype(dtype)
        a_RS, b_LNR = self._sliced(frozen, kernel)
        lam_RN, gamma_NS = d["lam"].astype(acc), d["gamma"].astype(acc)
        c_RNS = lam_RN[:, :, None] * a_RS.astype(acc)[:, None] * gamma_NS[None]
        c_MS = c_RNS.reshape(-1, c_RNS.shape[2]).astype(dtype)
        return b_LNR.reshape(len(b_LNR), -1).astype(dtype), c_MS

    def _delta(
        self, frozen: Any, d: Any, kernel: Array, dtype: Any, precision: Any = None
    ) -> Float[Array, "I O"]:
        b_LM, c_MS = self._factors(frozen, d, kernel, dtype)
        first, second = (b_LM, c_MS) if kernel.shape[0] > kernel.shape[1] else (c_MS.T, b_LM.T)
        return self.scale * jnp.einsum("im,mo->io", first, second, precision=precision)


def _summed(
    several: Callable[[tuple[Array, ...]], Array],
    bases: tuple[Array, ...],
    shape: tuple[int, ...],
    dtype: Any,
) -> Array:
    """What one basis after the other gives, summed in float32 at least."""
    acc = acc_dtype(dtype)

    def step(total: Array, basis: tuple[Array, ...]) -> tuple[Array, None]:
        return total + several(tuple(array[None] for array in basis)).astype(acc), None

    total, _ = jax.lax.scan(step, jnp.zeros(shape, acc), bases)
    return total.astype(dtype)
