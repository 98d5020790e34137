"""Rotary frequencies (Su et al., 2021), and the ways in which long contexts stretch them."""

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """The stretched rotary frequencies of Llama 3.1 (``rope_type: llama3``).

    Wavelengths above ``original_max_position_embeddings / low_freq_factor`` tokens are stretched by
    ``factor``, those below ``original_max_position_embeddings / high_freq_factor`` are kept, and
    those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope scaling needs high_freq_factor > low_freq_factor, not "
                f"{self.high_freq_factor} and {self.low_freq_factor}"
            )


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All wavelengths are longer by ``factor`` (``rope_type: linear``)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """Theta grows with the sequence (``rope_type: dynamic``).

    Sequences of up to ``max_position_embeddings`` tokens have the unstretched frequencies.
    """

    factor: float
    max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): long wavelengths are stretched, short ones kept.

    ``beta_fast`` and ``beta_slow`` are the rotations within the original context between which the
    share rises; ``attention_factor`` multiplies cosine and sine.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class LongRope:
    """LongRoPE (Ding et al., 2024): a factor for each wavelength, by the length of the sequence.

    Sequences of up to ``original_max_position_embeddings`` tokens have the short factors, longer
    ones the long factors. ``attention_factor`` multiplies cosine and sine of both.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float


Scaling: TypeAlias = Llama3Scaling | LinearScaling | DynamicScaling | YarnScaling | LongRope
"""How the frequencies of a model are stretched."""


def frequencies(
    rotary_dim: int, theta: float, scaling: Scaling | None, dtype: Any = np.float32
) -> np.ndarray:
    """Radians per token of each of the ``rotary_dim / 2`` pairs, computed in ``dtype``.

    Where they depend on the length of the sequence, they are those of short ones.
    """
    exponents = np.arange(0, rotary_dim, 2, dtype=dtype) / dtype(rotary_dim)
    plain = (1.0 / dtype(theta) ** exponents).astype(dtype)
    if scaling is None or isinstance(scaling, DynamicScaling):
        return plain
    if isinstance(scaling, Llama3Scaling):
        return (plain / stretches(plain, scaling)).astype(dtype)
    if isinstance(scaling, LinearScaling):
        return (plain / dtype(scaling.factor)).astype(dtype)
    if isinstance(scaling, YarnScaling):
        kept = _kept_by_yarn(rotary_dim, theta, scaling).astype(dtype)
        return (plain * kept + plain / dtype(scaling.factor) * (1 - kept)).astype(dtype)
    return longrope_frequencies(plain, scaling)[0]


def longrope_frequencies(plain: np.ndarray, scaling: LongRope) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies of short and of long sequences."""
    short, long = (
        (plain / np.asarray(factor, plain.dtype)).astype(plain.dtype)
        for factor in (scaling.short_factor, scaling.long_factor)
    )
    return short, long


def attention_factor(scaling: Scaling | None) -> float:
    """What multiplies cosine and sine."""
    return scaling.attention_factor if isinstance(scaling, YarnScaling | LongRope) else 1.0


def depends_on_length(scaling: Scaling | None) -> bool:
    """Whether a sequence's frequencies depend on how long it is."""
    return isinstance(scaling, DynamicScaling | LongRope)


def stretches(plain: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """The factor >= 1 by which Llama 3.1 divides each of the ``plain`` frequencies.

    The share of the unstretched frequency rises linearly from 0 to 1 while the original context
    grows from ``low_freq_factor`` to ``high_freq_factor`` wavelengths.
    """
    wavelengths_in_context = scaling.original_max_position_embeddings * plain / (2 * np.pi)
    kept = (wavelengths_in_context - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(kept, 0.0, 1.0)
    return 1.0 / (kept + (1.0 - kept) / scaling.factor)


def _kept_by_yarn(rotary_dim: int, theta: float, scaling: YarnScaling) -> np.ndarray:
    """The share of each unstretched frequency, in float64."""

    def pair(rotations: float) -> float:
        """The place among the pairs of what rotations so often within the original context."""
        context = scaling.original_max_position_embeddings
        return rotary_dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    high += 0.001 if low == high else 0
    ramp = (np.arange(rotary_dim // 2, dtype=np.float64) - low) / (high - low)
    return 1.0 - np.clip(ramp, 0.0, 1.0)
