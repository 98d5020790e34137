"""A Tucker-like network with diagonal factors, contracted: the weight update, and x times it.

Exact routes. Building the update costs matmuls of the size of the kernel and, in the backward pass,
one of the size of a batch: it is the route for many tokens. :mod:`tera_jax.network.projection` has
a backward pass with less of them. On the side of the activations nothing of the kernel's size is
made: it is the route for few. :mod:`tera_jax.network.cost_model` chooses.

A factor of one axis, longer than :data:`tera_jax.network.contraction_order.NARROW`, holds the signs
of a square one that is a fast orthogonal transform (:mod:`tera_jax.network.hadamard`) and costs a
few passes over memory.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.network import core as cores
from tera_jax.network import hadamard
from tera_jax.network.contraction_order import contraction_order, halves
from tera_jax.network.core import Core
from tera_jax.network.factors import Factor, joined, multiplied_factors, sizes
from tera_jax.ops import dispatch, two_sided_matmul
from tera_jax.ops.numerics import acc_dtype

MATERIALIZED = "materialized_kernel"
"""The name under which a rematerialisation policy finds W + dW."""


def network(
    core: Core,
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    precision: Any = None,
) -> Float[Array, "..."]:
    """G x_1 diag(d^(1)) x_1 A^(1) ... x_N diag(d^(N)) x_N A^(N), Eq. 5.

    The tensor is scaled by the d of a wide factor, not the factor, so that the gradient of d is a
    sum over the tensor and costs no matmul of its own. Scaling is done in float32 at least and
    rounded once to the type of the core.

    Args:
        core: (R_1..R_N), or the signs of a fast one.
        factors: N arrays (R_i, I_i) of the core's type, or (I_i), the signs of a transform.
        d: N vectors (R_i).
        precision: of the matmuls, as in ``jax.lax.dot_general``.

    Returns:
        (I_1..I_N) in the type of the core.
    """
    grouped, tensor, axes = _grouped(core, factors, d)
    if (form := _kernel_form(tensor, grouped)) is not None:
        tensor = _by_kernel(form)
        if not grouped[0].is_wide:
            tensor = jnp.moveaxis(tensor, 0, -1)
        axis = 0 if grouped[0].is_wide else tensor.ndim - 1
        tensor = wide_product(tensor, axis, form.wide.matrix, precision)
    else:
        tensor = _contracted(tensor, grouped, axes, precision)
    return tensor.reshape([sizes(factor)[1] for factor in factors])


def but_first(
    core: Core,
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    precision: Any = None,
) -> Float[Array, "R _"]:
    """:func:`network` without A^(1), of a network that :func:`.ends_with_input`.

    Returns:
        (R_1, I_2 ... I_N) in the type of the core.
    """
    grouped, tensor, axes = _grouped(core, factors, d)
    if (form := _kernel_form(tensor, grouped)) is not None:
        tensor = _by_kernel(form)
    else:
        tensor = _contracted(tensor, grouped, axes[:-1], precision)
        tensor = _scaled(tensor, 0, grouped[0].d_R)
    return tensor.reshape(len(tensor), -1)


def _grouped(
    core: Core, factors: Sequence[Array], d: Sequence[Array]
) -> tuple[list[Factor], Array, list[int]]:
    """The groups of modes, the core with an axis for each, and the order of these axes."""
    grouped = joined(factors, d)
    pairs = [(rank, mode) for rank, mode in (sizes(factor.matrix) for factor in grouped)]
    return (
        grouped,
        cores.formed(core).reshape([rank for rank, _ in pairs]),
        contraction_order(pairs),
    )


def _contracted(
    tensor: Array, grouped: Sequence[Factor], axes: Sequence[int], precision: Any
) -> Array:
    """With the factors of some axes, one after the other."""
    for axis in axes:
        tensor = _scaled_product(tensor, axis, grouped[axis], precision)
    return tensor


class _KernelForm(NamedTuple):
    """A core whose first axis is that of the wide factor, and the narrow ones in two groups."""

    core_RAB: Array
    wide: Factor
    left: Factor
    right: Factor


def _kernel_form(tensor: Array, grouped: Sequence[Factor]) -> _KernelForm | None:
    """For a wide factor before or after narrow ones, of sizes and a type for the kernel."""
    taken = dispatch.takes_kernel(dispatch.on_gpu() and dispatch.is_half(tensor.dtype))
    if not taken or [factor.is_wide for factor in grouped].count(True) != 1:
        return None
    first, last = grouped[0].is_wide, grouped[-1].is_wide
    if not (first or last):
        return None
    wide, narrow = (grouped[0], grouped[1:]) if first else (grouped[-1], grouped[:-1])
    at = halves([(rank, mode) for rank, mode in (sizes(factor.matrix) for factor in narrow)])
    if at is None:
        return None
    left, right = multiplied_factors(narrow[:at]), multiplied_factors(narrow[at:])
    rank = len(wide.d_R)
    if not two_sided_matmul.fits_padded(rank, *left.matrix.shape, *right.matrix.shape):
        return None
    core = tensor if first else jnp.moveaxis(tensor, -1, 0)
    return _KernelForm(core.reshape(rank, len(left.d_R), len(right.d_R)), wide, left, right)


def _by_kernel(form: _KernelForm) -> Array:
    """With the narrow factors, and scaled by the d of the wide one before them."""
    core_RAB, wide, left, right = form
    d = wide.d_R, left.d_R, right.d_R
    matrices = left.matrix, right.matrix
    return two_sided_matmul.two_sided(core_RAB, *d, *matrices, dispatch.interpret())


def _scaled(tensor: Array, axis: int, d_R: Array) -> Array:
    """``tensor x_axis diag(d)``."""
    acc = acc_dtype(tensor.dtype)
    scale = d_R.astype(acc).reshape([-1 if i == axis else 1 for i in range(tensor.ndim)])
    return (tensor.astype(acc) * scale).astype(tensor.dtype)


def _scaled_matrix(factor: Factor) -> Float[Array, "R I"]:
    """The rows of a factor times its d, in float32 at least; a matmul rounds it once."""
    acc = acc_dtype(factor.matrix.dtype)
    return factor.matrix.astype(acc) * factor.d_R.astype(acc)[:, None]


def _scaled_product(tensor: Array, axis: int, factor: Factor, precision: Any) -> Array:
    """``tensor x_axis diag(d) x_axis A``; a narrow A takes d into itself."""
    if factor.is_wide:
        return wide_product(_scaled(tensor, axis, factor.d_R), axis, factor.matrix, precision)
    return _along(tensor, axis, _scaled_matrix(factor), precision)


def wide_product(
    tensor: Float[Array, "..."],
    axis: int,
    matrix: Float[Array, "..."],
    precision: Any = None,
    transposed: bool = False,
) -> Float[Array, "..."]:
    """``tensor x_axis A``, or A transposed, of a dense (R, I) or of the signs of a transform.

    Args:
        tensor: with R entries along the axis, or with I where A is transposed.
        axis: of the tensor.
        matrix: A in the type of the tensor.
        precision: of the product, as in ``jax.lax.dot_general``.
        transposed: which of the two.
    """
    if matrix.ndim == 1:
        take = hadamard.apply if transposed else hadamard.apply_transposed
        return take(matrix, tensor, axis, precision)
    matrix_RI = matrix.T if transposed else matrix
    flat_aRb = _flat(tensor, axis)
    # Where an axis is left out the product is written as one of two matrices, whose result lies in
    # memory as it comes out.
    if len(flat_aRb) == 1:
        product = jnp.einsum("ri,rb->ib", matrix_RI, flat_aRb[0], precision=precision)
    elif flat_aRb.shape[2] == 1:
        product = jnp.einsum("ar,ri->ai", flat_aRb[:, :, 0], matrix_RI, precision=precision)
    else:
        product = jnp.einsum("arb,ri->aib", flat_aRb, matrix_RI, precision=precision)
    return _unflat(product, tensor.shape, axis)


def _along(tensor: Array, axis: int, matrix_RI: Array, precision: Any) -> Array:
    return _unflat(_narrow_product(precision, _flat(tensor, axis), matrix_RI), tensor.shape, axis)


def _flat(tensor: Array, axis: int) -> Array:
    """With one axis before and one after that axis."""
    shape = tensor.shape
    return tensor.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def _unflat(flat_aIb: Array, shape: Sequence[int], axis: int) -> Array:
    return flat_aIb.reshape(*shape[:axis], -1, *shape[axis + 1 :])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow_product(precision: Any, flat_aRb: Array, matrix_RI: Array) -> Array:
    """With a matrix that is wider than the tensor, so that its gradient is not rounded.

    That of d is a sum over entries of the matrix's, and smaller than they are.
    """
    matrix_RI = matrix_RI.astype(flat_aRb.dtype)
    return jnp.einsum("arb,ri->aib", flat_aRb, matrix_RI, precision=precision)


def _narrow_forward(precision: Any, flat_aRb: Array, matrix_RI: Array) -> tuple[Array, Any]:
    return _narrow_product(precision, flat_aRb, matrix_RI), (flat_aRb, matrix_RI)


def _narrow_backward(precision: Any, residuals: Any, ct_aIb: Array) -> tuple[Array, Array]:
    flat_aRb, matrix_RI = residuals
    acc = matrix_RI.dtype
    matrix_RI = matrix_RI.astype(ct_aIb.dtype)
    tensor_RX, ct_XI = _rows(flat_aRb), _rows(ct_aIb).T
    return (
        jnp.einsum("aib,ri->arb", ct_aIb, matrix_RI, precision=precision),
        jnp.einsum("rx,xi->ri", tensor_RX, ct_XI, precision=precision, preferred_element_type=acc),
    )


def _rows(flat_aRb: Array) -> Array:
    """One row for each entry of the middle axis."""
    return jnp.moveaxis(flat_aRb, 1, 0).reshape(flat_aRb.shape[1], -1)


_narrow_product.defvjp(_narrow_forward, _narrow_backward)


def through(
    x_TJ: Float[Array, "T _"],
    core: Core,
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    split: int,
    precision: Any = None,
) -> Float[Array, "T _"]:
    """The product of x with the network's unfolding (Eq. 5 and 1), which is not made.

    (((x L) * e) G * f) M with Kronecker products L and M that are never formed: e and f are those
    of the d of either side.

    Args:
        x_TJ: T rows of the input side's J_1 = I_1 ... I_k entries, in the type of the core.
        core: (R_1..R_N), or the signs of a fast one.
        factors: N arrays (R_i, I_i) of the core's type, or (I_i), the signs of a transform.
        d: N vectors (R_i).
        split: k, the number of input modes.
        precision: of the matmuls, as in ``jax.lax.dot_general``.

    Returns:
        (T, J_2) in the type of the core.
    """
    return through_groups(
        x_TJ, core, joined(factors, d, 0, split), joined(factors, d, split), precision
    )


def through_groups(
    x_TJ: Float[Array, "T _"],
    core: Core,
    inward: Sequence[Factor],
    outward: Sequence[Factor],
    precision: Any = None,
) -> Float[Array, "T _"]:
    """:func:`through` with the modes of either side grouped."""
    tokens = x_TJ.shape[0]
    tensor = x_TJ.reshape(tokens, *(sizes(factor.matrix)[1] for factor in inward))
    for axis, factor in enumerate(inward, 1):
        if factor.is_wide:
            tensor = wide_product(tensor, axis, factor.matrix, precision, transposed=True)
            tensor = _scaled(tensor, axis, factor.d_R)
        else:
            tensor = _along(tensor, axis, _scaled_matrix(factor).T, precision)
    tensor = cores.product(tensor.reshape(tokens, -1), core, precision)
    tensor = tensor.reshape(tokens, *(sizes(factor.matrix)[0] for factor in outward))
    for axis, factor in enumerate(outward, 1):
        tensor = _scaled_product(tensor, axis, factor, precision)
    return tensor.reshape(tokens, -1)
