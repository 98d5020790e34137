"""The adapter of methods that change the scale of norms."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
from jaxtyping import Array

from tera_jax.adapters import interceptor, row_interceptor
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.stack import over_stack, stack_keys
from tera_jax.adapters.targets import ModelLayers, choose, parameter, put, trainable
from tera_jax.methods.base import KeyArray, NormMethod, TargetLayer
from tera_jax.quantize import dequantize
from tera_jax.random import seed_key


class NormAdapter(Adapter):
    """Adapts the scale of ``RMSNorm`` and ``LayerNorm`` modules.

    A scale is small: the adapted ones are made ahead of the model and stand in for the base's.
    """

    parameter: ClassVar[str] = "scale"

    @classmethod
    def select(
        cls, name: str, found: ModelLayers, targets: Sequence[str]
    ) -> tuple[TargetLayer, ...]:
        """The norms that the patterns name."""
        del name
        return choose(found.norm, targets, "norm", found)

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """Stacked like the scales."""
        del frozen
        d: dict[str, Any] = {}
        for layer in self.layers:

            def init(key: KeyArray, scale_D: Array, layer: TargetLayer = layer) -> Any:
                return self._method.init_d(key, scale_D, layer)

            keys = stack_keys(seed_key(seed, layer.name), layer)
            scale = parameter(params, layer, self.parameter)
            put(d, (*layer.path, self.name), over_stack(init, layer)(keys, scale))
        return d

    def _apply(
        self, model: nn.Module, variables: Variables, made: Variables, *args: Any, **kwargs: Any
    ) -> Any:
        del made
        rest = {k: v for k, v in variables.items() if k not in ("params", "frozen", "d")}
        scaled = {**rest, "params": self._scaled(variables)}
        return interceptor.apply_base(model, scaled, *args, **kwargs)

    def base_d(self, params: Variables, frozen: Variables) -> dict[str, Any]:
        """That of step 0."""
        return self.init_d(params, frozen)

    def prepare_rows(self, variables: Variables) -> dict[str, Any]:
        """The adapted scales (stack..., A, D)."""
        made: dict[str, Any] = {}
        for layer in self.layers:

            def merge(d_A: Any, scale_D: Array, layer: TargetLayer = layer) -> Array:
                return jax.vmap(lambda each: self._method.merge(each, scale_D, layer))(d_A)

            d = trainable(variables["d"], layer, self.name)
            scale = parameter(variables["params"], layer, self.parameter)
            put(made, (*layer.path, self.name), {"scale": over_stack(merge, layer)(d, scale)})
        return made

    def _apply_rows(self, model: nn.Module, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        scaled = row_interceptor.norms(self.layers, self.name)
        with nn.intercept_methods(scaled), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def _merge(self, variables: Variables) -> Any:
        return dequantize(self._scaled(variables))

    def _scaled(self, variables: Variables) -> dict[str, Any]:
        """``params`` with the adapted scales."""
        params = jax.tree.map(lambda leaf: leaf, dict(variables["params"]))
        for layer in self.layers:

            def merge(d: Any, scale_D: Array, layer: TargetLayer = layer) -> Array:
                return self._method.merge(d, scale_D, layer)

            d = trainable(variables["d"], layer, self.name)
            scale = parameter(variables["params"], layer, self.parameter)
            put(params, (*layer.path, self.parameter), over_stack(merge, layer)(d, scale))
        return params

    @property
    def _method(self) -> NormMethod:
        return cast(NormMethod, self.method)
