"""A linear method on one layer, whose functions then need no ``layer``."""

from collections.abc import Sequence
from typing import Any

from tera_jax.methods.base import LinearMethod, TargetLayer, bind
from tera_jax.methods.product import Product


class OnLayer:
    """The functions of a method for the first of some layers."""

    def __init__(self, method: LinearMethod, layers: Sequence[TargetLayer]) -> None:
        self.method = method
        self.layers = bind(method, layers)  # refuses what does not fit
        self.layer = self.layers[0] if self.layers else TargetLayer(("layer",), ())

    def frozen_set(self) -> str | None:
        return self.method.frozen_set(self.layer)

    def init_frozen(self, key: Any, kernel: Any) -> Any:
        together = self.method.init_frozen_all(self.layers)
        if together is not None:
            return {**together.own[self.layer.name], **together.shared}
        return self.method.init_frozen(key, kernel, self.layer)

    def init_d(self, key: Any, kernel: Any, frozen: Any) -> Any:
        own = self.method.init_d(key, kernel, frozen, self.layer)
        shared = self.method.init_shared_d(key, self.layers)
        return {**own, **shared} if shared else own

    def delta(self, frozen: Any, d: Any, kernel: Any) -> Any:
        return self.method.delta(frozen, d, kernel, self.layer)

    def merge(self, frozen: Any, d: Any, kernel: Any) -> Any:
        return self.method.merge(frozen, d, kernel, self.layer)

    def apply(self, frozen: Any, d: Any, kernel: Any, x: Any, dropout: Any = None) -> Any:
        return self.method.apply(frozen, d, kernel, x, self.layer, Product(dropout=dropout))

    def materialize(self, frozen: Any, d: Any, kernel: Any, dtype: Any) -> Any:
        return self.method.materialize(frozen, d, kernel, self.layer, dtype)

    def materializes(self, tokens: int) -> bool:
        return self.method.materializes(self.layer, tokens)

    @property
    def max_rank(self) -> int:
        return self.method.max_rank(self.layer)

    @property
    def regenerates(self) -> bool:
        return self.method.regenerates


def on_layer(method: LinearMethod, layers: Sequence[TargetLayer]) -> OnLayer:
    """A method on the first of some layers, all of which it adapts."""
    return OnLayer(method, layers)
