"""The layers of a linen model that methods can adapt: found by tracing it, chosen by patterns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from tera_jax.methods.base import TargetLayer
from tera_jax.ops.rms_norm import RMSNorm

_NORMS = (RMSNorm, nn.RMSNorm, nn.LayerNorm)
_NOT_ADAPTED = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvTranspose, nn.ConvLocal)


ALL_LINEAR = "all-linear"
"""The target that is every linear layer but the head, as in PEFT."""
_HEADS = ("lm_head", "score", "classifier", "head")
"""Names of a linear layer at the top of a model that makes its outputs."""


class ModelLayers(NamedTuple):
    """What a model is made of, each kind in the order of paths.

    Attributes:
        linear: every ``nn.Dense`` and every ``nn.DenseGeneral`` over its last axis.
        norm: every ``nn.LayerNorm`` and ``RMSNorm`` with a scale.
        embedding: every ``nn.Embed``; its "kernel" is (vocabulary, width).
        others: descriptions of layers with weights that no method adapts, such as ``nn.Conv``.
    """

    linear: tuple[TargetLayer, ...]
    norm: tuple[TargetLayer, ...]
    embedding: tuple[TargetLayer, ...]
    others: tuple[str, ...]


def model_layers(model: nn.Module, *args: Any, **kwargs: Any) -> ModelLayers:
    """The layers of a model, which is traced once with abstract values.

    A parameter's shape inside the trace is that of one layer; what leads it in ``params`` are the
    axes of ``nn.scan``.

    Args:
        model: a linen model.
        *args: example inputs of ``model``'s ``__call__``, as are the keyword arguments;
            ``jax.ShapeDtypeStruct`` does.
        **kwargs: of ``model``'s ``__call__``.

    Raises:
        ValueError: when it is no linen model, or does not take the inputs.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"the model is a {type(model).__module__}.{type(model).__name__}, not a "
            "flax.linen.Module; of an nnx model pass flax.nnx.bridge.to_linen(...)"
        )
    shapes: dict[str, dict[tuple[str, ...], tuple[int, ...]]] = {name: {} for name in _LEAVES}
    others: dict[tuple[str, ...], str] = {}

    def record(next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        result = next_fun(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__":
            leaf = _leaf(module)
            if leaf is not None:
                shapes[leaf][module.path] = module.get_variable("params", leaf).shape
            elif isinstance(module, _NOT_ADAPTED):
                others[module.path] = f"{'/'.join(module.path)} ({type(module).__name__})"
        return result

    def init(*args: Any) -> Any:
        return model.init(jax.random.key(0), *args, **kwargs)

    try:
        with nn.intercept_methods(record):
            params = jax.eval_shape(init, *args).get("params", {})
    except (TypeError, IndexError) as error:  # a wrong number of inputs, or of their axes
        raise ValueError(
            f"{type(model).__name__} does not take these example inputs: {error}"
        ) from error
    linear, norm, embedding = (_stacked(shapes[leaf], params, leaf) for leaf in _LEAVES)
    return ModelLayers(linear, norm, embedding, tuple(others[path] for path in sorted(others)))


_LEAVES = ("kernel", "scale", "embedding")


def _leaf(module: nn.Module) -> str | None:
    """The parameter that a method can adapt in a module."""
    if is_linear(module):
        return "kernel"
    if isinstance(module, _NORMS) and module.has_variable("params", "scale"):
        return "scale"
    return "embedding" if isinstance(module, nn.Embed) else None


def _stacked(
    found: Mapping[tuple[str, ...], tuple[int, ...]], params: Any, leaf: str
) -> tuple[TargetLayer, ...]:
    layers = []
    for path, shape in sorted(found.items()):
        whole = get(params, (*path, leaf)).shape
        stack = whole[: len(whole) - len(shape)]
        if (*stack, *shape) == whole:
            sides = shape if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
            layers.append(TargetLayer(path, sides, stack))
    return tuple(layers)


def choose(
    layers: Sequence[TargetLayer], targets: Sequence[str], kind: str, found: ModelLayers
) -> tuple[TargetLayer, ...]:
    """The layers that the patterns name.

    Args:
        layers: all there are of a kind.
        targets: patterns of module paths, with the wildcards of ``fnmatch``: ``"q_proj"`` is every
            layer of that name, ``"decoder/*/up_proj"`` those at such an end of a path, and
            ``"all-linear"`` every linear layer but the head. One pattern may be given as a text.
        kind: what errors call such a layer.
        found: all layers of the model, for the error.

    Raises:
        ValueError: for no pattern, or one that names no layer; the error lists those there are.
    """
    targets = [targets] if isinstance(targets, str) else list(targets)
    for target in targets:
        if not any(is_named(layer, target) for layer in layers):
            names = ", ".join(layer.name for layer in layers) or "none"
            left_out = f"; not adapted are {', '.join(found.others)}" if found.others else ""
            raise ValueError(
                f"target {target!r} names no {kind} of the model; there are: {names}{left_out}"
            )
    if not targets:
        raise ValueError(f"no targets; name at least one {kind}")
    return tuple(layer for layer in layers if any(is_named(layer, target) for target in targets))


def is_named(layer: TargetLayer, target: str) -> bool:
    """Whether a target of :func:`choose` names a layer."""
    if target == ALL_LINEAR:
        is_head = len(layer.path) == 1 and layer.path[0] in _HEADS
        return len(layer.kernel_shape) == 2 and not is_head
    return layer.matches(target)


def matches(layers: Sequence[TargetLayer], targets: Sequence[str]) -> dict[str, str]:
    """What each target names among the adapted layers, such as ``30 of 576x192``.

    A stack of layers counts as many as it has.
    """
    found: dict[str, str] = {}
    for target in targets:
        counts: dict[tuple[int, ...], int] = {}
        for layer in layers:
            if is_named(layer, target):
                shape = layer.kernel_shape
                counts[shape] = counts.get(shape, 0) + math.prod(layer.stack)
        rows = [f"{count} of {'x'.join(map(str, shape))}" for shape, count in counts.items()]
        if rows:
            found[target] = ", ".join(rows)
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a product of its last axis with a kernel, plus a bias."""
    if isinstance(module, nn.DenseGeneral):
        return module.axis in (-1, (-1,)) and not module.batch_dims
    return isinstance(module, nn.Dense)


def get(tree: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands at a path of nested dictionaries."""
    for name in path:
        tree = tree[name]
    return tree


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Place a value at a path of nested dictionaries, in place."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def parameter(params: Mapping[str, Any], layer: TargetLayer, leaf: str) -> Any:
    """A layer's kernel, scale or embedding, stacked.

    Raises:
        ValueError: when ``params`` has none.
    """
    node: Any = params
    for name in (*layer.path, leaf):
        if isinstance(node, list):
            raise ValueError(
                "the layers of params are a list; pass tera_jax.llama.stacking.stacked(params)"
            )
        node = node.get(name) if isinstance(node, Mapping) else None
    if node is None:
        found = ", ".join(sorted(params)) or "nothing"
        raise ValueError(
            f"params has no {leaf} of layer {layer.name!r}, but {found}; pass the collection of "
            'the model that was adapted, as in model.init(...)["params"]'
        )
    return node


def trainable(d: Mapping[str, Any], layer: TargetLayer, name: str) -> Any:
    """A layer's arrays of the method ``name`` in ``d``, stacked.

    Raises:
        ValueError: when there are none.
    """
    node: Any = d
    for part in (*layer.path, name):
        node = node.get(part) if isinstance(node, Mapping) else None
    if node is None:
        raise ValueError(
            f"d has no arrays of {name} for layer {layer.name!r}; pass what adapter.init_d gave"
        )
    return node
