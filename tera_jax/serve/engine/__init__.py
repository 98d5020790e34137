"""An engine: requests to many adapters are answered in slots. JAX comes with its first use."""

from typing import TYPE_CHECKING

from tera_jax import lazy

if TYPE_CHECKING:
    from tera_jax.serve.engine.engine import Engine as Engine
else:
    __getattr__ = lazy.importer(__name__, names={"Engine": "tera_jax.serve.engine.engine"})
