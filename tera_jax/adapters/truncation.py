"""Adapters of any method as a LoRA of a stated rank: the largest singular values of each ΔW.

The truncated singular value decomposition is the best approximation of a rank in the Frobenius
norm. Its relative error is the root of the share of the squared singular values that it leaves out.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.combine import Term, delta, kernel_layers, require_terms
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.adapters.targets import get, put
from tera_jax.methods.base import TargetLayer, check_rank
from tera_jax.methods.lora import LoRA
from tera_jax.ops.numerics import acc_dtype


class LayerError(NamedTuple):
    """What a rank leaves out of one layer's ΔW.

    Attributes:
        layer: its path with slashes, and its place in the stack in brackets.
        norm: ‖ΔW‖, the Frobenius norm.
        error: ‖ΔW - A B‖ over ‖ΔW‖; 0 for a ΔW of zeros.
        share: of the squared singular values that are kept; 1 for a ΔW of zeros.
    """

    layer: str
    norm: float
    error: float
    share: float


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """The largest singular values and vectors of the ΔW of layers, on the host.

    Attributes:
        layers: in the order of their paths.
        rank: how many are kept of each; of a smaller kernel all.
        a: by the name of a layer (stack..., I, rank), its left vectors times the roots of the
            values. A kernel of smaller rank has zeros behind.
        b: (stack..., rank, O), the roots times the right vectors.
        values: (stack..., min(I, O)), all of its singular values, float64.
    """

    layers: tuple[TargetLayer, ...]
    rank: int
    a: dict[str, np.ndarray]
    b: dict[str, np.ndarray]
    values: dict[str, np.ndarray]

    def lora(self, rank: int | None = None) -> tuple[Adapter, dict[str, Any]]:
        """A LoRA of scale 1, and its ``d``.

        Args:
            rank: at most that of the decomposition, which None stands for.

        Raises:
            ValueError: for a rank that is above that.
        """
        rank = self._rank(rank)
        d: dict[str, Any] = {}
        for layer in self.layers:
            a, b = self.a[layer.name][..., :rank], self.b[layer.name][..., :rank, :]
            put(d, (*layer.path, "lora"), {"a": jnp.asarray(a), "b": jnp.asarray(b)})
        # Not by ``factory.make``, which refuses zeros behind the rank of a small kernel.
        return LinearAdapter("lora", LoRA(rank=rank, alpha=float(rank)), self.layers), d

    def errors(self, rank: int | None = None) -> list[LayerError]:
        """Of each layer. Rounding A and B to float32 adds about 1e-7 to it."""
        rank = self._rank(rank)
        return [
            _error(f"{layer.name}{list(index) if index else ''}", values[index], rank)
            for layer in self.layers
            for values in (self.values[layer.name],)
            for index in np.ndindex(*layer.stack)
        ]

    def total(self, rank: int | None = None) -> LayerError:
        """Of all layers together, as of one vector of all their entries."""
        rank = self._rank(rank)
        kept = [values[..., :rank].ravel() for values in self.values.values()]
        left = [values[..., rank:].ravel() for values in self.values.values()]
        ordered = np.concatenate([*kept, *left])
        return _error("total", ordered, sum(map(len, kept)))

    def _rank(self, rank: int | None) -> int:
        if rank is None:
            return self.rank
        if not 1 <= rank <= self.rank:
            raise ValueError(f"rank {rank}; this decomposition has ranks from 1 to {self.rank}")
        return rank


def _error(name: str, values: Float[np.ndarray, " R"], rank: int) -> LayerError:
    whole, left = float(np.sum(values**2)), float(np.sum(values[rank:] ** 2))
    error = math.sqrt(left / whole) if whole else 0.0
    return LayerError(name, math.sqrt(whole), error, 1 - error**2)


def require_rank(terms: Sequence[Term], rank: int) -> None:
    """Check that the sum of adapters can be written as a LoRA of a rank, before long work.

    Raises:
        NotMergeableError: as :func:`tera_jax.adapters.combine.merged`.
        ValueError: likewise; for adapters that change more than kernels; for a rank below 1, or
            above that of a kernel.
    """
    require_terms(terms)
    if rank < 1:
        raise ValueError(f"rank {rank}; it must be at least 1")
    check_rank(rank, kernel_layers(terms))


def decompose(terms: Sequence[Term], rank: int) -> Decomposition:
    """The singular value decomposition of the sum of adapters, layer after layer.

    It runs in float64 on the host, and one layer's ΔW is in memory at a time. A kernel of 4096 by
    4096 takes about a minute on a few cores.

    Args:
        terms: as of :func:`tera_jax.adapters.combine.merged`.
        rank: of what is kept; of a kernel of smaller rank, all is kept.

    Raises:
        NotMergeableError: as :func:`tera_jax.adapters.combine.merged`.
        ValueError: likewise; for adapters that change more than kernels; for a ΔW with NaN or
            infinity.
    """
    require_terms(terms)
    layers = kernel_layers(terms)
    a: dict[str, np.ndarray] = {}
    b: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    for layer in layers:
        inputs, outputs = layer.kernel_shape
        dtype = acc_dtype(get(terms[0].variables["params"], (*layer.path, "kernel")).dtype)
        a[layer.name] = np.zeros((*layer.stack, inputs, rank), dtype)
        b[layer.name] = np.zeros((*layer.stack, rank, outputs), dtype)
        values[layer.name] = np.zeros((*layer.stack, min(inputs, outputs)))
        for index in np.ndindex(*layer.stack):
            found = np.asarray(delta(terms, layer, index), np.float64)
            if not np.isfinite(found).all():
                raise ValueError(
                    f"the update of {layer.name!r} at {list(index)} has NaN or infinity; train the "
                    "adapter again, or give it a smaller weight"
                )
            u, s, v = np.linalg.svd(found, full_matrices=False)
            roots, kept = np.sqrt(s[:rank]), min(rank, len(s))
            a[layer.name][index][:, :kept] = u[:, :kept] * roots
            b[layer.name][index][:kept] = roots[:, None] * v[:kept]
            values[layer.name][index] = s
    return Decomposition(layers, rank, a, b, values)
