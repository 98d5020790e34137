"""Full fine-tuning in the form of an adapter: ``d`` is a copy of the base."""

from typing import Any

import flax.linen as nn
import jax

from tera_jax import quantize
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.methods import full


class FullAdapter(Adapter):
    """Trains every parameter."""

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
        return full.init_d(dict(params))

    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """The model with its trained parameters."""
        del built  # none
        rest = {k: v for k, v in variables.items() if k not in ("params", "frozen", "d")}
        return model.apply({**rest, "params": self.merge(variables)}, *args, **kwargs)

    def merge(self, variables: Variables) -> Any:
        """The trained parameters in the types of the base."""
        return full.merge(variables["d"], dict(variables["params"]))
