"""VB-LoRA: A and B of all layers are made of mixtures of vectors from one trained bank.

Source: Li, Han and Ji, "VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks",
NeurIPS 2024 (arXiv 2405.15179). Formulas, initial values and defaults as in PEFT 0.21.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.limits import check_above_zero, check_at_least
from tera_jax.methods.low_rank import ReadFactors


@dataclasses.dataclass(frozen=True)
class VBLoRA(ReadFactors):
    """VB-LoRA: y = x W + drop(x) A B. It has no alpha.

    A column of A (in, r) and a row of B (r, out) are cut into parts of ``vector_length`` entries.
    A part is a mixture of ``top_k`` of the bank's vectors: those of the part's largest logits, each
    times the softmax of these logits alone. Other logits have no gradient in that step.

    The bank (V, L) is trained, and all layers read it. So are the logits of a layer: ``a``
    (r, in / L, V) and ``b`` (out / L, r, V). Both start at random, as published, so that the
    adapted model is not the base at step 0.

    Attributes:
        rank: r, of A and B.
        dropout: probability with which an entry of the input of A is zeroed in training.
        num_vectors: V, of the bank.
        vector_length: L. It has to divide the inputs and outputs of each layer.
        top_k: vectors of a mixture.
        bank_bound: the bank starts uniform on ± this.
        logits_std: the logits start normal with this standard deviation.
    """

    rank: int = 4
    num_vectors: int = 256
    vector_length: int = 256
    top_k: int = 2
    bank_bound: float = 0.02
    logits_std: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(
            1, num_vectors=self.num_vectors, vector_length=self.vector_length, top_k=self.top_k
        )
        check_above_zero(bank_bound=self.bank_bound, logits_std=self.logits_std)
        if self.top_k > self.num_vectors:
            raise ValueError(
                f"top_k {self.top_k}, but the bank has {self.num_vectors} vectors; choose at most "
                "so many"
            )

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` for sides that the length does not divide, or too large a rank."""
        super().check(layers)
        common = math.gcd(*(side for layer in layers for side in layer.kernel_shape))
        for layer in layers:
            if any(side % self.vector_length for side in layer.kernel_shape):
                raise ValueError(
                    f"vector_length {self.vector_length} does not divide both sides of the kernel "
                    f"{layer.kernel_shape} of layer {layer.name!r}; choose a divisor of {common}"
                )

    def init_shared_d(self, key: KeyArray, layers: Sequence[TargetLayer]) -> Arrays:
        """The bank."""
        del layers
        shape, bound = (self.num_vectors, self.vector_length), self.bank_bound
        return {"bank": jax.random.uniform(key, shape, jnp.float32, -bound, bound)}

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """The logits."""
        del frozen, layer
        inputs, outputs = (side // self.vector_length for side in kernel.shape)
        shapes = {
            "a": (self.rank, inputs, self.num_vectors),
            "b": (outputs, self.rank, self.num_vectors),
        }
        return {
            name: self.logits_std * jax.random.normal(each, shape, jnp.float32)
            for each, (name, shape) in zip(jax.random.split(key), shapes.items(), strict=True)
        }

    def factors(self, frozen: Any, d: Any) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """A and B, mixed."""
        del frozen
        return factors(d, self.top_k)


def factors(d: dict[str, Array], top_k: int) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
    """A and B of one layer, in the type of the bank.

    Args:
        d: logits ``a`` (R, I / L, V) and ``b`` (O / L, R, V), and the ``bank`` (V, L).
        top_k: vectors of a mixture.
    """
    a_RTL, b_TRL = (mixed(d[name], d["bank"], top_k) for name in "ab")
    rank = len(a_RTL)
    return a_RTL.reshape(rank, -1).T, jnp.moveaxis(b_TRL, 0, 1).reshape(rank, -1)


def mixed(
    logits: Float[Array, "*P V"], bank_VL: Float[Array, "V L"], top_k: int
) -> Float[Array, "*P L"]:
    """The mixtures of the vectors with the largest logits, by the softmax of these."""
    largest, index = jax.lax.top_k(logits, top_k)
    vectors = bank_VL.at[index].get(mode="promise_in_bounds")
    return jnp.einsum("...k,...kl->...l", jax.nn.softmax(largest.astype(bank_VL.dtype)), vectors)
