"""FourierFT: a few trained entries of the two-dimensional spectrum of ΔW.

Source: Gao, Wang, Chen, Liu, Wu, Chen and Li, "Parameter-Efficient Fine-Tuning with Discrete
Fourier Transform", ICML 2024 (arXiv 2405.03003). Formula, positions of the entries and defaults as
in PEFT 0.21.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64

from tera_jax.methods.base import Arrays, KeyArray, LinearMethod, TargetLayer
from tera_jax.methods.limits import check_above_zero, check_at_least
from tera_jax.ops.numerics import acc_dtype

AS_TORCH = (2**32 - 1) // 20
"""A kernel of fewer entries has the positions that torch draws. Above, torch shuffles otherwise."""


@dataclasses.dataclass(frozen=True)
class FourierFT(LinearMethod):
    """FourierFT: y = x W + x ΔW, ΔW = scaling · Re ifft2(S), S zero but for n entries c.

    ``d`` is c, (n,) a layer. It starts normal, as published: the adapted model is not the base at
    step 0. The positions in S are frozen. They follow from the seed and the kernel's shape, so that
    layers of one shape share them. For kernels below 214,748,364 entries they are PEFT's of the
    same ``random_loc_seed``.

    ΔW is not made where n is at most in + out. x is transformed along its features, n numbers of
    its spectrum are multiplied by c and placed in that of y. That costs in log in + out log out + n
    operations a token in place of in · out, and the gradient of c no matmul. Above it the n numbers
    of a token would be more than x and y, and ΔW is made; mixed rows never make one.

    Attributes:
        num_frequencies: n, PEFT's ``n_frequency``.
        scaling: of ΔW. The publication takes other values by model and task; this is PEFT's.
        init: of c: N(0, 1), or zeros (PEFT's ``init_weights``).
        seed: of the positions; apart from the seed of the run.
    """

    num_frequencies: int = 1000
    scaling: float = 150.0
    init: Literal["normal", "zeros"] = "normal"
    seed: int = 777

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, num_frequencies=self.num_frequencies)
        check_above_zero(scaling=self.scaling)

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` for more frequencies than a kernel has entries."""
        for layer in layers:
            most = math.prod(layer.kernel_shape)
            if self.num_frequencies > most:
                raise ValueError(
                    f"num_frequencies {self.num_frequencies}, but the kernel {layer.kernel_shape} "
                    f"of layer {layer.name!r} has {most} entries; choose at most so many"
                )

    def frozen_set(self, layer: TargetLayer) -> str:
        """By the kernel's shape."""
        return "x".join(map(str, layer.kernel_shape))

    def init_frozen(self, key: KeyArray, kernel: Any, layer: TargetLayer) -> Arrays:
        """The positions ``row`` in the inputs' and ``column`` in the outputs' axis of S: int32."""
        del key, layer
        inputs, outputs = kernel.shape
        positions = first_of_permutation(inputs * outputs, self.num_frequencies, self.seed)
        column, row = np.divmod(positions, inputs)  # PEFT's kernels are the transposes
        return {"row": jnp.asarray(row, jnp.int32), "column": jnp.asarray(column, jnp.int32)}

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """The entries of S."""
        del kernel, frozen, layer
        if self.init == "zeros":
            return {"c": jnp.zeros(self.num_frequencies, jnp.float32)}
        return {"c": jax.random.normal(key, (self.num_frequencies,), jnp.float32)}

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The inverse transform of S."""
        del layer
        dtype = acc_dtype(kernel.dtype)
        spectrum_IO = jnp.zeros(kernel.shape, dtype)
        spectrum_IO = spectrum_IO.at[frozen["row"], frozen["column"]].set(
            d["c"].astype(dtype), unique_indices=True
        )
        return self.scaling * jnp.real(jnp.fft.ifft2(spectrum_IO))

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """Through the spectra of x and y, or with ΔW where that is smaller."""
        if self.num_frequencies > sum(kernel.shape):
            delta_IO = self.delta(frozen, d, kernel, layer).astype(x.dtype)
            return jnp.einsum("...i,io->...o", x, delta_IO)
        return through_spectra(x, frozen, d["c"], kernel.shape[1], self.scaling)

    def branch_row(
        self, frozen: Any, row: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """Through the spectra."""
        del layer
        return through_spectra(x, frozen, row["c"], kernel.shape[1], self.scaling)

    def max_rank(self, layer: TargetLayer) -> int:
        """A frequency has rank 2, and those of one row or column may have less together."""
        return min(2 * self.num_frequencies, *layer.kernel_shape)


def through_spectra(
    x: Float[Array, "*B I"],
    frozen: dict[str, Array],
    c: Float[Array, " N"],
    outputs: int,
    scaling: float,
) -> Float[Array, "*B O"]:
    """The product x ΔW in the type of x, without ΔW.

    X_k is the sum over inputs i of x_i exp(2πi row_k i / I). Output o is scaling / (I O) times the
    real part of the sum over entries k of c_k exp(2πi column_k o / O) X_k.

    Real transforms have half of the frequencies. The others are their conjugates, which changes the
    sign of an imaginary part.

    Args:
        x: inputs.
        frozen: the positions ``row`` and ``column`` (N,).
        c: the entries.
        outputs: O.
        scaling: of ΔW.
    """
    inputs, dtype = x.shape[-1], acc_dtype(x.dtype)
    row, row_sign = _folded(frozen["row"], inputs)
    column, column_sign = _folded(frozen["column"], outputs)
    edge = (column == 0) | (2 * column == outputs)  # stands once in a real transform
    weight = c.astype(dtype) * jnp.where(edge, 1.0, 0.5).astype(dtype) * (scaling / inputs)
    # jnp.fft.rfft has the other sign of the exponent.
    turned = -row_sign * column_sign
    x_spectrum = jnp.fft.rfft(x.astype(dtype)).at[..., row].get(mode="promise_in_bounds")
    lead = (1,) * (x.ndim - 1)
    moved = jax.lax.complex(
        jnp.real(x_spectrum) * weight.reshape(*lead, -1),
        jnp.imag(x_spectrum) * (weight * turned.astype(dtype)).reshape(*lead, -1),
    )
    y_spectrum = jnp.zeros((*x.shape[:-1], outputs // 2 + 1), moved.dtype)
    y_spectrum = y_spectrum.at[..., column].add(moved, mode="promise_in_bounds")
    return jnp.fft.irfft(y_spectrum, outputs).astype(x.dtype)


def _folded(place: Array, size: int) -> tuple[Array, Array]:
    """The frequency of a real transform, and -1 where it is the conjugate that is meant."""
    above = 2 * place > size
    return jnp.where(above, size - place, place), jnp.where(above, -1, 1)


@functools.lru_cache(maxsize=16)
def first_of_permutation(total: int, count: int, seed: int) -> Int64[np.ndarray, " _"]:
    """The first entries of ``torch.randperm(total)`` on the CPU under a generator of that seed.

    A Fisher-Yates shuffle by numbers of MT19937, of which the first entries need the first steps
    alone. From :data:`AS_TORCH` on it takes 64 bits a step, and is not torch's permutation.

    Args:
        total: entries of the permutation.
        count: how many of them.
        seed: of torch's generator, below 2^32.
    """
    wide = total >= AS_TORCH
    random = np.random.RandomState(seed)  # MT19937, seeded as torch seeds it
    draws = random.randint(0, 2**32, (count, 1 + wide), np.uint32).astype(object)
    moved: dict[int, int] = {}
    found = np.empty(count, np.int64)
    for step, drawn in enumerate(draws):
        number = drawn[0] << 32 | drawn[1] if wide else drawn[0]
        # torch draws nothing for the last entry, which has no other to be swapped with.
        other = step + number % (total - step)
        found[step] = moved.get(other, other)
        moved[other] = moved.pop(step, step)
    return found
