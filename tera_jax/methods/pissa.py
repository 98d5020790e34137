"""PiSSA: LoRA that starts from the kernel's principal part, the residual being frozen.

Source: Meng, Wang and Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of
Large Language Models", NeurIPS 2024. Formulas as in PEFT 0.21.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax import rounding
from tera_jax.methods import lora
from tera_jax.methods.protocol import Method, Site


@dataclasses.dataclass(frozen=True)
class PissaConfig(lora.LowRankConfig):
    """PiSSA: y = x (W - s A0 B0) + s drop(x) A B, where A and B start at A0 and B0.

    Attributes:
        rank: R, of A and B.
        alpha: numerator of the scale s = alpha / rank. s A0 B0 is the same for every scale.
        dropout: probability with which an entry of the input of A is zeroed in training. It takes
            its share of the principal part too, so the model is the base only in expectation.
        niter: power iterations of a randomized SVD, as in PEFT's ``pissa_niter_4``; the full SVD
            when None.
        seed: of the randomized SVD.
    """

    niter: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.niter is not None and self.niter < 0:
            raise ValueError(f"niter {self.niter}; it must be at least 0, or None for a full SVD")


def init_frozen(
    key: Key[Array, ""], kernel: Float[Array, "I O"], config: PissaConfig
) -> dict[str, Array]:
    """A0 ``a`` (I, R) and B0 ``b`` (R, O): s A0 B0 is the kernel's part of rank R.

    With W = U S V: A0 = U_R sqrt(S_R / s) and B0 = sqrt(S_R / s) V_R. The SVD is in float32, or in
    float64 for a kernel in float64, and so are A0 and B0.

    Args:
        key: of the randomized SVD.
        kernel: W.
        config: rank, scale and kind of SVD.
    """
    wide = kernel.astype(rounding.accumulator(kernel.dtype))
    if config.niter is None:
        u_IR, s_R, v_RO = jnp.linalg.svd(wide, full_matrices=False)
    else:
        u_IR, s_R, v_RO = _randomized_svd(key, wide, config.rank, config.niter)
    root_R = jnp.sqrt(s_R[: config.rank] / config.scale)
    return {
        "a": u_IR[:, : config.rank] * root_R[None, :],
        "b": root_R[:, None] * v_RO[: config.rank],
    }


def _randomized_svd(
    key: Key[Array, ""], kernel: Float[Array, "I O"], rank: int, niter: int
) -> tuple[Array, Array, Array]:
    """Algorithms 4.4 and 5.1 of Halko, Martinsson and Tropp, 2011, without oversampling."""
    with jax.default_matmul_precision("highest"):
        start_OR = jax.random.normal(key, (kernel.shape[1], rank), kernel.dtype)
        basis_IR = jnp.linalg.qr(kernel @ start_OR)[0]
        for _ in range(niter):
            basis_OR = jnp.linalg.qr(kernel.T @ basis_IR)[0]
            basis_IR = jnp.linalg.qr(kernel @ basis_OR)[0]
        u_RR, s_R, v_RO = jnp.linalg.svd(basis_IR.T @ kernel, full_matrices=False)
        return basis_IR @ u_RR, s_R, v_RO


def method(config: PissaConfig, sites: tuple[Site, ...]) -> Method:
    """PiSSA as a row of the methods' table.

    The published method keeps the residual W - s A0 B0 in the type of the base and so starts from
    the base up to that rounding. ``merge`` does as published. ``apply`` is exactly the base at step
    0: it leaves the kernel as it is and adds what A and B have gained over A0 and B0, so that it
    differs from ``merge`` by the rounding of the residual.

    Raises:
        ValueError: when the rank is above that of a kernel.
    """
    config.check_sites(sites)

    def init_frozen_(key: Key[Array, ""], kernel: Array) -> Any:
        return init_frozen(key, kernel, config)

    def init_d(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del key, kernel
        # Copies: a step that is given d to overwrite must not overwrite A0 and B0.
        return {name: jnp.copy(frozen[name]) for name in ("a", "b")}

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        wide = rounding.accumulator(kernel.dtype)
        principal_IO = lora.update(frozen["a"], frozen["b"], config.scale, wide)
        # Not a cast there and back, which XLA is free to leave out.
        info = jnp.finfo(kernel.dtype)
        residual_IO = jax.lax.reduce_precision(
            kernel.astype(wide) - principal_IO, info.nexp, info.nmant
        )
        delta_IO = lora.update(d["a"], d["b"], config.scale, wide)
        return (residual_IO + delta_IO).astype(kernel.dtype)

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        a_IR, b_RO = d["a"], d["b"]
        a0_IR, b0_RO = frozen["a"].astype(a_IR.dtype), frozen["b"].astype(b_RO.dtype)
        dropped = lora.drop(dropout, config.dropout, x)
        # A B - A0 B0 = (A - A0) B + A0 (B - B0): the differences are taken before they are rounded
        # to the type of x, which would lose small ones.
        left = jnp.concatenate([a_IR - a0_IR, a0_IR], axis=1)
        right = jnp.concatenate([b_RO, b_RO - b0_RO], axis=0)
        y = lora.linear(x, kernel) + lora.branch(dropped, left, right, config.scale)
        if dropped is x:
            return y
        # The residual sees all of x, but A and B only what was left of it.
        return y + lora.branch(dropped - x, a0_IR, b0_RO, config.scale)

    def max_rank(site: Site) -> int:  # of A B - A0 B0
        return min(2 * config.rank, *site.kernel_shape)

    return Method(
        config.seed, False, lambda site: None, init_frozen_, init_d, merge, apply, max_rank
    )
