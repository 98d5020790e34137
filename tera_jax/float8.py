"""Numbers in 8 bits, e4m3: kernels with a scale for each output, activations with one for each row.

An e4m3 number has a sign, 4 bits of exponent and 3 of mantissa; the largest is 448, and there is no
infinity (Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433). Here a number is
its code times the scale of its channel or row.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float8e4m3fn

E4M3 = jnp.float8_e4m3fn
LARGEST = 448.0
"""The largest code."""
_LEAST_EXPONENT = -126
"""Of a float32 number that no device flushes to zero."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Float8Kernel:
    """A kernel (..., I, O), or a stack of them, that is multiplied as it is stored.

    The codes of an output's inputs lie next to each other, as a GPU's e4m3 matmul reads them.
    Scales are powers of two: code times scale is then exact in bfloat16 and float32.

    Attributes:
        codes: e4m3 (..., O, I), the kernel transposed.
        channel_scales: float32 (..., O).
        dtype: of the kernel that was quantised, and as which it reads.
        backward_codes: the same codes (..., I, O), as the backward pass of a training step reads
            them; None to have it transpose the others. See :func:`with_both_layouts`.
    """

    codes: Any  # an array, or what a mapped tree has in its place
    channel_scales: Any
    dtype: Any = dataclasses.field(metadata={"static": True})
    backward_codes: Any = None

    kind: ClassVar[str] = "fp8"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel."""
        *stack, outputs, inputs = self.codes.shape
        return (*stack, inputs, outputs)

    @property
    def ndim(self) -> int:
        """Of the kernel."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """Weights."""
        return int(np.prod(self.shape))

    def replace(self, **fields: Any) -> "Float8Kernel":
        """The same with other fields."""
        return dataclasses.replace(self, **fields)

    def inputs_first(self) -> Any:
        """The codes (..., I, O)."""
        stored = self.backward_codes
        return jnp.swapaxes(self.codes, -1, -2) if stored is None else stored

    def dequantize(self, dtype: Any = None) -> jax.Array:
        """The kernel (..., I, O), in its own type or another."""
        kernel = self.codes.astype(jnp.float32) * self.channel_scales[..., None]
        return jnp.swapaxes(kernel, -1, -2).astype(self.dtype if dtype is None else dtype)


def with_both_layouts(params: Any, layout: Callable[[Any], Any] | None = None) -> Any:
    """``params`` in which the codes of every e4m3 kernel stand in both layouts.

    They take 8 bits more a weight, and the backward pass transposes no kernel. One kernel is made
    ready after the other. All other arrays stay those that they are.

    Args:
        params: with kernels in one layout or both.
        layout: from the result, abstract, to a tree of shardings; None leaves it to XLA.
    """

    def both(leaf: Any) -> Any:
        one = isinstance(leaf, Float8Kernel)
        return leaf.replace(backward_codes=jnp.swapaxes(leaf.codes, -1, -2)) if one else leaf

    mapped = functools.partial(jax.tree.map, both, is_leaf=_is_kernel)
    shapes = jax.eval_shape(mapped, params)
    shardings = with_one_layout(params) if layout is None else layout(shapes)

    def made(leaf: Any, sharding: Any) -> Any:
        if not isinstance(leaf, Float8Kernel):
            return leaf
        turned = _transposed(sharding.backward_codes)(leaf.codes)
        return leaf.replace(backward_codes=jax.block_until_ready(turned))

    return jax.tree.map(made, params, shardings, is_leaf=_is_kernel)


def with_one_layout(params: Any) -> Any:
    """What :func:`with_both_layouts` was given."""

    def one(leaf: Any) -> Any:
        return leaf.replace(backward_codes=None) if isinstance(leaf, Float8Kernel) else leaf

    return jax.tree.map(one, params, is_leaf=_is_kernel)


def _is_kernel(leaf: Any) -> bool:
    return isinstance(leaf, Float8Kernel)


@functools.cache
def _transposed(sharding: Any) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda codes: jnp.swapaxes(codes, -1, -2), out_shardings=sharding)


def by_channels(kernel: Float[Array, "*stack I O"]) -> Float8Kernel:
    """A kernel, or a stack of them, in e4m3.

    The scale of an output is the smallest power of two with which its largest magnitude is at most
    448. An output that has a number that is not finite has the scale NaN.
    """
    wide = jnp.swapaxes(kernel.astype(jnp.float32), -1, -2)
    largest = jnp.max(jnp.abs(wide), axis=-1)
    mantissa, exponent = jnp.frexp(largest)  # a mantissa from 0.5 to below 1; 448 is 0.875 * 2^9
    exponent = exponent - jnp.where(mantissa <= LARGEST / 2**9, 9, 8)
    scales = jnp.ldexp(jnp.float32(1), jnp.maximum(exponent, _LEAST_EXPONENT))
    scales = jnp.where(jnp.isfinite(largest), scales, jnp.float32(jnp.nan))
    codes = (wide / scales[..., None]).astype(E4M3)
    return Float8Kernel(codes, scales, jnp.dtype(kernel.dtype))


def by_rows(
    x_TK: Float[Array, "T K"],
) -> tuple[Float8e4m3fn[Array, "T K"], Float[Array, "T 1"]]:
    """Codes and float32 scales of a matrix, a scale for each row: its largest magnitude over 448.

    A row of zeros has codes of zero. One with a number that is not finite has a scale that is not.
    """
    wide = x_TK.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=1, keepdims=True)
    scales = jnp.maximum(largest / LARGEST, jnp.float32(2.0**_LEAST_EXPONENT))
    # Beyond 464 a cast gives NaN; the largest magnitude is 448 here, or a rounding above it.
    return (wide * (1 / scales)).astype(E4M3), scales
