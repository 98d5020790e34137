"""The linear layers of a linen model: found by tracing it, chosen by patterns of paths."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from tera_jax.methods import Site


def linear_layers(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Site, ...]:
    """Every ``nn.Dense`` and every ``nn.DenseGeneral`` over its last axis, in the order of paths.

    The model is traced once with abstract values. A kernel's shape inside the trace is that of one
    layer; what leads it in ``params`` are the axes of ``nn.scan``.

    Args:
        model: a linen model.
        *args: example inputs of ``model``'s ``__call__``, as are the keyword arguments;
            ``jax.ShapeDtypeStruct`` does.
        **kwargs: of ``model``'s ``__call__``.
    """
    return _layers(model, is_linear, "kernel", *args, **kwargs)


def embeddings(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Site, ...]:
    """Every ``nn.Embed``, as :func:`linear_layers`; its "kernel" is (vocabulary, width)."""
    return _layers(model, lambda module: isinstance(module, nn.Embed), "embedding", *args, **kwargs)


def choose(layers: Sequence[Site], targets: Sequence[str]) -> tuple[Site, ...]:
    """The layers that the patterns name.

    Args:
        layers: all there are.
        targets: patterns of module paths, with the wildcards of ``fnmatch``: ``"q_proj"`` is every
            layer of that name, ``"decoder/*/up_proj"`` those at such an end of a path.

    Raises:
        ValueError: for no pattern, or one that names no layer; the error lists those there are.
    """
    for target in targets:
        if not any(_matches(site, target) for site in layers):
            names = ", ".join(site.name for site in layers)
            raise ValueError(f"target {target!r} names no linear layer of the model: {names}")
    if not targets:
        raise ValueError("no targets; name at least one linear layer")
    return tuple(site for site in layers if any(_matches(site, target) for target in targets))


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


def _layers(
    model: nn.Module, wanted: Callable[[nn.Module], bool], name: str, *args: Any, **kwargs: Any
) -> tuple[Site, ...]:
    kernels: dict[tuple[str, ...], tuple[int, ...]] = {}

    def record(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: InterceptorContext,
    ) -> Any:
        result = next_fun(*args, **kwargs)
        if context.method_name == "__call__" and wanted(context.module):
            kernels[context.module.path] = context.module.get_variable("params", name).shape
        return result

    with nn.intercept_methods(record):
        shapes = jax.eval_shape(
            lambda *args: model.init(jax.random.key(0), *args, **kwargs), *args
        )["params"]
    sites = []
    for path, shape in sorted(kernels.items()):
        stacked = get(shapes, (*path, name)).shape
        stack = stacked[: len(stacked) - len(shape)]
        if (*stack, *shape) == stacked:
            sites.append(Site(path, (shape[0], math.prod(shape[1:])), stack))
    return tuple(sites)


def _matches(site: Site, target: str) -> bool:
    return fnmatch.fnmatchcase(f"/{site.name}", f"*/{target}")
