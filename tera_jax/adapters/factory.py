"""From a model and the name of a method to an adapter."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.full import FullAdapter
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.adapters.norm import NormAdapter
from tera_jax.adapters.prompt import PromptAdapter
from tera_jax.adapters.targets import ModelLayers, model_layers
from tera_jax.methods import Method, TargetLayer, method_class
from tera_jax.methods.base import FullMethod, LinearMethod, NormMethod, PromptMethod, bind

_KINDS: dict[type[Method], type[Adapter]] = {
    LinearMethod: LinearAdapter,
    NormMethod: NormAdapter,
    PromptMethod: PromptAdapter,
    FullMethod: FullAdapter,
}
"""What each kind of method adapts, and how."""


def adapter_class(method: type[Method]) -> type[Adapter]:
    """The kind of adapter of a method."""
    return next(adapter for kind, adapter in _KINDS.items() if issubclass(method, kind))


def make(name: str, method: Method, layers: Sequence[TargetLayer]) -> Adapter:
    """The adapter of a method for given layers.

    Raises:
        ValueError: for an unknown method, or a configuration that is another method's or does not
            fit the layers.
    """
    row = method_class(name)
    if not isinstance(method, row):
        raise ValueError(f"method {name!r} takes a {row.__name__}, not {method!r}")
    return adapter_class(row)(name, method, bind(method, layers))


def select(
    name: str, method: Method | None, found: ModelLayers, targets: Sequence[str] | None
) -> Adapter:
    """The adapter of a method for those of a model's layers that the targets name.

    Args:
        name: a row of :data:`tera_jax.methods.TABLE`.
        method: an instance of it; its defaults when None.
        found: the layers of the model.
        targets: patterns of module paths; the method's own when None.

    Raises:
        ValueError: as :func:`adapt`.
    """
    row = method_class(name)
    targets = row.default_targets if targets is None else targets
    layers = adapter_class(row).select(name, found, targets)
    return make(name, row() if method is None else method, layers)


def adapt(
    model: nn.Module,
    *args: Any,
    method: str = "tera",
    config: Method | None = None,
    targets: Sequence[str] | None = None,
    **kwargs: Any,
) -> Adapter:
    """Find the layers that a method is to adapt and make an adapter for them.

    The model is traced once with abstract values; nothing is computed.

    Args:
        model: a linen model.
        *args: example inputs of ``model``'s ``__call__``, as are other keyword arguments;
            ``jax.ShapeDtypeStruct`` does.
        method: a row of :data:`tera_jax.methods.TABLE`.
        config: an instance of that row's class; its defaults when None.
        targets: patterns of module paths, or ``all-linear``, see
            :func:`tera_jax.adapters.targets.choose`; those of the method when None, which for
            linear layers are ``q_proj`` and ``v_proj``. Methods that adapt no layer in particular
            take no notice of them.
        **kwargs: of ``model``'s ``__call__``.

    Raises:
        ValueError: for an unknown method, or a configuration that does not fit the kernels. For a
            target that names no linear layer; the error lists those there are. For inputs and
            keyword arguments that the model does not take.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dense(6)])
        >>> adapter = adapt(model, jnp.ones((1, 4)), targets=["layers_1"])
        >>> adapter.layers[0].kernel_shape
        (8, 6)
    """
    row = method_class(method)
    _require_inputs(model, row, kwargs)
    return select(method, config, model_layers(model, *args, **kwargs), targets)


def _require_inputs(model: nn.Module, row: type[Method], given: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a keyword that is no input of the model."""
    fields = [field.name for field in dataclasses.fields(row)]
    mine = [name for name in given if name in fields]
    if mine:
        settings = ", ".join(f"{name}={given[name]!r}" for name in mine)
        raise ValueError(
            f"{', '.join(mine)} belongs to the method; pass config={row.__name__}({settings})"
        )
    inputs = inspect.signature(type(model).__call__).parameters
    if any(each.kind is each.VAR_KEYWORD for each in inputs.values()):
        return
    for name in given:
        if name not in inputs:
            raise ValueError(
                f"unknown keyword {name!r}: it is neither an input of {type(model).__name__} "
                f"({', '.join(list(inputs)[1:])}) nor a field of {row.__name__} "
                f"({', '.join(fields) or 'it has none'})"
            )
