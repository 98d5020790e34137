"""QuanTA: the features as a tensor, a trained gate on every pair of its axes.

Source: Chen et al., "QuanTA: Efficient High-Rank Fine-Tuning of LLMs with Quantum-Informed Tensor
Adaptation", NeurIPS 2024; the order of the gates and their initial values are the official code's.
"""

import dataclasses
import itertools
import math
import string
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax import random
from tera_jax.methods import lora
from tera_jax.methods.base import Method, Site
from tera_jax.ops import numerics


@dataclasses.dataclass(frozen=True)
class QuantaConfig:
    """QuanTA. It has no alpha.

    Attributes:
        axes: of the tensor that the features are folded into, row-major. x is padded with zeros
            to their product and the output cropped, so that every kernel has gates of these sizes.
            For kernels well below 4096, choose axes that multiply out to their own features.
        seed: of the initial gates; apart from the seed of the run.
    """

    axes: tuple[int, ...] = (16, 8, 8, 4)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.axes) < 2:
            raise ValueError(f"axes {self.axes}; a gate needs a pair of them: give at least two")
        if min(self.axes) < 2:
            raise ValueError(f"axes {self.axes}; each is at least 2 long")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The two axes of each gate, counted from the end, in the order that x passes them."""
        backwards = range(-1, -len(self.axes) - 1, -1)
        return tuple(itertools.combinations(backwards, 2))


def init_frozen(key: Key[Array, ""], config: QuantaConfig) -> list[Float[Array, "_ _ _ _"]]:
    """The initial gates of one layer.

    Args:
        key: a Threefry key (:func:`tera_jax.random.seed_key`).
        config: the axes.

    Returns:
        For each of ``config.pairs`` a gate (in 2, in 1, out 2, out 1), axis 1 being the one nearer
        to the end; the official gate has its outputs first. Uniform on ±sqrt(3 / fan in) with the
        fan in d_2 d_1, which preserves the mean square.
    """
    gates = []
    for address, (one, two) in enumerate(config.pairs):
        d1, d2 = config.axes[one], config.axes[two]
        gate_key = jax.random.fold_in(key, address)
        gates.append(random.uniform(gate_key, (d2, d1, d2, d1), 1 / math.sqrt(d2 * d1)))
    return gates


def update(
    x: Float[Array, "*_ _"],
    frozen: list[Float[Array, "_ _ _ _"]],
    d: list[Float[Array, "_ _ _ _"]],
    features: int,
    config: QuantaConfig,
    precision: Any = None,
) -> Float[Array, "*_ _"]:
    """What QuanTA adds to the output, Q(d) x - Q(frozen) x: linear in x.

    The difference is carried from gate to gate, D ← d_k D + (d_k - frozen_k) S and S ← frozen_k S,
    rather than taken between two results that nearly cancel.

    Args:
        x: (..., in).
        frozen: the initial gates.
        d: the trained gates.
        features: of the output.
        config: the axes.
        precision: of the products, as in ``jax.lax.dot_general``.

    Returns:
        (..., out) in the type of x.
    """
    leading, pad = x.shape[:-1], math.prod(config.axes) - x.shape[-1]
    start = jnp.pad(x, [(0, 0)] * len(leading) + [(0, pad)]).reshape(*leading, *config.axes)
    difference: Any = None
    for pair, old, new in zip(config.pairs, frozen, d, strict=True):
        change = (new - old.astype(new.dtype)).astype(x.dtype)
        old, new = old.astype(x.dtype), new.astype(x.dtype)
        added = _pass(start, change, pair, precision)
        if difference is not None:
            added += _pass(difference, new, pair, precision)
        difference, start = added, _pass(start, old, pair, precision)
    return difference.reshape(*leading, -1)[..., :features]


def _pass(x: Array, gate: Array, pair: tuple[int, int], precision: Any) -> Array:
    """The tensor with two of its axes through a gate."""
    axes = list(string.ascii_lowercase[: max(-axis for axis in pair)])
    one, two = pair
    gate_axes = axes[two] + axes[one] + "YZ"
    before = "".join(axes)
    axes[two], axes[one] = "Y", "Z"
    return jnp.einsum(f"...{before},{gate_axes}->...{''.join(axes)}", x, gate, precision=precision)


def method(config: QuantaConfig, sites: tuple[Site, ...]) -> Method:
    """QuanTA as a row of the methods' table: x (W - Q_0) + Q(d) x, with Q_0 the initial gates.

    Every layer has gates of its own from the start, so the frozen copy is its own too. The official
    code subtracts Q_0 from the base in the base's type: in bfloat16 that rounds the base, and the
    model at step 0 differs. Here the base stays as it is, the update is taken as a whole, and
    merging sums W - Q_0 + Q(d) in float32 and rounds once: at step 0 both give the base exactly.

    Raises:
        ValueError: when the axes multiply out to fewer features than a kernel has.
    """
    size = math.prod(config.axes)
    for site in sites:
        if size < max(site.kernel_shape):
            raise ValueError(
                f"axes {config.axes} multiply out to {size} features, but {site.name} has a kernel "
                f"{site.kernel_shape}; choose axes of at least {max(site.kernel_shape)}"
            )

    def init_d(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del key, kernel  # the frozen copy has all of it
        # Copies, so that donating d leaves the frozen arrays be.
        return [jnp.array(gate, jnp.float32, copy=True) for gate in frozen]

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        wide = numerics.accumulator(kernel.dtype)
        identity = jnp.eye(kernel.shape[0], dtype=wide)
        highest = jax.lax.Precision.HIGHEST
        added = update(identity, frozen, d, kernel.shape[1], config, highest)
        return (kernel.astype(wide) + added).astype(kernel.dtype)

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        del dropout  # QuanTA has none
        added = update(x, frozen, d, kernel.shape[1], config)
        return lora.linear(x, kernel) + added

    return Method(
        config.seed,
        True,
        lambda site: None,
        lambda key, kernel: init_frozen(key, config),
        init_d,
        merge,
        apply,
        lambda site: min(site.kernel_shape),
    )
