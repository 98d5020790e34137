"""HiRA: each entry of the kernel scaled by one plus that of a low-rank matrix.

Source: Huang et al., "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language
Models", ICLR 2025. Formulas and initial values as in PEFT 0.21, which adds the
dropout; A and B start as LoRA's.
"""

import dataclasses
from typing import Any

from jaxtyping import Array, Key

from tera_jax.methods import lora
from tera_jax.methods.base import Method, Site
from tera_jax.ops import numerics


@dataclasses.dataclass(frozen=True)
class HiraConfig:
    """HiRA. It has no alpha.

    Attributes:
        rank: r, of the matrix A B that scales the kernel.
        dropout: probability with which an entry of the input of the update is zeroed in training
            (PEFT's ``hira_dropout``; the official code has none).
    """

    rank: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; choose a probability of at least 0, below 1")


def method(config: HiraConfig, sites: tuple[Site, ...]) -> Method:
    """HiRA as a row of the methods' table: x W + drop(x) (W ⊙ A B).

    The base's product and the update's are taken apart, as in PEFT: in bfloat16 the one product
    with W ⊙ (1 + A B) would lose every entry of A B below 2^-9.

    Raises:
        ValueError: when the rank is above that of a kernel.
    """
    for site in sites:
        if config.rank > min(site.kernel_shape):
            raise ValueError(
                f"rank {config.rank} is above that of the kernel {site.kernel_shape} of "
                f"{site.name}; choose at most {min(site.kernel_shape)}"
            )

    def init_d_(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del frozen  # none
        return lora.init_d(key, kernel, config.rank)

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        del frozen  # none
        wide = numerics.accumulator(kernel.dtype)
        scale_IO = 1 + lora.update(d["a"], d["b"], 1.0, wide)
        return (kernel.astype(wide) * scale_IO).astype(kernel.dtype)

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        del frozen  # none
        kernel_IO, a_IR, b_RO = (array.astype(x.dtype) for array in (kernel, d["a"], d["b"]))
        dropped = lora.drop(dropout, config.dropout, x)
        if config.rank == 1:  # x (W ⊙ a b) = ((x ⊙ a) W) ⊙ b, without a matrix as large as W
            row = (1,) * (x.ndim - 1)
            scaled = dropped * a_IR.reshape(*row, -1)
            update = lora.linear(scaled, kernel_IO) * b_RO.reshape(*row, -1)
        else:
            update = lora.linear(dropped, kernel_IO * lora.linear(a_IR, b_RO))
        return lora.linear(x, kernel_IO) + update

    return Method(
        0,
        True,
        lambda site: None,
        lora.no_frozen,
        init_d_,
        merge,
        apply,
        lambda site: min(site.kernel_shape),
    )
