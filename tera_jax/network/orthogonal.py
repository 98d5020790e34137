r"""Random matrices with orthonormal rows that come out bit for bit the same on every backend.

A QR decomposition or a float32 product rounds as the machine's library orders its sums, so neither
can regenerate a network from its seed. Two constructions are exact instead, by the mode I of an
(R, I) factor:

- **I <= 64, the narrow factors.** X is a Gaussian matrix as signed integers in units of 2^-30. The
  Newton-Schulz iteration X <- X + (1 - X X') X / 2 takes it to the orthogonal factor of its polar
  decomposition. That has the uniform (Haar) distribution, as the factor of a QR decomposition with
  signs made even. All of it is 32-bit integer arithmetic, whose sums do not depend on their order.
  Rounding does no harm: each step corrects the errors of those before it.
- **I > 64, the wide factors.** Exact orthogonalisation takes I^3 operations. So these are R random
  rows of a cosine matrix of size I (DCT-IV), with a random sign for each column. They are the
  randomised trigonometric transform of :mod:`.hadamard` for any size, written out. An entry is
  looked up in a table of 4 I cosines that Python's integers compute on the host.

Once compiled, on two CPU cores, 64 x 64 takes 10 ms, 4096 x 4096 takes 0.13 s and 11008 x 11008
takes 0.83 s. Nothing of the size of a wide factor is kept but the factor: 64 MiB and 462 MiB.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key

from tera_jax import random
from tera_jax.network import hadamard
from tera_jax.network.contraction_order import NARROW

LARGEST = 2**20
"""The largest mode: up to it 32 bits hold the place of every entry in its table."""
_BITS = 30
"""Of the fraction in a fixed-point number, whose magnitude is 1 at most."""
_STEPS = 64
"""Of Newton-Schulz. One multiplies a small singular value by 1.5: from 2^-30 to 1 takes 52 steps,
and from there the distance to 1 falls quadratically."""
_TABLE_BITS = 100


def draw(
    key: Key[Array, ""], shape: tuple[int, int], std: float, dtype: Any = jnp.float32
) -> Float[Array, "R I"]:
    """A multiple of a random matrix with orthonormal rows.

    Args:
        key: a Threefry key.
        shape: (R, I), with R <= I.
        std: the root mean square of the entries, exact up to rounding.
        dtype: float32 or, rounded from it once, a narrower type.

    Raises:
        ValueError: when a mode is above ``LARGEST``.
    """
    mode = shape[1]
    if mode > LARGEST:
        raise ValueError(
            f"an orthogonal factor of mode {mode}, above {LARGEST}; choose another init"
        )
    scale = std * math.sqrt(mode)
    if mode > NARROW:
        return _cosines(key, shape, scale).astype(dtype)
    entries_RI = _polar(_gaussian(key, shape)).astype(jnp.float32)
    return (entries_RI * np.float32(scale * 2.0**-_BITS)).astype(dtype)


def _gaussian(key: Key[Array, ""], shape: tuple[int, int]) -> Int32[Array, "R I"]:
    """Normal entries in fixed point, so small that the Frobenius norm is below 1."""
    std = 2.0**_BITS / (4.5 * math.sqrt(math.prod(shape)))
    return random.normal(key, shape, std).astype(jnp.int32)


def _polar(x_RI: Int32[Array, "R I"]) -> Int32[Array, "R I"]:
    """The nearest matrix with orthonormal rows, in fixed point."""
    one_RR = jnp.eye(x_RI.shape[0], dtype=jnp.int32) << _BITS

    def step(_: Any, x_RI: Array) -> Array:
        off_RR = one_RR - _matmul(x_RI, x_RI.T)
        return x_RI + (_matmul(off_RR, x_RI) >> 1)

    return jax.lax.fori_loop(0, _STEPS, step, x_RI)


def _matmul(a_RK: Int32[Array, "R K"], b_KS: Int32[Array, "K S"]) -> Int32[Array, "R S"]:
    """Of fixed-point numbers, each product rounded by itself."""
    return jnp.sum(_times(a_RK[:, :, None], b_KS[None, :, :]), axis=1, dtype=jnp.int32)


def _times(a: Array, b: Array) -> Array:
    """The product of two fixed-point numbers, rounded, without a 64-bit integer."""
    half = _BITS // 2
    a_high, a_low = a >> half, a & (2**half - 1)
    b_high, b_low = b >> half, b & (2**half - 1)
    middle = a_high * b_low + a_low * b_high + (a_low * b_low >> half)
    return a_high * b_high + (middle + 2 ** (half - 1) >> half)


def _cosines(key: Key[Array, ""], shape: tuple[int, int], scale: float) -> Float[Array, "R I"]:
    """``scale`` times R random rows of a DCT-IV matrix, whose columns have random signs.

    Entry (r, i) is sqrt(2 / I) cos(pi (2r + 1)(2i + 1) / 4I), that of place 2ri + r + i in a table
    of the cosines of pi (2j + 1) / 4I, which has the period 4I.
    """
    rank, mode = shape
    keys = [jax.random.fold_in(key, i) for i in range(2)]
    row_R1 = jnp.argsort(jax.random.bits(keys[0], (mode,), jnp.uint32))[:rank, None]
    row_R1, period = row_R1.astype(jnp.uint32), np.uint32(4 * mode)
    column_1I = jnp.arange(mode, dtype=jnp.uint32)[None, :]
    # The product row (2 column + 1) can take more than 32 bits; it is formed in two steps.
    high_R1, low_R1, odd_1I = row_R1 >> 9, row_R1 & 511, 2 * column_1I + 1
    place_RI = ((high_R1 * odd_1I % period << 9) + low_R1 * odd_1I + column_1I) % period
    entry_RI = jnp.asarray(_table(mode, scale * math.sqrt(2 / mode)))[place_RI]
    return entry_RI * hadamard.signs(keys[1], mode)[None, :]


def _table(mode: int, scale: float) -> np.ndarray:
    """``scale`` cos(pi (2j + 1) / 4 mode) for j < 4 mode."""
    quarter = np.array(_quarter(mode)) * scale
    half = np.concatenate([quarter, -quarter[::-1]])
    return np.concatenate([half, half[::-1]]).astype(np.float32)


@functools.cache
def _quarter(mode: int) -> list[float]:
    """cos(pi (2j + 1) / 4 mode) for j < mode, by turning (1, 0) in integers."""
    one = 2**_TABLE_BITS
    angle = _pi() // (4 * mode)
    step_cos, step_sin = _cos_sin(2 * angle)
    cos, sin = _cos_sin(angle)
    found = []
    for _ in range(mode):
        found.append(cos / one)
        cos, sin = (
            (cos * step_cos - sin * step_sin) // one,
            (sin * step_cos + cos * step_sin) // one,
        )
    return found


def _cos_sin(angle: int) -> tuple[int, int]:
    """Of an angle below 1, in units of 2^-100, by their series."""
    sums, term = [0, 0], 2**_TABLE_BITS
    for power in range(30):
        sums[power % 2] += -term if power % 4 > 1 else term
        term = term * angle // (2**_TABLE_BITS * (power + 1))
    return sums[0], sums[1]


def _pi() -> int:
    """In units of 2^-100, by Machin's formula."""

    def arctan_of_inverse(number: int) -> int:
        odd = range(1, 2 * _TABLE_BITS, 2)
        return sum((2 - k % 4) * (2**_TABLE_BITS // (k * number**k)) for k in odd)

    return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))
