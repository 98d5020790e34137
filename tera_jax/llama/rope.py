"""Rotary positions (Su et al., 2021), with Llama 3.1's stretched frequencies."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.ops.numerics import acc_dtype

_DEFAULT_THETA = 10000.0
_THETA = Key(float | None, None, least=1, below=1e15)
_KINDS = {
    "rope_type": Key(str | None, None),
    "type": Key(str | None, None),
    "rope_theta": _THETA,
    "partial_rotary_factor": Key(float | None, None),
}
_SCALING = {
    "factor": Key(float, least=1, below=1e6),
    "low_freq_factor": Key(float, above=0, below=1e6),
    "high_freq_factor": Key(float, above=0, below=1e6),
    "original_max_position_embeddings": Key(int, least=1, below=2**31),
}


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


def frequencies(
    head_dim: int, theta: float, scaling: Llama3Scaling | None, dtype: Any = np.float32
) -> np.ndarray:
    """Radians per token of each of the ``head_dim / 2`` pairs, computed in ``dtype``."""
    exponents = np.arange(0, head_dim, 2, dtype=dtype) / dtype(head_dim)
    plain = (1.0 / dtype(theta) ** exponents).astype(dtype)
    if scaling is None:
        return plain
    return (plain / stretches(plain, scaling)).astype(dtype)


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


def tables(positions_BL: jax.Array, frequency: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every angle, shaped ``(B, L, 1, H / 2)`` to fit all heads.

    They have the type of ``frequency``.
    """
    # A product and no einsum: a GPU may do the latter in TF32.
    frequency_H = jnp.asarray(frequency)
    angle = positions_BL.astype(frequency_H.dtype)[:, :, None] * frequency_H[None, None, :]
    return jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]


def rotate(x_BLNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns the pairs ``(x[h], x[h + H / 2])``, Hugging Face's order, in float32 at least."""
    acc = acc_dtype(x_BLNH.dtype)
    first, second = jnp.split(x_BLNH.astype(acc), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BLNH.dtype)


def read_hf(raw: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None]:
    """Theta and scaling from transformers 5's key, transformers 4's two keys, or both if equal.

    Raises:
        ValueError: for a rope type other than default and llama3, and for keys that disagree.
    """
    theta = raw.get("rope_theta")
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    found = [
        _read_dict(key, value, theta)
        for key, value in (("rope_parameters", new), ("rope_scaling", old))
        if value is not None
    ] or [(_DEFAULT_THETA if theta is None else float(theta), None)]
    # rope_parameters is complete: without rope_scaling beside it, it may still disagree with theta.
    if any(other != found[0] for other in found) or theta not in (None, found[0][0]):
        raise ValueError(
            f"config keys rope_parameters={new!r}, rope_theta={theta!r} and rope_scaling={old!r} "
            "disagree; keep the ones that are right"
        )
    return found[0]


def _read_dict(
    key: str, value: Mapping[str, Any], theta: float | None
) -> tuple[float, Llama3Scaling | None]:
    known = json_files.typed("config.json", value, _KINDS, others="ignore", within=f"{key}.")
    kinds = {known["rope_type"], known["type"]} - {None}
    if len(kinds) > 1 or not kinds <= {"default", "llama3"}:
        raise ValueError(
            f"config key {key}={dict(value)!r} is not supported: the rope type must be default or "
            "llama3; choose another checkpoint"
        )
    rest = {name: number for name, number in value.items() if name not in _KINDS}
    wanted = _SCALING if kinds == {"llama3"} else {}
    if set(rest) != set(wanted) or known["partial_rotary_factor"] not in (None, 1):
        raise ValueError(
            f"config key {key}={dict(value)!r} is not supported: beside rope_type and rope_theta "
            f"it must have exactly the keys {sorted(wanted)}"
        )
    theta = next((float(t) for t in (known["rope_theta"], theta) if t is not None), _DEFAULT_THETA)
    scaling = json_files.typed("config.json", rest, wanted, within=f"{key}.")
    return theta, Llama3Scaling(**scaling) if wanted else None
