"""LN-tuning: the scales of the norms are trained, and nothing else.

Source: Zhao, Tu, Wei, Mei and Xie, "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal
LLM Finetuning", ICLR 2024 (arXiv 2312.11420). As in PEFT 0.21, which trains a copy of each norm.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, NormMethod, TargetLayer


@dataclasses.dataclass(frozen=True)
class LNTuning(NormMethod):
    """LN-tuning: y = norm(x) ⊙ g, where g is trained. Nothing to configure.

    ``d`` is g itself, (features,) a norm, and starts as the base's scale. The default targets are
    every norm, which on a Llama are PEFT's: the two of each block and the last one. Where a norm
    has a bias, as ``nn.LayerNorm``, PEFT trains it too; here it stays the base's.
    """

    def init_d(self, key: KeyArray, scale_D: Float[Array, " D"], layer: TargetLayer) -> Arrays:
        """The base's scale."""
        del key, layer
        return {"scale": scale_D.astype(jnp.float32)}

    def merge(
        self, d: Arrays, scale_D: Float[Array, " D"], layer: TargetLayer
    ) -> Float[Array, " D"]:
        """The trained scale, rounded once."""
        del layer
        return d["scale"].astype(scale_D.dtype)
