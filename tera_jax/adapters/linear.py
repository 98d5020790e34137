"""The adapter of methods that change the kernels of linear layers, one layer at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from tera_jax import quantize
from tera_jax.adapters import interceptor, row_interceptor
from tera_jax.adapters.base import Adapter, Variables, require_collections
from tera_jax.adapters.stack import over_stack, stack_keys
from tera_jax.adapters.targets import ModelLayers, choose, get, parameter, put, trainable
from tera_jax.methods.base import KeyArray, LinearMethod, TargetLayer
from tera_jax.random import seed_key
from tera_jax.trees import SHARED

Stored: TypeAlias = Array | quantize.Quantized
"""A kernel as ``params`` have it."""


class LinearAdapter(Adapter):
    """Adapts the kernels of linear layers."""

    @classmethod
    def select(
        cls, name: str, found: ModelLayers, targets: Sequence[str]
    ) -> tuple[TargetLayer, ...]:
        """The linear layers that the patterns name."""
        del name
        return choose(found.linear, targets, "linear layer", found)

    def init_frozen(self, params: Variables) -> dict[str, Any]:
        """One shared set for each name that the method gives, or one for each layer.

        Or those that the method draws for all layers together.
        """
        method = self._method
        frozen: dict[str, Any] = {}
        together = method.init_frozen_all(self.layers)
        if together is not None:
            for layer in self.layers:
                put(frozen, (*layer.path, self.name), together.own[layer.name])
            if together.shared:
                put(frozen, (SHARED, self.name), together.shared)
            return frozen
        for layer in self.layers:
            name = method.frozen_set(layer)
            if name is None:

                def draw(key: KeyArray, kernel: Stored, layer: TargetLayer = layer) -> Any:
                    return method.init_frozen(key, quantize.dequantize(kernel), layer)

                keys = stack_keys(seed_key(method.frozen_seed, layer.name), layer)
                own = over_stack(draw, layer)(keys, _matrices(params, layer))
                if jax.tree.leaves(own):
                    put(frozen, (*layer.path, self.name), own)
            elif name not in frozen.get(SHARED, {}):
                shape = jax.ShapeDtypeStruct(layer.kernel_shape, jnp.float32)
                key = seed_key(method.frozen_seed, name)
                put(frozen, (SHARED, name), method.init_frozen(key, shape, layer))
        return frozen

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """Stacked like the kernels, and what all layers read."""
        method = self._method
        d: dict[str, Any] = {}
        for layer in self.layers:
            keys = stack_keys(seed_key(seed, layer.name), layer)
            shared, own = self._frozen(frozen, layer)

            def init(
                key: KeyArray,
                kernel: Stored,
                own: Any,
                shared: Any = shared,
                layer: TargetLayer = layer,
            ) -> Any:
                arrays = interceptor.with_shared(own, shared, "frozen")
                return method.init_d(key, quantize.dequantize(kernel), arrays, layer)

            each = over_stack(init, layer)(keys, _matrices(params, layer), own)
            if jax.tree.leaves(each):
                put(d, (*layer.path, self.name), each)
        all_read = method.init_shared_d(seed_key(seed, SHARED, self.name), self.layers)
        if all_read:
            put(d, (SHARED, self.name), all_read)
        return d

    def abstract_d(self, params: Variables) -> dict[str, Any]:
        """Methods that draw for all layers together do so on the host; their d needs no draw."""
        if self._method.draws_together:
            return jax.eval_shape(self.init_d, params, {})
        return super().abstract_d(params)

    def _apply(
        self, model: nn.Module, variables: Variables, made: Variables, *args: Any, **kwargs: Any
    ) -> Any:
        """Every targeted kernel W reads as W + ΔW."""
        frozen, d = dict(variables["frozen"]), dict(variables["d"])
        shared, shared_d = frozen.pop(SHARED, {}), d.pop(SHARED, {}).get(self.name, {})
        params = _with_kernels(variables["params"], made, self.layers)
        layers = tuple(layer for layer in self.layers if not _holds(made, layer))
        dtype = getattr(model, "dtype", None)
        adapted = interceptor.kernels(self._method, layers, self.name, shared, shared_d, dtype)
        variables = {**variables, "params": params, "frozen": frozen, "d": d}
        # The first of the two sees a layer first, and the other the layers that it leaves alone.
        with nn.intercept_methods(adapted), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def base_d(self, params: Variables, frozen: Variables) -> dict[str, Any]:
        """Of the method for each layer, and zeros for what all layers read."""
        method = self._method
        d: dict[str, Any] = {}
        for layer in self.layers:
            shared, own = self._frozen(frozen, layer)

            def base(
                kernel: Stored, own: Any, shared: Any = shared, layer: TargetLayer = layer
            ) -> Any:
                arrays = interceptor.with_shared(own, shared, "frozen")
                return method.base_d(quantize.dequantize(kernel), arrays, layer)

            each = over_stack(base, layer)(_matrices(params, layer), own)
            if jax.tree.leaves(each):
                put(d, (*layer.path, self.name), each)
        if SHARED in (shapes := self.abstract_d(params)):
            d[SHARED] = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[SHARED])
        return d

    def prepare_rows(self, variables: Variables) -> dict[str, Any]:
        """By the method, layer after layer of a stack."""
        require_collections(variables)
        method = self._method
        if not method.prepares and SHARED not in variables["d"]:
            return dict(variables["d"])

        def make(frozen: Any, d_A: Any, kernel: Any, layer: TargetLayer) -> Any:
            return jax.vmap(lambda d: method.prepare_row(frozen, d, kernel, layer))(d_A)

        def plain(frozen: Any, d_A: Any, kernel: Stored, layer: TargetLayer) -> Any:
            return make(frozen, d_A, quantize.dequantize(kernel), layer)

        made: dict[str, Any] = {}
        for layer in self.layers:
            if method.prepare_reads_kernel:
                each = self.over_layers(plain, variables, layer)
            else:
                each = self._at_once(make, variables, layer)
            put(made, (*layer.path, self.name), each)
        return made

    def _at_once(self, make: Callable[..., Any], variables: Variables, layer: TargetLayer) -> Any:
        """:meth:`over_layers` by ``jax.vmap``, with the shape and type of the kernel alone."""
        shared, own = self._frozen(variables["frozen"], layer)
        shared_d = variables["d"].get(SHARED, {}).get(self.name, {})
        stored = parameter(variables["params"], layer, "kernel")
        kernel = jax.ShapeDtypeStruct(layer.kernel_shape, stored.dtype)

        def one(d: Any, own: Any) -> Any:
            frozen = interceptor.with_shared(own, shared, "frozen")
            return make(frozen, interceptor.with_shared(d, shared_d), kernel, layer)

        for size in reversed(layer.stack):
            one = jax.vmap(one, axis_size=size)
        return one(_below(variables["d"], (*layer.path, self.name)), own)

    def _apply_rows(self, model: nn.Module, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """Every row of a targeted layer's input is multiplied by its own W + ΔW."""
        frozen = dict(variables["frozen"])
        shared, dtype = frozen.pop(SHARED, {}), getattr(model, "dtype", None)
        adapted = row_interceptor.kernels(self._method, self.layers, self.name, shared, dtype)
        variables = {**variables, "frozen": frozen}
        with nn.intercept_methods(adapted), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def materialize(self, variables: Variables, tokens: int) -> dict[str, Any]:
        """Of the layers whose kernel the method would make; see :class:`LinearMethod`.

        None of a quantised base: they would be the copy of its kernels that it is to do without.
        None where the method changes the bias, which is read beside the kernel.
        """
        require_collections(variables)
        params = variables["params"]
        layers = [
            layer
            for layer in self.layers
            if self._method.materializes(layer, tokens)
            and not self._method.changes_bias
            and not quantize.is_quantized(parameter(params, layer, "kernel"))
        ]

        def make(frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
            return self._method.materialize(frozen, d, kernel, layer, kernel.dtype)

        return self._kernels(variables, layers, make)

    def _merge(self, variables: Variables) -> Any:
        """Layer after layer of a stack, so that one layer's ΔW stands in memory at a time."""
        made = self._kernels(variables, self.layers, self._method.merge)
        params = _with_kernels(variables["params"], made, self.layers)
        return quantize.dequantize(self.with_biases(params, variables))

    def with_biases(self, params: dict[str, Any], variables: Variables) -> dict[str, Any]:
        """``params`` with the adapted biases, if the method changes any."""
        for layer in self.layers if self._method.changes_bias else ():
            if "bias" in get(params, layer.path):
                biases = self.over_layers(self._method.merge_bias, variables, layer, "bias")
                shape = parameter(params, layer, "bias").shape
                put(params, (*layer.path, "bias"), biases.reshape(shape))
        return params

    def _kernels(
        self, variables: Variables, layers: Sequence[TargetLayer], make: Callable[..., Array]
    ) -> dict[str, Any]:
        """``make(frozen, d, kernel, layer)`` of every layer, as a part of ``params``."""

        def plain(frozen: Any, d: Any, kernel: Stored, layer: TargetLayer) -> Array:
            return make(frozen, d, quantize.dequantize(kernel), layer)

        made: dict[str, Any] = {}
        for layer in layers:
            shape = parameter(variables["params"], layer, "kernel").shape
            kernels = self.over_layers(plain, variables, layer).reshape(shape)
            put(made, (*layer.path, "kernel"), kernels)
        return made

    def over_layers(
        self,
        make: Callable[..., Any],
        variables: Variables,
        layer: TargetLayer,
        leaf: Literal["kernel", "bias"] = "kernel",
    ) -> Any:
        """``make(frozen, d, kernel, layer)`` of a stack's layers, one at a time, stacked.

        The kernel is as ``params`` have it, (in, out) and perhaps quantised; a bias is (out,).
        """
        shared, own = self._frozen(variables["frozen"], layer)
        shared_d = variables["d"].get(SHARED, {}).get(self.name, {})

        def one(d: Any, kernel: Stored, own: Any) -> Any:
            frozen = interceptor.with_shared(own, shared, "frozen")
            return make(frozen, interceptor.with_shared(d, shared_d), kernel, layer)

        d = _below(variables["d"], (*layer.path, self.name))
        if not shared_d:
            d = trainable(variables["d"], layer, self.name)
        return over_stack(one, layer)(d, _matrices(variables["params"], layer, leaf), own)

    def _frozen(self, frozen: Variables, layer: TargetLayer) -> tuple[Any, Any]:
        """What the layer shares, and its own arrays, stacked like the kernel."""
        shared = interceptor.shared_arrays(
            frozen.get(SHARED, {}), self._method.frozen_set(layer), self.name
        )
        return shared, _below(frozen, (*layer.path, self.name))

    @property
    def _method(self) -> LinearMethod:
        return cast(LinearMethod, self.method)


def _below(tree: Variables, path: Sequence[str]) -> Any:
    """What stands at a path of nested dictionaries; an empty one where nothing does."""
    node: Any = tree
    for part in path:
        node = node.get(part, {})
    return node


def _holds(made: Variables, layer: TargetLayer) -> bool:
    return "kernel" in _below(made, layer.path)


def _with_kernels(
    params: Variables, made: Variables, layers: Sequence[TargetLayer]
) -> dict[str, Any]:
    """``params`` with the kernels that are in ``made``."""
    result = jax.tree.map(lambda leaf: leaf, dict(params))
    for layer in layers:
        if _holds(made, layer):
            put(result, (*layer.path, "kernel"), get(made, (*layer.path, "kernel")))
    return result


def _matrices(params: Variables, layer: TargetLayer, leaf: str = "kernel") -> Stored:
    """The kernels as (stack..., in, out), or the biases as (stack..., out)."""
    array = parameter(params, layer, leaf)
    if quantize.is_quantized(array):
        return array
    return array.reshape(*layer.stack, *layer.kernel_shape[-1 if leaf == "bias" else 0 :])
