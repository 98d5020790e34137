"""The adapter of methods that put trained tokens before a prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax

from tera_jax.adapters import interceptor
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.targets import ModelLayers, parameter, put
from tera_jax.methods.base import NotMergeableError, PromptMethod, TargetLayer
from tera_jax.random import seed_key


class PromptAdapter(Adapter):
    """Adds virtual tokens: token ids from the size of the vocabulary on."""

    parameter: ClassVar[str] = "embedding"

    @classmethod
    def select(
        cls, name: str, found: ModelLayers, targets: Sequence[str]
    ) -> tuple[TargetLayer, ...]:
        """The one embedding of the model."""
        del targets
        if len(found.embedding) != 1:
            names = [layer.name for layer in found.embedding]
            raise ValueError(f"{name} needs a model with one nn.Embed, but this has {names}")
        return found.embedding

    @property
    def num_virtual_tokens(self) -> int:
        """P."""
        return self._method.num_virtual_tokens

    def adapts(self, module: str) -> bool:
        """The embedding of known tokens stays as it is."""
        del module
        return False

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """The prompt, or what makes it."""
        del frozen
        (layer,) = self.layers
        d: dict[str, Any] = {}
        embedding_VD = parameter(params, layer, self.parameter)
        made = self._method.init_d(seed_key(seed, layer.name), embedding_VD)
        put(d, (*layer.path, self.name), made)
        return d

    def _apply(
        self, model: nn.Module, variables: Variables, made: Variables, *args: Any, **kwargs: Any
    ) -> Any:
        """Virtual tokens read the trained embeddings; a row without any gives the base's."""
        del made
        (layer,) = self.layers
        embed = interceptor.virtual_tokens(self._method, layer, self.name)
        with nn.intercept_methods(embed), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def _merge(self, variables: Variables) -> Any:
        raise NotMergeableError(
            f"{self.name} adds tokens, not weights; serve base and adapter together"
        )

    @property
    def _method(self) -> PromptMethod:
        return cast(PromptMethod, self.method)
