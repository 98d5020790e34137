"""The adapter of methods that put trained tokens before a prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from tera_jax.adapters import interceptor, row_interceptor
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.targets import ModelLayers, parameter, put, trainable
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

    def base_d(self, params: Variables, frozen: Variables) -> dict[str, Any]:
        """Zeros. Its rows are not to see virtual tokens at all: :meth:`segment_ids`."""
        del frozen
        shapes = self.abstract_d(params)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def prepare_rows(self, variables: Variables) -> dict[str, Any]:
        """The prompts (A, P, D)."""
        (layer,) = self.layers
        made: dict[str, Any] = {}
        d = trainable(variables["d"], layer, self.name)
        put(made, (*layer.path, self.name), {"prompt": jax.vmap(self._method.prompt)(d)})
        return made

    def _apply_rows(self, model: nn.Module, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """Virtual tokens read the embeddings of their row."""
        (layer,) = self.layers
        embed = row_interceptor.virtual_tokens(layer, self.name)
        with nn.intercept_methods(embed), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def segment_ids(
        self, tokens_BL: Int[Array, "B L"], index_B: Int[Array, " B"]
    ) -> Int[Array, "B L"]:
        """1, and 0 for virtual tokens in rows of the base, entry 0 of a bank.

        Other tokens do not see them, and have their positions as if they were not there.

        Args:
            tokens_BL: int32, virtual tokens being ids from the vocabulary's size on.
            index_B: int32, the adapter of each row.
        """
        (layer,) = self.layers
        hidden_BL = (tokens_BL >= layer.kernel_shape[0]) & (index_B == 0)[:, None]
        return jnp.where(hidden_BL, 0, 1).astype(jnp.int32)

    def _merge(self, variables: Variables) -> Any:
        raise NotMergeableError(
            f"{self.name} adds tokens, not weights; serve base and adapter together"
        )

    @property
    def _method(self) -> PromptMethod:
        return cast(PromptMethod, self.method)
