"""PiSSA: LoRA that starts from the kernel's principal part, the residual being frozen.

Source: Meng, Wang and Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of
Large Language Models", NeurIPS 2024. Formulas as in PEFT 0.21.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, TargetLayer
from tera_jax.methods.low_rank import LowRank, through_factors, through_rows, update
from tera_jax.methods.product import PLAIN, Product, drop
from tera_jax.ops.numerics import acc_dtype


@dataclasses.dataclass(frozen=True)
class PiSSA(LowRank):
    """PiSSA: y = x (W - s A0 B0) + s drop(x) A B, where A and B start at A0 and B0.

    The published method keeps the residual W - s A0 B0 in the type of the base and so starts from
    the base up to that rounding. ``merge`` does as published. ``apply`` is exactly the base at step
    0: it leaves the kernel as it is and adds what A and B have gained over A0 and B0. So it differs
    from ``merge`` by the rounding of the residual.

    Attributes:
        rank: R, of A and B.
        dropout: probability with which an entry of the input of A is zeroed in training. It takes
            its share of the principal part too, so the model is the base only in expectation.
        alpha: numerator of the scale s = alpha / rank. s A0 B0 is the same for every scale.
        niter: power iterations of a randomized SVD, as in PEFT's ``pissa_niter_4``; the full SVD
            when None. At most 100.
        seed: of the randomized SVD.
    """

    regenerates: ClassVar[bool] = False

    niter: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.niter is not None and not 0 <= self.niter <= 100:
            raise ValueError(
                f"niter {self.niter}; it must be at least 0 and at most 100, or None for a full SVD"
            )

    def init_frozen(self, key: KeyArray, kernel: Array, layer: TargetLayer) -> Arrays:
        """A0 and B0."""
        del layer
        return init_frozen(key, kernel, self)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> Arrays:
        """A0 and B0, copied: a step that is given d to overwrite must not overwrite these."""
        del key, kernel, layer
        return {name: jnp.copy(frozen[name]) for name in ("a", "b")}

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The matrix s (A B - A0 B0)."""
        del layer
        left_IS, right_SO = _gained(frozen, d)
        return update(left_IS, right_SO, self.scale, acc_dtype(kernel.dtype))

    def merge(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The published sum: a residual in the type of the kernel, plus s A B."""
        del layer
        dtype = acc_dtype(kernel.dtype)
        principal_IO = update(frozen["a"], frozen["b"], self.scale, dtype)
        # Not a cast there and back, which XLA is free to leave out.
        info = jnp.finfo(kernel.dtype)
        residual_IO = jax.lax.reduce_precision(
            kernel.astype(dtype) - principal_IO, info.nexp, info.nmant
        )
        delta_IO = update(d["a"], d["b"], self.scale, dtype)
        return (residual_IO + delta_IO).astype(kernel.dtype)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """The product s x (A B - A0 B0)."""
        del kernel, layer
        return through_factors(x, *_gained(frozen, d), self.scale)

    def apply(
        self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer, how: Product = PLAIN
    ) -> Array:
        """The residual sees all of x, but A and B only what dropout left of it."""
        branch = functools.partial(self.branch, frozen, d, kernel, layer=layer)
        return self._with_residual(frozen, kernel, x, how, branch)

    def base_d(self, kernel: Any, frozen: Any, layer: TargetLayer) -> Arrays:
        """A0 and B0."""
        del kernel, layer
        return {name: frozen[name].astype(jnp.float32) for name in ("a", "b")}

    def prepare_row(self, frozen: Any, d: Any, kernel: Any, layer: TargetLayer) -> Arrays:
        """``a`` (I, 2 R) and ``b`` (2 R, O), whose product is A B - A0 B0."""
        del kernel, layer
        return dict(zip("ab", _gained(frozen, d), strict=True))

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """The product s x (A B - A0 B0) with A and B of each row."""
        del frozen, kernel, layer
        return through_rows(x, row_B["a"], row_B["b"], self.scale)

    def apply_rows(
        self,
        frozen: Any,
        row_B: Any,
        kernel: Array,
        x: Array,
        layer: TargetLayer,
        how: Product = PLAIN,
    ) -> Array:
        """As :meth:`apply`."""
        branch = functools.partial(self.branch_rows, frozen, row_B, kernel, layer=layer)
        return self._with_residual(frozen, kernel, x, how, branch)

    def _with_residual(
        self,
        frozen: Any,
        kernel: Array,
        x: Array,
        how: Product,
        branch: Callable[..., Array],
    ) -> Array:
        """The product x W and ``branch(x=...)`` of what dropout left of x."""
        dropped = drop(how.dropout, self.dropout, x)
        y = how.matmul(x, kernel) + branch(x=dropped)
        if dropped is x:
            return y
        return y + through_factors(dropped - x, frozen["a"], frozen["b"], self.scale)

    def max_rank(self, layer: TargetLayer) -> int:
        """That of A B - A0 B0."""
        return min(2 * self.rank, *layer.kernel_shape)


def _gained(frozen: Any, d: Any) -> tuple[Array, Array]:
    """A B - A0 B0 as one product, of [A - A0, A0] and [B; B - B0].

    The differences are taken before they are rounded to the type of x, which would lose small ones.
    """
    a_IR, b_RO = d["a"], d["b"]
    a0_IR, b0_RO = frozen["a"].astype(a_IR.dtype), frozen["b"].astype(b_RO.dtype)
    left_IS = jnp.concatenate([a_IR - a0_IR, a0_IR], axis=1)
    return left_IS, jnp.concatenate([b_RO, b_RO - b0_RO], axis=0)


def init_frozen(key: KeyArray, kernel: Float[Array, "I O"], config: PiSSA) -> dict[str, Array]:
    """A0 ``a`` (I, R) and B0 ``b`` (R, O): s A0 B0 is the kernel's part of rank R.

    With W = U S V: A0 = U_R sqrt(S_R / s) and B0 = sqrt(S_R / s) V_R. The SVD is in float32, or in
    float64 for a kernel in float64, and so are A0 and B0.

    Args:
        key: of the randomized SVD.
        kernel: W.
        config: rank, scale and kind of SVD.
    """
    exact = kernel.astype(acc_dtype(kernel.dtype))
    if config.niter is None:
        u_IR, s_R, v_RO = jnp.linalg.svd(exact, full_matrices=False)
    else:
        u_IR, s_R, v_RO = _randomized_svd(key, exact, config.rank, config.niter)
    root_R = jnp.sqrt(s_R[: config.rank] / config.scale)
    return {
        "a": u_IR[:, : config.rank] * root_R[None, :],
        "b": root_R[:, None] * v_RO[: config.rank],
    }


def _randomized_svd(
    key: KeyArray, kernel: Float[Array, "I O"], rank: int, niter: int
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
