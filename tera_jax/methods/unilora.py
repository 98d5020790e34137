"""Uni-LoRA: all numbers of all LoRA matrices are gathered from one trained vector.

Source: Li, Han, Su, Li, Cai and Ji, "Uni-LoRA: One Vector Is All You Need", NeurIPS 2025
(arXiv 2506.00799). Formula, indices and initial values as in PEFT 0.21.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from tera_jax.methods.base import Arrays, FrozenOfAll, KeyArray, TargetLayer
from tera_jax.methods.limits import check_above_zero, check_at_least
from tera_jax.methods.low_rank import ReadFactors

_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Of the linear layers of a decoder block in torch's Llama."""


@dataclasses.dataclass(frozen=True)
class UniLoRA(ReadFactors):
    """Uni-LoRA: y = x W + drop(x) A B, where A and B of all layers are read from one vector.

    An entry is theta[i] / sqrt(n_i): its frozen index i, and how many entries of all layers have
    that index. So the map from theta to the entries keeps lengths. theta starts away from zero, as
    published: the adapted model is not the base at step 0.

    The indices follow from the seed and the layers, and are those of PEFT with the same
    ``proj_seed`` on a Llama. The host draws them, and a jitted ``init_frozen`` holds them as
    constants, four bytes for each entry of A and B. For all seven kinds of layers of Llama-2-7B at
    rank 4 that is 40 MB, in one to two seconds.

    Attributes:
        rank: r, of A and B.
        dropout: probability with which an entry of the input of A is zeroed in training.
        length: of theta, and so the count of trainable parameters. The default is that of the
            authors' runs on GLUE; PEFT's is 256. Above the count of entries, the rest of theta is
            not read.
        init_bound: theta starts uniform on ± this.
        seed: of the indices; apart from the seed of the run.
    """

    rank: int = 4
    length: int = 23_040
    init_bound: float = 0.02
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, length=self.length)
        check_at_least(0, seed=self.seed)
        check_above_zero(init_bound=self.init_bound)

    def init_frozen_all(self, layers: Sequence[TargetLayer]) -> FrozenOfAll:
        """The indices of A and B, and shared by all layers how often each index occurs."""
        own = empty_indices(layers, self.rank)
        counts = scatter(
            [own[layer.name][side][place] for layer, place in one_by_one(layers) for side in "ab"],
            self.length,
            self.seed,
        )
        return FrozenOfAll(
            {name: {k: jnp.asarray(v) for k, v in each.items()} for name, each in own.items()},
            {"counts": jnp.asarray(counts)},
        )

    def init_shared_d(self, key: KeyArray, layers: Sequence[TargetLayer]) -> Arrays:
        """The vector theta."""
        del layers
        bound = self.init_bound
        return {"theta": jax.random.uniform(key, (self.length,), jnp.float32, -bound, bound)}

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """None of the layer's own."""
        del key, kernel, frozen, layer
        return {}

    def factors(self, frozen: Any, d: Any) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """A and B, gathered."""
        return gather(frozen, d["theta"])


def gather(
    frozen: dict[str, Array], theta: Float[Array, " _"]
) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
    """A and B of one layer, in the type of theta.

    Args:
        frozen: indices ``a`` (I, R) and ``b`` (R, O), and ``counts`` of all indices.
        theta: the trained vector.
    """
    counts = jnp.maximum(frozen["counts"], 1).astype(theta.dtype)
    scaled = theta * jax.lax.rsqrt(counts)
    a_IR, b_RO = (scaled.at[frozen[name]].get(mode="promise_in_bounds") for name in "ab")
    return a_IR, b_RO


def empty_indices(
    layers: Sequence[TargetLayer], rank: int
) -> dict[str, dict[str, Int32[np.ndarray, "*N X Y"]]]:
    """By a layer's name its indices ``a`` (*N, I, R) and ``b`` (*N, R, O), yet to be filled."""
    return {
        layer.name: {
            "a": np.empty((*layer.stack, layer.kernel_shape[0], rank), np.int32),
            "b": np.empty((*layer.stack, rank, layer.kernel_shape[1]), np.int32),
        }
        for layer in layers
    }


def scatter(
    matrices: Sequence[Int32[np.ndarray, "_ _"]], length: int, seed: int, start: int = 0
) -> Int32[np.ndarray, " _"]:
    """Fill matrices in place with :func:`draw_indices`, and return how often each index occurs.

    Args:
        matrices: to fill.
        length: of the part of the vector that they point into.
        seed: of the indices.
        start: of that part.
    """
    indices = draw_indices(sum(matrix.size for matrix in matrices), length, seed)
    at = 0
    for matrix in matrices:
        # PEFT's matrices are the transposes, filled row by row.
        matrix[...] = start + indices[at : at + matrix.size].reshape(matrix.shape[::-1]).T
        at += matrix.size
    return np.bincount(indices, minlength=length).astype(np.int32)


def draw_indices(total: int, length: int, seed: int) -> Int32[np.ndarray, " _"]:
    """Indices below ``length`` in random order, each as often as the others or once more.

    Args:
        total: how many.
        length: of the vector that they point into.
        seed: of numpy's generator, PEFT's ``proj_seed``.
    """
    times, rest = divmod(total, length)
    random = np.random.default_rng(seed)
    indices = np.repeat(np.arange(length, dtype=np.int32), times)
    if rest:
        more = random.choice(length, size=rest, replace=False).astype(np.int32)
        indices = np.concatenate([indices, more])
    random.shuffle(indices)
    return indices


def one_by_one(layers: Sequence[TargetLayer]) -> list[tuple[TargetLayer, tuple[int, ...]]]:
    """Every layer of every stack, with its place there, in the order of a torch Llama's modules."""

    def order(
        one: tuple[TargetLayer, tuple[int, ...]],
    ) -> tuple[str, tuple[int, ...], int, tuple[str, ...]]:
        layer, place = one
        name = layer.path[-1]
        rank = _ORDER.index(name) if name in _ORDER else len(_ORDER)
        return layer.path[0], place, rank, layer.path

    return sorted(
        ((layer, place) for layer in layers for place in np.ndindex(*layer.stack)), key=order
    )
