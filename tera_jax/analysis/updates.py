"""ΔW of each layer of an adapter in float64, from d and the frozen arrays.

No rounded weights are subtracted: the functions are the methods' own, of arrays in float64. The sum
W + ΔW that a spectrum is taken of is one of float64 too.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tera_jax import quantize
from tera_jax.adapters.base import Adapter, Variables, require_collections
from tera_jax.adapters.combine import Term, delta, require_mergeable, single
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.adapters.targets import get, put
from tera_jax.methods.base import TargetLayer


class Update(NamedTuple):
    """What an adapter does to one kernel.

    Attributes:
        layer: the target layer, without its stack.
        place: where it stands in the stack, an integer for each axis.
        delta_IO: ΔW.
        kernel_IO: W as the model reads it; of a quantised base, what the codes stand for.
    """

    layer: TargetLayer
    place: tuple[int, ...]
    delta_IO: Float[np.ndarray, "I O"]
    kernel_IO: Float[np.ndarray, "I O"]


def require_updates(adapter: Adapter) -> None:
    """Check that an adapter has a ΔW of kernels.

    Raises:
        NotMergeableError: for a method that no weights can hold, such as prompts and TopLoRA.
        ValueError: for one that changes norms, or all parameters.
    """
    require_mergeable(adapter)
    if not isinstance(adapter, LinearAdapter):
        raise ValueError(f"{adapter.name} changes more than kernels of linear layers; leave it out")


def updates(
    adapter: Adapter, variables: Variables, is_wanted: Callable[[int], bool] = lambda _: True
) -> Iterator[Update]:
    """Every kernel's, layer after layer in the order of their paths; one is in memory at a time.

    Args:
        adapter: its method and layers.
        variables: ``params``, ``frozen`` and ``d`` in any type. Kernels may be quantised.
        is_wanted: of the number of a kernel in its stack, from 0; a kernel without a stack has 0.
            Nothing is computed for the others.

    Raises:
        NotMergeableError: as :func:`require_updates`.
        ValueError: likewise; when a collection is missing; for a ΔW with NaN or infinity.
    """
    require_updates(adapter)
    require_collections(variables)
    for layer in sorted(adapter.layers, key=lambda each: each.path):
        _, stacked = single(layer, variables)
        host = jax.device_get(stacked)
        for number, index in enumerate(np.ndindex(*layer.stack)):
            if is_wanted(number):
                yield _update(adapter, layer, index, host)


def _update(
    adapter: Adapter, layer: TargetLayer, index: tuple[int, ...], host: dict[str, Any]
) -> Update:
    alone, one = single(layer, host, index)
    place = (*layer.path, "kernel")
    kernel = quantize.dequantize(jax.tree.map(jnp.asarray, get(one["params"], place)))
    put(one["params"], place, np.asarray(kernel))
    wide = jax.tree.map(_wide, one)
    with jax.enable_x64(True):
        term = Term(1.0, dataclasses.replace(adapter, layers=(alone,)), wide)
        found = np.asarray(delta([term], alone))
    if not np.isfinite(found).all():
        raise ValueError(
            f"the update of {layer.name!r} at {list(index)} has NaN or infinity; take an earlier "
            "checkpoint, or train the adapter again"
        )
    kernel_IO = get(wide["params"], place).reshape(layer.kernel_shape)
    return Update(alone, index, found, kernel_IO)


def _wide(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
