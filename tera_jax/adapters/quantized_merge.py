"""Merging an adapter into a quantised base that stays quantised."""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tera_jax import quantize
from tera_jax.adapters.base import Adapter, Variables, require_collections
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.adapters.targets import parameter, put
from tera_jax.methods.base import LinearMethod, NotMergeableError, TargetLayer
from tera_jax.quantize import Quantized, QuantizedKernel


class MergeError(NamedTuple):
    """What quantising merged kernels lost, as Frobenius norms over those of the merged kernels.

    Attributes:
        kernels: for each adapted layer, by its path with slashes, an array over its stack.
        total: of all of them together.
    """

    kernels: dict[str, jax.Array]
    total: jax.Array


def merge_quantized(adapter: Adapter, variables: Variables) -> tuple[Any, MergeError]:
    """``params`` as quantised as the base, with what the adapter does merged into them.

    Each layer's kernel is dequantised to float32, changed there, and quantised again in the base's
    kind and blocks. :meth:`Adapter.merge` gives plain weights, without that second error.

    Args:
        adapter: of :func:`tera_jax.adapt`.
        variables: ``params``, ``frozen`` and ``d``.

    Returns:
        The parameters, those of layers that are not adapted untouched, and the error of the second
        quantisation.

    Raises:
        NotMergeableError: when no weights do what the adapted model does.
        ValueError: when an adapted kernel is not quantised, or a collection is missing.

    Example:
        >>> params, error = jax.jit(functools.partial(merge_quantized, adapter))(variables)
        >>> print(f"{error.total:.2%}")
    """
    if not isinstance(adapter, LinearAdapter):
        raise NotMergeableError(f"{adapter.name} changes no kernel of the base")
    require_collections(variables)
    params, method = variables["params"], cast(LinearMethod, adapter.method)
    result = jax.tree.map(lambda leaf: leaf, dict(params))
    squares: dict[str, tuple[jax.Array, jax.Array]] = {}
    for layer in adapter.layers:
        base = parameter(params, layer, "kernel")
        if not quantize.is_quantized(base):
            raise ValueError(
                f"the kernel of {layer.name!r} is not quantised; merge() gives plain weights"
            )

        def make(
            frozen: Any,
            d: Any,
            kernel: Quantized,
            layer: TargetLayer,
            base: Quantized = base,
        ) -> tuple[Any, Array, Array]:
            merged = method.merge(frozen, d, kernel.dequantize(jnp.float32), layer)
            block = base.block if isinstance(base, QuantizedKernel) else quantize.BLOCK
            kept = quantize.quantize_kernel(merged, base.kind, block)
            lost = kept.dequantize() - merged
            return dataclasses.replace(kept, dtype=base.dtype), jnp.sum(lost**2), jnp.sum(merged**2)

        kept, *sums = adapter.over_layers(make, variables, layer)
        put(result, (*layer.path, "kernel"), kept)
        squares[layer.name] = (sums[0], sums[1])
    kernels = {name: jnp.sqrt(lost / whole) for name, (lost, whole) in squares.items()}
    lost, whole = (sum(map(jnp.sum, column)) for column in zip(*squares.values(), strict=True))
    error = MergeError(kernels, jnp.sqrt(jnp.asarray(lost / whole)))
    return adapter.with_biases(result, variables), error
