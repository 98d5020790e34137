"""Where linen and the methods meet: targeted layers read adapted parameters.

Any linen model that is made of ``nn.Dense`` (or ``nn.DenseGeneral`` over its last axis) can be
adapted, also under ``nn.remat`` and under an ``nn.scan`` that carries the two collections::

    nn.scan(Layer, variable_axes={"params": 0, "d": 0, "frozen": 0}, ...)
"""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext
from jax.lax import PrecisionLike
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tera_jax import quantize
from tera_jax.adapters.targets import is_linear
from tera_jax.float8 import Float8Kernel
from tera_jax.methods.base import LinearMethod, PromptMethod, TargetLayer
from tera_jax.methods.product import PLAIN, Product
from tera_jax.ops import fp8_matmul
from tera_jax.ops.embedding import require_token_ids

Linear: TypeAlias = nn.Dense | nn.DenseGeneral
Interceptor: TypeAlias = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any], Any]


def calls(
    wanted: Callable[[nn.Module], bool], body: Callable[[Any, Callable[..., Array], Array], Array]
) -> Interceptor:
    """An interceptor of the calls of some modules, which have one input.

    Args:
        wanted: which modules.
        body: (module, the call as it was, its input) -> what the call gives instead.
    """

    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: InterceptorContext,
    ) -> Any:
        if context.method_name != "__call__" or not wanted(context.module):
            return next_fun(*args, **kwargs)
        (inputs,) = args or kwargs.values()
        return body(context.module, next_fun, inputs)

    return interceptor


def kernels(
    method: LinearMethod,
    layers: tuple[TargetLayer, ...],
    name: str,
    shared: Mapping[str, Any],
    shared_d: Mapping[str, Any],
    dtype: DTypeLike | None = None,
) -> Interceptor:
    """An interceptor under which every target layer's kernel W reads as the method's merge of it.

    Args:
        method: configured.
        layers: those that it adapts.
        name: of the method: that of its arrays in the layer's own ``d`` and ``frozen``.
        shared: frozen sets by name. They are closed over, so that a scan keeps them as constants.
        shared_d: trainable arrays that all layers read, likewise.
        dtype: of the hidden states, if known: wider shared arrays are then rounded to it once, and
            not in every layer.
    """
    by_path = {layer.path: layer for layer in layers}
    rounded = narrowed(shared, dtype)

    def body(module: Linear, _: Callable[..., Array], x: Array) -> Array:
        layer = by_path[module.path]
        key = method.frozen_set(layer)
        own_d: Any = visible(module, "d", name, optional=bool(shared_d))
        d = with_shared(own_d, shared_d)
        own = visible(module, "frozen", name, optional=True)
        frozen, near = (
            with_shared(own, shared_arrays(sets, key, name), "frozen") for sets in (shared, rounded)
        )
        return multiply(
            module,
            lambda kernel: method.merge(frozen, d, kernel, layer),
            lambda kernel, x, how: method.apply(near, d, kernel, x, layer, how),
            x,
            lambda bias_O: method.merge_bias(frozen, d, bias_O, layer),
            method.casts_input,
        )

    return calls(lambda module: module.path in by_path, body)


def shared_arrays(shared: Mapping[str, Any], key: str | None, name: str) -> Any:
    """The frozen arrays that a layer shares: those of its set, or those that all layers read.

    Args:
        shared: sets by name.
        key: of the layer's set, if it has one.
        name: of the method, under which stands what all layers read, if anything.

    Raises:
        ValueError: when the set is not there.
    """
    if key is None:
        return shared.get(name, {})
    if key not in shared:
        raise ValueError(
            f"the collection frozen lacks the shared set {key!r}; pass adapter.init_frozen(params)"
        )
    return shared[key]


def with_shared(own: Any, shared: Any, kind: str = "d") -> Any:
    """A layer's arrays of a kind, ``d`` or ``frozen``, with the shared ones beside them.

    Raises:
        ValueError: when two have one name.
    """
    if _is_empty(shared):
        return own
    if _is_empty(own):
        return shared
    if both := set(own) & set(shared):
        raise ValueError(
            f"{sorted(both)} are both a layer's own {kind} and shared; rename one of each"
        )
    return {**own, **shared}


def _is_empty(arrays: Any) -> bool:
    return isinstance(arrays, Mapping) and not arrays


def _is_quantized(module: nn.Module) -> bool:
    return is_linear(module) and quantize.is_quantized(module.get_variable("params", "kernel"))


def _dequantized(module: Linear, _: Callable[..., Array], x: Array) -> Array:
    return multiply(module, lambda kernel: kernel, lambda kernel, x, how: how.matmul(x, kernel), x)


dequantized = calls(_is_quantized, _dequantized)
"""An interceptor under which a quantised kernel reads as the plain one that it stands for.

It is made where the layer multiplies by it, so that under a scan one layer's stands in memory. An
fp8 kernel is not made where :func:`tera_jax.ops.fp8_matmul.takes` it: the product is of its codes::

    with nn.intercept_methods(dequantized):
        logits_BLV, _ = model.apply({"params": quantised}, tokens_BL)
"""


def apply_base(model: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """``model.apply`` of a base without an adapter, quantised or not (:data:`dequantized`)."""
    with nn.intercept_methods(dequantized):
        return model.apply(variables, *args, **kwargs)


def virtual_tokens(method: PromptMethod, layer: TargetLayer, name: str) -> Interceptor:
    """An interceptor under which token ids from the vocabulary's size on are virtual tokens."""

    def body(module: nn.Embed, embed: Callable[..., Array], tokens_BL: Array) -> Array:
        prompt_PD = method.prompt(visible(module, "d", name))

        def virtual(index_BL: Array, dtype: DTypeLike) -> Array:
            return prompt_PD.astype(dtype)[index_BL]

        return embedded(embed, tokens_BL, layer.kernel_shape[0], len(prompt_PD), virtual)

    return calls(lambda module: module.path == layer.path, body)


def embedded(
    embed: Callable[..., Array],
    tokens_BL: Array,
    vocabulary: int,
    count: int,
    virtual: Callable[[Array, DTypeLike], Array],
) -> Array:
    """Embeddings of tokens of which some are virtual: their ids begin behind the vocabulary.

    Args:
        embed: the layer's own call, for ids below ``vocabulary``.
        tokens_BL: of both.
        vocabulary: its size.
        count: of virtual tokens.
        virtual: (number of a virtual token from 0, (B, L); type) -> its embedding, (B, L, D).
    """
    require_token_ids(tokens_BL, vocabulary + count)
    index_BL = tokens_BL - vocabulary
    known_BLD = embed(jnp.where(index_BL < 0, tokens_BL, 0))
    virtual_BLD = virtual(jnp.maximum(index_BL, 0), known_BLD.dtype)
    return jnp.where(index_BL[..., None] < 0, known_BLD, virtual_BLD)


def narrowed(shared: Mapping[str, Any], dtype: DTypeLike | None) -> Mapping[str, Any]:
    """Frozen sets with their wider floating arrays rounded to a type; as they are with None."""
    return shared if dtype is None else jax.tree.map(lambda x: _narrowed(x, dtype), dict(shared))


def _narrowed(array: Array, dtype: DTypeLike) -> Array:
    """In a narrower type, unless it holds integers, as indices are."""
    narrows = jnp.issubdtype(array.dtype, jnp.floating) and (
        array.dtype.itemsize > jnp.dtype(dtype).itemsize
    )
    return array.astype(dtype) if narrows else array


def multiply(
    module: Linear,
    merge: Callable[[Array], Array],
    apply: Callable[[Array, Array, Product], Array],
    inputs: Float[Array, "..."],
    merge_bias: Callable[[Array], Array] = lambda bias_O: bias_O,
    casts_input: bool = True,
) -> Float[Array, "..."]:
    """``module(inputs)`` of a linear layer, with an adapted kernel in the place of its own.

    Matmuls have the precision of the layer.

    Args:
        module: the layer.
        merge: kernel -> adapted kernel.
        apply: (kernel, x, how) -> x times the adapted kernel. The product with the kernel itself
            is ``how.matmul(x, kernel)``: by its e4m3 codes, where it is stored so.
        inputs: of the layer.
        merge_bias: bias (O,) -> adapted bias, (O,) or (B, O) of a batch's rows.
        casts_input: whether ``how.matmul`` may cast x to e4m3 too.
    """
    bias = module.get_variable("params", "bias") if module.use_bias else None
    stored: Any = module.get_variable("params", "kernel")
    kernel = quantize.dequantize(stored)
    if bias is not None:
        bias = merge_bias(bias.reshape(-1))
    # ΔW is added to the kernel as it is stored, and the sum is cast for the product.
    x, _, bias = promote_dtype(inputs, kernel, bias, dtype=module.dtype)
    features = kernel.shape[1:]
    matrix = kernel.reshape(kernel.shape[0], -1)
    if module.dot_general is None and module.dot_general_cls is None:
        dropout = module.make_rng("dropout") if module.has_rng("dropout") else None
        with _matmul_precision(module.precision):
            y = apply(matrix, x, _product(stored, dropout, casts_input))
    else:  # the layer brings its own product, such as one that accumulates in float32
        dot_general = module.dot_general or module.dot_general_cls()
        contract = (((x.ndim - 1,), (0,)), ((), ()))
        y = dot_general(x, merge(matrix).astype(x.dtype), contract, precision=module.precision)
    y = y.reshape(*x.shape[:-1], *features)
    if bias is None:
        return y
    rows = bias.shape[:-1]
    return y + bias.reshape(*rows, *[1] * (x.ndim - 1 - len(rows)), *features)


def _product(stored: Array | quantize.Quantized, dropout: Any, casts_input: bool) -> Product:
    """How a kernel is multiplied by as it is stored."""
    if not isinstance(stored, Float8Kernel) or not fp8_matmul.takes(stored):
        return PLAIN._replace(dropout=dropout)
    matmul = fp8_matmul.matmul if casts_input else fp8_matmul.with_uncast_input
    return Product(lambda x, _: matmul(x, stored), dropout, stored)


def _matmul_precision(precision: PrecisionLike) -> AbstractContextManager[Any]:
    """A context in which matmuls that ask for no precision have that of a layer.

    Of a pair, one for each operand, it is the higher one.
    """
    if precision is None:
        return contextlib.nullcontext()
    if isinstance(precision, tuple):
        precision = max(map(jax.lax.Precision, precision), key=lambda each: each.value)
    if isinstance(precision, jax.lax.Precision):
        precision = precision.name.lower()
    elif isinstance(precision, jax.lax.DotAlgorithmPreset):
        precision = precision.name
    return jax.default_matmul_precision(precision)


def visible(module: nn.Module, collection: str, name: str, optional: bool = False) -> Any:
    """A layer's arrays in a collection; none of them where they are optional."""
    if optional and not module.has_variable(collection, name):
        return {}
    value: Any = module.get_variable(collection, name)
    if value is None:
        raise ValueError(
            f"layer {'/'.join(module.path)!r} does not see its arrays in collection "
            f"{collection!r}: pass them, and let every nn.scan, nn.vmap or nn.remat above it carry "
            f"the collection, as in nn.scan(..., variable_axes={{'params': 0, {collection!r}: 0}})"
        )
    return value
