"""QuanTA: the features as a tensor, a trained gate on every pair of its axes.

Source: Chen et al., "QuanTA: Efficient High-Rank Fine-Tuning of LLMs with Quantum-Informed Tensor
Adaptation", NeurIPS 2024; the order of the gates and their initial values are the official code's.
"""

import dataclasses
import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike
from jaxtyping import Array, Float

from tera_jax.methods.base import KeyArray, LinearMethod, TargetLayer
from tera_jax.ops.numerics import acc_dtype
from tera_jax.random import uniform


@dataclasses.dataclass(frozen=True)
class QuanTA(LinearMethod):
    """QuanTA: y = x (W - Q_0) + Q(d) x, with Q_0 the initial gates. It has no alpha.

    Every layer has gates of its own from the start, so the frozen copy is its own too. The official
    code subtracts Q_0 from the base in the base's type: in bfloat16 that rounds the base, and the
    model at step 0 differs. Here the base stays as it is and the update is taken as a whole, so
    that step 0 is the base exactly.

    Attributes:
        axes: of the tensor that the features are folded into, row-major. x is padded with zeros
            to their product and the output cropped, so that every kernel has gates of these sizes.
            For kernels well below 4096, choose axes that multiply out to their own features.
        seed: of the initial gates; apart from the seed of the run.
    """

    axes: tuple[int, ...] = (16, 8, 8, 4)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.axes) < 2:
            raise ValueError(f"axes {self.axes}; a gate needs a pair of them: give at least two")
        if min(self.axes) < 2:
            raise ValueError(f"axes {self.axes}; each is at least 2 long")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The two axes of each gate, counted from the end, in the order that x passes them."""
        backwards = range(-1, -len(self.axes) - 1, -1)
        return tuple(itertools.combinations(backwards, 2))

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when the axes multiply out to fewer features than a kernel has."""
        size = math.prod(self.axes)
        for layer in layers:
            most = max(layer.kernel_shape)
            if size < most:
                raise ValueError(
                    f"axes {self.axes} multiply out to {size} features, but {layer.name} has a "
                    f"kernel {layer.kernel_shape}; choose axes of at least {most}"
                )

    def init_frozen(self, key: KeyArray, kernel: Any, layer: TargetLayer) -> list[Array]:
        """The initial gates."""
        del kernel, layer
        return init_frozen(key, self)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> list[Array]:
        """Copies of the initial gates, so that donating d leaves the frozen arrays be."""
        del key, kernel, layer
        return [jnp.array(gate, jnp.float32, copy=True) for gate in frozen]

    def base_d(self, kernel: Any, frozen: Any, layer: TargetLayer) -> list[Array]:
        """The initial gates."""
        del kernel, layer
        return [gate.astype(jnp.float32) for gate in frozen]

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """What is added to the outputs of the unit vectors."""
        del layer
        identity = jnp.eye(kernel.shape[0], dtype=acc_dtype(kernel.dtype))
        return update(identity, frozen, d, kernel.shape[1], self, jax.lax.Precision.HIGHEST)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """Gate after gate."""
        del layer
        return update(x, frozen, d, kernel.shape[1], self)


def init_frozen(key: KeyArray, config: QuanTA) -> list[Float[Array, "_ _ _ _"]]:
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
        gates.append(uniform(gate_key, (d2, d1, d2, d1), 1 / math.sqrt(d2 * d1)))
    return gates


def update(
    x: Float[Array, "*_ _"],
    frozen: list[Float[Array, "_ _ _ _"]],
    d: list[Float[Array, "_ _ _ _"]],
    features: int,
    config: QuanTA,
    precision: PrecisionLike = None,
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
        precision: of the matmuls, as in ``jax.lax.dot_general``.

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


def _pass(x: Array, gate: Array, pair: tuple[int, int], precision: PrecisionLike) -> Array:
    """The tensor with two of its axes through a gate."""
    axes = list(string.ascii_lowercase[: max(-axis for axis in pair)])
    one, two = pair
    gate_axes = axes[two] + axes[one] + "YZ"
    before = "".join(axes)
    axes[two], axes[one] = "Y", "Z"
    return jnp.einsum(f"...{before},{gate_axes}->...{''.join(axes)}", x, gate, precision=precision)
