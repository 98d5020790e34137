"""The one seam between linen and the methods: targeted layers read adapted parameters.

Any linen model that is made of ``nn.Dense`` (or ``nn.DenseGeneral`` over its last axis) can be
adapted, also under ``nn.remat`` and under an ``nn.scan`` that carries the two collections::

    nn.scan(Layer, variable_axes={"params": 0, "d": 0, "frozen": 0}, ...)
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext

from tera_jax import quantize
from tera_jax.adapters.targets import is_linear
from tera_jax.methods import Method, Site
from tera_jax.methods.lora import linear
from tera_jax.methods.prompt import PromptMethod

Interceptor = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any], Any]


def kernels(
    method: Method,
    sites: tuple[Site, ...],
    name: str,
    shared: Mapping[str, Any],
    dtype: Any = None,
) -> Interceptor:
    """An interceptor under which every site's kernel W reads as the method's merge of it.

    Args:
        method: configured.
        sites: the layers.
        name: of the method: that of its arrays in the layer's own ``d`` and ``frozen``.
        shared: frozen sets by name. They are closed over, so that a scan keeps them as constants.
        dtype: of the hidden states, if known: wider shared arrays are then rounded to it once, and
            not in every layer.
    """
    by_path = {site.path: site for site in sites}
    rounded = shared if dtype is None else jax.tree.map(lambda x: _narrowed(x, dtype), dict(shared))

    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: InterceptorContext,
    ) -> Any:
        module = context.module
        site = by_path.get(module.path) if context.method_name == "__call__" else None
        if site is None:
            return next_fun(*args, **kwargs)
        key = method.frozen_set(site)
        d = _visible(module, "d", name)
        # A method without frozen arrays has nothing there to see.
        seen = module.has_variable("frozen", name)
        own: Any = module.get_variable("frozen", name) if seen else {}
        frozen, near = (own, own) if key is None else (shared[key], rounded[key])
        return multiply(
            module,
            lambda kernel: method.merge(frozen, d, kernel),
            lambda kernel, x, dropout: method.apply(near, d, kernel, x, dropout),
            *args,
            **kwargs,
        )

    return interceptor


def dequantized(
    next_fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: InterceptorContext,
) -> Any:
    """An interceptor under which a quantised kernel reads as the plain one that it stands for.

    It is made where the layer multiplies by it, so that under a scan one layer's stands in memory.

    Example:
        >>> with nn.intercept_methods(dequantized):
        ...     logits_BLV, _ = model.apply({"params": quantised}, tokens_BL)
    """
    module = context.module
    if (
        context.method_name != "__call__"
        or not is_linear(module)
        or not quantize.is_quantized(module.get_variable("params", "kernel"))
    ):
        return next_fun(*args, **kwargs)
    return multiply(
        module, lambda kernel: kernel, lambda kernel, x, _: linear(x, kernel), *args, **kwargs
    )


def virtual_tokens(method: PromptMethod, site: Site, name: str) -> Interceptor:
    """An interceptor under which token ids from the vocabulary's size on are virtual tokens."""

    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: InterceptorContext,
    ) -> Any:
        module = context.module
        if module.path != site.path or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        (tokens_BL,) = args or kwargs.values()
        prompt_PD = method.prompt(_visible(module, "d", name))
        index_BL = tokens_BL - site.kernel_shape[0]
        known_BLD = next_fun(jnp.where(index_BL < 0, tokens_BL, 0))
        virtual_BLD = prompt_PD.astype(known_BLD.dtype)[jnp.maximum(index_BL, 0)]
        return jnp.where(index_BL[..., None] < 0, known_BLD, virtual_BLD)

    return interceptor


def _narrowed(array: jax.Array, dtype: Any) -> jax.Array:
    return array.astype(dtype) if array.dtype.itemsize > jnp.dtype(dtype).itemsize else array


def multiply(module: Any, merge: Callable[..., Any], apply: Callable[..., Any], inputs: Any) -> Any:
    """``module(inputs)`` of a linear layer, with an adapted kernel in the place of its own.

    Args:
        module: the layer.
        merge: kernel -> adapted kernel.
        apply: (kernel, x, dropout) -> x times the adapted kernel.
        inputs: of the layer.
    """
    bias = module.get_variable("params", "bias") if module.use_bias else None
    kernel = quantize.dequantize(module.get_variable("params", "kernel"))
    # ΔW is added to the kernel as it is stored, and the sum is cast for the product.
    x, _, bias = promote_dtype(inputs, kernel, bias, dtype=module.dtype)
    features = kernel.shape[1:]
    matrix = kernel.reshape(kernel.shape[0], -1)
    if module.dot_general is None and module.dot_general_cls is None:
        dropout = module.make_rng("dropout") if module.has_rng("dropout") else None
        y = apply(matrix, x, dropout)
    else:  # the layer brings its own product, such as one that accumulates in float32
        dot_general = module.dot_general or module.dot_general_cls()
        contract = (((x.ndim - 1,), (0,)), ((), ()))
        y = dot_general(x, merge(matrix).astype(x.dtype), contract, precision=module.precision)
    y = y.reshape(*x.shape[:-1], *features)
    return y if bias is None else y + bias.reshape((1,) * (x.ndim - 1) + features)


def _visible(module: nn.Module, collection: str, name: str) -> jax.Array:
    value: Any = module.get_variable(collection, name)
    if value is None:
        raise ValueError(
            f"layer {'/'.join(module.path)!r} does not see its arrays in collection "
            f"{collection!r}: pass them, and let every nn.scan, nn.vmap or nn.remat above it carry "
            f"the collection, as in nn.scan(..., variable_axes={{'params': 0, {collection!r}: 0}})"
        )
    return value
