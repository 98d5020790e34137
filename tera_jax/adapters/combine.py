"""Weighted sums and differences of adapters of one base, of any methods.

What is added are the updates ΔW themselves. The ΔW of most methods is not linear in d (that of
TeRA is a product of its vectors), so a sum of d would be another adapter. ΔW comes from each
method's ``delta``, in float32, or float64 for a base in it. It is no difference of rounded weights.

    terms = [Term(1.0, *load_adapter("a", params)), Term(-0.5, *load_adapter("b", params))]
    params = merged(terms)

Methods that change norms, biases or all parameters are added in these. Those that no weights can
hold, such as prompt tuning and TopLoRA, are refused.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax import quantize, trees
from tera_jax.adapters.base import Adapter, Variables, require_collections
from tera_jax.adapters.full import FullAdapter
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.adapters.norm import NormAdapter
from tera_jax.adapters.stack import over_stack
from tera_jax.adapters.targets import get, put
from tera_jax.fingerprint import base_fingerprint
from tera_jax.methods.base import LinearMethod, NormMethod, NotMergeableError, TargetLayer
from tera_jax.ops.numerics import acc_dtype

Path = tuple[str, ...]


class Term(NamedTuple):
    """One adapter of a sum.

    Attributes:
        weight: that its updates are multiplied by; it may be negative.
        adapter: its method and layers.
        variables: ``params``, ``frozen`` and ``d``.
    """

    weight: float
    adapter: Adapter
    variables: Variables


def merged(terms: Sequence[Term]) -> dict[str, Any]:
    """The base's ``params`` plus the weighted sum of what the adapters change in them.

    Each parameter is summed in float32, or float64 if it is stored so, and rounded once. The ΔW of
    one layer stands in memory at a time. One adapter of weight 1 gives ``adapter.merge``.

    Args:
        terms: at least one, of one base. Their ``params`` may be quantised; the result is not.

    Raises:
        NotMergeableError: for a method that no weights can hold.
        ValueError: for no term, a weight that is no finite number, or adapters of several bases.
    """
    require_terms(terms)
    weights = [jnp.asarray(term.weight) for term in terms]
    adapters, variables = zip(
        *((term.adapter, dict(term.variables)) for term in terms), strict=True
    )
    if len(terms) == 1 and terms[0].weight == 1:
        return cast(dict[str, Any], _merged_one(adapters[0], variables[0]))
    return cast(dict[str, Any], _merged(adapters, weights, variables))


def require_terms(terms: Sequence[Term]) -> None:
    """Check that adapters can be added.

    Raises:
        NotMergeableError: as :func:`merged`.
        ValueError: likewise.
    """
    if not terms:
        raise ValueError("there is no adapter to add; give at least one")
    for term in terms:
        require_mergeable(term.adapter)
        if not abs(float(term.weight)) < float("inf"):
            raise ValueError(f"weight {term.weight} of {term.adapter.name}; give a finite number")
        require_collections(term.variables)
    first, *others = (term.variables["params"] for term in terms)
    expected = None
    for number, params in enumerate(others, 2):
        if trees.same_arrays(first, params):
            continue
        expected = expected or base_fingerprint(first)
        found = base_fingerprint(params)
        if found != expected:
            raise ValueError(
                f"adapter {number} is of a base with fingerprint {found}, but the first of one "
                f"with {expected}; add adapters of one base only"
            )


def require_mergeable(adapter: Adapter) -> None:
    """Raise ``NotMergeableError`` for a method whose change no weights can hold."""
    if not adapter.mergeable:
        raise NotMergeableError(
            f"{adapter.name} has no update of weights that could be added to another's; leave it "
            "out, and serve it as an adapter"
        )


def kernel_layers(terms: Sequence[Term]) -> tuple[TargetLayer, ...]:
    """The linear layers that the adapters change, in the order of their paths.

    Raises:
        ValueError: for adapters that change more than kernels: norms, biases or all parameters.
    """
    found: dict[Path, TargetLayer] = {}
    for _, adapter, variables in terms:
        for path in _changed(adapter, variables):
            if not isinstance(adapter, LinearAdapter) or path[-1] != "kernel":
                raise ValueError(
                    f"{adapter.name} changes {'/'.join(path)}, which is no kernel of a linear "
                    "layer, so that no LoRA does the same; write merged weights"
                )
        for layer in adapter.layers:
            found[layer.path] = TargetLayer(layer.path, layer.kernel_shape, layer.stack)
    return tuple(found[path] for path in sorted(found))


def delta(
    terms: Sequence[Term], layer: TargetLayer, index: Sequence[int] = ()
) -> Float[Array, "I O"]:
    """The weighted sum of the ΔW of one layer of a stack, float32 or float64.

    Args:
        terms: of which those that do not adapt the layer add nothing.
        layer: from :func:`kernel_layers`.
        index: which of the layer's stack, an integer for each of its axes. Another index is no new
            trace.
    """
    place = jnp.asarray(index, jnp.int32)
    parts = [
        (weight, _part(adapter, layer.path, dict(variables), place))
        for weight, adapter, variables in terms
        if any(each.path == layer.path for each in adapter.layers)
    ]
    weighted = [jnp.asarray(weight, part.dtype) * part for weight, part in parts]
    return functools.reduce(jnp.add, weighted)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _part(adapter: LinearAdapter, path: Path, variables: Variables, index: Array) -> Array:
    change = _changed(adapter, variables)[(*path, "kernel")]
    return change(tuple(index))


@functools.partial(jax.jit, static_argnums=0)
def _merged_one(adapter: Adapter, variables: Variables) -> Any:
    return adapter.merge(variables)


@functools.partial(jax.jit, static_argnums=0)
def _merged(
    adapters: tuple[Adapter, ...], weights: Sequence[Array], variables: Sequence[Variables]
) -> Any:
    params = quantize.dequantize(jax.tree.map(lambda leaf: leaf, dict(variables[0]["params"])))
    stacks: dict[Path, tuple[int, ...]] = {}
    parts: dict[Path, list[tuple[Array, _Change]]] = {}
    for adapter, weight, own in zip(adapters, weights, variables, strict=True):
        axes = {(*each.path, leaf): each.stack for each in adapter.layers for leaf in _LEAVES}
        for path, change in _changed(adapter, own).items():
            stacks[path] = max(stacks.get(path, ()), axes.get(path, ()), key=len)
            parts.setdefault(path, []).append((weight, change))
    for path, changes in parts.items():
        put(params, path, _summed(get(params, path), stacks[path], changes))
    return params


_Change = Callable[[tuple[Any, ...]], Array]
"""From the index of a layer in its stack to what an adapter adds to the parameter there."""
_LEAVES = ("kernel", "bias", "scale")


def _summed(base: Array, stack: tuple[int, ...], changes: Sequence[tuple[Array, _Change]]) -> Array:
    """A parameter plus its changes, one layer of the stack at a time."""

    def one(leaf: Array, *index: Array) -> Array:
        acc = acc_dtype(leaf.dtype)
        parts = [weight.astype(acc) * change(index).astype(acc) for weight, change in changes]
        total = functools.reduce(jnp.add, parts)
        return (leaf.astype(acc) + total.reshape(leaf.shape)).astype(leaf.dtype)

    grid = jnp.indices(stack, jnp.int32) if stack else ()
    return over_stack(one, TargetLayer((), (), stack))(base, *grid)


def _changed(adapter: Adapter, variables: Variables) -> dict[Path, _Change]:
    """What an adapter changes in ``params``, by path."""
    if isinstance(adapter, LinearAdapter):
        return _changed_kernels(adapter, variables)
    if isinstance(adapter, NormAdapter):
        method = cast(NormMethod, adapter.method)
        found: dict[Path, _Change] = {}
        for layer in adapter.layers:

            def change(index: tuple[Any, ...], layer: TargetLayer = layer) -> Array:
                own = _at(get(variables["d"], (*layer.path, adapter.name)), index)
                scale = _wide(_at(get(variables["params"], (*layer.path, "scale")), index))
                return method.merge(own, scale, layer) - scale

            found[(*layer.path, "scale")] = change
        return found
    assert isinstance(adapter, FullAdapter), adapter

    def of_leaf(path: Path) -> _Change:
        d, params = variables["d"], variables["params"]
        return lambda index: _at(get(d, path), index) - _wide(_at(get(params, path), index))

    paths = [tuple(name.split("/")) for name in trees.named(dict(variables["d"]))]
    return {path: of_leaf(path) for path in paths}


def _changed_kernels(adapter: LinearAdapter, variables: Variables) -> dict[Path, _Change]:
    method = cast(LinearMethod, adapter.method)
    found: dict[Path, _Change] = {}
    for layer in adapter.layers:

        def kernel(index: tuple[Any, ...], layer: TargetLayer = layer) -> Array:
            def make(frozen: Any, d: Any, kernel: Any, _: TargetLayer) -> Array:
                return method.delta(frozen, d, quantize.dequantize(kernel), layer)

            own, one = single(layer, variables, index)
            return cast(Array, adapter.over_layers(make, one, own))

        def bias(index: tuple[Any, ...], layer: TargetLayer = layer) -> Array:
            def make(frozen: Any, d: Any, bias_O: Array, _: TargetLayer) -> Array:
                wide_O = _wide(bias_O)
                return method.merge_bias(frozen, d, wide_O, layer) - wide_O

            own, one = single(layer, variables, index)
            return cast(Array, adapter.over_layers(make, one, own, "bias"))

        found[(*layer.path, "kernel")] = kernel
        if method.changes_bias and "bias" in get(variables["params"], layer.path):
            found[(*layer.path, "bias")] = bias
    return found


def single(
    layer: TargetLayer, variables: Variables, index: tuple[Any, ...] = ()
) -> tuple[TargetLayer, dict[str, Any]]:
    """One layer of a stack as a layer without one, and what it reads of the variables.

    Args:
        layer: of an adapter.
        variables: the three collections, or some of them.
        index: an integer for each axis of the stack; without one the stack stays whole.
    """
    one: dict[str, Any] = {}
    for name, tree in variables.items():
        own: dict[str, Any] = {trees.SHARED: tree[trees.SHARED]} if trees.SHARED in tree else {}
        node: Any = tree
        for part in layer.path:
            node = node.get(part, {})
        if node:
            put(own, layer.path, _at(node, index))
        one[name] = own
    return (dataclasses.replace(layer, stack=()) if index else layer), one


def _at(tree: Any, index: tuple[Any, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree) if index else tree


def _wide(leaf: Array) -> Array:
    return leaf.astype(acc_dtype(leaf.dtype))
