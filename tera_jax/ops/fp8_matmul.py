"""The matmul of activations with a frozen kernel in e4m3, and its gradient to the activations.

Each row of the input, and of the cotangent, is cast with a scale of its own. The matmul is of codes
alone and its result is scaled after it, by row and by output:

    y = (x_codes W_codes) s_x s_W        dx = (codes(g s_W) W_codes^T) s_g

Written as a matmul of dequantised numbers XLA would compute it in bfloat16. The kernel gets no
gradient.
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from tera_jax import float8
from tera_jax.float8 import Float8Kernel
from tera_jax.ops import dispatch
from tera_jax.ops.numerics import matmul_precision

PRODUCT = "fp8_product"
"""The name under which a rematerialisation policy finds a matmul."""
_MULTIPLE = 16
"""Of which cuBLASLt wants the sides of a kernel to be multiples."""
_log = logging.getLogger(__name__)


def takes(kernel: Float8Kernel) -> bool:
    """Whether :func:`matmul` can multiply by a kernel; else it is to be dequantised.

    It needs a matrix with sides that are multiples of 16, and a device with such a matmul. A line
    in the log says once what is lacking.
    """
    if kernel.ndim != 2 or any(side % _MULTIPLE for side in kernel.shape):
        return _refused(f"a kernel {kernel.shape} is no matrix of sides that are multiples of 16")
    return dispatch.has_fp8_matmul() or _refused("this GPU's compute capability is below 8.9")


@functools.cache
def _refused(why: str) -> bool:
    _log.warning("no fp8 matmul: %s; such kernels are dequantised for each matmul", why)
    return False


def matmul(x: Float[Array, "*B I"], kernel: Float8Kernel) -> Float[Array, "*B O"]:
    """The matmul x W in the type of x.

    Differentiable in x. With ``jax.default_matmul_precision`` "highest" or "float32" a GPU adds up
    in float32; otherwise its sums have fewer bits.

    Args:
        x: of any floating type; cast to e4m3 row by row.
        kernel: one that :func:`takes`.
    """
    exact = matmul_precision() in ("highest", "float32")
    x_TI = x.reshape(-1, x.shape[-1])
    y_TO = _matmul(exact, x_TI, kernel.codes, kernel.channel_scales, kernel.backward_codes)
    return checkpoint_name(y_TO, PRODUCT).reshape(*x.shape[:-1], -1)


def with_uncast_input(x: Float[Array, "*B I"], kernel: Float8Kernel) -> Float[Array, "*B O"]:
    """The matmul x W in the type of x, of which nothing is rounded to e4m3.

    The scales come after the matmul: they are powers of two, and so round nothing. A GPU then reads
    codes in its matmul of few rows, and writes no kernel in more bits.
    """
    if x.dtype == jnp.float16:  # whose range is too small for sums of codes
        return jnp.einsum("...i,io->...o", x, kernel.dequantize(x.dtype))
    sums = jnp.einsum("...i,io->...o", x, kernel.inputs_first().astype(x.dtype))
    scales = kernel.channel_scales.astype(x.dtype)
    return sums * scales.reshape(*[1] * (x.ndim - 1), -1)


def compiler_options() -> dict[str, Any] | None:
    """What a training step with such matmuls is to be compiled with.

    The backward pass transposes kernels. With XLA's own Triton matmuls on, it does so by a slower
    kernel; the matmuls themselves are cuBLASLt's either way.
    """
    return {"xla_gpu_enable_triton_gemm": False} if dispatch.on_gpu() else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(
    exact: bool, x_TI: Array, codes_OI: Array, scales_O: Array, codes_IO: Array | None
) -> Array:
    del codes_IO
    return forward(exact, x_TI, codes_OI, scales_O)


def _forward(
    exact: bool, x_TI: Array, codes_OI: Array, scales_O: Array, codes_IO: Array | None
) -> tuple[Array, tuple[Array | None, Array, Array | None]]:
    kept = (codes_OI, scales_O, None) if codes_IO is None else (None, scales_O, codes_IO)
    return forward(exact, x_TI, codes_OI, scales_O), kept


def _backward(
    exact: bool, residuals: tuple[Array | None, Array, Array | None], ct_TO: Array
) -> tuple[Array, None, None, None]:
    return to_inputs(exact, ct_TO, *residuals), None, None, None


_matmul.defvjp(_forward, _backward)


def forward(
    exact: bool,
    x_TI: Float[Array, "T I"],
    codes_OI: Float[Array, "O I"],
    scales_O: Float[Array, " O"],
) -> Float[Array, "T O"]:
    """The matmul with the kernel.

    Args:
        exact: whether a GPU's sums are to have all bits of float32.
        x_TI: T rows, cast here.
        codes_OI: of a :class:`tera_jax.float8.Float8Kernel`.
        scales_O: of its outputs.

    Returns:
        In the type of x.
    """
    x_codes_TI, x_scales_T1 = float8.by_rows(x_TI)
    sums_TO = _dot(exact, x_codes_TI, codes_OI, 1, x_TI.dtype)
    return (sums_TO * scales_O[None, :] * x_scales_T1).astype(x_TI.dtype)


def to_inputs(
    exact: bool,
    ct_TO: Float[Array, "T O"],
    codes_OI: Float[Array, "O I"] | None,
    scales_O: Float[Array, " O"],
    codes_IO: Float[Array, "I O"] | None = None,
) -> Float[Array, "T I"]:
    """The matmul of a cotangent with the transposed kernel.

    Args:
        exact: as of :func:`forward`.
        ct_TO: T rows, cast here.
        codes_OI: as of :func:`forward`. Unused where the next are given.
        scales_O: as of :func:`forward`.
        codes_IO: the same in the layout that a GPU multiplies by without transposing.
    """
    scaled_TO = ct_TO.astype(jnp.float32) * scales_O[None, :]
    ct_codes_TO, ct_scales_T1 = float8.by_rows(scaled_TO)
    codes: Any = codes_OI if codes_IO is None else codes_IO
    axis = 0 if codes_IO is None else 1
    sums_TI = _dot(exact, ct_codes_TO, codes, axis, ct_TO.dtype)
    return (sums_TI * ct_scales_T1).astype(ct_TO.dtype)


def _dot(exact: bool, rows: Array, codes: Array, axis: int, dtype: Any) -> Array:
    """Sums of products of codes in float32; a GPU hands them over in bfloat16 to half a model."""
    result = jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32
    precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT
    contract = (((1,), (axis,)), ((), ()))
    sums = lax.dot_general(rows, codes, contract, precision, preferred_element_type=result)
    return sums.astype(jnp.float32)
