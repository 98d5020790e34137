"""The adapter of methods that put trained tokens before a prompt."""

from typing import Any

import flax.linen as nn
import jax

from tera_jax.adapters import interceptor
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.targets import get, put
from tera_jax.methods import METHODS, NotMergeableError
from tera_jax.methods.prompt import PromptMethod
from tera_jax.random import seed_key


class PromptAdapter(Adapter):
    """Adds virtual tokens: token ids from the size of the vocabulary on."""

    @property
    def method(self) -> PromptMethod:
        """The configured method."""
        return METHODS[self.name].method(self.config, self.sites)

    @property
    def mergeable(self) -> bool:
        """Never."""
        return False

    @property
    def num_virtual_tokens(self) -> int:
        """P."""
        return self.method.num_virtual_tokens

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """The prompt, or what makes it."""
        del frozen
        (site,) = self.sites
        d: dict[str, Any] = {}
        embedding_VD = get(params, (*site.path, "embedding"))
        made = self.method.init_d(seed_key(seed, site.name), embedding_VD)
        put(d, (*site.path, self.name), made)
        return d

    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """Virtual tokens read the trained embeddings; a row without any gives the base's."""
        del built  # none
        (site,) = self.sites
        seam = interceptor.virtual_tokens(self.method, site, self.name)
        with nn.intercept_methods(seam), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def merge(self, variables: Variables) -> Any:
        """Raises."""
        raise NotMergeableError(
            f"{self.name} adds tokens, not weights; serve base and adapter together"
        )
