"""UniRes: Uni-LoRA whose sides at the residual stream are whole matrices that all layers share.

A method of this library; docs/unires.md has its formulas and what was measured. The entries of the
other sides are read from one vector as in :mod:`tera_jax.methods.unilora`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, FrozenOfAll, KeyArray, TargetLayer
from tera_jax.methods.limits import check_above_zero, check_at_least
from tera_jax.methods.low_rank import (
    ReadFactors,
    through_factors,
    through_kernel_rows,
    through_rows,
    update,
)
from tera_jax.methods.product import linear
from tera_jax.methods.unilora import empty_indices, gather, one_by_one, scatter
from tera_jax.ops.numerics import acc_dtype

_DEFAULT_TIMES = 4
"""The default length over the size of the shared matrices; 3.9 where it was measured."""


class _Shared(NamedTuple):
    """A matrix that all layers share: which side it is, its entry of the field, its long side."""

    side: str
    names: str
    size: int


@dataclasses.dataclass(frozen=True)
class UniRes(ReadFactors):
    """UniRes: y = x W + drop(x) A diag(s) B, where A and B of all layers are read from one vector.

    An entry of A or B is theta[i] / sqrt(n_i), with a frozen index i. A layer that reads the
    residual stream has an A that faces it, and one that writes to it has such a B. These sides are
    whole matrices at the head of theta, one for each entry of ``readers`` and ``writers``, shared
    by all layers. All other sides are gathered from the rest of theta: there n_i is how many
    entries have the index i. Every entry of a shared matrix has the mean of these counts as its
    n_i, so that a step of Adam moves both parts as far.

    A kernel has one trained number u for each rank, its gates: s = 1 + gate_scale u, and u starts
    at zero.

    theta starts away from zero, so the adapted model is not the base at step 0.

    Which layers face the residual stream is known by name alone. The defaults are the names of the
    Llama family. A layer that is in neither field has both of its sides gathered. Where that is so
    of every layer, :meth:`check` raises. Layers of one entry with other sizes share a matrix for
    each size.

    Attributes:
        rank: r, of A and B.
        dropout: probability with which an entry of the input of the update is zeroed in training.
        length: of theta. None for four times the size of the shared matrices, or for as many
            numbers as there are to read, if these are fewer. With the gates that is 37,704
            trainable parameters on SmolLM2-135M, near the 36,840 that were measured, and 263,040 on
            Llama-2-7B. At least the shared matrices have to fit and one number more.
        init_bound: theta starts uniform on ± this.
        gate_scale: of the trained u in a gate.
        kernel_rank: how many of the ranks scale W entry by entry, as HiRA's do. With A2 and B2 of
            these ranks they add ``kernel_gain`` W ⊙ (A2 diag(s2) B2), and the update is no longer
            of low rank.
        kernel_gain: the factor of that part.
        readers: layers that read the residual stream. An entry holds targets with ``|`` between
            them, and these share one A.
        writers: layers that write to the residual stream; those of an entry share one B.
        seed: of the indices; apart from the seed of the run.
    """

    default_targets: ClassVar[tuple[str, ...]] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    rank: int = 4
    length: int | None = None
    init_bound: float = 0.02
    gate_scale: float = 0.3
    kernel_rank: int = 0
    kernel_gain: float = 5.0
    readers: tuple[str, ...] = ("q_proj|k_proj|v_proj", "gate_proj|up_proj")
    writers: tuple[str, ...] = ("o_proj", "down_proj")
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, length=self.length)
        check_at_least(0, kernel_rank=self.kernel_rank, seed=self.seed)
        check_above_zero(
            init_bound=self.init_bound, gate_scale=self.gate_scale, kernel_gain=self.kernel_gain
        )
        if self.kernel_rank > self.rank:
            raise ValueError(
                f"kernel_rank {self.kernel_rank}, but the rank is {self.rank}; choose at most that"
            )

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when rank, length or the named layers do not fit the layers."""
        super().check(layers)
        for layer in layers:
            if all(self._shared(layer, side) for side in "ab"):
                raise ValueError(
                    f"layer {layer.name!r} is in readers and in writers; name it in one of them"
                )
        sizes = self._sizes(layers)
        if layers and not sizes:
            names = sorted({layer.path[-1] for layer in layers})
            raise ValueError(
                f"none of the target layers {names} is in readers {self.readers} or writers "
                f"{self.writers}; name those that read and write the residual stream, or choose "
                "method 'unilora'"
            )
        least = self._start(layers) + 1
        if layers and self._length(layers) < least:
            raise ValueError(
                f"length {self.length}, but the shared matrices of rank {self.rank} have "
                f"{least - 1} numbers; choose at least {least}, a lower rank, or None"
            )

    def _shared(self, layer: TargetLayer, side: str) -> _Shared | None:
        """The matrix that a side (``a`` or ``b``) of the layer is; None where it is gathered."""
        groups = self.readers if side == "a" else self.writers
        size = layer.kernel_shape["ab".index(side)]
        for names in groups:
            if any(layer.matches(name) for name in names.split("|")):
                return _Shared(side, names, size)
        return None

    def _sizes(self, layers: Sequence[TargetLayer]) -> dict[_Shared, int]:
        """The count of numbers of each shared matrix."""
        found = [self._shared(layer, side) for layer in layers for side in "ab"]
        return {each: self.rank * each.size for each in found if each is not None}

    def _start(self, layers: Sequence[TargetLayer]) -> int:
        """Where in theta the gathered numbers begin."""
        return sum(self._sizes(layers).values())

    def _length(self, layers: Sequence[TargetLayer]) -> int:
        """Of theta."""
        if self.length is not None:
            return self.length
        start = self._start(layers)
        gathered = sum(
            self.rank * math.prod(layer.stack) * size
            for layer in layers
            for side, size in zip("ab", layer.kernel_shape, strict=True)
            if self._shared(layer, side) is None
        )
        return min(_DEFAULT_TIMES * start, start + gathered)

    def init_frozen_all(self, layers: Sequence[TargetLayer]) -> FrozenOfAll:
        """The indices of A and B, and shared by all layers the n_i of each number of theta."""
        own = empty_indices(layers, self.rank)
        gathered, found, start = [], dict[_Shared, np.ndarray](), 0
        for layer, place in one_by_one(layers):
            for side in "ab":
                matrix, shared = own[layer.name][side][place], self._shared(layer, side)
                if shared is None:
                    gathered.append(matrix)
                    continue
                if shared not in found:
                    found[shared] = np.arange(start, start + matrix.size, dtype=np.int32)
                    start += matrix.size
                matrix[...] = found[shared].reshape(matrix.shape)
        rest = scatter(gathered, self._length(layers) - start, self.seed, start)
        mean = max(1, round(float(rest.mean())))
        counts = np.concatenate([np.full(start, mean, np.int32), rest])
        return FrozenOfAll(
            {name: {k: jnp.asarray(v) for k, v in each.items()} for name, each in own.items()},
            {"counts": jnp.asarray(counts)},
        )

    def init_shared_d(self, key: KeyArray, layers: Sequence[TargetLayer]) -> Arrays:
        """The vector theta."""
        shape, bound = (self._length(layers),), self.init_bound
        return {"theta": jax.random.uniform(key, shape, jnp.float32, -bound, bound)}

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """The u of the gates, zero."""
        del key, kernel, frozen, layer
        return {"gates": jnp.zeros((self.rank,), jnp.float32)}

    def factors(self, frozen: Any, d: Any) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """A diag(s), and B."""
        a_IR, b_RO = gather(frozen, d["theta"])
        gate_R = 1.0 + self.gate_scale * d["gates"]
        return a_IR * gate_R[None], b_RO

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """A diag(s) B, a part of its ranks times the kernel."""
        if not self.kernel_rank:
            return super().delta(frozen, d, kernel, layer)
        a_IR, b_RO = self.factors(frozen, d)
        dtype, at = acc_dtype(kernel.dtype), self.rank - self.kernel_rank
        gained_IO = kernel.astype(dtype) * jnp.asarray(self.kernel_gain, dtype)
        added_IO = update(a_IR[:, :at], b_RO[:at], 1.0, dtype)
        return added_IO + update(a_IR[:, at:], b_RO[at:], 1.0, dtype) * gained_IO

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """Through A and B; ranks that scale the kernel make a matrix of its size."""
        if not self.kernel_rank:
            return super().branch(frozen, d, kernel, x, layer)
        a_IR, b_RO = self.factors(frozen, d)
        at = self.rank - self.kernel_rank
        gained_IO = kernel.astype(x.dtype) * jnp.asarray(self.kernel_gain, x.dtype)
        scaled_IO = linear(a_IR[:, at:].astype(x.dtype), b_RO[at:]) * gained_IO
        return through_factors(x, a_IR[:, :at], b_RO[:at], 1.0) + linear(x, scaled_IO)

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The product with A and B of each row; a product with W for each rank that scales it."""
        if not self.kernel_rank:
            return super().branch_rows(frozen, row_B, kernel, x, layer)
        a_BIR, b_BRO, at = row_B["a"], row_B["b"], self.rank - self.kernel_rank
        scaled = through_kernel_rows(x, kernel, a_BIR[..., at:], self.kernel_gain * b_BRO[:, at:])
        return through_rows(x, a_BIR[..., :at], b_BRO[:, :at], 1.0) + scaled

    def max_rank(self, layer: TargetLayer) -> int:
        """That of A B, or any where a part of it scales the kernel."""
        return min(layer.kernel_shape) if self.kernel_rank else self.rank
