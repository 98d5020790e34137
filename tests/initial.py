"""What tests begin with. Each function is traced once for all models, or adapters, that are equal.

``jax.jit(model.init)`` is another function for each model, and is traced and compiled anew.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax


def params(model: Any, *inputs: Any) -> Any:
    """The weights of a linen model, drawn from key 0."""
    return _params(model)(*inputs)


def frozen(adapter: Any, params: Any) -> Any:
    """The frozen arrays of an adapter."""
    return _frozen(adapter)(params)


def d(adapter: Any, params: Any, frozen: Any) -> Any:
    """The trainable arrays of an adapter at step 0."""
    return _d(adapter)(params, frozen)


def logits(model: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """Those of a model by itself."""
    return _logits(model)(params, *args, **kwargs)


def adapted_logits(adapter: Any, model: Any, variables: Any, *args: Any) -> Any:
    """Those of a model with an adapter."""
    return _adapted_logits(adapter, model)(variables, *args)


def forget() -> None:
    """Trace anew: for a test that changes functions, and after it."""
    for function in (_params, _frozen, _d, _logits, _adapted_logits):
        function.cache_clear()


@functools.cache
def _params(model: Any) -> Callable[..., Any]:
    return jax.jit(lambda *inputs: model.init(jax.random.key(0), *inputs)["params"])


@functools.cache
def _frozen(adapter: Any) -> Callable[..., Any]:
    return jax.jit(lambda params: adapter.init_frozen(params))


@functools.cache
def _d(adapter: Any) -> Callable[..., Any]:
    return jax.jit(lambda params, frozen: adapter.init_d(params, frozen))


@functools.cache
def _logits(model: Any) -> Callable[..., Any]:
    return jax.jit(lambda params, *args, **kw: model.apply({"params": params}, *args, **kw)[0])


@functools.cache
def _adapted_logits(adapter: Any, model: Any) -> Callable[..., Any]:
    return jax.jit(lambda variables, *args: adapter.apply(model, variables, *args)[0])
