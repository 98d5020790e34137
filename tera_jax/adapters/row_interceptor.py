"""Where linen and the methods meet in a mixed batch: each row reads its own adapter.

Beside :mod:`tera_jax.adapters.interceptor`. In the collection ``d`` stands at a layer what
:meth:`tera_jax.methods.by_rows.ByRows.prepare_row` gave, the rows of the batch in front.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from tera_jax.adapters import interceptor
from tera_jax.adapters.interceptor import Interceptor, Linear, calls
from tera_jax.methods.base import LinearMethod, NotByRowsError, TargetLayer

_ONE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that mostly read one input, in the order in which they are called. Where
they do not, by the identity of that input, each is computed by itself."""


def kernels(
    method: LinearMethod,
    layers: tuple[TargetLayer, ...],
    name: str,
    shared: Mapping[str, Any],
    dtype: DTypeLike | None = None,
) -> Interceptor:
    """An interceptor under which every target layer multiplies each row by its own W + ΔW.

    Args:
        method: configured.
        layers: those that it adapts.
        name: of the method: that of its arrays in the layer's own ``d`` and ``frozen``.
        shared: frozen sets by name, closed over.
        dtype: of the hidden states, if known: wider shared arrays are rounded to it once.
    """
    by_path = {layer.path: layer for layer in layers}
    narrow = interceptor.narrowed(shared, dtype)
    # What the first of several layers computed for the others, with the input that it had.
    ready: dict[tuple[str, ...], tuple[Array, Array]] = {}

    def branch(module: Linear, inputs: Array, x: Array, frozen: Any) -> Array | None:
        """The product x ΔW, where it is computed together with other layers'."""
        mine, given = ready.pop(module.path, (None, None))
        if given is not None and mine is inputs:
            return given
        together = [by_path[path] for path in _one_input(module.path) if path in by_path]
        layer = by_path[module.path]
        sets = {method.frozen_set(each) for each in together}
        own = module.has_variable("frozen", name)
        dropping = module.has_rng("dropout") and getattr(method, "dropout", 0.0) > 0
        first = len(together) > 1 and together[0] is layer
        parent: Any = module.parent
        if not first or own or dropping or len(sets) > 1 or parent is None:
            return None
        rows = [parent.get_variable("d", each.path[-1])[name] for each in together]
        found = method.branches(frozen, rows, x, together)
        if found is None:
            return None
        for each, update in zip(together[1:], found[1:], strict=True):
            ready[each.path] = (inputs, update)
        return found[0]

    def body(module: Linear, _: Callable[..., Array], inputs: Array) -> Array:
        layer = by_path[module.path]
        row_B = interceptor.visible(module, "d", name)
        _require_rows(row_B, inputs, layer)
        own = interceptor.visible(module, "frozen", name, optional=True)
        key = method.frozen_set(layer)
        frozen = interceptor.with_shared(
            own, interceptor.shared_arrays(narrow, key, name), "frozen"
        )
        if module.dot_general is not None or module.dot_general_cls is not None:
            raise NotByRowsError(
                f"layer {layer.name!r} brings its own matmul, which reads one kernel for all rows; "
                "choose other targets for a mixed batch"
            )

        def apply(kernel: Array, x: Array, how: Any) -> Array:
            update = branch(module, inputs, x, frozen)
            if update is None:
                return method.apply_rows(frozen, row_B, kernel, x, layer, how)
            return how.matmul(x, kernel) + update

        def merge_bias(bias_O: Array) -> Array:
            return jax.vmap(lambda row: method.merge_bias(frozen, row, bias_O, layer))(row_B)

        bias = merge_bias if method.changes_bias else lambda bias_O: bias_O
        return interceptor.multiply(
            module, lambda kernel: kernel, apply, inputs, bias, method.casts_input
        )

    return calls(lambda module: module.path in by_path, body)


def _one_input(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The paths of the layers that a layer shares its input with, its own among them."""
    names = next((names for names in _ONE_INPUT if path[-1] in names), (path[-1],))
    return [(*path[:-1], name) for name in names]


def _require_rows(row_B: Any, inputs: Array, layer: TargetLayer) -> None:
    """Raise ``ValueError`` unless there are arrays for as many rows as the input has."""
    found = {len(leaf) for leaf in jax.tree.leaves(row_B)}
    if found - {len(inputs)}:
        raise ValueError(
            f"layer {layer.name!r} has arrays of {sorted(found)} rows for a batch of "
            f"{len(inputs)}; gather one entry for each row of the batch"
        )


def virtual_tokens(layer: TargetLayer, name: str) -> Interceptor:
    """An interceptor under which each row has virtual tokens of its own."""

    def body(module: nn.Embed, embed: Callable[..., Array], tokens_BL: Array) -> Array:
        prompt_BPD: Array = interceptor.visible(module, "d", name)["prompt"]
        _require_rows(prompt_BPD, tokens_BL, layer)

        def virtual(index_BL: Array, dtype: DTypeLike) -> Array:
            return jnp.take_along_axis(prompt_BPD.astype(dtype), index_BL[:, :, None], axis=1)

        size, count = layer.kernel_shape[0], prompt_BPD.shape[1]
        return interceptor.embedded(embed, tokens_BL, size, count, virtual)

    return calls(lambda module: module.path == layer.path, body)


def norms(layers: tuple[TargetLayer, ...], name: str) -> Interceptor:
    """An interceptor under which each row has scales of its own."""
    paths = {layer.path: layer for layer in layers}

    def body(module: nn.Module, _: Callable[..., Any], x: Array) -> Any:
        scale_BD: Array = interceptor.visible(module, "d", name)["scale"]
        _require_rows(scale_BD, x, paths[module.path])
        params = dict(module.variables["params"])
        alone = module.clone(parent=None)

        def one(scale_D: Array, x: Array) -> Any:
            return alone.apply({"params": {**params, "scale": scale_D}}, x)

        return jax.vmap(one)(scale_BD, x)

    return calls(lambda module: module.path in paths, body)
