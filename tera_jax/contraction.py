"""A Tucker-like network with diagonal factors, contracted: the weight update, and x times it.

Two exact routes. Building the update costs products of the size of the kernel and, in the backward
pass, one of the size of a batch; it is the route for many tokens. On the side of the activations
nothing of the kernel's size is made; it is the route for few. :mod:`tera_jax.cost` chooses.

Consecutive small modes are contracted together, by the Kronecker product of their factors: a
product with a matrix of a few dozen rows takes the time of reading and writing the tensor, and two
such matrices take it twice.

A factor of one axis, longer than ``NARROW``, holds the signs of a square one that is a fast
orthogonal transform (:mod:`tera_jax.transform`) and costs a few such passes.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax import kernels, transform

BUILT = "built_kernel"
"""The name under which a rematerialisation policy finds W + dW."""
NARROW = 64
"""The most rows of a Kronecker product, and of a factor that takes its d into itself."""
FUSED: bool | None = None
"""Whether two narrow groups beside a wide factor take the kernel of :mod:`tera_jax.kernels`. None:
on a GPU and in half precision. Elsewhere it is interpreted, which is slow."""


def groups(ranks: Sequence[int], modes: Sequence[int]) -> list[tuple[int, int]]:
    """Which consecutive modes are contracted together: (start, stop), from the first mode on.

    Example:
        >>> groups((4096, 8, 8, 8, 8), (4096, 8, 8, 8, 8))
        [(0, 1), (1, 3), (3, 5)]
    """
    found: list[tuple[int, int]] = []
    for i, sizes in enumerate(zip(ranks, modes, strict=True)):
        if found:
            start, stop = found[-1]
            width = max(math.prod(ranks[start:stop]), math.prod(modes[start:stop]))
            if width * max(sizes) <= NARROW:
                found[-1] = (start, i + 1)
                continue
        found.append((i, i + 1))
    return found


def sizes(factor: Float[Array, "..."]) -> tuple[int, ...]:
    """(R, I) of a factor, also of one that holds the signs of a transform; else its shape."""
    return 2 * factor.shape if factor.ndim == 1 and factor.size > NARROW else factor.shape


class _Factor(NamedTuple):
    """A group's matrix: a wide factor and its d, or a narrow matrix that has taken d in.

    The latter is in float32 at least. A wide one may be the signs of a transform.
    """

    matrix: Array
    d_R: Array | None


def order(rank: int, mode: int) -> tuple[float, int]:
    """How soon a factor is contracted: the least enlarging first, then the small."""
    return mode / rank, mode


def _factors(
    factors: Sequence[Array], d: Sequence[Array], start: int = 0, stop: int | None = None
) -> list[_Factor]:
    """The groups among the modes from ``start`` to ``stop``."""
    factors, d = factors[start:stop], d[start:stop]
    ranks, modes = zip(*map(sizes, factors), strict=True)
    return [_joined(factors[i:j], d[i:j]) for i, j in groups(ranks, modes)]


def _joined(factors: Sequence[Array], d: Sequence[Array]) -> _Factor:
    if factors[0].shape[0] > NARROW:
        return _Factor(factors[0], d[0])
    wide = accumulator(factors[0].dtype)
    scaled = [
        factor.astype(wide) * vector.astype(wide)[:, None]
        for factor, vector in zip(factors, d, strict=True)
    ]
    return _Factor(functools.reduce(jnp.kron, scaled), None)


def network(
    core: Float[Array, "..."],
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    precision: Any = None,
) -> Float[Array, "..."]:
    """G x_1 diag(d^(1)) x_1 A^(1) ... x_N diag(d^(N)) x_N A^(N), Eq. 5.

    The tensor is scaled by the d of a wide factor, not the factor, so that the gradient of d is a
    sum over the tensor and costs no product of its own. Scaling is done in float32 at least and
    rounded once to the type of the core.

    Args:
        core: (R_1..R_N).
        factors: N arrays (R_i, I_i) of the core's type, or (I_i), the signs of a transform.
        d: N vectors (R_i).
        precision: of the products, as in ``jax.lax.dot_general``.

    Returns:
        (I_1..I_N) in the type of the core.
    """
    joined = _factors(factors, d)
    tensor = core.reshape([sizes(factor.matrix)[0] for factor in joined])
    if _is_fused(tensor.dtype) and _fits(joined):
        wide, left, right = joined
        interpret = jax.default_backend() != "gpu"
        tensor = kernels.two_sided(tensor, wide.d_R, left.matrix, right.matrix, interpret)
        tensor = _product(tensor, 0, wide, precision)
    else:
        turns = [(*order(*sizes(factor.matrix)), -axis) for axis, factor in enumerate(joined)]
        for axis in sorted(range(len(joined)), key=turns.__getitem__):
            tensor = _product(_scaled(tensor, axis, joined[axis]), axis, joined[axis], precision)
    return tensor.reshape([sizes(factor)[1] for factor in factors])


def _is_fused(dtype: Any) -> bool:
    half = dtype in (jnp.bfloat16, jnp.float16)
    return jax.default_backend() == "gpu" and half if FUSED is None else FUSED


def _fits(joined: Sequence[_Factor]) -> bool:
    """A wide factor and then two narrow groups, of sizes that the kernel takes."""
    if len(joined) != 3 or [factor.d_R is None for factor in joined] != [False, True, True]:
        return False
    narrow = [size for factor in joined[1:] for size in factor.matrix.shape]
    return kernels.fits(sizes(joined[0].matrix)[0], *narrow)


def _scaled(tensor: Array, axis: int, factor: _Factor) -> Array:
    """``tensor x_axis diag(d)`` of a wide factor; the tensor itself where the matrix has d."""
    if factor.d_R is None:
        return tensor
    wide = accumulator(tensor.dtype)
    scale = factor.d_R.astype(wide).reshape([-1 if i == axis else 1 for i in range(tensor.ndim)])
    return (tensor.astype(wide) * scale).astype(tensor.dtype)


def _product(tensor: Array, axis: int, factor: _Factor, precision: Any) -> Array:
    """``tensor x_axis A``: axis ``axis`` goes from R to I entries."""
    if factor.matrix.ndim == 1:
        return transform.apply_transposed(factor.matrix, tensor, axis, precision)
    before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
    rank, mode = factor.matrix.shape
    flat_aRb = tensor.reshape(math.prod(before), rank, math.prod(after))
    if factor.d_R is None:
        product_aIb = _narrow_product(precision, flat_aRb, factor.matrix)
    else:
        product_aIb = jnp.einsum("arb,ri->aib", flat_aRb, factor.matrix, precision=precision)
    return product_aIb.reshape(*before, mode, *after)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow_product(precision: Any, flat_aRb: Array, matrix_RI: Array) -> Array:
    """With a matrix that is wider than the tensor, so that its gradient is not rounded.

    That of d is a sum over entries of the matrix's, and smaller than they are.
    """
    matrix_RI = matrix_RI.astype(flat_aRb.dtype)
    return jnp.einsum("arb,ri->aib", flat_aRb, matrix_RI, precision=precision)


def _narrow_forward(precision: Any, flat_aRb: Array, matrix_RI: Array) -> tuple[Array, Any]:
    return _narrow_product(precision, flat_aRb, matrix_RI), (flat_aRb, matrix_RI)


def _narrow_backward(precision: Any, kept: Any, ct_aIb: Array) -> tuple[Array, Array]:
    flat_aRb, matrix_RI = kept
    wide = matrix_RI.dtype
    matrix_RI = matrix_RI.astype(ct_aIb.dtype)
    tensor_RX, ct_XI = _rows(flat_aRb), _rows(ct_aIb).T
    return (
        jnp.einsum("aib,ri->arb", ct_aIb, matrix_RI, precision=precision),
        jnp.einsum("rx,xi->ri", tensor_RX, ct_XI, precision=precision, preferred_element_type=wide),
    )


def _rows(flat_aRb: Array) -> Array:
    """One row for each entry of the middle axis."""
    return jnp.moveaxis(flat_aRb, 1, 0).reshape(flat_aRb.shape[1], -1)


_narrow_product.defvjp(_narrow_forward, _narrow_backward)


def through(
    x_TJ: Float[Array, "T _"],
    core: Float[Array, "..."],
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
        core: (R_1..R_N).
        factors: N arrays (R_i, I_i) of the core's type, or (I_i), the signs of a transform.
        d: N vectors (R_i).
        split: k, the number of input modes.
        precision: of the products, as in ``jax.lax.dot_general``.

    Returns:
        (T, J_2) in the type of the core.
    """
    tokens = x_TJ.shape[0]
    inward, outward = _factors(factors, d, 0, split), _factors(factors, d, split)
    tensor = x_TJ.reshape(tokens, *(sizes(factor.matrix)[1] for factor in inward))
    for axis, factor in enumerate(inward, 1):
        if factor.matrix.ndim == 1:
            tensor = transform.apply(factor.matrix, tensor, axis, precision)
        else:
            transposed = factor._replace(matrix=factor.matrix.T)
            tensor = _product(tensor, axis, transposed, precision)
        tensor = _scaled(tensor, axis, factor)
    core_RS = core.reshape(math.prod(core.shape[:split]), -1)
    tensor_TR = tensor.reshape(tokens, -1)
    tensor = jnp.einsum("tr,rs->ts", tensor_TR, core_RS, precision=precision)
    tensor = tensor.reshape(tokens, *(sizes(factor.matrix)[0] for factor in outward))
    for axis, factor in enumerate(outward, 1):
        tensor = _product(_scaled(tensor, axis, factor), axis, factor, precision)
    return tensor.reshape(tokens, -1)


def accumulator(dtype: jax.typing.DTypeLike) -> Any:
    """The type in which sums of ``dtype`` are taken: float64 for itself, else float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32
