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
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import core as cores
from tera_jax.network import hadamard, mesh_kernels, structured
from tera_jax.network.contraction import MATERIALIZED, but_first, network, through, wide_product
from tera_jax.network.contraction_order import ends_with_input, ends_with_output
from tera_jax.network.core import Core
from tera_jax.network.factors import sizes
from tera_jax.network.mesh_kernels import Layout
from tera_jax.ops import dispatch, on_mesh
from tera_jax.ops.numerics import add_update


def product(
    x_TJ: Float[Array, "T J"],
    kernel_JO: Float[Array, "J O"] | Float8Kernel,
    core: Core,
    factors: Sequence[Float[Array, "..."]],
    d: Sequence[Float[Array, " _"]],
    precision: PrecisionLike = None,
    kernel_precision: PrecisionLike = None,
    axes: tuple[str, str] = ("fsdp", "tensor"),
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
        axes: of the mesh, that split inputs and outputs of the kernel.
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
    how = _Options(precision, kernel_precision, Layout(*axes), split)
    if cores.is_fast(core):
        return _by_rows(how, x_TJ, kernel_JO, core, list(factors), list(d))

    if _is_split(x_TJ, kernel_JO.shape[1], how.layout):
        # Lest XLA split what is frozen in the forward pass, and gather it in the backward pass.
        core, factors = on_mesh.whole((core, list(factors)))
        return _by_devices(how, x_TJ, _plain(kernel_JO), core, factors, list(d))

    @jax.checkpoint  # recomputed in a fraction of a matmul's time
    def inner(d: Sequence[Array]) -> Array:
        return but_first(core, factors, d, precision)

    return _product(how, x_TJ, _plain(kernel_JO), factors[0], inner(d))


def _plain(kernel_JO: Array | Float8Kernel) -> Array:
    return kernel_JO.dequantize() if isinstance(kernel_JO, Float8Kernel) else kernel_JO


class _Options(NamedTuple):
    """The precision of products with factors, and of those with the kernel; how that is split.

    And the number of input modes.
    """

    factors: PrecisionLike
    kernel: PrecisionLike
    layout: Layout
    split: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(how: _Options, x_TJ: Array, kernel_JO: Array, wide: Array, inner_RO: Array) -> Array:
    return _forward(how, x_TJ, kernel_JO, wide, inner_RO)[0]


def _forward(
    how: _Options, x_TJ: Array, kernel_JO: Array, wide: Array, inner_RO: Array
) -> tuple[Array, Any]:
    update_JO = wide_product(inner_RO, 0, wide, how.factors)
    adapted_JO = checkpoint_name(add_update(kernel_JO, update_JO), MATERIALIZED)
    y_TO = jnp.einsum("tj,jo->to", x_TJ, adapted_JO.astype(x_TJ.dtype), precision=how.kernel)
    return y_TO, (x_TJ, adapted_JO, wide)


def _backward(how: _Options, residuals: Any, ct_TO: Array) -> tuple[Array, Array, None, Array]:
    x_TJ, adapted_JO, wide = residuals
    to_x_TJ, to_kernel_JO = _backward_to_inputs(x_TJ, adapted_JO, ct_TO, how.kernel)
    x_TR = _projected(x_TJ, wide, how.factors)
    to_inner_RO = jnp.einsum("tr,to->ro", x_TR, ct_TO, precision=how.factors)
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
    # Inside of a device's part there is one GPU.
    taken = dispatch.takes_kernel(dispatch.on_one_gpu() and dispatch.is_half(x_TJ.dtype))
    if taken and wide.ndim == 1 and hadamard.fits_rows(*x_TJ.shape):
        return hadamard.apply_to_rows(wide, x_TJ, dispatch.interpret())
    return wide_product(x_TJ, 1, wide, precision, transposed=True)


def _projected_part(x_TJ: Array, wide: Array, axis: str | None, precision: PrecisionLike) -> Array:
    """:func:`_projected` of some entries of x, those that a device has; the rest count as zero."""
    if wide.ndim == 1:
        return _projected(on_mesh.among_zeros(x_TJ, axis, wide.size), wide, precision)
    start = on_mesh.first(axis, x_TJ.shape[1])
    part = jax.lax.dynamic_slice_in_dim(wide, start, x_TJ.shape[1], axis=1)
    return _projected(x_TJ, part, precision)


def _is_split(x_TJ: Array, width: int, layout: Layout) -> bool:
    """Whether every device of a mesh has an equal part of x and of y, of so many outputs."""
    inputs, outputs = map(on_mesh.parts, layout.of_activations)
    rest = x_TJ.shape[1] % inputs + width % outputs
    return on_mesh.is_split() and on_mesh.splits_rows(len(x_TJ)) and rest == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_devices(
    how: _Options, x_TJ: Array, kernel_JO: Array, core: Any, factors: Any, d: Any
) -> Array:
    """:func:`product` on a mesh, with a dense core.

    Each device takes the gradient of M from its part of x and y back to d. What is summed over
    devices are the gradients of d, and no array of the kernel's size.
    """
    return _by_devices_forward(how, x_TJ, kernel_JO, core, factors, d)[0]


def _by_devices_forward(
    how: _Options, x_TJ: Array, kernel_JO: Array, core: Any, factors: Any, d: Any
) -> tuple[Array, Any]:
    inner_RO = but_first(core, factors, d, how.factors)
    y_TO, (_, adapted_JO, _) = _forward(how, x_TJ, kernel_JO, factors[0], inner_RO)
    return y_TO, (x_TJ, adapted_JO, core, factors, d)


def _by_devices_backward(how: _Options, residuals: Any, ct_TO: Array) -> tuple[Any, ...]:
    x_TJ, adapted_JO, core, factors, d = residuals
    to_x_TJ, to_kernel_JO = _backward_to_inputs(x_TJ, adapted_JO, ct_TO, how.kernel)

    inputs, outputs = how.layout.of_activations
    width = ct_TO.shape[1]

    def part(x_TJ: Array, ct_TO: Array, core: Any, factors: Any, d: Any) -> Any:
        _, pull = jax.vjp(lambda d: but_first(core, factors, d, how.factors), d)
        x_TR = _projected_part(x_TJ, factors[0], inputs, how.factors)
        to_inner_RC = jnp.einsum("tr,tc->rc", x_TR, ct_TO, precision=how.factors)
        (to_d,) = pull(on_mesh.among_zeros(to_inner_RC, outputs, width))
        return on_mesh.total(to_d)

    in_specs = P(on_mesh.BATCH, inputs), P(on_mesh.BATCH, outputs), *[P()] * 3
    to_d = on_mesh.run(part, in_specs, P(), x_TJ, ct_TO, core, factors, d)
    return to_x_TJ, to_kernel_JO, None, None, to_d


_by_devices.defvjp(_by_devices_forward, _by_devices_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_rows(
    how: _Options,
    x_TJ: Array,
    kernel_JO: Array | Float8Kernel,
    core: Sequence[Array],
    factors: Sequence[Array],
    d: Sequence[Array],
) -> Array:
    """:func:`product` with a fast core."""
    return _by_rows_forward(how, x_TJ, kernel_JO, core, factors, d)[0]


def _by_rows_forward(
    how: _Options,
    x_TJ: Array,
    kernel_JO: Array | Float8Kernel,
    core: Any,
    factors: Any,
    d: Any,
) -> tuple[Array, Any]:
    if _takes_kernels(x_TJ, core, factors, how):
        split_in = how.split > 1
        parts = structured.parts(core, factors, d, split_in)
        adapted_JO = mesh_kernels.adapted(kernel_JO, *parts, how.layout, split_in)
    else:
        update_JO = network(core, factors, d, how.factors).reshape(kernel_JO.shape)
        adapted_JO = add_update(_plain(kernel_JO), update_JO)
    adapted_JO = checkpoint_name(adapted_JO, MATERIALIZED)
    y_TO = jnp.einsum("tj,jo->to", x_TJ, adapted_JO.astype(x_TJ.dtype), precision=how.kernel)
    in_fp8 = _InFp8() if isinstance(kernel_JO, Float8Kernel) else None
    return y_TO, (x_TJ, adapted_JO, core, factors, d, in_fp8)


class _InFp8(NamedTuple):
    """Says to the backward pass that the kernel gets no gradient."""


def _by_rows_backward(how: _Options, residuals: Any, ct_TO: Array) -> tuple[Any, ...]:
    x_TJ, adapted_JO, core, factors, d, in_fp8 = residuals
    if _takes_kernels(x_TJ, core, factors, how):
        split_in = how.split > 1
        parts, pull = jax.vjp(lambda d: structured.parts(core, factors, d, split_in), d)
        to_trained = mesh_kernels.gradients(x_TJ, ct_TO, *parts, how.layout, split_in)
        (to_d,) = pull((jax.tree.map(jnp.zeros_like, parts[0]), to_trained))
    else:
        _, pull = jax.vjp(lambda d: through(x_TJ, core, factors, d, how.split, how.factors), d)
        (to_d,) = pull(ct_TO)
    to_x_TJ, to_kernel_JO = _backward_to_inputs(x_TJ, adapted_JO, ct_TO, how.kernel)
    return to_x_TJ, None if in_fp8 is not None else to_kernel_JO, None, None, to_d


_by_rows.defvjp(_by_rows_forward, _by_rows_backward)


def _takes_kernels(
    x_TJ: Array, core: Sequence[Array], factors: Sequence[Array], how: _Options
) -> bool:
    split_in = how.split > 1
    whole, narrow = (factors[-1], factors[:-1]) if split_in else (factors[0], factors[1:])
    taken = dispatch.takes_kernel(on_mesh.has_kernels() and dispatch.is_half(x_TJ.dtype))
    if not taken or whole.ndim != 1:
        return False
    ranks_modes = [(rank, mode) for rank, mode in map(sizes, narrow)]
    core_shape = core[0].size, core[1].size
    scheme = whole.size, core_shape, ranks_modes
    return mesh_kernels.fits(len(x_TJ), *scheme, how.layout, split_in)
