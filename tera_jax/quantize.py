"""Base kernels in 8 or 4 bits: what stands in memory in a kernel's place, and what it reads as.

``fp8`` has a scale for each output (:mod:`tera_jax.float8`). Of the others, a block is ``block``
consecutive inputs of one output, and has a scale. A weight is its scale times a code: an integer
(``int8``, ``int4``), or one of the 16 quantiles of a normal distribution that QLoRA chose (``nf4``;
Dettmers et al., arXiv:2305.14314, Appendix E).

qwix has the latter types, and the tests hold this file to it. It does not read the kernels here. It
flattens an nf4 array, which on a mesh gathers the whole kernel on every device, both ways. It
leaves to the backend whether an array of 4-bit numbers takes 4 bits. Here everything is elementwise
in the kernel's own layout, and two codes share a byte.
"""

import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import float8, trees
from tera_jax.float8 import Float8Kernel

KINDS = ("int8", "int4", "nf4", "fp8")
BLOCK = 64
TARGETS = ("*_proj",)
"""The seven linear layers of a decoder layer; neither embeddings nor head."""

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The code book of nf4, in the order of its codes."""
_INT4 = (*range(8), *range(-8, 0))
"""That of int4, in two's complement."""
_LIMIT = {"int8": 127.5, "int4": 7.5, "nf4": 1.0}
"""The outermost code, or its outer edge where codes are integers."""


@flax.struct.dataclass
class QuantizedKernel:
    """A kernel (..., I, O), or a stack of them, in few bits.

    An nf4 or int4 kernel in blocks of 64 takes 4.25 bits a weight, an int8 kernel 8.25, on every
    backend. The arrays are of bytes and bfloat16 numbers, and nothing depends on how XLA lays out
    narrower types.

    Attributes:
        values: the codes: int8 (..., I, O), or uint8 (..., I / 2, O), of which each byte holds an
            even row's code in its low half and the next row's in its high half.
        scales: bfloat16 (..., I / block, O).
        kind: of :data:`KINDS`.
        dtype: of the kernel that was quantised, and as which it reads.
    """

    values: Any  # an array, or what a mapped tree has in its place
    scales: Any
    kind: str = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel."""
        *stack, rows, columns = self.values.shape
        return (*stack, rows if self.kind == "int8" else 2 * rows, columns)

    @property
    def block(self) -> int:
        """Inputs that share a scale."""
        return self.shape[-2] // self.scales.shape[-2]

    @property
    def ndim(self) -> int:
        """Of the kernel."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Weights."""
        return int(np.prod(self.shape))

    def dequantize(self, dtype: Any = None) -> jax.Array:
        """The kernel: scale times code in float32, rounded once to ``dtype``, or to its own."""
        codes = self.values
        if self.kind != "int8":
            halves = jnp.asarray([0, 4], jnp.uint8).reshape(2, 1)
            codes = (codes[..., None, :] >> halves[(None,) * (codes.ndim - 1)]) & 15
        blocks = codes.reshape(*self.scales.shape[:-1], -1, self.shape[-1])
        scales = self.scales.astype(jnp.float32)[..., None, :]
        kernel = (_values(blocks, self.kind) * scales).reshape(self.shape)
        return kernel.astype(self.dtype if dtype is None else dtype)


Quantized: TypeAlias = QuantizedKernel | Float8Kernel
"""What stands in a kernel's place."""


def is_quantized(leaf: Any) -> bool:
    """Whether it is :data:`Quantized`; the ``is_leaf`` of ``jax.tree`` functions."""
    return isinstance(leaf, Quantized)


def any_quantized(params: Any) -> bool:
    """Whether a kernel of ``params`` is quantised."""
    return any(map(is_quantized, jax.tree.leaves(params, is_leaf=is_quantized)))


def in_fp8(params: Any) -> bool:
    """Whether a kernel of ``params`` is in e4m3."""
    return any(leaf.dtype == float8.E4M3 for leaf in jax.tree.leaves(params))


def size(params: Any) -> int:
    """Weights in ``params``; those of a quantised kernel are counted, not its arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params, is_leaf=is_quantized))


def dequantize(tree: Any, dtype: Any = None) -> Any:
    """A tree, or one kernel, in which quantised kernels are plain arrays.

    Args:
        tree: ``params`` or a part of them.
        dtype: of those kernels; that which they were quantised from when None.
    """
    return jax.tree.map(
        lambda leaf: leaf.dequantize(dtype) if is_quantized(leaf) else leaf,
        tree,
        is_leaf=is_quantized,
    )


def quantize_kernel(kernel: jax.Array | np.ndarray, kind: str, block: int = BLOCK) -> Quantized:
    """One kernel, or a stack of them, one after the other.

    For ``fp8`` see :func:`tera_jax.float8.by_channels`. For the others the scale is that of a
    block's largest magnitude, which falls on the outermost code (``nf4``) or on its outer edge (the
    integers, as in qwix). It is rounded before the codes are chosen, each the nearest. (Smaller and
    negative scales gave 4 bits a squared error smaller by a fifth, and SmolLM2 a higher loss.)

    Args:
        kernel: (..., I, O), floating.
        kind: of :data:`KINDS`.
        block: inputs that share a scale; a divisor of I, and even. Not for ``fp8``.

    Raises:
        ValueError: for another kind, a block that is odd, below 2, no divisor of I, or for ``fp8``.
    """
    check(kind, block)
    if kind != "fp8" and kernel.shape[-2] % block:
        raise ValueError(
            f"block {block} does not divide the {kernel.shape[-2]} inputs of a kernel "
            f"{kernel.shape}; choose an even divisor"
        )
    if kernel.ndim > 2:
        return jax.lax.map(lambda one: quantize_kernel(one, kind, block), kernel)
    kernel = jnp.asarray(kernel)
    if kind == "fp8":
        return float8.by_channels(kernel)
    rows, columns = kernel.shape
    blocks = kernel.astype(jnp.float32).reshape(rows // block, block, columns)
    scales = (jnp.max(jnp.abs(blocks), axis=1) / _LIMIT[kind]).astype(jnp.bfloat16)
    divisors = scales.astype(jnp.float32)[:, None]
    codes = _codes(blocks / jnp.where(divisors == 0, 1, divisors), kind).reshape(rows, columns)
    if kind != "int8":
        pairs = codes.reshape(rows // 2, 2, columns)
        codes = pairs[:, 0] | (pairs[:, 1] << 4)
    return QuantizedKernel(codes, scales, kind, jnp.dtype(kernel.dtype))


def _codes(scaled: jax.Array, kind: str) -> jax.Array:
    """The nearest code of each number: int8, or uint8 below 16."""
    if kind == "nf4":
        edges = (np.asarray(NF4[:-1], np.float32) + np.asarray(NF4[1:], np.float32)) / 2
        codes = jnp.zeros(scaled.shape, jnp.uint8)
        for edge in edges:  # elementwise: a search would not be
            codes += (scaled > edge).astype(jnp.uint8)
        return codes
    last = 127 if kind == "int8" else 7
    codes = jnp.clip(jnp.round(scaled), -last - 1, last).astype(jnp.int8)
    return codes if kind == "int8" else codes.astype(jnp.uint8) & 15


def _values(codes: jax.Array, kind: str) -> jax.Array:
    """What codes stand for, float32."""
    if kind == "int8":
        return codes.astype(jnp.float32)
    book = jnp.asarray(NF4 if kind == "nf4" else _INT4, jnp.float32)
    return book.at[codes].get(mode="promise_in_bounds")


def check(kind: str, block: int) -> None:
    """Raise ``ValueError`` for an unknown kind or an impossible block."""
    if kind not in KINDS:
        raise ValueError(f"quantisation {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "fp8" and block != BLOCK:
        raise ValueError(f"block {block}, but 'fp8' has one scale for each output; leave it out")
    if block < 2 or block % 2:
        raise ValueError(f"block {block}; it must be even, and at least 2: two codes share a byte")


class Quantizer:
    """Turns the leaves of ``params`` into what stands in memory, one at a time.

    Args:
        abstract: ``params``, abstract or real, before they are quantised.
        kind: of :data:`KINDS`.
        block: inputs that share a scale; without meaning for ``fp8``.
        layout: from ``params`` whose kernels are quantised, abstract, to a tree of shardings, as
            :func:`tera_jax.llama.sharding.parameter_shardings` on a mesh; None leaves it to XLA.
        targets: patterns of module paths, with the wildcards of ``fnmatch``.

    Raises:
        ValueError: for an unknown kind, a block that does not fit kind or kernels, or what
            ``layout`` refuses.
    """

    def __init__(
        self,
        abstract: Any,
        kind: str,
        block: int = BLOCK,
        layout: Callable[[Any], Any] | None = None,
        targets: Sequence[str] = TARGETS,
    ) -> None:
        check(kind, block)
        self._kind, self._block, self._targets = kind, block, targets

        def convert(path: Any, leaf: Any) -> Any:
            if not self._wanted(path):
                return leaf
            try:
                return jax.eval_shape(self._quantize, leaf)
            except ValueError as error:
                raise ValueError(f"{trees.name(path)}: {error}") from None

        self._layouts = None
        converted = jax.tree.map_with_path(convert, abstract)
        if not any_quantized(converted):
            raise ValueError(f"no kernel is named by {', '.join(targets)}; nothing to quantise")
        if layout is not None:
            layouts = jax.tree.leaves_with_path(layout(converted), is_leaf=is_quantized)
            self._layouts = dict(layouts)

    def __call__(self, path: Any, leaf: Any) -> Any:
        """The leaf at a key path, quantised where it is to be, and ready when this returns.

        Its own memory can be used again then, so that one full leaf at most stands beside the rest.
        """
        if not self._wanted(path):
            return leaf
        layout = None if self._layouts is None else self._layouts[tuple(path)]
        return jax.block_until_ready(_jitted(self._kind, self._block, layout)(leaf))

    def _quantize(self, kernel: Any) -> Quantized:
        return quantize_kernel(kernel, self._kind, self._block)

    def _wanted(self, path: Any) -> bool:
        module, _, leaf = trees.name(path).rpartition("/")
        return leaf == "kernel" and any(
            fnmatch.fnmatchcase(f"/{module}", f"*/{target}") for target in self._targets
        )


@functools.cache
def _jitted(kind: str, block: int, layout: Any) -> Callable[[Any], Quantized]:
    return jax.jit(lambda kernel: quantize_kernel(kernel, kind, block), out_shardings=layout)


def quantize(
    params: Any,
    kind: str,
    block: int = BLOCK,
    layout: Callable[[Any], Any] | None = None,
    targets: Sequence[str] = TARGETS,
) -> Any:
    """``params`` in which the kernels of ``targets`` are quantised; see :class:`Quantizer`.

    ``load_pretrained(..., quantize=kind)`` does this leaf by leaf while it reads.

    Example:
        >>> params = quantize(params, "nf4")
    """
    return jax.tree.map_with_path(Quantizer(params, kind, block, layout, targets), params)
