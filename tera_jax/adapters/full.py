"""Full fine-tuning in the form of an adapter: ``d`` is a copy of the base."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from tera_jax import quantize
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.targets import ModelLayers
from tera_jax.methods.base import TargetLayer


class FullAdapter(Adapter):
    """Trains every parameter."""

    trains_all: ClassVar[bool] = True

    @classmethod
    def select(
        cls, name: str, found: ModelLayers, targets: Sequence[str]
    ) -> tuple[TargetLayer, ...]:
        """No layer in particular."""
        del name, found, targets
        return ()

    def adapts(self, module: str) -> bool:
        """All are."""
        del module
        return True

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """A float32 copy of the base.

        Raises:
            ValueError: when the base is quantised.
        """
        del frozen, seed
        if quantize.any_quantized(params):
            raise ValueError(
                "full fine-tuning trains the base's own weights, and these are quantised; load "
                "them with quantize 'none', or choose another method"
            )
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dict(params))

    def _apply(
        self, model: nn.Module, variables: Variables, made: Variables, *args: Any, **kwargs: Any
    ) -> Any:
        del made
        rest = {k: v for k, v in variables.items() if k not in ("params", "frozen", "d")}
        return model.apply({**rest, "params": self.merge(variables)}, *args, **kwargs)

    def _merge(self, variables: Variables) -> Any:
        """The trainable parameters in the types of the base, rounded once."""

        def cast(new: jax.Array, old: jax.Array) -> jax.Array:
            return new.astype(old.dtype)

        return jax.tree.map(cast, variables["d"], dict(variables["params"]))
