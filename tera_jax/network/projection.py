"""x (W + dW) for a network with a whole side of one wide mode, with a backward pass of its own.

With A of a whole input side dW = A^T M, and what M gets back is, by the order of its matmuls,

    A (x^T g)  or  (x A^T)^T g

for the cotangent g of y. Autodiff takes the first: A times the gradient of each kernel. Here it is
the second, in which layers of one input and one network share x A^T. For q and v in 4,096
dimensions that is less arithmetic up to 8,192 tokens, and no gradient of the kernel's size is
rounded on the way.

Where the core is fast no matmul of x^T and g is made at all: d gets its gradient as from
:func:`tera_jax.network.contraction.through`, on the side of the activations.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.lax import PrecisionLike
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import core as cores
from tera_jax.network import hadamard, structured
from tera_jax.network.contraction import MATERIALIZED, but_first, network, through, wide_product
from tera_jax.network.contraction_order import ends_with_input, ends_with_output, pairs
from tera_jax.network.core import Core
from tera_jax.network.factors import sizes
from tera_jax.ops import dispatch
from tera_jax.ops.numerics import add_update


def product(
    x_TJ: Float[Array, "T J"],
    kernel_JO: Float[Array, "J O"] | Float8Kernel,
    core: Core,
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    precision: PrecisionLike = None,
    kernel_precision: PrecisionLike = None,
    split: int = 1,
) -> Float[Array, "T O"]:
    """The product of x with the kernel and the network's unfolding.

    The frozen network gets no gradient, and neither does a kernel in e4m3.

    Args:
        x_TJ: T rows in the type of the core.
        kernel_JO: W. In e4m3 its codes are read where W + dW is made, and there is no copy of it.
        core: (R_1..R_N) of a network that
            :func:`tera_jax.network.contraction_order.ends_with_input`, or the signs of a fast one.
        factors: N arrays (R_i, I_i) of the core's type, or (I_i), the signs of a transform.
        d: N vectors (R_i).
        precision: of the matmuls with factors, as in ``jax.lax.dot_general``.
        kernel_precision: of those with the kernel. Given, for the backward pass is traced outside
            of a context that the forward pass is traced in.
        split: the number of input modes. With a fast core it may be all modes but the last, of a
            network that :func:`tera_jax.network.contraction_order.ends_with_output`.

    Returns:
        (T, O) in the type of x.

    Raises:
        ValueError: for another network.
    """
    ranks, modes = zip(*map(sizes, factors), strict=True)
    splits_inputs = cores.is_fast(core) and ends_with_output(ranks, modes, split)
    if not (splits_inputs or (split == 1 and ends_with_input(ranks, modes, 1))):
        raise ValueError(
            f"the network of modes {modes} and ranks {ranks} does not end with one wide mode of "
            "the input, nor has it a fast core and ends with one of the output; build its update "
            "instead"
        )
    both = _Precisions(precision, kernel_precision, split)
    if cores.is_fast(core):
        return _by_rows(both, x_TJ, kernel_JO, core, list(factors), list(d))

    @jax.checkpoint  # recomputed in a fraction of a matmul's time
    def inner(d: Sequence[Array]) -> Array:
        return but_first(core, factors, d, precision)

    return _product(both, x_TJ, _plain(kernel_JO), factors[0], inner(d))


def _plain(kernel_JO: Array | Float8Kernel) -> Array:
    return kernel_JO.dequantize() if isinstance(kernel_JO, Float8Kernel) else kernel_JO


class _Precisions(NamedTuple):
    """Of the products with factors, and of those with the kernel; and the split of the modes."""

    factors: PrecisionLike
    kernel: PrecisionLike
    split: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(
    both: _Precisions, x_TJ: Array, kernel_JO: Array, wide: Array, inner_RO: Array
) -> Array:
    return _forward(both, x_TJ, kernel_JO, wide, inner_RO)[0]


def _forward(
    both: _Precisions, x_TJ: Array, kernel_JO: Array, wide: Array, inner_RO: Array
) -> tuple[Array, Any]:
    update_JO = wide_product(inner_RO, 0, wide, both.factors)
    adapted_JO = checkpoint_name(add_update(kernel_JO, update_JO), MATERIALIZED)
    y_TO = jnp.einsum("tj,jo->to", x_TJ, adapted_JO.astype(x_TJ.dtype), precision=both.kernel)
    return y_TO, (x_TJ, adapted_JO, wide)


def _backward(both: _Precisions, residuals: Any, ct_TO: Array) -> tuple[Array, Array, None, Array]:
    x_TJ, adapted_JO, wide = residuals
    to_x_TJ, to_kernel_JO = _backward_to_inputs(x_TJ, adapted_JO, ct_TO, both.kernel)
    x_TR = _projected(x_TJ, wide, both.factors)
    to_inner_RO = jnp.einsum("tr,to->ro", x_TR, ct_TO, precision=both.factors)
    return to_x_TJ, to_kernel_JO, None, to_inner_RO


_product.defvjp(_forward, _backward)


def _backward_to_inputs(
    x_TJ: Array, adapted_JO: Array, ct_TO: Array, precision: PrecisionLike
) -> tuple[Array, Array]:
    """What x and the kernel get; the latter is not computed where nothing asks for it."""
    adapted_JO, dtype = adapted_JO.astype(ct_TO.dtype), adapted_JO.dtype
    to_x_TJ = jnp.einsum("to,jo->tj", ct_TO, adapted_JO, precision=precision)
    to_kernel_JO = jnp.einsum("tj,to->jo", x_TJ, ct_TO, precision=precision)
    return to_x_TJ, to_kernel_JO.astype(dtype)


def _projected(x_TJ: Array, wide: Array, precision: PrecisionLike) -> Array:
    """The product x A^T, or the transform of each row."""
    if _fused(x_TJ.dtype) and wide.ndim == 1 and hadamard.fits_rows(*x_TJ.shape):
        return hadamard.apply_to_rows(wide, x_TJ, dispatch.interpret())
    return wide_product(x_TJ, 1, wide, precision, transposed=True)


def _fused(dtype: Any) -> bool:
    """Whether one pass of a kernel transforms a batch, or makes W + dW or the gradients of d."""
    return dispatch.takes_kernel(dispatch.on_one_gpu() and dispatch.is_half(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_rows(
    both: _Precisions,
    x_TJ: Array,
    kernel_JO: Array | Float8Kernel,
    core: Sequence[Array],
    factors: Sequence[Array],
    d: Sequence[Array],
) -> Array:
    """:func:`product` with a fast core."""
    return _by_rows_forward(both, x_TJ, kernel_JO, core, factors, d)[0]


def _by_rows_forward(
    both: _Precisions,
    x_TJ: Array,
    kernel_JO: Array | Float8Kernel,
    core: Any,
    factors: Any,
    d: Any,
) -> tuple[Array, Any]:
    if _takes_kernels(x_TJ, core, factors, both.split):
        split_in = both.split > 1
        parts = structured.parts(core, factors, d, split_in)
        adapted_JO = structured.adapted(kernel_JO, *parts, dispatch.interpret(), split_in)
    else:
        update_JO = network(core, factors, d, both.factors).reshape(kernel_JO.shape)
        adapted_JO = add_update(_plain(kernel_JO), update_JO)
    adapted_JO = checkpoint_name(adapted_JO, MATERIALIZED)
    y_TO = jnp.einsum("tj,jo->to", x_TJ, adapted_JO.astype(x_TJ.dtype), precision=both.kernel)
    in_fp8 = _InFp8() if isinstance(kernel_JO, Float8Kernel) else None
    return y_TO, (x_TJ, adapted_JO, core, factors, d, in_fp8)


class _InFp8(NamedTuple):
    """Says to the backward pass that the kernel gets no gradient."""


def _by_rows_backward(both: _Precisions, residuals: Any, ct_TO: Array) -> tuple[Any, ...]:
    x_TJ, adapted_JO, core, factors, d, in_fp8 = residuals
    if _takes_kernels(x_TJ, core, factors, both.split):
        split_in = both.split > 1
        parts, pull = jax.vjp(lambda d: structured.parts(core, factors, d, split_in), d)
        to_trained = structured.gradients(x_TJ, ct_TO, *parts, dispatch.interpret(), split_in)
        (to_d,) = pull((jax.tree.map(jnp.zeros_like, parts[0]), to_trained))
    else:
        _, pull = jax.vjp(lambda d: through(x_TJ, core, factors, d, both.split, both.factors), d)
        (to_d,) = pull(ct_TO)
    to_x_TJ, to_kernel_JO = _backward_to_inputs(x_TJ, adapted_JO, ct_TO, both.kernel)
    return to_x_TJ, None if in_fp8 is not None else to_kernel_JO, None, None, to_d


_by_rows.defvjp(_by_rows_forward, _by_rows_backward)


def _takes_kernels(
    x_TJ: Array, core: Sequence[Array], factors: Sequence[Array], split: int
) -> bool:
    split_in = split > 1
    whole, narrow = (factors[-1], factors[:-1]) if split_in else (factors[0], factors[1:])
    if not _fused(x_TJ.dtype) or whole.ndim != 1:
        return False
    ranks, modes = zip(*map(sizes, narrow), strict=True)
    core_shape = core[0].size, core[1].size
    return structured.fits(len(x_TJ), whole.size, core_shape, pairs(ranks, modes), split_in)
